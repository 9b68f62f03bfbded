"""What goes together in the built-in corpus: random phrases and clauses that mostly make sense.

Nobody eats a bicycle, calls himself or wears the clothes of a friend, and "yesterday" does not
stand beside "has". How it is said is the business of the grammar.
"""

import random
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import TypeVar

from nmt.corpus.builtin import lexicon
from nmt.corpus.builtin.grammar import (
    Clause,
    Phrase,
    Text,
    both,
    english,
    followed,
    german_last,
    name,
    noun_phrase,
    prepositional,
    pronoun,
    relative_pronoun,
)
from nmt.corpus.builtin.lexicon import HE, ME, SHE, THEY, WE, YOU, Adjective, Noun, Verb

T = TypeVar("T")

NOUNS = {noun.en: noun for noun in lexicon.NOUNS}
# "know" is kennen, "know that" is wissen.
VERBS = {verb.name + " that" * (verb.frame == "clause"): verb for verb in lexicon.VERBS}
VERBS_OF_FRAME = {
    frame: [verb for verb in lexicon.VERBS if verb.frame == frame]
    for frame in ("object", "give", "none", "clause")
}
PEOPLE = tuple(noun for noun in lexicon.NOUNS if noun.kind in ("person", "relative"))
THINGS = tuple(noun for noun in lexicon.NOUNS if noun not in PEOPLE)

PRESENT = ("present", "present", "progressive", "progressive", "can", "must", "want")
PAST = ("past", "past", "past", "perfect", "could", "had to", "wanted")
FUTURE = ("future", "future", "should", "may", "would like")

_ADJECTIVES = {
    noun: [a for a in lexicon.ADJECTIVES if noun.kind in a.kinds or noun.en in a.kinds]
    for noun in lexicon.NOUNS
}
# What happens to a noun in any tense.
_VERBS_ON = {
    noun: [verb for verb in VERBS_OF_FRAME["object"] if noun in verb.objects and verb.is_event]
    for noun in lexicon.NOUNS
}
_FURNITURE = tuple(noun for noun in lexicon.NOUNS if noun.kind == "furniture")
_PORTABLE = ("reading", "clothes", "container", "thing", "cat", "dog")
_PLACES = {
    "in": tuple(noun for noun in lexicon.NOUNS if noun.kind == "place"),
    "to": tuple(noun for noun in lexicon.NOUNS if noun.kind == "place"),
    "room": tuple(NOUNS[en] for en in ("kitchen", "office", "garden", "library", "school")),
    "shop": tuple(NOUNS[en] for en in ("market", "supermarket")),
}
_WHERE = {"in": "wo", "room": "wo", "shop": "wo", "city": "wo", "to": "wohin", "to_city": "wohin"}
_WORN = ("wear", "put on", "take off")
# Repeated as often as they are wanted; my is any possessive, Anna's any name, 2 any number.
_DETERMINERS = {
    "drink": ("", "", "", "the", "my"),
    "person": ("the", "the", "the", "the", "a", "this"),
    "relative": ("my", "my", "my", "my", "Anna's"),
    "place": ("the", "the", "the", "the", "this"),
    "worn": ("the", "the", "a", "a", "my", "my", "my", "this"),
    "of nobody": ("the", "the", "a", "a", "this"),
    "": ("the", "the", "the", "a", "a", "a", "my", "my", "this", "", "2", "Anna's"),
}
_PLACE_DETERMINERS = {
    **dict.fromkeys(("kitchen", "office", "garden"), ("the", "the", "my", "this")),
    **dict.fromkeys(("hotel", "restaurant", "museum", "park"), ("the", "the", "a", "this")),
}
_MINUTES = {"half past": "halb", "a quarter past": "Viertel nach", "a quarter to": "Viertel vor"}
WHO, _WHAT = Phrase("who", ("wer", "wen", "wem")), Phrase("what", ("was", "was", "was"))


class Chooser:
    """Chooses one thing after the other, the same for the same seed.

    Of `Random`, only `random` is used: it alone promises the same numbers in every Python version.
    """

    def __init__(self, seed: int) -> None:
        self._random = random.Random(seed).random

    def pick(self, items: Sequence[T]) -> T:
        """One of them, each as likely as the others."""
        return items[int(self._random() * len(items))]

    def chance(self, probability: float) -> bool:
        """True so often."""
        return self._random() < probability

    def between(self, low: int, high: int) -> int:
        """A whole number, both ends included."""
        return low + int(self._random() * (high - low + 1))

    def adjectives(self, noun: Noun) -> list[Adjective]:
        """None, one, or one and a colour."""
        fitting = _ADJECTIVES[noun]
        if not fitting or self.chance(0.6):
            return []
        first = self.pick(fitting)
        colours = [adjective for adjective in fitting if adjective.en in lexicon.COLOURS]
        if colours and first.en in lexicon.BEFORE_COLOURS and self.chance(0.3):
            return [first, self.pick(colours)]
        return [first]

    def noun(
        self, noun: Noun, indefinite: str = "yes", owner: int | None = None, kind: str = ""
    ) -> Phrase:
        """A noun with a determiner and adjectives that suit it.

        Args:
            noun: its class, or `kind`, decides what determiners it has.
            indefinite: "yes", "kein" (negate what would be indefinite) or "no" (make it definite).
            owner: the pronoun whose possessive is used, if one is; None for any.
            kind: "worn" for clothes on somebody, "of nobody" where no possessive would suit.
        """
        usual = _DETERMINERS.get(kind or noun.kind, _DETERMINERS[""])
        determiner = self.pick(_PLACE_DETERMINERS.get(noun.en, usual))
        may_be_plural = noun.en_plural != "-" and noun.kind != "place" and not kind
        is_plural = may_be_plural and (determiner in ("", "2") or self.chance(0.2))
        if determiner in ("", "2", "a") and indefinite != "yes":
            determiner = "no" if indefinite == "kein" else "the"
        elif determiner == "2":
            number = self.between(2, 12) if self.chance(0.8) else self.between(13, 99)
            determiner = lexicon.number_words(number)[0]
        elif determiner == "a":
            is_plural = False
        elif determiner == "my":
            possessives = list(lexicon.POSSESSIVES)
            determiner = self.pick(possessives) if owner is None else possessives[owner]
        elif determiner == "Anna's":
            determiner = f"{self.pick(lexicon.WOMEN + lexicon.MEN)}'s"
        return noun_phrase(noun, determiner, self.adjectives(noun), is_plural)

    def person(self) -> Phrase:
        """A pronoun, a name or two, or a noun."""
        if self.chance(0.35):
            return pronoun(self.pick((ME, ME, YOU, HE, SHE, WE, THEY)))
        if self.chance(0.55):
            return self.noun(self.pick(PEOPLE), indefinite="no")
        if self.chance(0.2):
            return name(f"{self.pick(('Mr.', 'Mrs.'))} {self.pick(lexicon.SURNAMES)}")
        first, second = (name(self.pick(lexicon.WOMEN + lexicon.MEN)) for _ in range(2))
        return both(first, second) if first != second and self.chance(0.15) else first

    def other(self, subject: Phrase, draw: Callable[[], Phrase] | None = None) -> Phrase:
        """Somebody, or what `draw` gives, that is not the subject again."""
        while True:
            other = draw() if draw else self.person()
            pronouns = {other.pronoun, subject.pronoun}
            is_again = len(pronouns) == 1 or pronouns == {ME, WE}
            if other.is_pronoun and subject.is_pronoun and is_again:
                continue
            if other.en not in (subject.en, *subject.en.split(" and ")):
                return other

    def time(self, kind: str) -> Text:
        """When: one of the lists of TIMES, or something with a number or a day in it."""
        if kind == "now" or self.chance(0.6):
            return Text(*self.pick(list(lexicon.TIMES[kind].items())))
        forms = {"habit": ("clock",), "soon": ("clock", "day")}
        form = self.pick(forms.get(kind, ("clock", "day", "date", "distance")))
        if form == "clock":
            en, de = self.clock()
            return Text(f"at {en}", f"um {de}")
        if form == "day":
            en, de = self.pick(list(lexicon.DAYS.items()))
            return Text(f"on {en}", f"am {de}")
        if form == "date":
            day, (en, de) = self.between(1, 28), self.pick(list(lexicon.MONTHS.items()))
            return Text(f"on {en} {day}", f"am {day}. {de}")
        number_en, number_de = lexicon.number_words(self.between(2, 12))
        en, de = self.pick(list(lexicon.UNITS.items()))
        if kind == "past":
            return Text(f"{number_en} {en} ago", f"vor {number_de} {de}")
        return Text(f"in {number_en} {en}", f"in {number_de} {de}")

    def clock(self) -> tuple[str, str]:
        """A time of day in words, both languages."""
        hour = self.between(1, 12)
        en, de = lexicon.number_words(hour)
        if self.chance(0.4):
            return f"{en} o'clock", f"{de} Uhr"
        en_minutes, de_minutes = self.pick(list(_MINUTES.items()))
        if de_minutes == "halb":  # half past three is half of the fourth hour
            de = lexicon.number_words(hour % 12 + 1)[1]
        return f"{en_minutes} {en}", f"{de_minutes} {'eins' if de == 'ein' else de}"

    def clause(
        self,
        tenses: Sequence[str] = PRESENT + PAST + FUTURE,
        subject: Phrase | None = None,
        verbs: Sequence[Verb] = (),
        is_short: bool = False,
        may_negate: bool = True,
    ) -> Clause:
        """Somebody does something; a short clause lacks most of what is optional."""
        verbs = verbs or VERBS_OF_FRAME[self.pick(("object",) * 6 + ("give", "none", "none"))]
        verb, tense = self.pick(verbs), self.pick(tenses)
        while not _goes_with(verb, tense):
            verb, tense = self.pick(verbs), self.pick(tenses)
        subject = subject or self.person()
        is_negated = may_negate and self.chance(0.08 if is_short else 0.16)
        thing = self._object(verb, subject, is_negated) if verb.objects else None
        recipient = self.other(subject) if verb.frame == "give" else None
        clause = Clause(subject, verb, tense, thing, recipient, is_negated=is_negated)
        if verb.needs_adjunct or (verb.adjuncts and self.chance(0.1 if is_short else 0.3)):
            clause = replace(clause, last=self._adjunct(verb, subject))
        kind = lexicon.TENSES[tense].times if verb.is_event else ""
        # "not ... every day" would take another order in German; nobody loses a key every day.
        if kind == "habit" and (is_negated or verb.aspect == "point"):
            kind = ""
        if kind and self.chance(0.15 if is_short else 0.45):
            return replace(clause, time=self.time(kind))
        if verb.is_event and not is_negated and tense in lexicon.ADVERBS and self.chance(0.25):
            adverb = self.pick(list(lexicon.ADVERBS[tense].items()))
            return replace(clause, adverb=Text(*adverb))
        return clause

    def being(self, subject: Phrase | None = None, is_mood: bool = False) -> Clause:
        """Somebody or something is somehow or somewhere; a person in some mood if `is_mood`."""
        if not subject:
            is_person = self.chance(0.5)
            subject = self.person() if is_person else self.noun(self.pick(THINGS), "no")
        tense = self.pick(("present", "present", "past"))
        clause = Clause(subject, VERBS["be"], tense, is_negated=self.chance(0.15))
        head = subject.head
        said = {adjective for adjective, _ in subject.combinations}
        said |= set(lexicon.COLOURS) if said & set(lexicon.COLOURS) else set()
        fitting = [a for a in _ADJECTIVES[head or NOUNS["man"]] if a.en not in said]
        if is_mood and (not head or head in PEOPLE):
            fitting = [adjective for adjective in fitting if adjective.en in lexicon.MOODS]
        is_portable = head and (head.kind in _PORTABLE or head.en in _PORTABLE)
        if not fitting or (is_portable and self.chance(0.4)):
            return replace(clause, last=self._spot("dat"))
        adjective = self.pick(fitting)
        combinations = ((adjective.en, head.en),) if head else ()
        if is_mood or not adjective.en_more or self.chance(0.6):
            return replace(clause, last=Text(adjective.en, adjective.de, combinations))
        kind = head.kind if head else "relative"
        alike = [noun for noun in lexicon.NOUNS if noun.kind == kind and noun != head]
        other = self.other(subject, lambda: self.noun(self.pick(alike), indefinite="no"))
        en = f"{adjective.en_more} than {other.en}"
        de = f"{adjective.de_more} als {other.german('nom')}"
        return replace(clause, last=Text(en, de, (*combinations, *other.combinations)))

    def asked(self) -> tuple[Clause, Text]:
        """A clause that lacks something, and the word that asks for it: none for the subject."""
        kind = self.pick(("who", "object", "object", "which", "which", "where", "when", "why"))
        if kind == "who":
            return self.clause(subject=WHO, may_negate=False), Text("", "")
        if kind == "where":
            verbs = [v for v in lexicon.VERBS if v.adjuncts and v.adjuncts[0] in _WHERE]
            clause = replace(self.clause(verbs=verbs, may_negate=False), last=None, adverb=None)
            return clause, Text("where", _WHERE[clause.verb.adjuncts[0]])
        if kind == "why":
            return self.clause(is_short=True), Text("why", "warum")
        if kind == "when":
            verbs = [verb for verb in lexicon.VERBS if verb.is_event and verb.frame != "special"]
            clause = self.clause(verbs=verbs, is_short=True, may_negate=False)
            return replace(clause, time=None, adverb=None), Text("when", "wann")
        clause = self.clause(verbs=VERBS_OF_FRAME["object"], may_negate=False)
        verb, noun = clause.verb, self.pick(clause.verb.objects)
        if kind == "which" or (verb.preposition and noun not in PEOPLE):
            is_plural = noun.en_plural != "-" and self.chance(0.2)
            asked = noun_phrase(noun, "which", self.adjectives(noun), is_plural)
            clause = replace(clause, gap=noun)
        else:
            asked = WHO if noun in PEOPLE else _WHAT
        clause = replace(clause, object=None, adverb=None)
        return clause, prepositional("", verb.preposition, asked, verb.case)

    def relative(self, is_person: bool) -> Phrase:
        """A noun and its relative clause, without the comma that German may need behind it."""
        noun = self.pick(PEOPLE if is_person else [noun for noun in THINGS if _VERBS_ON[noun]])
        is_plural = noun.en_plural != "-" and self.chance(0.2)
        phrase = noun_phrase(noun, "the", self.adjectives(noun), is_plural)
        relative = relative_pronoun(noun, is_plural)
        tenses = self.pick((PRESENT, PAST))
        if is_person and self.chance(0.6):
            clause = self.clause(tenses, relative, is_short=True)
            en, de = english(clause), german_last(clause)
        else:
            clause = self.clause(tenses, None, _VERBS_ON[noun], is_short=True, may_negate=False)
            clause = replace(clause, object=None, gap=noun)
            opener = prepositional("", clause.verb.preposition, relative, clause.verb.case)
            en, de = english(clause, opener.en), german_last(clause, opener.de)
        combinations = phrase.combinations + clause.combinations
        return replace(followed(phrase, f" {en}", f", {de}"), combinations=combinations)

    def _object(self, verb: Verb, subject: Phrase, is_negated: bool) -> Phrase:
        noun = self.pick(verb.objects)
        if noun in PEOPLE and self.chance(0.5):
            return self.other(subject)
        is_plain = verb.case == "acc" and not verb.preposition
        indefinite = "yes" if not is_negated else "kein" if is_plain else "no"
        kind, owner = "", subject.pronoun if self.chance(0.6) else None
        if verb.name in _WORN:
            owner = subject.pronoun
            kind = "of nobody" if owner is None else "worn"
        return self.other(subject, lambda: self.noun(noun, indefinite, owner, kind))

    def _adjunct(self, verb: Verb, subject: Phrase) -> Text:
        kind = self.pick(verb.adjuncts)
        if kind == "home":
            return Text("at home", "zu Hause")
        if kind in ("city", "to_city"):
            en, de = self.pick(list(lexicon.CITIES.items()))
            is_there = kind == "city"
            return Text(f"in {en}", f"in {de}") if is_there else Text(f"to {en}", f"nach {de}")
        if kind == "with":
            return prepositional("with", "mit", self.other(subject), "dat")
        if kind == "for":
            return prepositional("for", "für", self.other(subject), "acc")
        if kind == "onto":
            return self._spot("acc")
        if kind == "to" and self.chance(0.15):
            return Text("home", "nach Hause")
        place = self.pick(_PLACES[kind])
        phrase = self.noun(place, owner=subject.pronoun)
        en, where, where_to = lexicon.PLACE_PREPOSITIONS.get(place.en, ("in", "in", "in"))
        if kind == "to":
            return prepositional("to", where_to, phrase, "acc" if where_to == "in" else "dat")
        return prepositional(en, where, phrase, "dat")

    def _spot(self, case: lexicon.Case) -> Text:
        """Where something is (dative) or is put (accusative)."""
        en, de = self.pick(list(lexicon.SPOTS.items()))
        return prepositional(en, de, self.noun(self.pick(_FURNITURE), indefinite="no"), case)


def _goes_with(verb: Verb, tense: str) -> bool:
    if tense == "past" and verb.en[lexicon.PAST] == verb.en[lexicon.BASE]:
        return False  # "they put" may be today
    allowed = {"point": ("present", "past", "perfect", "future"), "state": ("present", "past"),
               "now": ("present",)}  # fmt: skip
    return tense in allowed.get(verb.aspect, (tense,))
