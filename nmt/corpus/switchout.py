"""SwitchOut: random tokens in place of a few tokens of both sides (Wang et al. 2018).

The number n of replaced tokens has a probability proportional to exp(-n / temperature); positions
and new tokens are uniform (arXiv 1808.07512, section 3). At temperature 1 it is 0.6 per side on
average, at 0.8 0.4. On the target side this is RAML (Norouzi et al. 2016) with the Hamming
distance. Lengths stay, and so does the schedule. The tokens of a pair are a pure function of (seed,
epoch, row), whichever worker draws them: hashes take the place of random numbers, and those of a
micro-batch are computed at once.
"""

from collections.abc import Sequence
from itertools import chain

import numpy as np
import numpy.typing as npt

from nmt.corpus.shards import Rows
from nmt.corpus.subword import NUM_RESERVED
from nmt.corpus.subword_sampling import Hashes, Pair, hash_numbers, scramble

Counts = npt.NDArray[np.int64]


class SwitchOut:
    """Replacement of tokens at one temperature."""

    def __init__(self, temperature: float, num_pieces: int, seed: int) -> None:
        """Create the replacement.

        Args:
            temperature: temperature of the number of replaced tokens, above 0.
            num_pieces: size of the vocabulary.
            seed: seed of the run.
        """
        self._temperature = temperature
        self._num_learnt = num_pieces - NUM_RESERVED
        self._seed = seed

    def apply(self, pairs: Sequence[Pair], rows: Rows, epoch: int) -> list[Pair]:
        """Return pairs with the replaced tokens of one epoch.

        Args:
            pairs: token ids of source and target, without BOS and EOS.
            rows: row of each pair in the corpus.
            epoch: the epoch.
        """
        if not pairs:
            return []
        sides = list(chain.from_iterable(pairs))
        lengths = np.array([len(side) for side in sides], dtype=np.int64)
        tokens = np.concatenate([np.zeros(0, np.int64), *sides]).astype(np.int64)
        # Tags and the bytes of rare characters stay: they are reserved pieces.
        learnt = np.flatnonzero(tokens >= NUM_RESERVED)
        side_of = np.repeat(np.arange(len(sides)), lengths)[learnt]
        num_learnt = np.bincount(side_of, minlength=len(sides))

        row_hashes = scramble(hash_numbers(self._seed, epoch) + np.asarray(rows, dtype=np.uint64))
        side_hashes = scramble(np.stack([row_hashes, row_hashes + np.uint64(1)], axis=1).ravel())
        starts = np.cumsum(lengths) - lengths
        places = (learnt - starts[side_of] + 1).astype(np.uint64)
        draws = scramble(side_hashes[side_of] + places)

        # A random order of each side's tokens, of which the first ones are replaced.
        order = np.lexsort((draws, side_of))
        firsts = np.cumsum(num_learnt) - num_learnt
        rank = np.empty_like(order)
        rank[order] = np.arange(len(order)) - np.repeat(firsts, num_learnt)
        switched = rank < self._counts(side_hashes, num_learnt)[side_of]
        # Never the token itself: 1 to num_learnt - 1 steps away from it.
        steps = 1 + (scramble(draws[switched]) % np.uint64(self._num_learnt - 1)).astype(np.int64)
        new = (tokens[learnt[switched]] - NUM_RESERVED + steps) % self._num_learnt
        tokens[learnt[switched]] = NUM_RESERVED + new
        parts = np.split(tokens, np.cumsum(lengths)[:-1])
        return list(zip(parts[::2], parts[1::2], strict=True))

    def _counts(self, hashes: Hashes, num_learnt: Counts) -> Counts:
        """Draw the number of replaced tokens of each side, by the inverse of its distribution."""
        uniform = (scramble(hashes) >> np.uint64(11)) * 2.0**-53
        total = -np.expm1(-(num_learnt + 1) / self._temperature)
        counts = np.floor(-self._temperature * np.log1p(-uniform * total))
        limited: Counts = np.minimum(counts.astype(np.int64), num_learnt)
        return limited
