"""Subword regularisation: another segmentation of the same text in each epoch.

BPE-dropout (Provilkov et al. 2020): while characters are merged to pieces, each possible merge is
dropped with a small probability; the best remaining merge is applied, until none remains. With a
unigram vocabulary a segmentation is sampled by its probability to the power of alpha (Kudo 2018).
A model trained on many segmentations reads and writes rare words better. The number of tokens
grows: by a quarter at a dropout of 0.1.

The sampler works on token ids. A word starts at a token that begins with a space; nothing was ever
merged across words. In text without spaces a word is a line; more than MAX_CHARS characters are
segmented in the parts that encoding splits them into. Each word has NUM_VARIANTS segmentations,
computed on first use, each a pure function of (seed, word, number). A pair takes one for each word,
by a hash of (seed, epoch, row, place). So a segmentation depends on nothing else (nmt/README.md,
pure schedule and world-size independence), and most words cost one table look-up. Lines without
spaces rarely repeat: 80,000 tokens per second.
"""

import hashlib
import math
import random
from collections.abc import Callable, Sequence
from itertools import accumulate, chain, pairwise
from typing import Any

import numpy as np
import numpy.typing as npt

from nmt.corpus.shards import Lengths, Rows, Shards
from nmt.corpus.subword import LogProbs, Merges, Subword
from nmt.corpus.unigram import MAX_PIECE

Tokens = Sequence[int] | npt.NDArray[Any]
Pair = tuple[Tokens, Tokens]
Segmentation = tuple[int, ...]
Hashes = npt.NDArray[np.uint64]

NUM_VARIANTS = 64
"""Segmentations per word."""
MAX_CHARS = 64
"""Encoding splits longer words, and a merge must not cross the ends of their parts."""
MAX_WORDS = 200_000
"""Words in the table; when it is full it is cleared, and segmentations are computed again."""
MAX_TRIES = 8
"""Segmentations of a pair to try for one that is short enough."""
SAMPLE_PAIRS = 1000
"""Pairs from which the growth in length is estimated."""


class SubwordSampler:
    """Samples segmentations of the token ids of one vocabulary."""

    def __init__(self, subword: Subword, share: float, seed: int) -> None:
        """Create a sampler.

        Args:
            subword: the vocabulary.
            share: probability of dropping a merge; for a unigram vocabulary, alpha.
            seed: seed of the run.
        """
        self._share = share
        self._seed = seed
        self._is_bpe = subword.is_bpe
        self._merges = subword.merges if self._is_bpe else {}
        self._log_probs = {} if self._is_bpe else subword.log_probs
        self._characters = subword.characters
        self._split = subword.split
        self._begins_word = np.array(
            [piece.startswith("▁") for piece in subword.pieces(range(subword.num_pieces))]
        )
        self._table: dict[bytes, list[Segmentation | None]] = {}

    def segment(self, pairs: Sequence[Pair], rows: Rows, epoch: int, max_length: int) -> list[Pair]:
        """Return pairs in their segmentation of one epoch.

        Args:
            pairs: token ids of source and target, without BOS and EOS.
            rows: row of each pair in the corpus.
            epoch: the epoch.
            max_length: largest number of tokens per side. A longer segmentation is sampled again;
                after MAX_TRIES the pair stays as it is.
        """
        segmented = list(pairs)
        left = np.arange(len(pairs))
        for number in range(MAX_TRIES):
            if not len(left):
                break
            sides = list(chain.from_iterable(pairs[n] for n in left.tolist()))
            sampled = self._sample_all(
                sides, np.asarray(rows, dtype=np.uint64)[left], epoch, number
            )
            is_long = []
            for n, src, tgt in zip(left.tolist(), sampled[::2], sampled[1::2], strict=True):
                is_long.append(max(len(src), len(tgt)) > max_length)
                if not is_long[-1]:
                    segmented[n] = src, tgt
            left = left[is_long]
        return segmented

    def planned_lengths(self, shards: Shards, max_length: int) -> tuple[Lengths, Lengths]:
        """Return source and target lengths of each row, without EOS, for planning batches.

        They are the stored lengths times one factor, which most segmentations stay within.

        Args:
            shards: the corpus.
            max_length: largest length, EOS included; a pair within it stays within it.
        """
        # An even sample: pure, and quick for a corpus of any size.
        rows = np.unique(np.linspace(0, len(shards) - 1, SAMPLE_PAIRS).astype(np.int64))
        pairs = shards.pairs(rows)
        before = np.array([max(map(len, pair)) for pair in pairs])
        after = np.array([max(map(len, pair)) for pair in self.segment(pairs, rows, 0, 2**31)])
        growth = after / np.maximum(1, before)
        # One standard deviation above the mean: few segmentations exceed the plan, and `segment`
        # retries those.
        factor = float(growth.mean() + growth.std())
        longer = (np.ceil(factor * side) for side in (shards.src_lengths, shards.tgt_lengths))
        src, tgt = (np.minimum(side, max_length - 1).astype(np.int32) for side in longer)
        return np.maximum(src, shards.src_lengths), np.maximum(tgt, shards.tgt_lengths)

    def _sample_all(
        self, sides: Sequence[Tokens], rows: Hashes, epoch: int, number: int
    ) -> list[list[int]]:
        """Sample segmentations of both sides of each row: src and tgt of the first row, ..."""
        lengths = [len(side) for side in sides]
        ends = np.array(list(accumulate(lengths)))
        tokens = np.concatenate([np.zeros(0, np.uint16), *sides]).astype(np.uint16)
        begins = self._begins_word[tokens]
        # A text can start without a space, at a tag.
        begins[(ends - lengths)[np.array(lengths) > 0]] = True
        starts = np.flatnonzero(begins)
        side_of = np.searchsorted(ends, starts, side="right")
        row_hashes = scramble(hash_numbers(self._seed, epoch, number) + rows)
        # Place in its side; the target side gets other numbers than the source side.
        place = starts - (ends - lengths)[side_of] + 2**32 * (side_of % 2)
        hashes = scramble(row_hashes[side_of // 2] + place.astype(np.uint64))
        variants = hashes % np.uint64(NUM_VARIANTS)
        # Words as bytes, two per token, are the keys of the table.
        data, bounds = tokens.tobytes(), [*(2 * starts).tolist(), 2 * len(tokens)]
        sampled: list[list[int]] = [[] for _ in sides]
        for side, variant, (begin, end) in zip(
            side_of.tolist(), variants.tolist(), pairwise(bounds), strict=True
        ):
            sampled[side] += self._variant(data[begin:end], variant)
        return sampled

    def _variant(self, word: bytes, number: int) -> Segmentation:
        """Return one of a word's segmentations from the table, or compute it."""
        variants = self._table.get(word)
        if variants is None:
            # Clearing everything is simple, and segmentations are pure functions: nothing changes.
            if len(self._table) >= MAX_WORDS:
                self._table.clear()
            variants = self._table[word] = [None] * NUM_VARIANTS
        variant = variants[number]
        if variant is None:
            tokens = np.frombuffer(word, np.uint16).tolist()
            variant = variants[number] = self._sample(tokens, number)
        return variant

    def _sample(self, tokens: list[int], number: int) -> Segmentation:
        # A text as seed is hashed with SHA-512: the same numbers in every process.
        rng = random.Random(f"{self._seed} {number} {tokens}")
        is_long = sum(len(self._characters[token]) for token in tokens) > MAX_CHARS
        sampled: list[int] = []
        for part in self._split(tokens) if is_long else [tokens]:
            symbols = [symbol for token in part for symbol in self._characters[token]]
            if self._is_bpe:
                sampled += merge_with_dropout(symbols, self._merges, self._share, rng.random)
            else:
                sampled += sample_unigram(symbols, self._log_probs, self._share, rng)
        return tuple(sampled)


def merge_with_dropout(
    symbols: list[int], merges: Merges, dropout: float, draw: Callable[[], float]
) -> Segmentation:
    """Merge characters to pieces with BPE-dropout (Provilkov et al. 2020, algorithm 1).

    Args:
        symbols: tokens of the characters.
        merges: the merges of the vocabulary.
        dropout: probability of dropping each possible merge at each step.
        draw: returns uniform random numbers from 0 to 1.
    """
    symbols = list(symbols)
    while True:
        pairs = ((merges.get(pair), place) for place, pair in enumerate(pairwise(symbols)))
        for (_, merged), place in sorted((merge, place) for merge, place in pairs if merge):
            # Best merge first: worse ones need no random number once one is applied.
            if draw() >= dropout:
                symbols[place : place + 2] = [merged]
                break
        else:
            return tuple(symbols)


def sample_unigram(
    symbols: list[int], log_probs: LogProbs, alpha: float, rng: random.Random
) -> Segmentation:
    """Sample a segmentation by its probability to the power of alpha (Kudo 2018, section 3.1).

    Forward filtering, backward sampling: over all segmentations, not the n best.

    Args:
        symbols: tokens of the characters.
        log_probs: tokens and log-probabilities of the pieces.
        alpha: 0 samples uniformly, large values give the most probable segmentation.
        rng: random numbers.
    """
    arcs: list[list[tuple[int, int, float]]] = [[]]  # by end: begin, token, log weight
    sums = [0.0]  # log weight of all segmentations up to each character
    for end in range(1, len(symbols) + 1):
        here = []
        for begin in range(max(0, end - MAX_PIECE), end):
            piece = log_probs.get(tuple(symbols[begin:end]))
            if piece is not None:
                token, log_prob = piece
                here.append((begin, token, sums[begin] + alpha * log_prob))
        # Log-sum-exp; each character is a piece, so that `here` is never empty.
        highest = max(weight for _, _, weight in here)
        sums.append(highest + math.log(sum(math.exp(weight - highest) for _, _, weight in here)))
        arcs.append(here)
    pieces, end = [], len(symbols)
    while end:
        weights = [math.exp(weight - sums[end]) for _, _, weight in arcs[end]]
        end, token, _ = rng.choices(arcs[end], weights)[0]
        pieces.append(token)
    return tuple(reversed(pieces))


def hash_numbers(*numbers: int) -> np.uint64:
    """Return 64 bits that depend on all of the numbers."""
    digest = hashlib.blake2b(repr(numbers).encode(), digest_size=8).digest()
    return np.uint64(int.from_bytes(digest, "little"))


def scramble(values: Hashes) -> Hashes:
    """Mix the bits of integers: the last steps of SplitMix64 (Steele et al. 2014)."""
    values = (values ^ (values >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    values = (values ^ (values >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return values ^ (values >> np.uint64(31))
