"""Generator of the built-in English-German corpus: sentence templates, sampling and splits.

One in twelve combinations of verb and object, or adjective and noun, is reserved: no training
sentence contains one, every dev and test sentence does. All words of dev and test are in training.
"""

import random
import re
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import TypeVar

from nmt.corpus.builtin import grammar
from nmt.corpus.builtin.grammar import NOUNS, VERBS, Clause, Noun, Pair, Phrase, Verb
from nmt.corpus.io import atomic_write
from nmt.errors import DataError

T = TypeVar("T")
Combination = tuple[str, str]  # German verb or English adjective, and English noun
MAX_PAIRS = 400_000  # at this size most sampled sentences are still new
MAX_WORDS = 22  # of an English sentence
_EVENTS = [verb for verb in VERBS if verb.frame != "clause"]
_STATEMENTS = [verb for verb in VERBS if verb.frame == "clause"]
_TRANSITIVE = [verb for verb in VERBS if verb.objects]
_PEOPLE, _PLACES = ([noun for noun in NOUNS if noun.kind == kind] for kind in ("person", "place"))
# "2" is any number, "my" any possessive.
_KNOWN, _MASS = ("the", "this", "my"), ("the", "my", "")
_COUNT = ("the", "the", "the", "a", "a", "my", "my", "this", "", "2")
# Weight, English, German. A slot is a method of Sampler; the 2 of a second clause is dropped.
_TEMPLATES = [line.split(" | ") for line in """
30 | {clause:en}. | {clause:second}.
6 | {clause:ask}? | {clause:first}?
9 | {timed:en}. | {timed:second}.
9 | {asked:ask}? | {asked:second}?
6 | {speaker:en} {asked:en}. | {speaker:second}, {asked:last}.
6 | {speaker:en} that {clause:en}. | {speaker:second}, dass {clause:last}.
3 | {speaker:en} whether {clause:en}. | {speaker:second}, ob {clause:last}.
6 | this is {that:en}. | das ist {that:last}.
9 | {clause:en} because {clause2:en}. | {clause:second}, weil {clause2:last}.
6 | if {clause:en}, {clause2:en}. | wenn {clause:last}, {clause2:first}.
6 | {clause:en}, but {clause2:en}. | {clause:second}, aber {clause2:second}.
""".strip().splitlines()]  # fmt: skip


class Sampler:
    """Random sentences, the same for the same seed on every machine.

    Only `Random.random` is used: it alone is guaranteed to be equal in all Python versions.
    """

    def __init__(self, seed: int) -> None:
        self._random = random.Random(seed).random
        self._templates = [(re.findall(r"{(\w+):", en), en, de) for weight, en, de in _TEMPLATES
                           for _ in range(int(weight))]  # fmt: skip

    def sentence(self) -> tuple[Pair, list[Combination]]:
        """Return the next sentence, at most MAX_WORDS long; it may be a repetition."""
        while True:
            slots, *templates = self._pick(self._templates)
            # All clauses of a sentence are in one period.
            self._tenses, self._times = self._pick(grammar.PERIODS)
            self._combinations: list[Combination] = []
            clauses = {slot: getattr(self, f"_{slot.rstrip('2')}")() for slot in slots}
            en, de = (template.format(**clauses) for template in templates)
            is_reflexive = any(each.subject == each.object for each in clauses.values())
            if en.count(" ") < MAX_WORDS and not is_reflexive:
                en = en.replace("can not", "cannot")
                return Pair(en[0].upper() + en[1:], de[0].upper() + de[1:]), self._combinations

    def _pick(self, items: Sequence[T]) -> T:
        return items[int(self._random() * len(items))]

    def _noun(self, noun: Noun, articles: Sequence[str] = (), verb: str = "") -> Phrase:
        is_mass = noun.de[1] == "-"
        article = self._pick(articles or (_MASS if is_mass else _COUNT))
        is_plural = not is_mass and (article in ("", "2") or self._random() < 0.2)
        if article == "2" or (article == "a" and is_plural):
            article, is_plural = " ".join(self._pick(grammar.NUMBERS)), True
        elif article == "my":
            article = self._pick(grammar.POSSESSIVES).en
        has_adjective = noun.adjectives and self._random() < 0.6
        adjective = self._pick(noun.adjectives) if has_adjective else Pair()
        self._combinations += [(word, noun.en[0]) for word in (verb, adjective.en) if word]
        return grammar.noun_phrase(noun, article, adjective, is_plural)

    def _person(self, verb: str = "") -> Phrase:
        kind = self._random()
        if kind < 0.4:
            return self._pick(grammar.PRONOUNS)
        if kind < 0.75:
            return self._noun(self._pick(_PEOPLE), _KNOWN, verb)
        return self._pick(grammar.NAMES)

    def _clause(self, gap: Verb | None = None) -> Clause:
        """Return a random clause; with a gap, it has the given verb without an object."""
        verb, tense = gap or self._pick(_EVENTS), self._pick(self._tenses)
        # "must not" is not "nicht müssen".
        is_negated = tense != "must" and self._random() < 0.15
        clause = Clause(self._person(), verb, tense, is_negated=is_negated)
        if verb.objects and not gap:
            noun = self._pick(verb.objects)
            is_person = noun.kind == "person" and self._random() < 0.5
            # A negated clause has "nicht" and a known object, never "kein".
            articles = _KNOWN if is_negated else ()
            thing = self._person(verb.de) if is_person else self._noun(noun, articles, verb.de)
            clause = clause._replace(object=thing)
        if verb.has_place and self._random() < 0.4:
            place = self._noun(self._pick(_PLACES), (*_KNOWN, "a"))
            de = grammar.prepositional("in", place, "dat")
            clause = clause._replace(place=Pair(f"in {place.en}", de))
        return clause._replace(time=self._pick(self._times)) if self._random() < 0.4 else clause

    def _timed(self) -> Clause:
        return self._clause()._replace(time=Pair(), front=self._pick(self._times))

    def _asked(self) -> Clause:
        """Return a clause with its question word or phrase in front."""
        if self._random() < 0.4:
            question = self._pick((Pair("why", "warum"), Pair("when", "wann")))
            return self._clause()._replace(time=Pair(), front=question)
        verb = self._pick(_TRANSITIVE)
        phrase = self._noun(self._pick(verb.objects), ("which",), verb.de)
        de = grammar.prepositional(verb.preposition, phrase, verb.frame)
        return self._clause(verb)._replace(front=Pair(phrase.en, de))

    def _that(self) -> Clause:
        """Return a relative clause with its antecedent, a singular noun, in front."""
        verb = self._pick(_TRANSITIVE)
        noun = self._pick(verb.objects)
        self._combinations.append((verb.de, noun.en[0]))
        phrase = grammar.noun_phrase(noun, "the", Pair())
        # The relative pronoun of a singular noun is its definite article.
        de = grammar.prepositional(verb.preposition, phrase, verb.frame).removesuffix(noun.de[0])
        front = Pair(f"{phrase.en} that", f"{phrase.de[0]}, {de.strip()}")
        return self._clause(verb)._replace(front=front)

    def _speaker(self) -> Clause:
        return Clause(self._person(), self._pick(_STATEMENTS), is_negated=self._random() < 0.3)


def is_reserved(combination: Combination) -> bool:
    """Return True if training never contains this verb or adjective with this noun."""
    return zlib.crc32(" ".join(combination).encode()) % 12 == 0


def words_of(*texts: str) -> set[str]:
    """Return the words and numbers in texts."""
    return set(re.findall(r"\w+(?:[-']\w+)*", " ".join(texts)))


def generate(
    num_train: int = 24_000, num_dev: int = 500, num_test: int = 500, seed: int = 1
) -> dict[str, list[Pair]]:
    """Generate train, dev and test; equal arguments give equal corpora on every machine.

    Raises:
        DataError: more than MAX_PAIRS, or training lacks words of the dev and test sets.
    """
    request = f"the built-in corpus was requested with {num_train} + {num_dev} + {num_test} pairs"
    num_held_out = num_dev + num_test
    if min(num_train, num_dev, num_test) < 0 or num_train + num_held_out > MAX_PAIRS:
        raise DataError(f"{request}: it has 0 to {MAX_PAIRS} in total; request fewer")
    sampler = Sampler(seed)
    train: dict[str, Pair] = {}
    while len(train) < num_train:
        pair, combinations = sampler.sentence()
        if not any(map(is_reserved, combinations)):
            train[pair.en] = pair
    known = words_of(*(text for pair in train.values() for text in pair))
    held_out: dict[str, Pair] = {}
    # About one sentence in eight is reserved, and most of them consist of known words.
    for _ in range(1_000 + 100 * num_held_out):
        if len(held_out) == num_held_out:
            pairs = list(held_out.values())
            return {"train": [*train.values()], "dev": pairs[:num_dev], "test": pairs[num_dev:]}
        pair, combinations = sampler.sentence()
        if any(map(is_reserved, combinations)) and words_of(*pair) <= known:
            held_out[pair.en] = pair
    raise DataError(
        f"{request}: {num_train} training pairs do not contain the words of that many dev and test "
        "pairs; request more training pairs"
    )


def write(folder: Path, **sizes: int) -> None:
    """Write `generate(**sizes)` to train.en, train.de, dev.en and so on, one sentence per line.

    Raises:
        DataError: one of the files exists with other text, which would be lost.
    """
    files = {
        folder / f"{part}.{language}": "".join(f"{pair[column]}\n" for pair in pairs).encode()
        for part, pairs in generate(**sizes).items()
        for column, language in enumerate(("en", "de"))
    }
    for file, content in files.items():
        if file.exists() and (not file.is_file() or file.read_bytes() != content):
            raise DataError(
                f"{file} exists and is not the built-in corpus: move it away, or choose another "
                "folder with corpus.root=FOLDER"
            )
    folder.mkdir(parents=True, exist_ok=True)
    for file, content in files.items():
        with atomic_write(file) as temporary:
            temporary.write_bytes(content)
