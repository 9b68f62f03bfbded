"""Pairs with their sides exchanged: both directions in one model (Ding et al. 2021).

A run that starts with half of its pairs from target to source, and then trains on the others only,
learns more about both languages (bidirectional training, arXiv 2109.07780). The source language
tells the model the direction. The pairs of an epoch are a pure function of (seed, epoch, row).
"""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from nmt.corpus.shards import Rows
from nmt.corpus.subword_sampling import Pair, hash_numbers, scramble


class Reversal:
    """Exchange of the sides of a share of the pairs."""

    def __init__(
        self, share: float, corpora: npt.NDArray[np.int32], is_reversible: Sequence[bool], seed: int
    ) -> None:
        """Create the reversal of a run.

        Args:
            share: share of the pairs that are reversed.
            corpora: number of each row's corpus.
            is_reversible: for each corpus, False if its pairs stay.
            seed: seed of the run.
        """
        self._share, self._corpora, self._seed = share, corpora, seed
        self._is_reversible = np.array(is_reversible)

    def apply(self, pairs: Sequence[Pair], rows: Rows, epoch: int) -> list[Pair]:
        """Return pairs, some of them reversed; `rows` has the row of each in the corpus."""
        numbers = np.asarray(rows, dtype=np.int64)
        # -1: other numbers than those of subword sampling.
        hashes = scramble(hash_numbers(self._seed, epoch, -1) + numbers.astype(np.uint64))
        is_drawn = (hashes >> np.uint64(11)) * 2.0**-53 < self._share
        is_reversed = is_drawn & self._is_reversible[self._corpora[numbers]]
        return [
            (tgt, src) if turn else (src, tgt)
            for (src, tgt), turn in zip(pairs, is_reversed.tolist(), strict=True)
        ]
