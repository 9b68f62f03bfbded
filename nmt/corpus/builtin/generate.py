"""The built-in English-German corpus: a seed in, files of distinct sentence pairs out.

What is trained on is told apart from what is tested by single combinations: `is_reserved` takes one
in twelve of (verb, object noun) and (adjective, noun). Every dev and test sentence holds one of
them, no training sentence does, and every word of a dev or test sentence was trained on. An English
sentence has one German: "you" is "du", and what has two readings ("they put") has one of them here.
"""

import os
import re
import zlib
from pathlib import Path
from typing import NamedTuple

from nmt.corpus.builtin.grammar import Combination
from nmt.corpus.builtin.sentences import Speaker
from nmt.errors import DataError

Pair = tuple[str, str]
"""An English sentence and its German translation."""

MAX_PAIRS = 400_000
"""Most pairs that can be asked for, dev and test included; so far, 9 in 10 sentences are new."""


class Split(NamedTuple):
    """Three lists that have no English sentence in common."""

    train: list[Pair]
    dev: list[Pair]
    test: list[Pair]


def is_reserved(combination: Combination) -> bool:
    """Whether training never sees this verb or adjective with this noun, whatever the seed."""
    return zlib.crc32(" ".join(combination).encode()) % 12 == 0


def words_of(*texts: str) -> set[str]:
    """The words, numbers and prices in texts, as they are written there."""
    return set(re.findall(r"\w+(?:[-.,:']\w+)*", " ".join(texts)))


def generate(
    num_train: int = 24_000, num_dev: int = 500, num_test: int = 500, seed: int = 1
) -> Split:
    """Make a corpus; the same arguments make the same one on every machine.

    Raises:
        DataError: more pairs than the grammar gives, or so few training pairs that too few dev and
            test sentences are made of their words.
    """
    asked = f"The built-in corpus was asked for {num_train} + {num_dev} + {num_test} pairs"
    num_held_out = num_dev + num_test
    if min(num_train, num_dev, num_test) < 0 or num_train + num_held_out > MAX_PAIRS:
        raise DataError(f"{asked}, but it gives 0 to {MAX_PAIRS} in all; ask for fewer.")
    speaker = Speaker(seed)
    train: dict[str, str] = {}
    while len(train) < num_train:
        en, de, combinations = speaker.sentence()
        if not any(map(is_reserved, combinations)):
            train[en] = de
    known = {word for pair in train.items() for word in words_of(*pair)}
    held_out: dict[str, str] = {}
    # About one sentence in six is reserved, and after a few thousand training pairs most are known.
    for _ in range(1_000 + 100 * num_held_out):
        if len(held_out) == num_held_out:
            pairs = list(held_out.items())
            return Split(list(train.items()), pairs[:num_dev], pairs[num_dev:])
        en, de, combinations = speaker.sentence()
        if any(map(is_reserved, combinations)) and words_of(en, de) <= known:
            held_out[en] = de
    raise DataError(f"{asked}, but {num_train} training pairs hold too few words for so many dev "
                    "and test pairs; ask for more of the first.")  # fmt: skip


def write(
    folder: Path, num_train: int = 24_000, num_dev: int = 500, num_test: int = 500, seed: int = 1
) -> None:
    """Write train.en, train.de, dev.en, ... into a folder: UTF-8, one sentence a line.

    A file appears whole or not at all. Raises what `generate` raises, before a file is touched.
    """
    split = generate(num_train, num_dev, num_test, seed)
    folder.mkdir(parents=True, exist_ok=True)
    for part, pairs in split._asdict().items():
        for column, language in enumerate(("en", "de")):
            target = folder / f"{part}.{language}"
            unfinished = folder / f".{target.name}.{os.getpid()}"
            unfinished.write_bytes("".join(f"{pair[column]}\n" for pair in pairs).encode())
            os.replace(unfinished, target)
