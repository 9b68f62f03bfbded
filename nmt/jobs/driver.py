"""Driver of a training run: Ray Train in a thread, messages of the workers, Ctrl-C."""

import os
import signal
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any

import ray
from ray.train import UserCallback

from nmt.checkpoint.format import read_info
from nmt.checkpoint.run_directory import newest_complete
from nmt.config.experiment import Experiment
from nmt.console import Console, release_terminal
from nmt.errors import TrainingError
from nmt.jobs.mailbox import POLL_S
from nmt.jobs.ray_internals import Trainer, is_memory_failure
from nmt.jobs.ray_session import WAIT_INTERVALS_S
from nmt.training.run_manifest import SUBMITTED
from nmt.training.state import EndReason


@dataclass(frozen=True)
class RunResult:
    """Result of a training run."""

    end_reason: EndReason
    update: int
    """Updates done."""
    best_bleu: float | None
    """Best dev BLEU, 0 to 100."""
    best_update: int
    """Updates done at the best dev BLEU."""
    run: str = ""
    """Run directory, or its address in an object store; argument of `nmt.load`."""


class WorkerLossCallback(UserCallback):  # type: ignore[misc]
    """Reports failed workers to the mailbox; runs in Ray's controller."""

    def __init__(self, mailbox: Any) -> None:
        self._mailbox = mailbox

    def after_exception(self, run_context: Any, worker_exceptions: Mapping[int, Any]) -> None:
        """Report the reason of a failure; called by Ray."""
        # A worker that runs out of memory has reported that itself.
        if not is_memory_failure(worker_exceptions):
            self._mailbox.send.remote(("lost", describe_failures(worker_exceptions)))


def describe_failures(failures: Mapping[int, BaseException]) -> str:
    """Describe the exceptions of workers, by rank, in one line.

    Workers that died come first: the errors of the others are consequences.
    """
    texts = {rank: str(error) for rank, error in sorted(failures.items())}
    for phrase, verb in (("node has died", "died with the host"), ("died", "died")):
        dead = [str(rank) for rank, text in texts.items() if phrase in text]
        if dead:
            return f"worker{'s' * (len(dead) > 1)} {', '.join(dead)} {verb}"
    rank, text = next(iter(texts.items()))
    return f"worker {rank}: {get_last_line(text)}"


def get_last_line(text: str) -> str:
    """Return the last line of an exception's text that is not blank, at most 200 characters."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return lines[-1][:200] if lines else "no error message"


class TrainerThread(threading.Thread):
    """Runs `Trainer.fit`; the main thread stays free to print and to receive signals."""

    def __init__(self, trainer: Trainer) -> None:
        # A daemon: the second Ctrl-C ends the process while `fit` is running.
        super().__init__(name="fit", daemon=True)
        self._trainer = trainer
        self._error: BaseException | None = None

    def run(self) -> None:
        try:
            self._trainer.fit()
        except BaseException as error:
            self._error = error

    def describe_error(self, max_failures: int) -> str:
        """Describe the error that ended `fit`, in one line."""
        if failures := getattr(self._error, "worker_failures", None):
            return f"training failed after {max_failures} restarts: {describe_failures(failures)}"
        kind = type(self._error).__name__
        return f"training failed: {kind}: {get_last_line(str(self._error))}"


class Interrupt:
    """Signal handler: the first Ctrl-C, TERM or HUP requests a clean stop, the second raises."""

    def __init__(self) -> None:
        self.is_requested = False

    def __enter__(self) -> "Interrupt":
        signals = [signal.SIGINT, signal.SIGTERM]
        # Under nohup a closed terminal does not end the run.
        if signal.getsignal(signal.SIGHUP) != signal.SIG_IGN:
            signals.append(signal.SIGHUP)
        self._previous = {number: signal.signal(number, self._handle) for number in signals}
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if number == signal.SIGHUP:
            release_terminal()
        # A closed terminal is often followed by TERM: that is one request to stop.
        if self.is_requested and number == signal.SIGINT:
            raise KeyboardInterrupt
        # Only a flag: the main thread may be inside a call to Ray.
        self.is_requested = True


def follow_run(
    mailbox: Any, fit: TrainerThread, interrupt: Interrupt, experiment: Experiment, run_dir: Path,
    console: Console, on_wait: Callable[[], object] = lambda: None
) -> RunResult | None:  # fmt: skip
    """Print the messages of the workers until the run ends.

    Args:
        on_wait: called after 15 s without a training group, and each minute from then on.

    Returns:
        The result; None if Ray ended the run without one.

    Raises:
        TrainingError: an error of a worker that a restart cannot resolve.
    """
    result, is_stopping, is_training = None, False, False
    num_memory_restarts = 0
    report_s, interval_s = WAIT_INTERVALS_S
    waiting_since_s = time.monotonic()
    submitted = os.environ.get(SUBMITTED, "")
    while True:
        # Before the messages are read: a run that ends in between has left its result.
        is_over = not fit.is_alive()
        if is_training:
            waiting_since_s, report_s = time.monotonic(), WAIT_INTERVALS_S[0]
        elif time.monotonic() - waiting_since_s > report_s:
            report_s += interval_s
            on_wait()
        if interrupt.is_requested and is_training and not is_stopping:
            is_stopping = True
            ray.get(mailbox.request_stop.remote())
            console.log(
                "stopping after this update, with a checkpoint; press Ctrl-C again to stop at once "
                "without one"
            )
        for kind, content in ray.get(mailbox.receive.remote()):
            match kind:
                case "log":
                    console.log(content)
                case "update":
                    # Once: a restart also has a first update.
                    if submitted:
                        seconds = time.time() - float(submitted)
                        console.log(f"first update {seconds:.0f} s after the job was submitted")
                        submitted = ""
                    is_training = True
                    if console.is_terminal:
                        total = experiment.training.updates
                        console.progress("training", content, total, "updates")
                case "lost":
                    # A stop request would not be answered until the next group trains.
                    is_training = False
                    console.log(f"lost workers: {content}")
                case "out_of_memory":
                    is_training = False
                    num_memory_restarts += 1
                    reason, split = content
                    console.log(
                        f"{reason} | restart {num_memory_restarts} with split factor {2 * split}"
                    )
                case "error":
                    console.clear()
                    raise TrainingError(content)
                case "ended":
                    result = content
        if is_over:
            console.clear()
            return result
        # Before the first update, or between two groups: the last checkpoint is on disk.
        if interrupt.is_requested and not is_training:
            console.log("stopped before the first update of these workers: nothing to save")
            newest = newest_complete(run_dir)
            return RunResult("interrupted", read_info(newest).update if newest else 0, None, 0)
        fit.join(timeout=POLL_S)
