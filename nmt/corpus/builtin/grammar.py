"""The grammar of the built-in corpus: phrases and clauses that are said in both languages at once.

A `Phrase` knows its forms in every case; a `Clause` has no word order of its own. English has one
order and its question; German has three: the finite verb second, first or last, and between the
two parts of the verb (finite form; participle, infinitive or separable particle) the middle field:
recipient, object if "nicht" or an adverb must follow it, time, adverb, "nicht", object, place,
indefinite object.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

from nmt.corpus.builtin import lexicon
from nmt.corpus.builtin.lexicon import HE, SHE, THEY, Adjective, Case, Noun, Verb

Combination = tuple[str, str]
"""A verb or an adjective and the noun it is said of, in English dictionary forms."""

_CASES: tuple[Case, ...] = ("nom", "acc", "dat")


def _table(*rows: str) -> dict[Case, list[str]]:
    """Rows of cases; columns of masculine, feminine, neuter, plural."""
    return {case: row.split(",") for case, row in zip(_CASES, rows, strict=True)}


# Endings of adjectives after no article, after der and after ein; of ein itself.
_STRONG = _table("er,e,es,e", "en,e,es,e", "em,er,em,en")
_AFTER_DER = _table("e,e,e,en", "en,e,e,en", "en,en,en,en")
_AFTER_EIN = _table("er,e,es,en", "en,e,es,en", "en,en,en,en")
_EIN = _table(",e,,e", "en,e,,e", "em,er,em,en")
_DER = _table("der,die,das,die", "den,die,das,die", "dem,der,dem,den")
_RELATIVE = _table("der,die,das,die", "den,die,das,die", "dem,der,dem,denen")
_LIKE_DER = {"this": "dies", "which": "welch"}
_LIKE_EIN = {"a": "ein", "no": "kein", **lexicon.POSSESSIVES}
_NUMBERS = dict(lexicon.number_words(number) for number in range(2, 100))
_CONTRACTIONS = {"in dem ": "im ", "in das ": "ins ", "an dem ": "am ", "zu dem ": "zum ",
                 "zu der ": "zur ", "von dem ": "vom "}  # fmt: skip


class Text(NamedTuple):
    """Words that do not bend: an adverb, a phrase with a preposition, a finished clause."""

    en: str
    de: str
    combinations: tuple[Combination, ...] = ()


@dataclass(frozen=True)
class Phrase:
    """A noun phrase, a name or a pronoun in all its cases."""

    en: str
    de: tuple[str, str, str]
    """Nominative, accusative, dative."""
    agreement: int = HE
    en_object: str = ""
    """The English object form where it is another."""
    head: Noun | None = None
    is_plural: bool = False
    is_pronoun: bool = False
    is_definite: bool = True
    is_negative: bool = False
    """It says "kein", so that its clause does not say "nicht"."""
    pronoun: int | None = None
    """Which of PRONOUNS may refer to it."""
    combinations: tuple[Combination, ...] = ()

    @property
    def as_object(self) -> str:
        """The English form after a verb or a preposition."""
        return self.en_object or self.en

    def german(self, case: Case) -> str:
        """The German form in one case."""
        return self.de[_CASES.index(case)]


@dataclass(frozen=True)
class Clause:
    """A subject and what is said of it."""

    subject: Phrase
    verb: Verb
    tense: str = "present"
    object: Phrase | None = None
    recipient: Phrase | None = None
    time: Text | None = None
    adverb: Text | None = None
    last: Text | None = None
    """A place, a companion, a predicate."""
    is_negated: bool = False
    gap: Noun | None = None
    """The noun that is its object but stands outside ("the book that Anna reads")."""

    @property
    def combinations(self) -> tuple[Combination, ...]:
        """Every combination in it."""
        parts = (self.subject, self.object, self.recipient, self.last)
        inside = tuple(pair for part in parts if part for pair in part.combinations)
        head = self.object.head if self.object else self.gap
        return (*inside, (self.verb.name, head.en)) if head else inside


def join(*parts: str) -> str:
    """Words in a row; what is empty is left out."""
    return " ".join(part for part in parts if part)


def noun_phrase(
    noun: Noun,
    determiner: str = "the",
    adjectives: Sequence[Adjective] = (),
    is_plural: bool = False,
) -> Phrase:
    """Put a noun into both languages.

    Args:
        noun: its gender and its class of forms decide the endings.
        determiner: "the", "a", "this", "which", a possessive ("my", "Anna's"), a number in words,
            "" for none, or "no": "a" or "any" in a negated English clause, "kein" in German.
        adjectives: in the order in which both languages say them.
        is_plural: more than one; the determiner stays as above.
    """
    column = 3 if is_plural else "mfn".index(noun.gender)
    de = []
    for case in _CASES:
        if determiner == "the":
            de_determiner, endings = _DER[case][column], _AFTER_DER
        elif determiner in _LIKE_DER:
            ending = _STRONG[case][column]
            de_determiner, endings = _LIKE_DER[determiner] + ending, _AFTER_DER
        elif determiner in _LIKE_EIN:
            ending = _EIN[case][column]
            de_determiner, endings = _LIKE_EIN[determiner] + ending, _AFTER_EIN
        else:
            de_determiner, endings = _NUMBERS.get(determiner, determiner.replace("'", "")), _STRONG
        ending = endings[case][column]
        words = (adjective.stem + ending for adjective in adjectives)
        de.append(join(de_determiner, *words, _decline(noun, case, is_plural)))
    words = (adjective.en for adjective in adjectives)
    en = join(*words, noun.en_plural if is_plural else noun.en)
    return Phrase(
        en=join(_english_determiner(noun, determiner, is_plural, following=en), en),
        de=(de[0], de[1], de[2]),
        agreement=THEY if is_plural else HE,
        head=noun,
        is_plural=is_plural,
        is_definite=determiner not in ("a", "no", "") and determiner not in _NUMBERS,
        is_negative=determiner == "no",
        pronoun=_referring(noun, is_plural),
        combinations=tuple((adjective.en, noun.en) for adjective in adjectives),
    )


def _referring(noun: Noun, is_plural: bool) -> int | None:
    # A child is "es" in German and a girl mostly "sie": nothing refers to either.
    return THEY if is_plural else {"m": HE, "f": SHE}.get(noun.gender)


def _english_determiner(noun: Noun, determiner: str, is_plural: bool, following: str) -> str:
    if determiner == "no":
        determiner = "any" if is_plural or noun.en_plural == "-" else "a"
    if determiner == "a" and following[0] in "aeiou":
        return "an"
    return "these" if determiner == "this" and is_plural else determiner


def _decline(noun: Noun, case: Case, is_plural: bool) -> str:
    if is_plural:
        return noun.de_plural + "n" * (case == "dat" and noun.de_plural[-1] not in "ns")
    return noun.de_plural if noun.is_weak and case != "nom" else noun.de


def pronoun(index: int) -> Phrase:
    """A personal pronoun, by its index into PRONOUNS."""
    en, en_object, de, agreement = lexicon.PRONOUNS[index]
    return Phrase(en, de, agreement, en_object, is_pronoun=True, pronoun=index)


def name(full: str) -> Phrase:
    """A person by first name, or by surname after "Mr." or "Mrs."."""
    title, _, surname = full.rpartition(" ")
    if not title:
        return Phrase(full, (full, full, full), pronoun=SHE if full in lexicon.WOMEN else HE)
    if title == "Mrs.":
        return Phrase(full, (f"Frau {surname}", f"Frau {surname}", f"Frau {surname}"), pronoun=SHE)
    return Phrase(full, (f"Herr {surname}", f"Herrn {surname}", f"Herrn {surname}"), pronoun=HE)


def both(first: Phrase, second: Phrase) -> Phrase:
    """Two people at once."""
    nom, acc, dat = (f"{one} und {other}" for one, other in zip(first.de, second.de, strict=True))
    en = f"{first.en} and {second.en}"
    return Phrase(en, (nom, acc, dat), THEY, is_plural=True, pronoun=THEY)


def followed(phrase: Phrase, en: str, de: str) -> Phrase:
    """The phrase with words put behind it, in every case the same."""
    nom, acc, dat = (f"{words}{de}" for words in phrase.de)
    return replace(phrase, en=f"{phrase.en}{en}", de=(nom, acc, dat))


def relative_pronoun(noun: Noun, is_plural: bool) -> Phrase:
    """What a relative clause about the noun begins with."""
    column = 3 if is_plural else "mfn".index(noun.gender)
    nom, acc, dat = (_RELATIVE[case][column] for case in _CASES)
    return Phrase(
        "who" if noun.kind in ("person", "relative") else "that",
        (nom, acc, dat),
        THEY if is_plural else HE,
        is_plural=is_plural,
        pronoun=_referring(noun, is_plural),
    )


def prepositional(en: str, de: str, phrase: Phrase, case: Case) -> Text:
    """A preposition and its phrase; German contracts it with a definite article."""
    german = f"{de} {phrase.german(case)}".strip()
    if phrase.head:  # without a noun it is no article: das Auto, von dem ich träume
        for long, short in _CONTRACTIONS.items():
            german = short + german.removeprefix(long) if german.startswith(long) else german
    return Text(join(en, phrase.as_object), german, phrase.combinations)


def english(clause: Clause, opener: str = "", is_question: bool = False) -> str:
    """Subject, verb, objects, place, time; in a question the auxiliary comes first."""
    verb, who, tense = clause.verb, clause.subject.agreement, lexicon.TENSES[clause.tense]
    is_past = tense.en_form == lexicon.PAST
    carrier = tense.carrier.split() or verb.en
    infinitive = f"to {verb.en[lexicon.BASE]}" if tense.carrier else ""
    negation = "not" if clause.is_negated else ""
    if verb.infinitive == "sein" and not tense.en_auxiliary:
        forms = "was were was were were" if is_past else "am are is are are"
        auxiliary, main = forms.split()[who], ""
    elif tense.en_auxiliary:
        auxiliary, main = tense.en_auxiliary.split()[who], join(carrier[tense.en_form], infinitive)
        if clause.is_negated and clause.tense in lexicon.NEGATIVE_AUXILIARIES:
            auxiliary, negation = lexicon.NEGATIVE_AUXILIARIES[clause.tense], ""
    elif is_question or clause.is_negated:
        auxiliary = "did" if is_past else "does" if who == HE else "do"
        main = join(carrier[lexicon.BASE], infinitive)
    else:
        form = lexicon.PAST if is_past else lexicon.THIRD if who == HE else lexicon.BASE
        auxiliary, main = "", join(carrier[form], infinitive)
    start = (auxiliary, clause.subject.en) if is_question else (clause.subject.en, auxiliary)
    words = [verb.en_word, clause.object.as_object if clause.object else ""]
    if verb.is_movable and clause.object and clause.object.is_pronoun:
        words.reverse()
    unbent = (clause.adverb, clause.last, clause.time)
    adverb, last, time = (part.en if part else "" for part in unbent)
    recipient = clause.recipient.as_object if clause.recipient else ""
    return join(opener, *start, negation, adverb, main, recipient, *words, last, time)


def german_main(clause: Clause, opener: str | None = None) -> str:
    """Verb second: after the subject, or after `opener`, which in a question may be empty."""
    finite, tail = _german_verb(clause)
    subject = clause.subject.german("nom")
    start = (subject, finite) if opener is None else (opener, finite, subject)
    return join(*start, _middle_field(clause), tail or clause.verb.particle)


def german_last(clause: Clause, opener: str = "") -> str:
    """Verb last: after a conjunction, a question word or a relative pronoun."""
    finite, tail = _german_verb(clause)
    end = (tail, finite) if tail else (clause.verb.particle + finite,)
    return join(opener, clause.subject.german("nom"), _middle_field(clause), *end)


def german_infinitive(clause: Clause, opener: str) -> str:
    """No subject, and the infinitive last."""
    return join(opener, _middle_field(clause), clause.verb.particle + clause.verb.infinitive)


def german_command(clause: Clause, opener: str = "") -> str:
    """The imperative to one friend, first but for `opener`."""
    stem, er_stem = clause.verb.infinitive.removesuffix("en"), clause.verb.er[:-1]
    if "i" in er_stem and "i" not in stem:  # lesen, liest: lies
        verb = er_stem
    else:
        verb = f"{stem}e" if stem[-1] in "td" or stem.endswith("ier") else stem
    return join(opener, verb, _middle_field(clause), clause.verb.particle)


def statement(clause: Clause, front: str = "") -> Text:
    """A main clause, with its "time" or its "last" part at the front if `front` says so."""
    opener = {"time": clause.time, "last": clause.last}.get(front)
    if not opener:
        return Text(english(clause), german_main(clause), clause.combinations)
    rest = replace(clause, time=None) if front == "time" else replace(clause, last=None)
    return Text(english(rest, opener.en), german_main(rest, opener.de), clause.combinations)


def _german_verb(clause: Clause) -> tuple[str, str]:
    """The finite form without a particle; the infinitive or participle at the end, or ""."""
    verb, who = clause.verb, clause.subject.agreement
    finite = lexicon.TENSES[clause.tense].de_finite
    if finite == "perfect" and verb.infinitive in lexicon.PRETERITES:
        return lexicon.FINITE[lexicon.PRETERITES[verb.infinitive]][who], ""
    if finite == "perfect":
        return lexicon.FINITE[verb.auxiliary][who], verb.participle
    if finite:
        return lexicon.FINITE[finite][who], verb.particle + verb.infinitive
    if verb.infinitive in lexicon.FINITE:
        return lexicon.FINITE[verb.infinitive][who], ""
    stem = verb.er[:-1]
    du = verb.er if stem[-1] in "sßz" else f"{stem}st"
    plural = verb.infinitive
    return (plural.removesuffix("n"), du, verb.er, plural, plural)[who], ""


def _middle_field(clause: Clause) -> str:
    """What stands between the two parts of the verb, but the subject."""
    verb, thing = clause.verb, clause.object
    last = clause.last.de if clause.last else ""
    time, adverb = (part.de if part else "" for part in (clause.time, clause.adverb))
    negation = "nicht" if clause.is_negated and not (thing and thing.is_negative) else ""
    recipient = clause.recipient.german("dat") if clause.recipient else ""
    if thing and verb.preposition:
        companion = prepositional("", verb.preposition, thing, verb.case).de
        return join(time, adverb, negation, last, companion)
    if not thing:
        return join(recipient, time, adverb, negation, last)
    words = thing.german(verb.case)
    is_known = thing.is_definite and (negation or (adverb and not recipient))
    if thing.is_pronoun or is_known:
        return join(recipient, words, time, adverb, negation, last)
    # What is new comes late, but for where it is put: that belongs to the verb.
    if thing.is_definite or verb.needs_adjunct:
        return join(recipient, time, adverb, words, last)
    return join(recipient, time, adverb, last, words)
