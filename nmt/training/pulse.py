"""The last update that a run has made, in a file of the run: what a restart has cost.

The file is written over at each update, and goes when the run ends by itself: where one is found at
the start, the workers before us were lost.
"""

import contextlib
import json
import os
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nmt.training.metrics import Journal

NAME = "pulse.json"
_WIDTH = 100
"""Bytes of the file, always the same, so that it is never found half-written."""


@dataclass(frozen=True)
class Beat:
    """One update that was made."""

    update: int
    """Updates done."""
    time: float
    """Seconds since 1970."""
    workers: int


class Pulse:
    """The file, as the first worker keeps it."""

    def __init__(self, run_dir: Path, num_workers: int) -> None:
        self._path = run_dir / NAME
        self._num_workers = num_workers
        self.before = read(run_dir)
        """The last update of workers who were lost; None: the run ended by itself, or is new."""
        run_dir.mkdir(parents=True, exist_ok=True)
        self._file = os.open(self._path, os.O_RDWR | os.O_CREAT, 0o644)

    def beat(self, update: int) -> None:
        """So many updates are done."""
        record = {"update": update, "time": round(time.time(), 3), "workers": self._num_workers}
        # A full disk is no reason to stop: the next restart then says less than it could.
        with contextlib.suppress(OSError):
            os.pwrite(self._file, json.dumps(record).ljust(_WIDTH).encode(), 0)

    def close(self, has_ended: bool) -> None:
        """Stop; `has_ended`: by itself, with all that was learnt in a checkpoint."""
        os.close(self._file)
        if has_ended:
            self._path.unlink(missing_ok=True)


class Restart:
    """What the loss of the workers before these has cost; told after the first update."""

    def __init__(
        self, why: str, before: Beat, heard: Beat | None, update: int, workers: int, damaged: str
    ) -> None:
        """Measure a loss.

        Args:
            why: it came, as far as it is known.
            before: last update of the lost workers, as the file of the run has it.
            heard: the last one that they were heard of over the network.
            update: updates done where these workers go on.
            damaged: which newer checkpoints were passed over, and why; empty: none.
        """
        # The file may be behind what was heard over the network: its host may be gone.
        last = max(before, heard or before, key=lambda beat: beat.update)
        reasons = [why or "the run ended without a last checkpoint"]
        if before.workers != workers:
            reasons.append(f"from {before.workers} to {workers} workers")
        self._last = last
        self._record: dict[str, Any] = {
            "why": "; ".join([*reasons, *([damaged] if damaged else [])]),
            "from_update": update,
            "updates_lost": max(0, last.update - update),
            "workers_before": before.workers,
            "workers": workers,
        }

    def tell(self, journal: Journal, update: int) -> None:
        """The first update since is done."""
        lost_s = time.time() - self._last.time
        values = self._record | {"s_lost": round(lost_s, 3)}
        journal.write("restart", update, values)
        journal.say(
            f"restarted ({values['why']}): went on after update {values['from_update']:,}; "
            f"{values['updates_lost']:,} updates and {lost_s:.1f} s lost"
        )


def read(run_dir: Path) -> Beat | None:
    """The last update of workers who were lost, if any."""
    try:
        return Beat(**json.loads((run_dir / NAME).read_bytes()))
    except (OSError, ValueError, TypeError):
        return None
