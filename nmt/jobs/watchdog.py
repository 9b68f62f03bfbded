"""Ends a worker that has made no update for too long, once it has told where it is.

All workers of a run wait for each other, so all of them tell: the stacks of their threads and the
pairs of the update, in <run>/hangs/. Then they end, and Ray starts them anew from the last
checkpoint. Where even a thread of this process gets no turn, because something holds Python's lock,
a timer in C ends it a little later, and leaves the stacks in what Ray logs.
"""

import faulthandler
import os
import threading
import time
from collections.abc import Callable
from pathlib import Path

from nmt.batching.schedule import Update

START_S = 600.0
"""Seconds for the start and the first update, at least: imports, connections, the first kernels."""
GRACE_S = 3.0
"""Seconds from the first word to the end: the other workers have theirs to say."""


class Watchdog:
    """Of one worker; told what it does."""

    def __init__(
        self, timeout_s: float, folder: Path, rank: int, lost: Callable[[str], None]
    ) -> None:
        """Watch from now on.

        Args:
            timeout_s: seconds without a word after which the worker ends.
            folder: where stacks go.
            rank: this worker's number.
            lost: told why, in a line.
        """
        self._timeout_s = timeout_s
        self._patience_s = max(timeout_s, START_S)
        self._folder = folder
        self._rank = rank
        self._lost = lost
        self._update: Update | None = None
        self._doing = "the start"
        self._heard = time.monotonic()
        self._armed = float("-inf")
        self._is_closed = threading.Event()
        self._arm()
        threading.Thread(target=self._watch, name="watchdog", daemon=True).start()

    def begin(self, update: Update) -> None:
        """An update begins."""
        if self._update is not None:
            self._patience_s = self._timeout_s
        self._update, self._doing = update, f"update {update.number + 1}"
        self._hear()

    def pause(self, what: str) -> None:
        """Something that may take long begins, between two updates."""
        self._doing = what
        self._hear()

    def close(self) -> None:
        """Nothing is waited for any more."""
        self._is_closed.set()
        faulthandler.cancel_dump_traceback_later()

    def _hear(self) -> None:
        self._heard = time.monotonic()
        if self._heard - self._armed > min(1.0, self._timeout_s / 4):
            self._arm()

    def _arm(self) -> None:
        self._armed = time.monotonic()
        # Later than our own thread, which says more.
        late_s = self._patience_s + 2 * GRACE_S + 2
        faulthandler.dump_traceback_later(late_s, exit=True, file=2)

    def _watch(self) -> None:
        while not self._is_closed.wait(min(1.0, self._timeout_s / 4)):
            if time.monotonic() - self._heard > self._patience_s:
                self._tell()
                time.sleep(GRACE_S)
                os._exit(1)

    def _tell(self) -> None:
        rows = []
        if self._update is not None:
            rows = sorted(int(row) for part in self._update.micro_batches for row in part)
        number = self._update.number + 1 if self._update is not None else 0
        file = self._folder / f"update-{number:08d}-worker-{self._rank}.txt"
        reason = f"nothing done for {self._patience_s:g} s in {self._doing}"
        self._lost(f"{reason}; stacks and pairs in {self._folder}")
        self._folder.mkdir(parents=True, exist_ok=True)
        with file.open("w", encoding="utf-8") as text:
            text.write(f"worker {self._rank}: {reason}\npairs: {rows}\n\n")
            text.flush()
            faulthandler.dump_traceback(text, all_threads=True)
