"""Robustness: variants of a test set with the changes that users make to text.

Variants are in upper case, in title case, with typing errors and without punctuation. One more
variant has each kind of noise that training can add (`nmt.corpus.noise`). References are unchanged.
The loss in score against the original set shows how much a system depends on clean input. The
errors of a line depend on the seed, its number and its text only.
"""

import random
import unicodedata
from collections.abc import Callable, Iterator
from dataclasses import replace

from nmt.config.corpus import NoiseConfig
from nmt.corpus.noise import add_noise
from nmt.corpus.text import change_case
from nmt.evaluation.test_sets import TestSet

TYPO_SHARE = 0.1
"""Share of words with a typing error, among those of MIN_LETTERS or more."""
MIN_LETTERS = 4
VARIANTS: dict[str, Callable[[str, str], str]] = {
    "upper-case": lambda line, seed: change_case(line, "upper"),
    "title-case": lambda line, seed: change_case(line, "title"),
    "typos": lambda line, seed: add_typos(line, random.Random(f"{seed}/{line}")),
    "no-punctuation": lambda line, seed: remove_punctuation(line),
}
"""Function of each variant, from a line and its seed to the changed line."""
NOISE = {
    "no-final-punctuation": NoiseConfig(final_punctuation=1),
    "no-accents": NoiseConfig(accents=1),
    "typography": NoiseConfig(typography=1),
    "keyboard-typos": NoiseConfig(typos=TYPO_SHARE),
    "dropped-letters": NoiseConfig(dropped_letters=TYPO_SHARE),
    "doubled-letters": NoiseConfig(doubled_letters=TYPO_SHARE),
    "swapped-letters": NoiseConfig(swapped_letters=TYPO_SHARE),
    "merged-words": NoiseConfig(merged_words=TYPO_SHARE),
    "split-words": NoiseConfig(split_words=TYPO_SHARE),
}
"""Variants with one kind of noise; one that changes no line is left out."""


def make_variants(test_set: TestSet, seed: int = 1) -> Iterator[TestSet]:
    """Yield the test set in each of VARIANTS and NOISE, named `flickr+typos` and so on."""
    for name, change in VARIANTS.items():
        lines = tuple(change(line, f"{seed}/{n}") for n, line in enumerate(test_set.src))
        yield replace(test_set, name=f"{test_set.name}+{name}", src=lines)
    for name, rates in NOISE.items():
        lines = tuple(
            add_noise(line, rates, random.Random(f"{seed}/{n}/{line}"))
            for n, line in enumerate(test_set.src)
        )
        # English has no accents to lose, for example.
        if lines != test_set.src:
            yield replace(test_set, name=f"{test_set.name}+{name}", src=lines)


def remove_punctuation(line: str) -> str:
    """Remove characters of the Unicode categories P; words that they separate stay separate."""
    spaced = "".join(" " if unicodedata.category(each)[0] == "P" else each for each in line)
    return " ".join(spaced.split())


def add_typos(line: str, rng: random.Random) -> str:
    """Add one error to some words: two letters swapped, one omitted, or one doubled."""
    words = line.split(" ")
    for number, word in enumerate(words):
        if sum(map(str.isalpha, word)) >= MIN_LETTERS and rng.random() < TYPO_SHARE:
            # Errors are between two letters; digits and hyphens stay.
            at = rng.choice([n for n in range(len(word) - 1) if word[n : n + 2].isalpha()] or [0])
            pair = word[at : at + 2]
            typo = rng.choice([pair[::-1], pair[0], pair[0] + pair])
            words[number] = word[:at] + typo + word[at + 2 :]
    return " ".join(words)
