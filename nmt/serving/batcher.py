"""Dynamic batching: the lines of all waiting requests are translated together.

Translation is batch-invariant, so a result does not depend on the other clients.
"""

import queue
import threading
from collections import deque
from collections.abc import Sequence
from concurrent.futures import Future, InvalidStateError
from contextlib import suppress
from dataclasses import dataclass, field

from nmt.decoding.requests import Request
from nmt.decoding.translation import Translation
from nmt.decoding.translator import Translator

MAX_WAITING = 10_000
"""Lines that may wait; a further request is refused."""


@dataclass(eq=False)
class _Job:
    """Lines of one client."""

    requests: Sequence[Request]
    num_best: int
    future: Future[list[Translation]] = field(default_factory=Future)
    done: list[Translation] = field(default_factory=list)

    @property
    def num_left(self) -> int:
        """Number of lines that are not translated yet."""
        return len(self.requests) - len(self.done)


class Batcher:
    """Thread that translates in rounds of one batch, and takes lines of all waiting clients.

    A client with many lines delays another one by one round only: they share the lines of a round
    equally.
    """

    def __init__(self, translator: Translator, max_waiting: int = MAX_WAITING) -> None:
        """Start the thread; `close` ends it."""
        self.translator = translator
        self.max_waiting = max_waiting
        self.num_translated = 0
        self._jobs: deque[_Job] = deque()
        self._changed = threading.Condition()
        self._is_closed = False
        self._thread = threading.Thread(target=self._run, name="translation", daemon=True)
        self._thread.start()

    @property
    def num_waiting(self) -> int:
        """Lines that are waiting or being translated."""
        with self._changed:
            return sum(job.num_left for job in self._jobs if not job.future.cancelled())

    def submit(self, requests: Sequence[Request], num_best: int) -> Future[list[Translation]]:
        """Queue the lines of a client; cancelling the future drops those not translated yet.

        Args:
            requests: lines to translate.
            num_best: maximum number of candidates per line.

        Returns:
            One translation per line, in order, or the exception of the engine.

        Raises:
            ConfigError, DataError: as `Translator.check`.
            queue.Full: too many lines are waiting, or the batcher is closed.
        """
        self.translator.check(num_best, requests)
        job = _Job(requests, num_best)
        if not requests:
            job.future.set_result([])
            return job.future
        with self._changed:
            num_waiting = self.num_waiting
            # A request of any size is accepted by an idle server.
            if self._is_closed or (num_waiting and num_waiting + len(requests) > self.max_waiting):
                raise queue.Full
            self._jobs.append(job)
            self._changed.notify()
        return job.future

    def close(self) -> None:
        """Translate all that is waiting, and end the thread."""
        with self._changed:
            self._is_closed = True
            self._changed.notify()
        self._thread.join()

    def _run(self) -> None:
        while parts := self._next_round():
            lines = [request for _, requests in parts for request in requests]
            try:
                translations = iter(
                    self.translator.stream(
                        lines, num_best=parts[0][0].num_best, with_attention=True
                    )
                )
                for job, requests in parts:
                    job.done += [next(translations) for _ in requests]
            except Exception as error:
                # The server continues with the next requests.
                for job, _ in parts:
                    self._finish(job, error)
                continue
            self.num_translated += len(lines)
            for job, _ in parts:
                if not job.num_left:
                    self._finish(job, None)

    def _next_round(self) -> list[tuple[_Job, Sequence[Request]]]:
        """Wait for jobs, and return lines of them that fill a batch; empty: closed."""
        limit = self.translator.decoding.batch_sentences
        with self._changed:
            while True:
                jobs = [job for job in self._jobs if not job.future.cancelled()]
                if jobs or self._is_closed:
                    break
                self._jobs.clear()
                self._changed.wait()
            if not jobs:
                return []
            chosen = [job for job in jobs if job.num_best == jobs[0].num_best][:limit]
            # Those of this round are the last of the next one.
            taken = set(chosen)
            self._jobs = deque([*(job for job in jobs if job not in taken), *chosen])
        parts, num_free = [], limit
        # Short jobs first: what they leave of their share is for the others.
        for number, job in enumerate(sorted(chosen, key=lambda job: job.num_left)):
            size = min(job.num_left, num_free // (len(chosen) - number))
            parts.append((job, job.requests[len(job.done) : len(job.done) + size]))
            num_free -= size
        return parts

    def _finish(self, job: _Job, error: Exception | None) -> None:
        with self._changed:
            self._jobs.remove(job)
        # The client may have cancelled it meanwhile.
        with suppress(InvalidStateError):
            if error is None:
                job.future.set_result(job.done)
            else:
                job.future.set_exception(error)
