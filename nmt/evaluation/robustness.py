"""Robustness: test sets made from a test set by what people do to text.

Upper case, title case, typing errors, no punctuation; references stay as they are. How far a score
falls from that of the plain set says how much a system leans on clean input. The typing errors of a
line depend on the seed, its number and its text alone: they are the same everywhere.
"""

import random
import unicodedata
from collections.abc import Iterator
from dataclasses import replace

from nmt.corpus.text import change_case
from nmt.evaluation.test_sets import TestSet

VARIANTS = ("upper-case", "title-case", "typos", "no-punctuation")
TYPO_SHARE = 0.1
"""Share of the words of four letters and more that get a typing error."""
_MIN_LETTERS = 4


def variants(test_set: TestSet, seed: int = 1) -> Iterator[TestSet]:
    """The set in each of VARIANTS, named `flickr+typos` and so on."""
    for name in VARIANTS:
        lines = tuple(_changed(name, line, f"{seed}/{n}") for n, line in enumerate(test_set.src))
        yield replace(test_set, name=f"{test_set.name}+{name}", src=lines)


def _changed(variant: str, line: str, seed: str) -> str:
    if variant == "upper-case":
        return change_case(line, "upper")
    if variant == "title-case":
        return change_case(line, "title")
    if variant == "typos":
        return with_typos(line, random.Random(f"{seed}/{line}"))
    return without_punctuation(line)


def without_punctuation(line: str) -> str:
    """Without characters of Unicode's classes P; words that they parted stay apart."""
    spaced = "".join(" " if unicodedata.category(each)[0] == "P" else each for each in line)
    return " ".join(spaced.split())


def with_typos(line: str, rng: random.Random) -> str:
    """One error in some of the words: two letters swapped, a letter left out, or said twice."""
    words = line.split(" ")
    for number, word in enumerate(words):
        if sum(map(str.isalpha, word)) >= _MIN_LETTERS and rng.random() < TYPO_SHARE:
            at = rng.choice([n for n in range(len(word) - 1) if word[n : n + 2].isalpha()] or [0])
            pair = word[at : at + 2]
            typo = rng.choice([pair[::-1], pair[0], pair[0] + pair])
            words[number] = word[:at] + typo + word[at + 2 :]
    return " ".join(words)
