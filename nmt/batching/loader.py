"""One worker's micro-batches from any update on, made in the background.

One thread is enough: it copies token ids out of memory-mapped shards, which takes under a hundredth
of the time that training on them takes (cutting them anew: a hundredth, once each word was met some
dozens of times, a tenth before), and the loop measures what it waits.
"""

import queue
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from nmt.batching.batch import Batch, make_batch
from nmt.batching.schedule import Rows, Schedule, Update
from nmt.corpus.shards import Shards
from nmt.corpus.subword_sampling import Pair, SubwordSampler

SamplerAt = Callable[[int], SubwordSampler | None]
"""What cuts the pairs of an update, by its number from 0; None: they are as they were prepared."""


@dataclass(frozen=True)
class MicroBatch:
    """A micro-batch and its number within the update."""

    index: int
    batch: Batch
    rows: Rows
    """The pairs in it."""


class Loader:
    """Iterates over (update, micro-batches of this worker)."""

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
        """Load the micro-batches of one worker.

        Args:
            updates: numbers of the updates, from 0.
            sampler_at: what cuts each pair of an update anew each epoch, within the token budget of
                its micro-batch; the tokens of the update are then not those that the schedule says.
            prefetch: updates that may be ready before they are asked for.
            pin: hand out batches in page-locked memory.
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
        """Stop the background work; what is ready is dropped."""
        self._is_closed.set()
        self._thread.join()

    def _fill(self) -> None:
        try:
            for number in self._updates:
                update = self._schedule.update(number)
                sampler = self._sampler_at(number)
                batches = [
                    MicroBatch(index, self._batch(rows, update.epoch, sampler), rows)
                    for index, rows in update.of_worker(self._rank, self._num_workers)
                ]
                if not self._put((update, batches)):
                    return
            self._put(None)
        except BaseException as error:
            self._put(error)

    def _batch(self, rows: Rows, epoch: int, sampler: SubwordSampler | None) -> Batch:
        pairs: Sequence[Pair] = self._shards.pairs(rows)
        if sampler is not None:
            config = self._schedule.config
            most = min(config.max_length, config.max_tokens // max(1, len(rows)))
            pairs = sampler.segment(pairs, rows, epoch, most - 1)  # and EOS
        batch = make_batch(pairs)
        return batch.pin() if self._pin else batch

    def _put(self, item: tuple[Update, list[MicroBatch]] | BaseException | None) -> bool:
        while not self._is_closed.is_set():
            try:
                self._ready.put(item, timeout=0.2)
                return True
            except queue.Full:
                continue
        return False
