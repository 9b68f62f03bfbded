"""What Ray's controller tells the mailbox: which workers were lost, and why.

The command that trains, while Ray trains: what it prints, and what Ctrl-C does.
"""

import os
import signal
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any

import ray
from ray.train import UserCallback

from nmt.checkpoint.format import read_info
from nmt.checkpoint.run_directory import newest_complete
from nmt.config.experiment import Experiment
from nmt.console import Console
from nmt.errors import TrainingError
from nmt.jobs.mailbox import POLL_S
from nmt.jobs.ray_internals import Trainer
from nmt.training.run_manifest import SUBMITTED
from nmt.training.state import EndReason


class WorkerLossCallback(UserCallback):  # type: ignore[misc]
    """Tells the mailbox of each worker that died or raised; runs at Ray's controller."""

    def __init__(self, mailbox: Any) -> None:
        self._mailbox = mailbox

    def after_exception(self, run_context: Any, worker_exceptions: Mapping[int, Any]) -> None:
        """Called by Ray."""
        self._mailbox.put.remote(("lost", reason_of(worker_exceptions)))


def reason_of(failures: Mapping[int, BaseException]) -> str:
    """Why workers failed, in a line; one that died comes before what it did to others."""
    texts = {rank: str(error) for rank, error in failures.items()}
    for sign, what in (("node has died", "died with the host"), ("died", "died")):
        dead = [str(rank) for rank, text in sorted(texts.items()) if sign in text]
        if dead:
            return f"worker{'s' * (len(dead) > 1)} {', '.join(dead)} {what}"
    rank, text = next(iter(sorted(texts.items())))
    last = next((line.strip() for line in reversed(text.splitlines()) if line.strip()), "no word")
    return f"worker {rank}: {last[:200]}"


@dataclass(frozen=True)
class RunResult:
    """How a run ended."""

    why: EndReason
    update: int
    """Updates done."""
    best_bleu: float | None
    """Best dev BLEU, 0 to 100."""
    best_update: int
    """Updates done when it was seen."""


class TrainerThread(threading.Thread):
    """`Trainer.fit` beside the main thread, which stays free to print, and to hear Ctrl-C."""

    def __init__(self, trainer: Trainer) -> None:
        super().__init__(name="fit", daemon=True)
        self._trainer = trainer
        self._error: BaseException | None = None

    def run(self) -> None:
        try:
            self._trainer.fit()
        except BaseException as error:
            self._error = error

    def reason(self) -> str:
        """Why it failed, in one line."""
        failures = getattr(self._error, "worker_failures", None)
        return reason_of(failures) if failures else str(self._error).strip().splitlines()[-1]


class Interrupt:
    """First Ctrl-C: ask for a clean stop. Second: KeyboardInterrupt. A TERM counts as one."""

    def __init__(self) -> None:
        self.is_asked = False

    def __enter__(self) -> "Interrupt":
        self._before = {s: signal.signal(s, self._hear) for s in (signal.SIGINT, signal.SIGTERM)}
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _hear(self, number: int, frame: FrameType | None) -> None:
        if self.is_asked:
            raise KeyboardInterrupt
        # Only noted here: the main thread may be in the middle of a call to Ray.
        self.is_asked = True


def listen(
    mailbox: Any,
    fit: TrainerThread,
    interrupt: Interrupt,
    experiment: Experiment,
    run_dir: Path,
    console: Console,
) -> RunResult | None:
    """Print what the first worker says until the run has ended; None: it failed."""
    ended, is_told, is_training = None, False, False
    submitted = os.environ.get(SUBMITTED, "")
    while True:
        is_over = not fit.is_alive()
        if interrupt.is_asked and is_training and not is_told:
            is_told = True
            ray.get(mailbox.ask_to_stop.remote())
            console.log(
                "stopping after this update, with a checkpoint; "
                "Ctrl-C again stops at once, without one"
            )
        for kind, content in ray.get(mailbox.take.remote()):
            match kind:
                case "line":
                    console.log(content)
                case "update":
                    if submitted:
                        seconds = time.time() - float(submitted)
                        console.log(f"first update {seconds:.0f} s after the job was submitted")
                        submitted = ""
                    is_training = True
                    if console.is_terminal:
                        total = experiment.training.updates
                        console.progress("training", content, total, "updates")
                case "lost":
                    is_training = False
                    console.log(f"workers are lost: {content}")
                case "error":
                    console.clear()
                    raise TrainingError(content)
                case "ended":
                    ended = content
        if is_over:
            console.clear()
            return ended
        if interrupt.is_asked and not is_training:
            console.log("stopped before these workers had made an update: there is nothing to save")
            newest = newest_complete(run_dir)
            return RunResult("interrupted", read_info(newest).update if newest else 0, None, 0)
        fit.join(timeout=POLL_S)
