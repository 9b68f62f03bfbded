"""Background loading of one rank's micro-batches, starting at any update.

One thread suffices: copying token ids from memory-mapped shards takes less than 1 % of the training
time (with subword sampling 1 %, and 10 % until most words are cached). The training loop measures
the time that it waits for data.
"""

import contextlib
import queue
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from nmt.batching.batch import Batch, make_batch
from nmt.batching.schedule import Rows, Schedule, Update
from nmt.corpus.shards import Shards
from nmt.corpus.subword_sampling import Pair, SubwordSampler

SamplerAt = Callable[[int], SubwordSampler | None]
"""Subword sampler of an update, counted from 0; None: the prepared segmentation."""


@dataclass(frozen=True)
class MicroBatch:
    """Micro-batch with its index within the update."""

    index: int
    batch: Batch
    rows: Rows
    """Rows of its pairs in the prepared corpus."""


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
        """
        self._shards = shards
        self._schedule = schedule
        self._updates = updates
        self._rank = rank
        self._num_workers = num_workers
        self._pin = pin
        self._sampler_at = sampler_at
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
                sampler = self._sampler_at(number)
                # Ranks without micro-batches in an update return an empty list.
                batches = [
                    MicroBatch(index, self._batch(rows, update.epoch, sampler), rows)
                    for index, rows in update.share_of(self._rank, self._num_workers)
                ]
                if not self._put((update, batches)):
                    return
            self._put(None)
        except BaseException as error:  # Raised again by __iter__ in the main thread.
            self._put(error)

    def _batch(self, rows: Rows, epoch: int, sampler: SubwordSampler | None) -> Batch:
        pairs: Sequence[Pair] = self._shards.pairs(rows)
        if sampler is not None:
            config = self._schedule.config
            # Sampling lengthens pairs: stay within the budget that the schedule has checked.
            max_tokens = min(config.max_length, config.max_tokens // max(1, len(rows)))
            pairs = sampler.segment(pairs, rows, epoch, max_tokens - 1)  # without EOS
        batch = make_batch(pairs)
        return batch.pin() if self._pin else batch

    def _put(self, item: tuple[Update, list[MicroBatch]] | BaseException | None) -> bool:
        # A timeout instead of a blocking put: `close` must be able to end the thread.
        while not self._is_closed.is_set():
            with contextlib.suppress(queue.Full):
                self._ready.put(item, timeout=0.2)
                return True
        return False
