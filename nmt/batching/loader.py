"""Background loading of one rank's micro-batches, starting at any update.

One thread suffices: copying token ids from memory-mapped shards takes less than 1 % of the training
time (with subword sampling 1 %, and 10 % until most words are cached). The training loop measures
the time that it waits for data.
"""

import contextlib
import queue
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np

from nmt.batching.batch import Batch, make_batch
from nmt.batching.schedule import Rows, Schedule, Update
from nmt.corpus.noise import MAX_GROWTH, SourceNoise
from nmt.corpus.reversal import Reversal
from nmt.corpus.shards import Shards
from nmt.corpus.subword_sampling import Pair, SubwordSampler
from nmt.corpus.switchout import SwitchOut

SamplerAt = Callable[[int], SubwordSampler | None]
"""Subword sampler of an update, counted from 0; None: the prepared segmentation."""
SwitchAt = Callable[[int], SwitchOut | None]
"""SwitchOut of an update, counted from 0; None: off."""
ReversalAt = Callable[[int], Reversal | None]
"""Reversal of an update, counted from 0; None: off."""


@dataclass(frozen=True)
class MicroBatch:
    """Micro-batch with its index within the update."""

    index: int
    batch: Batch
    rows: Rows
    """Rows of its pairs in the prepared corpus."""
    distillation: float = 0.0
    """Weight of distillation from the initial model; 0: the references are trained."""


class Loader:
    """Iterator over (update, micro-batches of this rank)."""

    def __init__(
        self,
        shards: Shards,
        schedule: Schedule,
        updates: range,
        *,
        rank: int = 0,
        num_workers: int = 1,
        prefetch: int = 8,
        pin: bool = False,
        sampler_at: SamplerAt = lambda number: None,
        noise: SourceNoise | None = None,
        switch_at: SwitchAt = lambda number: None,
        reversal_at: ReversalAt = lambda number: None,
        distillation: Sequence[float] = (),
    ) -> None:
        """Start loading.

        Args:
            shards: prepared corpus.
            schedule: pairs of each update.
            updates: numbers of the updates, counted from 0.
            rank: rank of this worker.
            num_workers: world size.
            prefetch: maximum number of updates loaded ahead.
            pin: return batches in page-locked memory.
            sampler_at: subword sampler of each update. It segments the pairs again in each epoch,
                within the token budget of the micro-batch; the number of target tokens then differs
                from that in the schedule.
            noise: noise of the sources; None: they are as prepared. Pairs that noise makes much
                longer than their micro-batch are returned as separate parts with the same index.
            switch_at: SwitchOut of each update, after subword sampling.
            reversal_at: reversal of each update, before noise.
            distillation: weight of distillation by corpus; empty: there is none. Its pairs are
                returned as separate parts with the same index.
        """
        self._shards = shards
        self._schedule = schedule
        self._updates = updates
        self._rank = rank
        self._num_workers = num_workers
        self._pin = pin
        self._sampler_at = sampler_at
        self._noise = noise
        self._switch_at = switch_at
        self._reversal_at = reversal_at
        self._distillation = distillation
        self._ready: queue.Queue[tuple[Update, list[MicroBatch]] | BaseException | None]
        self._ready = queue.Queue(maxsize=prefetch)
        self._is_closed = threading.Event()
        self._thread = threading.Thread(target=self._fill, name="loader", daemon=True)
        self._thread.start()

    def __iter__(self) -> Iterator[tuple[Update, list[MicroBatch]]]:
        while True:
            item = self._ready.get()
            if item is None:
                return
            if isinstance(item, BaseException):
                raise item
            yield item

    def close(self) -> None:
        """Stop the thread and drop the loaded batches."""
        self._is_closed.set()
        self._thread.join()

    def _fill(self) -> None:
        try:
            for number in self._updates:
                update = self._schedule.update(number)
                batches = [
                    part
                    for index, rows in update.share_of(self._rank, self._num_workers)
                    for part in self._parts(index, rows, update)
                ]
                if not self._put((update, batches)):
                    return
            self._put(None)
        except BaseException as error:  # Raised again by __iter__ in the main thread.
            self._put(error)

    def _parts(self, index: int, rows: Rows, update: Update) -> list[MicroBatch]:
        """Return a micro-batch, in several parts if its pairs have different losses."""
        if not any(self._distillation) or not len(rows):
            return self._grown_parts(index, rows, update)
        weights = np.take(self._distillation, self._shards.corpora[rows])
        return [
            replace(part, distillation=float(weight))
            for weight in np.unique(weights)
            for part in self._grown_parts(index, rows[weights == weight], update)
        ]

    def _grown_parts(self, index: int, rows: Rows, update: Update) -> list[MicroBatch]:
        """Return pairs as a micro-batch, in parts if noise has made their sources too long."""
        pairs: Sequence[Pair] = self._shards.pairs(rows)
        if (reversal := self._reversal_at(update.number)) is not None:
            pairs = reversal.apply(pairs, rows, update.epoch)
        if self._noise is None or not pairs:
            return [MicroBatch(index, self._batch(pairs, rows, update), rows)]
        config = self._schedule.config
        longest = grown_length(max(len(side) for pair in pairs for side in pair) + 1) - 1
        pairs = self._noise.apply(pairs, rows, update.epoch, config.max_length - 1)
        parts = split_by_length([max(map(len, pair)) for pair in pairs], longest, config.max_tokens)
        return [
            MicroBatch(index, self._batch([pairs[n] for n in part], rows[part], update), rows[part])
            for part in parts
        ]

    def _batch(self, pairs: Sequence[Pair], rows: Rows, update: Update) -> Batch:
        if (sampler := self._sampler_at(update.number)) is not None:
            config = self._schedule.config
            # Sampling lengthens pairs: stay within the budget that the schedule has checked, or
            # within the longest pair that noise has made.
            longest = max((len(side) for pair in pairs for side in pair), default=0)
            budget = config.max_tokens // max(1, len(rows)) - 1  # without EOS
            max_tokens = min(config.max_length - 1, max(budget, longest))
            pairs = sampler.segment(pairs, rows, update.epoch, max_tokens)
        if (switch := self._switch_at(update.number)) is not None:
            pairs = switch.apply(pairs, rows, update.epoch)
        batch = make_batch(pairs)
        return batch.pin() if self._pin else batch

    def _put(self, item: tuple[Update, list[MicroBatch]] | BaseException | None) -> bool:
        # A timeout instead of a blocking put: `close` must be able to end the thread.
        while not self._is_closed.is_set():
            with contextlib.suppress(queue.Full):
                self._ready.put(item, timeout=0.2)
                return True
        return False


def grown_length(length: int) -> int:
    """Return the maximum source length after noise in a micro-batch of a length, EOS included."""
    return int(MAX_GROWTH * length)


def split_by_length(lengths: Sequence[int], longest: int, max_tokens: int) -> list[list[int]]:
    """Split off the pairs of a micro-batch that have become too long.

    Args:
        lengths: tokens of the longer side of each pair, without EOS.
        longest: largest length of the first part: pairs within it stay together.
        max_tokens: tokens per side of each other part, EOS and padding included.

    Returns:
        Indices of the pairs of each part; the order of the first part is kept.
    """
    longer = sorted((n for n, length in enumerate(lengths) if length > longest),
                    key=lengths.__getitem__, reverse=True)  # fmt: skip
    parts = [[n for n, length in enumerate(lengths) if length <= longest]]
    while longer:
        size = max(1, max_tokens // (lengths[longer[0]] + 1))
        parts.append(longer[:size])
        longer = longer[size:]
    return [part for part in parts if part]
