"""Watchdog of a worker: ends the process when no update was made for too long.

Workers wait for each other in collectives, so that one that hangs stops all of them. Each writes
the stacks of its threads and the pairs of its update to <run>/hangs/ and exits; Ray then restarts
the group from the last checkpoint. Where the thread of the watchdog itself cannot run, because
native code holds Python's global interpreter lock, a timer in C (`faulthandler`) ends the process a
little later; its stacks are in Ray's log.
"""

import faulthandler
import os
import threading
import time
from collections.abc import Callable
from pathlib import Path

from nmt.batching.schedule import Update

START_S = 600.0
"""Minimum timeout of the start and the first update: imports, connections, first kernels."""
GRACE_S = 3.0
"""Seconds from the report to the exit, in which the other workers write their stacks."""


class Watchdog:
    """Heartbeat timer of one worker; watches from its construction to `close`."""

    def __init__(
        self, timeout_s: float, folder: Path, rank: int, report_loss: Callable[[str], None]
    ) -> None:
        """Start watching.

        Args:
            timeout_s: seconds without a heartbeat after which the worker exits.
            folder: where stacks are written.
            rank: rank of this worker.
            report_loss: receives the reason, in one line, before the worker exits.
        """
        self._configured_timeout_s = timeout_s
        # The start takes longer than an update; `begin_update` sets the configured timeout.
        self._timeout_s = max(timeout_s, START_S)
        self._interval_s = min(1.0, timeout_s / 4)
        self._folder = folder
        self._rank = rank
        self._report_loss = report_loss
        self._update: Update | None = None
        self._activity = "the start"
        self._is_closed = threading.Event()
        self._heartbeat_s = time.monotonic()
        self._arm()
        threading.Thread(target=self._watch, name="watchdog", daemon=True).start()

    def begin_update(self, update: Update) -> None:
        """Record the start of an update."""
        if self._update is not None:
            self._timeout_s = self._configured_timeout_s
        self._update = update
        self.begin_activity(f"update {update.number + 1}")

    def begin_activity(self, name: str) -> None:
        """Record the start of an activity between two updates that may take long."""
        self._activity = name
        self._heartbeat_s = time.monotonic()
        # Arming starts a thread in C: not at each heartbeat.
        if self._heartbeat_s - self._armed_s > self._interval_s:
            self._arm()

    def close(self) -> None:
        """Stop watching."""
        self._is_closed.set()
        faulthandler.cancel_dump_traceback_later()

    def _arm(self) -> None:
        self._armed_s = time.monotonic()
        # Later than the thread of the watchdog, whose report has more details.
        timeout_s = self._timeout_s + 2 * GRACE_S + 2
        faulthandler.dump_traceback_later(timeout_s, exit=True, file=2)

    def _watch(self) -> None:
        while not self._is_closed.wait(self._interval_s):
            if time.monotonic() - self._heartbeat_s > self._timeout_s:
                self._write_report()
                time.sleep(GRACE_S)
                # Not sys.exit: the main thread is stuck, perhaps in native code.
                os._exit(1)

    def _write_report(self) -> None:
        rows, number = [], 0
        if self._update is not None:
            rows = sorted(int(row) for part in self._update.micro_batches for row in part)
            number = self._update.number + 1
        reason = f"no progress for {self._timeout_s:g} s in {self._activity}"
        self._report_loss(f"{reason}; stacks and pairs in {self._folder}")
        self._folder.mkdir(parents=True, exist_ok=True)
        file = self._folder / f"update-{number:08d}-worker-{self._rank}.txt"
        with file.open("w", encoding="utf-8") as text:
            text.write(f"rank {self._rank}: {reason}\npairs: {rows}\n\n")
            text.flush()
            faulthandler.dump_traceback(text, all_threads=True)
