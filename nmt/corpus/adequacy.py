"""Adequacy of a pair by IBM Model 1 (Brown et al. 1993): mutual translation of its words.

The score of a pair is the log-likelihood ratio, in nats, of its target words given its source words
against their frequencies alone, plus the same in the other direction. It is above 0 for most
translations and far below for pairs that do not belong together.

Two models are trained, each on half of a sample of the corpus, and each scores the pairs of the
other half: a pair is never scored by a model that was trained on it. Words are lower-cased and cut
to five characters, so that inflected forms count as one; letters of scripts without spaces are
words. Word ids are hashes: there is no vocabulary to store.
"""

import re
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
import numpy.typing as npt

from nmt.corpus.io import atomic_write
from nmt.corpus.text import UNSPACED, mark_class

SUGGESTED_MINIMUM = -3.0
"""Score below which a pair is more likely to be wrong than right."""
FEW_PAIRS = 5_000
"""Pairs below which the scores are unreliable."""
STEM_CHARS = 5
MAX_WORDS = 60
"""Words of a side that are scored; further ones are ignored."""
NUM_ITERATIONS = 4
SMOOTHING = 0.3
"""Share of the frequency of a word in its probability given a source: bounds its penalty."""
MIN_PROBABILITY = 1e-3
"""Translation probability below which an entry is removed from the table."""
MAX_CELLS = 1 << 24
"""Combinations of a source and a target word that a table is trained on: 700 MB of memory, and
enough for 4,500 pairs of MAX_WORDS."""
SCORE_PAIRS = 1_000
"""Pairs scored together."""

Ids = npt.NDArray[np.int64]
Scores = npt.NDArray[np.float32]
_NUM_IDS = 1 << 18
_NULL = 0
"""Id of the empty word, which explains words without a translation."""


@dataclass(frozen=True)
class WordTable:
    """Probabilities of target words given source words."""

    keys: Ids
    """Source and target id of each entry as one number, sorted."""
    probabilities: Scores
    frequencies: Scores
    """Relative frequency of each target word."""

    @classmethod
    def train(cls, src: Sequence[str], tgt: Sequence[str]) -> "WordTable":
        """Train IBM Model 1 from source to target, on an even sample of at most MAX_CELLS."""
        sides = _word_ids(src, has_null=True), _word_ids(tgt)
        step = -(-int(sides[0][1] @ sides[1][1]) // MAX_CELLS)
        if step > 1:
            sides = _word_ids(src[::step], has_null=True), _word_ids(tgt[::step])
        cells = _Cells.pair(*sides)
        keys, entries = np.unique(cells.keys, return_inverse=True)
        sources = keys // _NUM_IDS
        # The first iteration starts from equal probabilities.
        probabilities = np.ones(len(keys))
        for _ in range(NUM_ITERATIONS):
            weights = probabilities[entries]
            weights /= np.repeat(np.add.reduceat(weights, cells.starts), cells.num_sources)
            counts = np.bincount(entries, weights, minlength=len(keys))
            probabilities = counts / np.bincount(sources, counts, minlength=_NUM_IDS)[sources]
        keep = probabilities >= MIN_PROBABILITY
        counts = np.bincount(cells.targets, minlength=_NUM_IDS)
        frequencies = counts / max(1, counts.sum())
        return cls(
            keys[keep],
            probabilities[keep].astype(np.float32),
            frequencies.astype(np.float32),
        )

    def score(self, src: Sequence[str], tgt: Sequence[str]) -> Scores:
        """Return the log-likelihood ratio of each target, in nats."""
        scores = np.zeros(len(src), dtype=np.float32)
        cells = _Cells.pair(_word_ids(src, has_null=True), _word_ids(tgt))
        if not (len(cells.keys) and len(self.keys)):
            return scores
        places = np.minimum(np.searchsorted(self.keys, cells.keys), len(self.keys) - 1)
        is_known = self.keys[places] == cells.keys
        found = np.where(is_known, self.probabilities[places], np.float32(0))
        means = np.add.reduceat(found, cells.starts) / cells.num_sources
        frequencies = self.frequencies[cells.targets]
        # A word that the other half of the corpus lacks has no frequency to compare with.
        known = frequencies > 0
        ratios = np.zeros(len(means))
        ratios[known] = np.log((1 - SMOOTHING) * means[known] / frequencies[known] + SMOOTHING)
        np.add.at(scores, cells.pairs, ratios)
        return scores

    def save(self, path: Path) -> None:
        """Write the table atomically."""
        with atomic_write(path) as temporary, temporary.open("wb") as file:
            np.savez(file, a=self.keys, b=self.probabilities, c=self.frequencies)

    @classmethod
    def load(cls, path: Path) -> "WordTable":
        """Read a table of `save`."""
        with np.load(path) as arrays:
            return cls(arrays["a"], arrays["b"], arrays["c"])


@dataclass(frozen=True)
class _Cells:
    """All combinations of a target word and a word of its source, over many pairs."""

    keys: Ids
    """Source and target id of each cell; the cells of a target word are consecutive."""
    starts: Ids
    """First cell of each target word."""
    num_sources: Ids
    """Cells of each target word."""
    targets: Ids
    """Id of each target word."""
    pairs: Ids
    """Pair of each target word."""

    @classmethod
    def pair(cls, src: tuple[Ids, Ids], tgt: tuple[Ids, Ids]) -> "_Cells":
        """Combine the words of both sides, each as `_word_ids` returns them."""
        (src_words, src_lengths), (tgt_words, tgt_lengths) = src, tgt
        pairs = np.repeat(np.arange(len(tgt_lengths)), tgt_lengths)
        num_sources = src_lengths[pairs]
        ends = np.cumsum(num_sources)
        starts = ends - num_sources
        first = (np.cumsum(src_lengths) - src_lengths)[pairs]
        num_cells = int(ends[-1]) if len(ends) else 0
        # Position of each cell among the sources of its pair.
        sources = src_words[np.arange(num_cells) - np.repeat(starts - first, num_sources)]
        keys = sources * _NUM_IDS + np.repeat(tgt_words, num_sources)
        return cls(keys, starts, num_sources, tgt_words, pairs)


def fold_of(src: str, tgt: str) -> int:
    """Return the half of the corpus, 0 or 1, that a pair is in; equal pairs are in the same."""
    return zlib.crc32(f"{src}\n{tgt}".encode()) & 1


def score_pairs(
    src: Sequence[str], tgt: Sequence[str], tables: Sequence[tuple[WordTable, WordTable]]
) -> Scores:
    """Return the adequacy of pairs.

    Args:
        src: source lines.
        tgt: target lines.
        tables: for each half, the tables from source to target and back that were trained on it.
    """
    scores = np.zeros(len(src), dtype=np.float32)
    folds = np.fromiter(map(fold_of, src, tgt), dtype=np.int64, count=len(src))
    for fold in (0, 1):
        rows = np.flatnonzero(folds == fold)
        for first in range(0, len(rows), SCORE_PAIRS):
            chosen = rows[first : first + SCORE_PAIRS]
            one, two = ([side[row] for row in chosen.tolist()] for side in (src, tgt))
            forward, backward = tables[1 - fold]
            scores[chosen] = forward.score(one, two) + backward.score(two, one)
    return scores


@lru_cache(maxsize=1)
def _word_pattern() -> re.Pattern[str]:
    unspaced = UNSPACED.pattern
    return re.compile(rf"{unspaced}|(?:(?!{unspaced})[\w{mark_class()}])+")


@lru_cache(maxsize=200_000)
def _word_id(word: str) -> int:
    return zlib.crc32(word[:STEM_CHARS].encode()) % (_NUM_IDS - 1) + 1


def _word_ids(lines: Sequence[str], *, has_null: bool = False) -> tuple[Ids, Ids]:
    """Return the ids of the words of all lines, and the number of words of each line."""
    find = _word_pattern().findall
    words: list[int] = []
    lengths = np.zeros(len(lines), dtype=np.int64)
    for number, line in enumerate(lines):
        before = len(words)
        if has_null:
            words.append(_NULL)
        words.extend(map(_word_id, find(line.lower())[:MAX_WORDS]))
        lengths[number] = len(words) - before
    return np.array(words, dtype=np.int64), lengths
