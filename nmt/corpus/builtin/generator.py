"""Generator of the built-in English-German corpus: sentence templates, sampling and splits.

One in twelve combinations of verb and object, or adjective and noun, is reserved: no training
sentence contains one, every dev and test sentence does. All words of dev and test are in training.
"""

import random
import re
import zlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

from nmt.corpus.builtin import grammar, lexicon
from nmt.corpus.builtin.grammar import Clause, Combination, Phrase, Text, english, german
from nmt.corpus.builtin.lexicon import HE, NOUNS, NUMBERS, VERBS, Noun, Verb
from nmt.corpus.io import atomic_write
from nmt.errors import DataError

T = TypeVar("T")
Pair = tuple[str, str]
"""English sentence and its German translation."""
MAX_PAIRS = 400_000
"""Largest corpus; at this size most sampled sentences are still new."""
MAX_WORDS = 22
"""Longest English sentence."""
_OBJECT_VERBS = tuple(verb for verb in VERBS if verb.frame in ("acc", "dat"))
_ACTIONS = tuple(verb for verb in VERBS if verb.is_action)
_EVENTS = tuple(verb for verb in VERBS if verb.frame in ("acc", "dat", "none"))
_KNOW, _HOPE, _SAY, _ASK = (verb for verb in VERBS if verb.frame == "clause")
[_BE] = (verb for verb in VERBS if verb.frame == "copula")
_PEOPLE = tuple(noun for noun in NOUNS if noun.kind in ("person", "relative"))
_PLACES = tuple(noun for noun in NOUNS if noun.kind == "place")
_DETERMINERS = {"drink": ("", "the", "my"), "relative": ("my",), "place": ("the", "the", "this")}
_ANY = ("the", "the", "the", "a", "a", "my", "my", "this", "", "2")
_TENSES = (("present", "progressive", "can", "must"), ("past",), ("future",))
_TIMES = {"progressive": lexicon.PRESENT_TIMES, "past": lexicon.PAST_TIMES,
          "future": lexicon.FUTURE_TIMES, "can": lexicon.FUTURE_TIMES}  # fmt: skip
_WHO = Phrase("who", ("wer", "wen", "wem"))
# Weight, English, German. A slot is a method of Sampler, called once per sentence.
TEMPLATES = (
    (24, "{clause[en]}.", "{clause[de]}."),
    (6, "{untimed_time[en]} {untimed[en]}.", "{untimed_time[de]} {untimed[first]}."),
    (6, "{clause[ask]}?", "{clause[first]}?"),
    (5, "{which[opener_en]} {which[ask]}?", "{which[opener_de]} {which[first]}?"),
    (2, "why {clause[ask]}?", "warum {clause[first]}?"),
    (2, "when {untimed[ask]}?", "wann {untimed[first]}?"),
    (2, "{who[en]}?", "{who[de]}?"),
    (5, "{clause[en]} because {other[en]}.", "{clause[de]}, weil {other[last]}."),
    (2, "because {clause[en]}, {other[en]}.", "weil {clause[last]}, {other[first]}."),
    (2, "{clause[en]} although {other[en]}.", "{clause[de]}, obwohl {other[last]}."),
    (2, "if {clause[en]}, {other[en]}.", "wenn {clause[last]}, {other[first]}."),
    (2, "{clause[en]} while {other[en]}.", "{clause[de]}, während {other[last]}."),
    (3, "{clause[en]} and {other[en]}.", "{clause[de]} und {other[de]}."),
    (3, "{clause[en]}, but {other[en]}.", "{clause[de]}, aber {other[de]}."),
    (4, "{claim[en]} that {clause[en]}.", "{claim[de]}, dass {clause[last]}."),
    (2, "{doubt[en]} whether {clause[en]}.", "{doubt[de]}, ob {clause[last]}."),
    (2, "{doubt[en]} why {clause[en]}.", "{doubt[de]}, warum {clause[last]}."),
    (2, "{doubt[en]} {which[opener_en]} {which[en]}.",
     "{doubt[de]}, {which[opener_de]} {which[last]}."),
    (4, "this is {that[gap_en]} that {that[en]}.",
     "das ist {that[gap_de]}, {that[opener_de]} {that[last]}."),
    (7, "{state[en]}.", "{state[de]}."), (2, "{state[ask]}?", "{state[first]}?"),
    (4, "{age[en]}.", "{age[de]}."),
)  # fmt: skip


class Sampler:
    """Random sentences, the same for the same seed on every machine.

    Only `Random.random` is used: it alone is guaranteed to be equal in all Python versions.
    """

    def __init__(self, seed: int) -> None:
        self._random = random.Random(seed).random
        self._templates = [(sorted(set(re.findall(r"{(\w+)", en))), en, de)
                           for weight, en, de in TEMPLATES for _ in range(weight)]  # fmt: skip
        self._tenses: Sequence[str] = ()
        """Tenses of the current sentence."""

    def sentence(self) -> Text:
        """Return the next sentence, at most MAX_WORDS long; it may be a repetition."""
        while True:
            names, *templates = self._pick(self._templates)
            self._tenses = self._pick(_TENSES)
            slots = {name: getattr(self, f"_{name}")() for name in names}
            combinations = tuple(pair for slot in slots.values() for pair in slot["combinations"])
            en, de = (_tidy(template.format(**slots)) for template in templates)
            if en.count(" ") < MAX_WORDS:
                return Text(en, de, combinations)

    def _pick(self, items: Sequence[T]) -> T:
        return items[int(self._random() * len(items))]

    def _chance(self, probability: float) -> bool:
        return self._random() < probability

    def _noun(self, noun: Noun, words: Sequence[str] = (), is_negated: bool = False) -> Phrase:
        determiner = self._pick(words or _DETERMINERS.get(noun.kind, _ANY))
        is_plural = noun.de_plural != "-" and (determiner in ("", "2") or self._chance(0.2))
        if determiner in ("", "a", "2") and is_negated:
            determiner = "no"
        elif determiner == "2" or (determiner == "a" and is_plural):
            determiner, is_plural = " ".join(self._pick(NUMBERS)), True
        elif determiner == "my":
            determiner = self._pick(tuple(lexicon.POSSESSIVES))
        return grammar.noun_phrase(noun, determiner, self._adjective(noun), is_plural)

    def _adjective(self, noun: Noun) -> str:
        fitting = _adjectives_of(noun)
        return self._pick(fitting) if fitting and self._chance(0.6) else ""

    def _person(self) -> Phrase:
        if self._chance(0.4):
            en, en_object, de, agreement = self._pick(lexicon.PRONOUNS)
            return Phrase(en, de, agreement, en_object)
        if self._chance(0.6):
            return self._noun(self._pick(_PEOPLE), ("the", "this", "my"))
        name = self._pick(lexicon.NAMES)
        return Phrase(name, (name,) * 3)

    def _different(self, subject: Phrase, sample: Callable[[], Phrase]) -> Phrase:
        """Sample until the phrase cannot refer to the subject."""
        while True:
            other = sample()
            if other.en != subject.en and {other.en, subject.en} != {"I", "we"}:
                return other

    def _person_with_relative_clause(self) -> Phrase:
        noun = self._pick(_PEOPLE)
        phrase = self._noun(noun, ("the",))
        clause = self._make(grammar.relative_pronoun(noun, phrase.agreement != HE), is_short=True)
        cases = tuple(f"{each}, {german(clause, 'last')}," for each in phrase.de)
        combinations, en = phrase.combinations + clause.combinations(), english(clause)
        return phrase._replace(en=f"{phrase.en} {en}", de=cases, combinations=combinations)

    def _make(
        self, subject: Phrase | None = None, verbs: Sequence[Verb] = _EVENTS,
        is_short: bool = False, may_negate: bool = True,
    ) -> Clause:  # fmt: skip
        """Return a random clause; a short one has no time and no relative clause."""
        verb = self._pick(verbs)
        tenses = ("past",) if "past" in self._tenses else ("present",)
        tense = self._pick(self._tenses if verb.is_action else tenses)
        if not subject:
            is_plain = is_short or self._chance(0.7)
            subject = self._person() if is_plain else self._person_with_relative_clause()
        # "must not" is not "nicht müssen".
        is_negated = may_negate and tense != "must" and self._chance(0.15)
        clause = Clause(subject, verb, tense, is_negated=is_negated)
        if verb.objects:
            noun = self._pick(verb.objects)
            is_person = noun in _PEOPLE and self._chance(0.5)
            sample = self._person if is_person else lambda: self._noun(noun, (), is_negated)
            clause = clause._replace(object=self._different(subject, sample))
        if verb.has_place and self._chance(0.3 if is_short else 0.5):
            place = grammar.prepositional("in", "in", self._noun(self._pick(_PLACES)), "dat")
            clause = clause._replace(complement=place)
        if verb.is_action and tense in _TIMES and not is_short and self._chance(0.5):
            clause = clause._replace(time=Text(*self._pick(_TIMES[tense])))
        return clause

    def _clause(self) -> dict[str, Any]:
        return _forms(self._make())

    def _other(self) -> dict[str, Any]:
        return _forms(self._make(is_short=True))

    def _who(self) -> dict[str, Any]:
        return _forms(self._make(_WHO, may_negate=False))

    def _untimed(self) -> dict[str, Any]:
        self._tenses = [self._pick(tuple(_TIMES))]
        return _forms(self._make(verbs=_ACTIONS, may_negate=False)._replace(time=Text()))

    def _untimed_time(self) -> dict[str, Any]:
        en, de = self._pick(_TIMES[self._tenses[0]])
        return {"en": en, "de": de, "combinations": ()}

    def _which(self, determiner: str = "which") -> dict[str, Any]:
        """Return a clause whose object is outside: in a question, or before a relative clause."""
        clause = self._make(verbs=_OBJECT_VERBS, is_short=True, may_negate=False)
        noun = self._pick(clause.verb.objects)
        gap = grammar.noun_phrase(noun, determiner, self._adjective(noun))
        if determiner == "which" and noun in _PEOPLE and self._chance(0.5):
            gap = _WHO
        front = gap if determiner == "which" else grammar.relative_pronoun(noun)
        opener = grammar.prepositional("", clause.verb.preposition, front, clause.verb.frame)
        return _forms(clause._replace(object=None, gap=gap, opener=opener))

    def _that(self) -> dict[str, Any]:
        return self._which("the")

    def _claim(self) -> dict[str, Any]:
        return _forms(Clause(self._person(), self._pick((_KNOW, _HOPE, _SAY))))

    def _doubt(self) -> dict[str, Any]:
        verb = self._pick((_KNOW, _ASK))
        return _forms(Clause(self._person(), verb, is_negated=verb is _KNOW))

    def _state(self) -> dict[str, Any]:
        subject = self._noun(self._pick(NOUNS), ("the", "this", "my"))
        noun = subject.noun or NOUNS[0]
        fitting = [each for each in _adjectives_of(noun) if f" {each} " not in subject.en]
        adjective = self._pick(fitting or ["beautiful"])
        predicate = Text(adjective, lexicon.ADJECTIVES[adjective][0], ((adjective, noun.en),))
        tense, is_negated = self._pick(("present", "past")), self._chance(0.15)
        return _forms(Clause(subject, _BE, tense, complement=predicate, is_negated=is_negated))

    def _age(self) -> dict[str, Any]:
        en, de = self._pick(NUMBERS)
        age = Text(f"{en} years old", f"{de} Jahre alt")
        return _forms(Clause(self._person(), _BE, complement=age))


def _adjectives_of(noun: Noun) -> list[str]:
    return [en for en, (_, nouns) in lexicon.ADJECTIVES.items() if noun in nouns]


def _forms(clause: Clause) -> dict[str, Any]:
    """Return the values of a slot by the names used in TEMPLATES."""
    return {
        "en": english(clause), "ask": english(clause, is_inverted=True), "de": german(clause),
        "first": german(clause, "first"), "last": german(clause, "last"),
        "gap_en": clause.gap.en if clause.gap else "", "opener_en": clause.opener.en,
        "gap_de": clause.gap.de[0] if clause.gap else "", "opener_de": clause.opener.de,
        "combinations": clause.combinations(),
    }  # fmt: skip


def _tidy(text: str) -> str:
    """Capitalise a sentence and remove the comma after a relative clause before another mark."""
    text = re.sub(r",+([,.?])", r"\1", text).replace("can not", "cannot")
    return text[0].upper() + text[1:]


class SplitCorpus(NamedTuple):
    """Pairs of three sets that share no English sentence."""

    train: list[Pair]
    dev: list[Pair]
    test: list[Pair]


def is_reserved(combination: Combination) -> bool:
    """Return True if training never contains this verb or adjective with this noun."""
    return zlib.crc32(" ".join(combination).encode()) % 12 == 0


def words_of(*texts: str) -> set[str]:
    """Return the words and numbers in texts."""
    return set(re.findall(r"\w+(?:[-']\w+)*", " ".join(texts)))


def generate(
    num_train: int = 24_000, num_dev: int = 500, num_test: int = 500, seed: int = 1
) -> SplitCorpus:
    """Generate a corpus; equal arguments give equal corpora on every machine.

    Raises:
        DataError: more pairs than MAX_PAIRS, or too few training pairs to contain all words of
            the dev and test sets.
    """
    request = f"the built-in corpus was requested with {num_train} + {num_dev} + {num_test} pairs"
    num_held_out = num_dev + num_test
    if min(num_train, num_dev, num_test) < 0 or num_train + num_held_out > MAX_PAIRS:
        raise DataError(f"{request}: it has 0 to {MAX_PAIRS} in total; request fewer")
    sampler = Sampler(seed)
    train: dict[str, str] = {}
    while len(train) < num_train:
        en, de, combinations = sampler.sentence()
        if not any(map(is_reserved, combinations)):
            train[en] = de
    known = {word for pair in train.items() for word in words_of(*pair)}
    held_out: dict[str, str] = {}
    # About one sentence in six is reserved, and most of them consist of known words.
    for _ in range(1_000 + 100 * num_held_out):
        if len(held_out) == num_held_out:
            pairs = list(held_out.items())
            return SplitCorpus(list(train.items()), pairs[:num_dev], pairs[num_dev:])
        en, de, combinations = sampler.sentence()
        if any(map(is_reserved, combinations)) and words_of(en, de) <= known:
            held_out[en] = de
    raise DataError(
        f"{request}: {num_train} training pairs do not contain the words of that many dev and test "
        "pairs; request more training pairs"
    )


def write(
    folder: Path, num_train: int = 24_000, num_dev: int = 500, num_test: int = 500, seed: int = 1
) -> None:
    """Write train.en, train.de, dev.en and so on: UTF-8, one sentence per line.

    Raises:
        DataError: as `generate`, before a file is written.
    """
    split = generate(num_train, num_dev, num_test, seed)
    folder.mkdir(parents=True, exist_ok=True)
    for part, pairs in split._asdict().items():
        for column, language in enumerate(("en", "de")):
            with atomic_write(folder / f"{part}.{language}") as path:
                path.write_bytes("".join(f"{pair[column]}\n" for pair in pairs).encode())
