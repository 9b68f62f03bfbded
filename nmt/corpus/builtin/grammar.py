"""Grammar of the built-in corpus: phrases and clauses, each with an English and a German form."""

from typing import NamedTuple

from nmt.corpus.builtin import lexicon
from nmt.corpus.builtin.lexicon import BASE, HE, PAST, THEY, THIRD, Noun, Verb

Combination = tuple[str, str]
"""A verb or an adjective with its noun, in English dictionary forms."""
# Rows: nominative, accusative, dative; columns: masculine, feminine, neuter, plural.
_DER, _RELATIVE, _STRONG, _AFTER_DER, _AFTER_EIN = (
    [row.split() for row in table.split(",")]
    for table in (
        "der die das die, den die das die, dem der dem den",
        "der die das die, den die das die, dem der dem denen",
        "er e es e, en e es e, em er em en", "e e e en, en e e en, en en en en",
        "er e es en, en e es en, en en en en",
    )
)  # fmt: skip
_EIN = [["", "e", "", "e"], ["en", "e", "", "e"], ["em", "er", "em", "en"]]
_LIKE_DER = {"this": "dies", "which": "welch"}
_LIKE_EIN = {"a": "ein", "no": "kein", **lexicon.POSSESSIVES}


class Text(NamedTuple):
    """Words that do not inflect."""

    en: str = ""
    de: str = ""
    combinations: tuple[Combination, ...] = ()


class Phrase(NamedTuple):
    """Noun phrase, name or pronoun."""

    en: str
    de: tuple[str, ...]  # nominative, accusative, dative
    agreement: int = HE
    en_object: str = ""  # object form of a pronoun
    noun: Noun | None = None
    is_negative: bool = False  # "kein", which replaces "nicht"
    combinations: tuple[Combination, ...] = ()


class Clause(NamedTuple):
    """Subject and predicate, without a word order."""

    subject: Phrase
    verb: Verb
    tense: str = "present"
    object: Phrase | None = None
    time: Text = Text()
    complement: Text = Text()  # place or predicate
    is_negated: bool = False
    gap: Phrase | None = None  # object outside the clause: question phrase or antecedent
    opener: Text = Text()  # question phrase or relative pronoun before a clause with a gap

    def combinations(self) -> tuple[Combination, ...]:
        """Return all combinations of verb or adjective and noun in the clause."""
        parts = (self.subject, self.object, self.gap, self.complement)
        inside = tuple(pair for part in parts if part for pair in part.combinations)
        head = self.object or self.gap
        return (*inside, (self.verb.name, head.noun.en)) if head and head.noun else inside


def join(*words: str) -> str:
    """Join words with spaces; empty ones are omitted."""
    return " ".join(word for word in words if word)


def noun_phrase(
    noun: Noun, determiner: str, adjective: str = "", is_plural: bool = False
) -> Phrase:
    """Return a noun phrase.

    The determiner is the, a, this, which, a possessive, a number ("two zwei"), "no" ("a" or "any"
    in English, "kein" in German), or "" for none.
    """
    column, german = 3 if is_plural else noun.gender, []
    en_determiner, _, number = determiner.partition(" ")
    for row in range(3):
        endings, article = _STRONG, number
        if determiner == "the":
            endings, article = _AFTER_DER, _DER[row][column]
        elif determiner in _LIKE_DER:
            endings, article = _AFTER_DER, _LIKE_DER[determiner] + _STRONG[row][column]
        elif determiner in _LIKE_EIN:
            endings, article = _AFTER_EIN, _LIKE_EIN[determiner] + _EIN[row][column]
        stem = lexicon.ADJECTIVES[adjective][0] if adjective else ""
        word = noun.de_plural if is_plural else noun.de
        word += "n" * (is_plural and row == 2 and word[-1] not in "ns")
        german.append(join(article, stem and stem + endings[row][column], word))
    en = join(adjective, noun.en_plural if is_plural else noun.en)
    if determiner == "no":
        en_determiner = "any" if is_plural or noun.de_plural == "-" else "a"
    if determiner == "this" and is_plural:
        en_determiner = "these"
    en_determiner += "n" * (en_determiner == "a" and en[0] in "aeiou")
    return Phrase(join(en_determiner, en), tuple(german), THEY if is_plural else HE, "", noun,
                  determiner == "no", ((adjective, noun.en),) if adjective else ())  # fmt: skip


def relative_pronoun(noun: Noun, is_plural: bool = False) -> Phrase:
    """Return the relative pronoun that refers to a noun."""
    column = 3 if is_plural else noun.gender
    german = tuple(row[column] for row in _RELATIVE)
    return Phrase("who", german, THEY if is_plural else HE)


def prepositional(en: str, de: str, phrase: Phrase, case: str) -> Text:
    """Return a phrase with a preposition; German contracts "in dem" to "im"."""
    german = join(de, phrase.de[("nom", "acc", "dat").index(case)])
    german = german.replace("in dem ", "im ") if de == "in" else german
    return Text(join(en, phrase.en_object or phrase.en), german, phrase.combinations)


def english(clause: Clause, is_inverted: bool = False) -> str:
    """Return the English clause; inverted: as a question without its question word."""
    verb, who = clause.verb, clause.subject.agreement
    auxiliary, form, _ = lexicon.TENSES[clause.tense]
    is_past, main = form == PAST, ""
    if verb.frame == "copula":
        auxiliary = "was were was were were" if is_past else "am are is are are"
    elif not auxiliary and (is_inverted or clause.is_negated):
        auxiliary, main = ("did " * 5 if is_past else "do do does do do"), verb.en[BASE]
    else:
        main = verb.en[THIRD if form == BASE and not auxiliary and who == HE else form]
    start = [clause.subject.en, auxiliary.split()[who] if auxiliary else ""]
    thing = (clause.object.en_object or clause.object.en) if clause.object else ""
    words = [verb.en_word.lstrip("+"), thing]
    if verb.en_word[:1] == "+" and clause.object and clause.object.en_object:
        words.reverse()  # "picks him up"
    return join(*start[:: -1 if is_inverted else 1], "not" * clause.is_negated, main, *words,
                clause.complement.en, clause.time.en)  # fmt: skip


def german(clause: Clause, order: str = "second") -> str:
    """Return the German clause with its finite verb second, first (question) or last."""
    verb, who = clause.verb, clause.subject.agreement
    finite, rest = lexicon.TENSES[clause.tense][2], verb.particle + verb.infinitive
    if finite == "perfect":
        # "war" and "hatte" instead of the perfect, which is unusual for these two verbs.
        finite = {"sein": "war", "haben": "hatte"}.get(verb.infinitive, verb.auxiliary)
        rest = verb.participle if finite == verb.auxiliary else ""
    elif not finite:
        finite, rest = verb.infinitive, ""
    stem, plural = verb.er[:-1], verb.infinitive
    du = verb.er if stem[-1] in "sßz" else f"{stem}st"
    regular = (plural.removesuffix("n"), du, verb.er, plural, plural)
    finite = lexicon.FINITE.get(finite, regular)[who]
    # Words between the two parts of the verb: pronouns come early, and so does a known object that
    # "nicht" must follow.
    thing = clause.object
    negation = "nicht" * (clause.is_negated and not (thing and thing.is_negative))
    words = prepositional("", verb.preposition, thing, verb.frame).de if thing else ""
    is_early = bool(thing and not verb.preposition and (thing.en_object or negation))
    middle = join(words * is_early, clause.time.de, negation, words * (not is_early),
                  clause.complement.de)  # fmt: skip
    subject = clause.subject.de[0]
    if order == "last":
        return join(subject, middle, join(rest, finite) if rest else verb.particle + finite)
    start = (finite, subject) if order == "first" else (subject, finite)
    return join(*start, middle, rest or verb.particle)
