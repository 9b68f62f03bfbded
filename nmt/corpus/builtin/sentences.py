"""The sentences of the built-in corpus: statements, questions, commands, two clauses in one.

Where two word orders are good German, one is taken throughout: the English decides the German.
"""

from collections.abc import Callable
from dataclasses import replace

from nmt.corpus.builtin import lexicon
from nmt.corpus.builtin.choice import (
    NOUNS,
    PAST,
    PRESENT,
    THINGS,
    VERBS,
    VERBS_OF_FRAME,
    WHO,
    Chooser,
)
from nmt.corpus.builtin.grammar import (
    Clause,
    Phrase,
    Text,
    english,
    followed,
    german_command,
    german_infinitive,
    german_last,
    german_main,
    noun_phrase,
    prepositional,
    pronoun,
    statement,
)
from nmt.corpus.builtin.lexicon import WE, YOU

MAX_WORDS = 18
"""Longest English sentence."""

_AFTER_IF = ("present", "future", "can", "must", "should", "may")
_SOLD = ("clothes", "vehicle", "furniture", "book", "picture", "clock", "umbrella", "radio")
_CONJUNCTIONS = (("because", "weil"), ("although", "obwohl"), ("and", "und"), ("but", "aber"),
                 ("if", "wenn"), ("while", "während"))  # fmt: skip
_COUNTING = [VERBS[en] for en in ("buy", "sell", "eat", "read", "need", "find", "lose", "have")]
_COUNTED = {"hotel": ("rooms", "Zimmer"), "book": ("pages", "Seiten"),
            "school": ("students", "Studenten"), "library": ("books", "Bücher"),
            "museum": ("pictures", "Bilder")}  # fmt: skip
_IT = Phrase("it", ("es", "es", "es"))


class Speaker:
    """Says sentences one after the other, the same for the same seed."""

    def __init__(self, seed: int) -> None:
        self._choose = Chooser(seed)
        weights: dict[Callable[[], Text], int] = {
            self._statement: 30,
            self._yes_no_question: 7,
            self._wh_question: 9,
            self._two_clauses: 16,
            self._content_clause: 10,
            self._with_relative: 10,
            self._predicate: 6,
            self._price: 2,
            self._age: 3,
            self._count: 3,
            self._hour: 1,
            self._command: 5,
            self._quotation: 4,
        }
        self._kinds = [kind for kind, weight in weights.items() for _ in range(weight)]

    def sentence(self) -> Text:
        """The next sentence, complete with capital and full stop; it may have been said before."""
        while True:
            en, de, combinations = self._choose.pick(self._kinds)()
            if en.count(" ") < MAX_WORDS:
                return Text(_capital(en), _capital(de), combinations)

    def _statement(self) -> Text:
        clause = self._choose.clause()
        if clause.time and self._choose.chance(0.45):
            return _ended(statement(clause, front="time"))
        is_place = clause.last and clause.last.en.startswith(("in ", "at "))
        is_front = is_place and not clause.is_negated and self._choose.chance(0.25)
        return _ended(statement(clause, front="last" if is_front else ""))

    def _yes_no_question(self) -> Text:
        is_deed = self._choose.chance(0.85)
        clause = self._choose.clause(may_negate=False) if is_deed else self._choose.being()
        return _question(replace(clause, is_negated=False), Text("", ""))

    def _wh_question(self) -> Text:
        return _question(*self._choose.asked())

    def _two_clauses(self) -> Text:
        """Because, although, if, while, and, but; the first clause names whom the second means."""
        choose = self._choose
        tenses = choose.pick((PRESENT, PAST))
        en, de = choose.pick(_CONJUNCTIONS if tenses == PRESENT else _CONJUNCTIONS[:4])
        first = choose.person()
        index = first.pronoun if choose.chance(0.5) else None
        second = choose.other(first) if index is None else pronoun(index)
        is_main_first = en in ("and", "but") or choose.chance(0.6)
        main_tenses = {"if": _AFTER_IF, "while": ("progressive",)}.get(en, tenses)
        side_tenses = {"if": ("present",), "while": ("progressive",)}.get(en, tenses)
        main = choose.clause(main_tenses, first if is_main_first else second, is_short=True)
        side = choose.clause(side_tenses, second if is_main_first else first, is_short=True)
        side = replace(side, time=None) if main.time else side
        if en in ("because", "although") and choose.chance(0.4):
            mood = choose.being(side.subject, is_mood=True)
            side = replace(mood, tense="past" if tenses == PAST else "present")
        if en in ("because", "although", "if") and index is None and choose.chance(0.15):
            tense = "past" if tenses == PAST else "progressive"
            side = Clause(_IT, VERBS[choose.pick(("rain", "snow"))], tense)
        combinations = main.combinations + side.combinations
        if en in ("and", "but"):
            comma = "," if en == "but" else ""
            german = f"{german_main(main)}{comma} {de} {german_main(side)}"
            return _ended(Text(f"{english(main)}{comma} {english(side, en)}", german, combinations))
        if is_main_first:
            german = f"{german_main(main)}, {german_last(side, de)}"
            return _ended(Text(f"{english(main)} {english(side, en)}", german, combinations))
        german = f"{german_last(side, de)}, {german_main(main, '')}"
        return _ended(Text(f"{english(side, en)}, {english(main)}", german, combinations))

    def _content_clause(self) -> Text:
        """Somebody knows that, asks whether, does not know where."""
        verb = self._choose.pick(VERBS_OF_FRAME["clause"])
        is_unknown = verb.infinitive == "wissen" and self._choose.chance(0.6)
        matrix = Clause(self._choose.person(), verb, is_negated=is_unknown)
        is_open = is_unknown or verb.infinitive == "fragen"
        if is_open and self._choose.chance(0.6):
            clause, opener = self._choose.asked()
        else:
            clause = self._choose.clause(is_short=self._choose.chance(0.5))
            opener = Text("whether", "ob") if is_open else Text("that", "dass")
        en = f"{english(matrix)} {english(clause, opener.en)}"
        de = f"{german_main(matrix)}, {german_last(clause, opener.de)}"
        combinations = matrix.combinations + clause.combinations + opener.combinations
        return _ended(Text(en, de, combinations))

    def _with_relative(self) -> Text:
        is_person = self._choose.chance(0.6)
        phrase = self._choose.relative(is_person)
        form = self._choose.pick(("this", "subject", "subject", "object"))
        if form == "this":
            en, de = ("these are", "das sind") if phrase.is_plural else ("this is", "das ist")
            german = f"{de} {phrase.german('nom')}"
            return _ended(Text(f"{en} {phrase.en}", german, phrase.combinations))
        if form == "object":
            verb, tense = ("know", "present") if is_person else ("look for", "progressive")
            subject = self._choose.other(phrase)
            return _ended(statement(Clause(subject, VERBS[verb], tense, phrase)))
        subject = followed(phrase, "", ",")
        if is_person and self._choose.chance(0.7):
            return _ended(statement(self._choose.clause(subject=subject, is_short=True)))
        return _ended(statement(self._choose.being(subject)))

    def _predicate(self) -> Text:
        if self._choose.chance(0.75):
            return _ended(statement(self._choose.being()))
        thing = self._choose.noun(self._choose.pick(THINGS), indefinite="no")
        owner = prepositional("", "", self._choose.person(), "dat")
        return _ended(statement(Clause(thing, VERBS["belong to"], last=owner)))

    def _price(self) -> Text:
        sold = [noun for noun in THINGS if noun.kind in _SOLD or noun.en in _SOLD]
        thing = self._choose.noun(self._choose.pick(sold), indefinite="no")
        clause = Clause(thing, VERBS["cost"])
        if self._choose.chance(0.3):
            return _question(clause, Text("how much", "wie viel"))
        if thing.head and thing.head.kind in ("vehicle", "furniture") and self._choose.chance(0.7):
            en, de = _thousands(100 * self._choose.between(5, 60))
        else:
            euros = self._choose.between(2, 49)
            cents = self._choose.pick(("", "20", "50", "80", "95"))
            en, de = (f"{euros}.{cents}".rstrip("."), f"{euros},{cents}".rstrip(","))
        return _ended(statement(replace(clause, last=Text(f"{en} euros", f"{de} Euro"))))

    def _age(self) -> Text:
        clause = Clause(self._choose.person(), VERBS["be"])
        if self._choose.chance(0.2):
            return _question(clause, Text("how old", "wie alt"))
        is_child = clause.subject.head and clause.subject.head.en in ("child", "boy", "girl")
        low, high = (2, 14) if is_child else (15, 99)
        en, de = lexicon.number_words(self._choose.between(low, high))
        return _ended(statement(replace(clause, last=Text(f"{en} years old", f"{de} Jahre alt"))))

    def _count(self) -> Text:
        choose = self._choose
        if choose.chance(0.5):
            clause = choose.clause(verbs=_COUNTING, may_negate=False)
            noun = choose.pick([noun for noun in clause.verb.objects if noun.en_plural != "-"])
            things = noun_phrase(noun, "", choose.adjectives(noun), is_plural=True)
            opener = prepositional("how many", "wie viele", things, "acc")
            return _question(replace(clause, object=None, gap=noun, adverb=None), opener)
        owner, (en, de) = choose.pick(list(_COUNTED.items()))
        is_many = owner == "library"
        number = 100 * choose.between(10, 99) if is_many else 20 * choose.between(2, 25)
        en_number, de_number = _thousands(number)
        words = f"{de_number} {de}"
        things = Phrase(f"{en_number} {en}", (words, words, words), is_definite=False)
        subject = choose.noun(NOUNS[owner], indefinite="no")
        tense = choose.pick(("present", "present", "past"))
        return _ended(statement(Clause(subject, VERBS["have"], tense, things)))

    def _hour(self) -> Text:
        choose = self._choose
        if choose.chance(0.2):
            en, de = choose.clock()
            return _ended(Text(f"it is {en}", f"es ist {de}"))
        hour, minutes = choose.between(1, 11), choose.pick(("10", "15", "30", "45"))
        half = choose.pick(("am", "pm"))
        hour_of_24 = hour + 12 if half == "pm" else hour
        time = Text(f"at {hour}:{minutes} {half}", f"um {hour_of_24}.{minutes} Uhr")
        en_city, de_city = choose.pick(list(lexicon.CITIES.items()))
        verb, en, de = choose.pick((("depart", "to", "nach"), ("arrive", "from", "aus")))
        words = f"der Zug {de} {de_city}"
        train = Phrase(f"the train {en} {en_city}", (words, words, words))
        tense = choose.pick(("present", "present", "past", "future"))
        return _ended(statement(Clause(train, VERBS[verb], tense, time=time)))

    def _command(self) -> Text:
        choose = self._choose
        is_ours = choose.chance(0.25)
        you = Phrase("", ("", "", ""), YOU, is_pronoun=True, pronoun=YOU)
        us = Phrase("let us", ("", "", ""), WE, is_pronoun=True, pronoun=WE)
        verbs = [verb for verb in lexicon.VERBS if verb.aspect == "action" and verb.objects]
        subject = us if is_ours else you
        clause = choose.clause(("present",), subject, verbs, is_short=True, may_negate=not is_ours)
        time = choose.time("soon") if choose.chance(0.3) else None
        clause = replace(clause, time=time, adverb=None)
        if is_ours:
            en, de, mark = english(clause), german_infinitive(clause, "lass uns"), "!"
        elif clause.is_negated or choose.chance(0.6):
            en, de, mark = english(clause), german_command(clause), "!"
        else:
            en, de, mark = english(clause, "please"), german_command(clause, "bitte"), "."
        return _ended(Text(en, de, clause.combinations), mark)

    def _quotation(self) -> Text:
        is_question = self._choose.chance(0.4)
        questions = (self._yes_no_question, self._wh_question)
        said = self._choose.pick(questions if is_question else (self._statement, self._predicate))()
        speaking = Clause(self._choose.person(), VERBS["ask that" if is_question else "say that"])
        en = f'{english(speaking)}, "{_capital(said.en)}"'
        de = f"{german_main(speaking)}: „{_capital(said.de)}“"
        return Text(en, de, speaking.combinations + said.combinations)


def _thousands(number: int) -> tuple[str, str]:
    return f"{number:,}", f"{number:,}".replace(",", ".")


def _capital(text: str) -> str:
    return text[0].upper() + text[1:]


def _ended(text: Text, mark: str = ".") -> Text:
    return Text(text.en + mark, text.de + mark, text.combinations)


def _question(clause: Clause, opener: Text) -> Text:
    """Ask with a question word; without one, the subject is one or the answer is yes or no."""
    if clause.subject is WHO:
        return _ended(statement(clause), "?")
    en, de = english(clause, opener.en, is_question=True), german_main(clause, opener.de)
    return _ended(Text(en, de, clause.combinations + opener.combinations), "?")
