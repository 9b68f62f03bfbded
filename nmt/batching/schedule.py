"""Schedule of updates: pairs of each update as a pure function of lengths, config and seed.

Pairs are sorted by max(src, tgt), then tgt, and distributed in turn over windows, so that every
window spans all lengths. The n-th pair of any window therefore has the same length bound in all
windows and epochs. Cut by these bounds, every epoch has the same number of updates of the same
sizes, and update n is found by a division without replaying earlier ones. The assignment of pairs
to windows and the order of updates are drawn again for each epoch. An update is a contiguous range
of a window, split evenly into micro-batches of nearly equal length, so that no worker waits for
another. Lengths include EOS.

With corpus weights, slots take the place of pairs. A corpus of weight 2 has two slots per pair; one
of weight 1/2 has one slot for each two neighbours in length order, and each epoch draws one of the
two. Slots, their bounds and the number of updates are thus the same in all epochs.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from nmt.config.experiment import BatchingConfig
from nmt.errors import DataError

Rows = npt.NDArray[np.int64]
"""Row numbers of pairs in the prepared corpus, int64."""
_Ints = npt.NDArray[Any]
"""Integers of as few bytes as their largest value needs: there is one per pair of the corpus."""


@dataclass(frozen=True)
class Update:
    """One optimizer step: a list of micro-batches that does not depend on the world size."""

    number: int
    """Counted from 0 over all epochs."""
    epoch: int
    """Counted from 0 over all stages."""
    micro_batches: tuple[Rows, ...]
    """Rows of each micro-batch; empty only if the update has fewer pairs than micro-batches."""
    num_tgt_tokens: int
    """Target tokens of all micro-batches, EOS included: divisor of the loss."""

    def share_of(self, rank: int, num_workers: int) -> Iterator[tuple[int, Rows]]:
        """Yield index and rows of the micro-batches of one rank: every `num_workers`-th."""
        for index in range(rank, len(self.micro_batches), num_workers):
            yield index, self.micro_batches[index]


class Schedule:
    """Updates of all epochs."""

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
        """Compute the cuts that all epochs share.

        Args:
            src_lengths: source tokens of each pair, without EOS.
            tgt_lengths: target tokens of each pair, without EOS.
            config: token budget, number of micro-batches, window size.
            seed: seed of windows and order.
            corpora: corpus index of each pair; empty for a single corpus.
            weights: occurrences per epoch of a pair of each corpus; empty for 1.
            later: first update and schedule of later stages, which start a new epoch.

        Raises:
            DataError: no pair is short enough for batching.max_length, or the weights leave none.
        """
        self.config = config
        self.seed = seed
        self._tgt: _Ints = np.asarray(tgt_lengths, dtype=np.int32) + 1
        longer = np.maximum(np.asarray(src_lengths, dtype=np.int32) + 1, self._tgt)
        kept = _compact(np.flatnonzero(longer <= config.max_length), len(longer))
        self.num_left_out = len(longer) - len(kept)
        """Number of pairs longer than batching.max_length."""
        if not len(kept):
            raise DataError(
                f"none of the {len(longer)} prepared pairs has at most batching.max_length "
                f"({config.max_length}) tokens including EOS: increase it, or check the corpus"
            )
        # Wrong for longer pairs, which are not used.
        key_type = np.min_scalar_type((config.max_length + 1) ** 2)
        sort_key = longer.astype(key_type) * key_type.type(config.max_length + 1)
        sort_key += self._tgt.astype(key_type)
        by_length = kept[np.argsort(sort_key[kept], kind="stable")]
        self._slots: _Slots | None
        if all(weight == 1 for weight in weights):
            # One slot per pair: the rows themselves are the slots.
            self._slots, self._sorted, longest = None, by_length, by_length
        else:
            self._slots = _make_slots(by_length, np.asarray(corpora)[by_length], weights)
            longest = self._slots.longest
            order = np.argsort(sort_key[longest], kind="stable")
            self._sorted = _compact(order, len(order))
            longest = longest[self._sorted]
        # Sorted once: an epoch only shuffles within equal keys and within groups of neighbours.
        self._sort_key = sort_key[longest]
        self.num_pairs = num_pairs = len(longest)
        """Pairs in an epoch, repetitions by weight included."""
        if not num_pairs:
            raise DataError(
                f"the weights of corpus.train ({', '.join(map(str, weights))}) leave none of "
                f"{len(kept)} prepared pairs in an epoch: increase one of them"
            )
        self._num_windows = max(1, round(num_pairs / config.window))
        self._cuts = self._cut(longer[longest])
        # Window sizes differ by at most one pair, the last. If that pair is an update of its own,
        # only the larger windows have this update.
        k, last_cut = self._num_windows, self._cuts[-1][0]
        self.updates_per_epoch = k * (len(self._cuts) - 1) + min(k, num_pairs - k * last_cut)
        """Number of updates, equal in all epochs."""
        self._later: list[tuple[int, int, Schedule]] = []
        """First update of each later stage, epochs started before it, and its schedule."""
        before, num_epochs, previous = 0, 0, self
        for start, schedule in later:
            num_epochs += -(-(start - before) // previous.updates_per_epoch)
            self._later.append((start, num_epochs, schedule))
            before, previous = start, schedule
        self._epoch = -1
        self._windows: list[_Ints] = []
        self._order: Rows = np.empty(0, dtype=np.int64)

    @property
    def rows(self) -> Rows:
        """Rows of the pairs in use, ascending."""
        rows = self._sorted if self._slots is None else self._slots.rows
        return np.sort(rows).astype(np.int64)

    def update(self, number: int) -> Update:
        """Return an update by its number, counted from 0; in any order."""
        for start, num_epochs, schedule in reversed(self._later):
            if number >= start:
                found = schedule.update(number - start)
                return replace(found, number=number, epoch=num_epochs + found.epoch)
        epoch, index = divmod(number, self.updates_per_epoch)
        if epoch != self._epoch:
            self._draw_epoch(epoch)
        cut, window = divmod(int(self._order[index]), self._num_windows)
        start, stop, _ = self._cuts[cut]
        rows = self._windows[window][start:stop].astype(np.int64)
        parts = tuple(np.array_split(rows, self.config.micro_batches))
        return Update(number, epoch, parts, int(self._tgt[rows].sum()))

    def epochs_at(self, update: int) -> float:
        """Return the epochs after `update` updates; those of each stage have their own length."""
        epochs, before, schedule = 0.0, 0, self
        for start, _, later in self._later:
            if update <= start:
                break
            epochs += (start - before) / schedule.updates_per_epoch
            before, schedule = start, later
        return epochs + (update - before) / schedule.updates_per_epoch

    @property
    def largest(self) -> tuple[int, int]:
        """Bound of the largest micro-batch of all epochs: pairs, and tokens per side."""
        parts = self.config.micro_batches
        sizes = [(-(-(stop - start) // parts), bound) for start, stop, bound in self._cuts]
        return max([*sizes, *(each.largest for *_, each in self._later)], key=math.prod)

    def _cut(self, sorted_lengths: _Ints) -> list[tuple[int, int, int]]:
        """Return (start, stop, longest pair) of each update within a window, equal for all."""
        # With k windows, position p of any window holds one of the sorted pairs p*k to p*k+k-1:
        # the longest of them is its bound.
        k = self._num_windows
        num_positions = -(-len(sorted_lengths) // k)
        last_pair = np.minimum(np.arange(1, num_positions + 1) * k, len(sorted_lengths)) - 1
        bounds = sorted_lengths[last_pair]
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
        """Return True if each micro-batch of these pairs stays within the token budget."""
        return -(-num_pairs // self.config.micro_batches) * longest <= self.config.max_tokens

    def _draw_epoch(self, epoch: int) -> None:
        """Draw the windows and the order of updates of an epoch."""
        random = np.random.default_rng([self.seed, epoch])
        # Random order within equal lengths, then each k neighbours to k windows at random.
        num, k = len(self._sorted), self._num_windows
        order = _compact(np.arange(num), num)
        random.shuffle(order)
        order = order[np.argsort(self._sort_key[order], kind="stable")]
        slots = self._sorted[order]
        group = _compact(np.arange(num) // k, num)
        slots = slots[np.lexsort((random.random(num), group))]
        self._order = random.permutation(self.updates_per_epoch)
        rows = slots if self._slots is None else self._slots.draw(random)[slots]
        self._windows = [rows[window::k] for window in range(k)]
        self._epoch = epoch


@dataclass(frozen=True)
class _Slots:
    """Slots of an epoch, each with the rows that one is drawn from."""

    rows: _Ints
    """Rows of all slots; those of one slot are adjacent, the longest last."""
    first: _Ints
    """Position of the first row of each slot."""
    size: _Ints
    """Number of rows of each slot."""

    @property
    def longest(self) -> _Ints:
        """Longest row of each slot."""
        rows: _Ints = self.rows[self.first + self.size - 1]
        return rows

    def draw(self, random: np.random.Generator) -> _Ints:
        """Draw a row for each slot."""
        chosen = (random.random(len(self.size)) * self.size).astype(self.size.dtype)
        rows: _Ints = self.rows[self.first + chosen]
        return rows


def _compact(numbers: _Ints, limit: int) -> _Ints:
    """Return numbers below a limit in as few bytes as it needs, 4 or 8."""
    return numbers.astype(np.int32 if limit <= 2**31 else np.int64)


def _make_slots(by_length: _Ints, corpora: _Ints, weights: Sequence[float]) -> _Slots:
    """Return the slots of rows sorted by length, with the weight of each corpus."""
    rows, firsts, sizes, start = [by_length[:0]], [by_length[:0]], [by_length[:0]], 0
    for corpus, weight in enumerate(weights):
        members = by_length[corpora == corpus]
        # Integer part: slots of one row each. Fraction: slots of several neighbours in length.
        whole, fraction = divmod(weight, 1)
        single = np.arange(len(members))
        bounds = np.linspace(0, len(members), round(fraction * len(members)) + 1).astype(np.int64)
        rows.append(members)
        firsts += [start + np.tile(single, int(whole)), start + bounds[:-1]]
        sizes += [np.ones(int(whole) * len(members), dtype=np.int64), np.diff(bounds)]
        start += len(members)
    first, size = (_compact(np.concatenate(each), start + 1) for each in (firsts, sizes))
    return _Slots(np.concatenate(rows), first, size)
