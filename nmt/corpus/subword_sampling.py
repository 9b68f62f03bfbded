"""Subword regularisation: the same text cut another way each epoch.

BPE-dropout (Provilkov et al. 2020): while characters are merged to pieces, each possible merge is
left out with a small probability; the best of those that remain is made, until none remains. Of a
unigram vocabulary a cut is drawn instead, by its probability to the power of alpha (Kudo 2018). A
model that has seen words in many cuts reads and writes rare ones better. There are more tokens: at
a dropout of 0.1 a quarter more.

This works on token ids, without the text: they fall into words, from a token that begins with a
space to the next, across which nothing was ever merged. A word has VARIANTS cuts, each a pure
function of (seed, word, number), made when it is first wanted; a pair takes one for each word by a
hash of (seed, epoch, row, place). So a cut does not depend on who asks, when, or for what else
(P2), and most words cost one look into a table.
"""

import hashlib
import math
import random
from collections.abc import Callable, Sequence
from itertools import accumulate, chain, pairwise
from typing import Any

import numpy as np
import numpy.typing as npt

from nmt.corpus.shards import Lengths, Shards
from nmt.corpus.subword import LogProbs, Merges, Subword
from nmt.corpus.unigram import MAX_PIECE

Tokens = Sequence[int] | npt.NDArray[Any]
Pair = tuple[Tokens, Tokens]
Cut = tuple[int, ...]
Hashes = npt.NDArray[np.uint64]

VARIANTS = 64
"""Cuts of a word that take turns."""
MAX_CHARS = 64
"""Longer words stay as they are: text is cut there, and a merge must not reach across."""
MAX_WORDS = 200_000
"""Words whose cuts are kept; when there are more, all are forgotten and made anew, alike."""
TRIES = 8
"""Cuts of a pair that are tried until one is short enough; else it stays as it is."""
SAMPLE_PAIRS = 1000
"""Pairs that tell how much longer cuts are than the pairs."""


class SubwordSampler:
    """Cuts the token ids of a vocabulary another way."""

    def __init__(self, subword: Subword, share: float, seed: int) -> None:
        """Args: share: of merges left out; of a unigram vocabulary: alpha."""
        self._share = share
        self._seed = seed
        self._is_bpe = subword.is_bpe
        self._merges = subword.merges if self._is_bpe else {}
        self._log_probs = {} if self._is_bpe else subword.log_probs
        self._characters = subword.characters
        self._begins_word = np.array(
            [piece.startswith("▁") for piece in subword.pieces(range(subword.num_pieces))]
        )
        self._cuts: dict[bytes, list[Cut | None]] = {}

    def segment(
        self, pairs: Sequence[Pair], rows: Sequence[int] | npt.NDArray[Any], epoch: int, most: int
    ) -> list[Pair]:
        """The same text in token ids as they are in an epoch, at most `most` on each side.

        A pair that has more is cut again, and after TRIES such cuts stays as it is.
        """
        found: list[Pair] = [((), ())] * len(pairs)
        left = np.arange(len(pairs))
        for number in range(TRIES):
            if not len(left):
                break
            sides = list(chain.from_iterable(pairs[n] for n in left.tolist()))
            cut = self._cut(sides, np.asarray(rows, dtype=np.uint64)[left], epoch, number)
            for n, src, tgt in zip(left.tolist(), cut[::2], cut[1::2], strict=True):
                found[n] = src, tgt
            is_long = [max(map(len, found[n])) > most for n in left.tolist()]
            left = left[is_long]
        for n in left.tolist():
            found[n] = pairs[n]
        return found

    def planned_lengths(self, shards: Shards, max_length: int) -> tuple[Lengths, Lengths]:
        """Source and target tokens of each row, without EOS, to plan with: what most cuts need.

        These are the tokens as they are times one factor for all; a pair within `max_length`, EOS
        counted, stays within it.
        """
        rows = np.unique(np.linspace(0, len(shards) - 1, SAMPLE_PAIRS).astype(np.int64))
        pairs = shards.pairs(rows)
        before = np.array([max(map(len, pair)) for pair in pairs])
        after = np.array([max(map(len, pair)) for pair in self.segment(pairs, rows, 0, 2**31)])
        growth = after / np.maximum(1, before)
        factor = float(growth.mean() + growth.std())
        lengths = (
            np.asarray(side, dtype=np.int64) for side in (shards.src_lengths, shards.tgt_lengths)
        )
        src, tgt = (
            np.maximum(side, np.minimum(np.ceil(factor * side).astype(np.int64), max_length - 1))
            for side in lengths
        )
        return src, tgt

    def _cut(
        self, sides: Sequence[Tokens], rows: Hashes, epoch: int, number: int
    ) -> list[list[int]]:
        """Cut both sides of each row: src and tgt of the first, of the second, ..."""
        lengths = [len(side) for side in sides]
        ends = np.array(list(accumulate(lengths)))
        tokens = np.concatenate([np.zeros(0, np.uint16), *sides]).astype(np.uint16)
        begins = self._begins_word[tokens]
        begins[(ends - lengths)[np.array(lengths) > 0]] = True
        starts = np.flatnonzero(begins)
        side_of = np.searchsorted(ends, starts, side="right")
        first = _scramble(_hash(self._seed, epoch, number) + rows)
        place = starts - (ends - lengths)[side_of] + 2**32 * (side_of % 2)
        variants = _scramble(first[side_of // 2] + place.astype(np.uint64)) % np.uint64(VARIANTS)
        data, bounds = tokens.tobytes(), [*(2 * starts).tolist(), 2 * len(tokens)]
        found: list[list[int]] = [[] for _ in sides]
        for side, variant, (begin, end) in zip(
            side_of.tolist(), variants.tolist(), pairwise(bounds), strict=True
        ):
            found[side] += self._variant(data[begin:end], variant)
        return found

    def _variant(self, word: bytes, number: int) -> Cut:
        """A cut of a word, made of its token ids as two bytes each."""
        cuts = self._cuts.get(word)
        if cuts is None:
            if len(self._cuts) >= MAX_WORDS:
                self._cuts.clear()
            cuts = self._cuts[word] = [None] * VARIANTS
        cut = cuts[number]
        if cut is None:
            cut = cuts[number] = self._sample(np.frombuffer(word, np.uint16).tolist(), number)
        return cut

    def _sample(self, tokens: list[int], number: int) -> Cut:
        symbols = [symbol for token in tokens for symbol in self._characters[token]]
        if len(symbols) > MAX_CHARS:
            return tuple(tokens)
        # A text as seed goes through SHA-512: the same numbers in every process.
        rng = random.Random(f"{self._seed} {number} {tokens}")
        if not self._is_bpe:
            return draw_cut(symbols, self._log_probs, self._share, rng)
        return merge(symbols, self._merges, self._share, rng.random)


def merge(symbols: list[int], merges: Merges, dropout: float, draw: Callable[[], float]) -> Cut:
    """Merge characters to pieces (Provilkov et al. 2020, algorithm 1); `draw` gives 0 to 1."""
    symbols = list(symbols)
    while True:
        pairs = ((merges.get(pair), place) for place, pair in enumerate(pairwise(symbols)))
        for (_, merged), place in sorted((found, place) for found, place in pairs if found):
            # Best first, so that none is drawn for that is worse than the one that is made.
            if draw() >= dropout:
                symbols[place : place + 2] = [merged]
                break
        else:
            return tuple(symbols)


def draw_cut(symbols: list[int], log_probs: LogProbs, alpha: float, rng: random.Random) -> Cut:
    """A cut of characters by its probability to the power of alpha (Kudo 2018, section 3.1).

    Forward the weights of all cuts up to each place are summed, backward pieces are drawn by them:
    of all cuts, not of the n best.
    """
    ways: list[list[tuple[int, int, float]]] = [[]]
    sums = [0.0]  # logarithms
    for end in range(1, len(symbols) + 1):
        here = []
        for begin in range(max(0, end - MAX_PIECE), end):
            found = log_probs.get(tuple(symbols[begin:end]))
            if found is not None:
                token, log_prob = found
                here.append((begin, token, sums[begin] + alpha * log_prob))
        most = max(weight for _, _, weight in here)
        sums.append(most + math.log(sum(math.exp(weight - most) for _, _, weight in here)))
        ways.append(here)
    cut, end = [], len(symbols)
    while end:
        weights = [math.exp(weight - sums[end]) for _, _, weight in ways[end]]
        end, token, _ = rng.choices(ways[end], weights)[0]
        cut.append(token)
    return tuple(reversed(cut))


def _hash(*numbers: int) -> np.uint64:
    """64 bits that depend on all of the numbers."""
    digest = hashlib.blake2b(repr(numbers).encode(), digest_size=8).digest()
    return np.uint64(int.from_bytes(digest, "little"))


def _scramble(values: Hashes) -> Hashes:
    """Neighbours to numbers that look unrelated: the end of SplitMix64 (Steele et al. 2014)."""
    values = (values ^ (values >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    values = (values ^ (values >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return values ^ (values >> np.uint64(31))
