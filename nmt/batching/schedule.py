"""Which pairs make up which update: a pure function of lengths, batching config and seed (P2).

Pairs are sorted by max(src, tgt), then tgt, and dealt into windows like cards, so that every window
spans all lengths. The n-th pair of a window is thereby no longer than a bound that is the same for
all windows and all epochs: cut by these bounds, every epoch has the same number of updates of the
same sizes, and update n is found by a division, not a replay. Who lands in which window, and the
order of updates, is drawn anew each epoch. An update is a run of pairs of a window, parted evenly
into micro-batches of nearly the same length, so that no worker waits for another.
Lengths count the closing EOS.

What is dealt are places. A corpus of weight 2 has two places for each pair; of weight 1/2 one place
for two neighbours in its order of lengths, one of which is drawn for it each epoch. So the places,
their bounds and the number of updates stay the same in all epochs, whatever the weights.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from nmt.config.experiment import BatchingConfig
from nmt.errors import DataError

Rows = npt.NDArray[np.int64]
"""Row numbers of pairs in the prepared corpus."""


@dataclass(frozen=True)
class Update:
    """One optimizer step: a fixed list of micro-batches, whoever works on them."""

    number: int
    """Counted from 0 over all epochs."""
    epoch: int
    """Counted from 0."""
    micro_batches: tuple[Rows, ...]
    """Rows of each; some are empty only where a window has fewer pairs than micro-batches."""
    num_tgt_tokens: int
    """Target tokens of all micro-batches, EOS counted: what the loss is divided by."""

    def of_worker(self, rank: int, num_workers: int) -> Iterator[tuple[int, Rows]]:
        """The micro-batches of one worker with their numbers: every `num_workers`-th."""
        for index in range(rank, len(self.micro_batches), num_workers):
            yield index, self.micro_batches[index]


class Schedule:
    """The updates of all epochs."""

    def __init__(
        self,
        src_lengths: npt.ArrayLike,
        tgt_lengths: npt.ArrayLike,
        config: BatchingConfig,
        seed: int,
        corpora: npt.ArrayLike = (),
        weights: Sequence[float] = (),
        later: Sequence[tuple[int, "Schedule"]] = (),
    ) -> None:
        """Plan for pairs of these lengths, in tokens without EOS.

        Args:
            corpora: number of the corpus of each pair; empty: all are of one.
            weights: how often a pair of each corpus stands in an epoch; empty: once.
            later: schedules that begin with these updates, with an epoch of their own.

        Raises:
            DataError: no pair is short enough for batching.max_length.
        """
        self.config = config
        self.seed = seed
        self._later = later
        src = np.asarray(src_lengths, dtype=np.int64) + 1
        self._tgt = np.asarray(tgt_lengths, dtype=np.int64) + 1
        longer = np.maximum(src, self._tgt)
        kept = np.flatnonzero(longer <= config.max_length)
        self.rows = kept
        """Rows that epochs are made of, sorted."""
        self.num_left_out = len(longer) - len(kept)
        """Pairs longer than batching.max_length."""
        if not len(kept):
            raise DataError(
                f"none of the {len(longer)} prepared pairs has at most batching.max_length "
                f"({config.max_length}) tokens, EOS counted; set it higher or look at the corpus"
            )
        sort_key = longer * (config.max_length + 1) + self._tgt
        by_length = kept[np.argsort(sort_key[kept], kind="stable")]
        self._places: _Places | None
        if all(weight == 1 for weight in weights):
            # A place for each pair: rows serve as places.
            self._places, self._sorted, longest = None, by_length, by_length
        else:
            self._places = _places_of(by_length, np.asarray(corpora)[by_length], weights)
            longest = self._places.longest
            self._sorted = np.argsort(sort_key[longest], kind="stable")
            longest = longest[self._sorted]
        # Sorted once; each epoch only shuffles within what compares equal and within deals.
        self._sort_key = sort_key[longest]
        self.num_pairs = num_pairs = len(longest)
        """Pairs in an epoch, as often as they stand in it."""
        if not num_pairs:
            raise DataError(
                f"an epoch of {len(kept)} prepared pairs has none of them at the weights of "
                f"corpus.train ({', '.join(map(str, weights))}); set one of them higher"
            )
        self._num_windows = max(1, round(num_pairs / config.window))
        self._cuts = self._cut(longer[longest])
        # Windows differ by one pair at most, the last one: where it is an update of its own, only
        # so many windows have it.
        k, last_cut = self._num_windows, self._cuts[-1][0]
        self.updates_per_epoch = k * (len(self._cuts) - 1) + min(k, num_pairs - k * last_cut)
        """Updates in an epoch, the same number in each."""
        self._epoch = -1
        self._windows: list[Rows] = []
        self._order: Rows = np.empty(0, dtype=np.int64)

    def update(self, number: int) -> Update:
        """The update of this number, from 0; any number, in any order."""
        for start, schedule in reversed(self._later):
            if number >= start:
                return replace(schedule.update(number - start), number=number)
        epoch, index = divmod(number, self.updates_per_epoch)
        if epoch != self._epoch:
            self._deal(epoch)
        cut, window = divmod(int(self._order[index]), self._num_windows)
        start, stop, _ = self._cuts[cut]
        rows = self._windows[window][start:stop]
        parts = tuple(np.array_split(rows, self.config.micro_batches))
        return Update(number, epoch, parts, int(self._tgt[rows].sum()))

    @property
    def largest(self) -> tuple[int, int]:
        """The largest micro-batch that any epoch can have: pairs, and tokens of each side."""
        parts = self.config.micro_batches
        sizes = [(-(-(stop - start) // parts), bound) for start, stop, bound in self._cuts]
        return max([*sizes, *(each.largest for _, each in self._later)], key=math.prod)

    def _cut(self, sorted_lengths: npt.NDArray[np.int64]) -> list[tuple[int, int, int]]:
        """Where windows are cut into updates, all alike: first position, last + 1, longest pair."""
        # Position p of any window holds one of the sorted pairs p*k to p*k+k-1 (k windows): the
        # longest of them bounds it.
        k = self._num_windows
        num_positions = -(-len(sorted_lengths) // k)
        last_dealt = np.minimum(np.arange(1, num_positions + 1) * k, len(sorted_lengths)) - 1
        bounds = sorted_lengths[last_dealt]
        cuts = []
        start = 0
        while start < num_positions:
            stop = start + 1
            while stop < num_positions and self._fits(stop + 1 - start, int(bounds[stop])):
                stop += 1
            cuts.append((start, stop, int(bounds[stop - 1])))
            start = stop
        return cuts

    def _fits(self, num_pairs: int, longest: int) -> bool:
        """Whether so many pairs of at most that length keep the token budget of micro-batches."""
        largest_part = -(-num_pairs // self.config.micro_batches)
        return largest_part * longest <= self.config.max_tokens

    def _deal(self, epoch: int) -> None:
        """Draw the windows and the order of updates of an epoch."""
        random = np.random.default_rng([self.seed, epoch])
        # A random order within equal lengths, then a random deal of each k neighbours to k windows.
        shuffle = random.permutation(len(self._sorted))
        ties = np.argsort(self._sort_key[shuffle], kind="stable")
        places = self._sorted[shuffle[ties]]
        k = self._num_windows
        deal = np.lexsort((random.random(len(places)), np.arange(len(places)) // k))
        places = places[deal]
        self._order = random.permutation(self.updates_per_epoch)
        rows = places if self._places is None else self._places.draw(random)[places]
        self._windows = [rows[window::k] for window in range(k)]
        self._epoch = epoch


@dataclass(frozen=True)
class _Places:
    """The places of an epoch, and the rows that one is drawn from for each."""

    rows: Rows
    """Of all places together, those of one side by side, the longest last."""
    first: Rows
    """Where those of each place begin."""
    size: Rows
    """How many they are."""

    @property
    def longest(self) -> Rows:
        """The longest row of each place."""
        rows: Rows = self.rows[self.first + self.size - 1]
        return rows

    def draw(self, random: np.random.Generator) -> Rows:
        """The row of each place in an epoch."""
        chosen = (random.random(len(self.size)) * self.size).astype(np.int64)
        rows: Rows = self.rows[self.first + chosen]
        return rows


def _places_of(by_length: Rows, corpora: Rows, weights: Sequence[float]) -> _Places:
    """The places of rows sorted by length, of corpora with these weights."""
    rows, firsts, sizes, start = [by_length[:0]], [by_length[:0]], [by_length[:0]], 0
    for corpus, weight in enumerate(weights):
        ours = by_length[corpora == corpus]
        whole, part = divmod(weight, 1)
        all_of = np.arange(len(ours))
        bounds = np.linspace(0, len(ours), round(part * len(ours)) + 1).astype(np.int64)
        rows.append(ours)
        firsts += [start + np.tile(all_of, int(whole)), start + bounds[:-1]]
        sizes += [np.ones(int(whole) * len(ours), dtype=np.int64), np.diff(bounds)]
        start += len(ours)
    return _Places(np.concatenate(rows), np.concatenate(firsts), np.concatenate(sizes))
