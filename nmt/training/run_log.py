"""The last update that a run has made, in a file of the run: what a restart has cost.

The file is written over at each update, and goes when the run ends by itself: where one is found at
the start, the workers before us were lost.

What is kept of a run while it trains: its log, its pulse, its checkpoints, its late scores.

The first worker keeps all of it, in the folder of the run; the others make the same calls, and
nothing happens. Which of the two a worker is, is asked once, where the records are opened.
"""

import contextlib
import json
import os
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from nmt.checkpoint.async_writer import AsyncCheckpointWriter
from nmt.checkpoint.remote import RemoteRun
from nmt.config.experiment import Experiment
from nmt.training.data import TrainingData
from nmt.training.learner import Learner
from nmt.training.metrics import Journal, complete_lines
from nmt.training.state import TrainState
from nmt.training.validation import AsyncValidator, CheckpointScorer, Validation

NAME = "pulse.json"
_WIDTH = 100
"""Bytes of the file, always the same, so that it is never found half-written."""


@dataclass(frozen=True)
class LastUpdate:
    """One update that was made."""

    update: int
    """Updates done."""
    time: float
    """Seconds since 1970."""
    workers: int


class Heartbeat:
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
        self,
        why: str,
        before: LastUpdate,
        heard: LastUpdate | None,
        update: int,
        workers: int,
        damaged: str,
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


def read(run_dir: Path) -> LastUpdate | None:
    """The last update of workers who were lost, if any."""
    try:
        return LastUpdate(**json.loads((run_dir / NAME).read_bytes()))
    except (OSError, ValueError, TypeError):
        return None


_TRAIN_NAMES = {
    "loss": "smoothed_loss", "nll": "loss", "perplexity": "ppl", "grad_norm": "gnorm",
    "learning_rate": "lr", "epoch": "ep",
}  # fmt: skip
_VALIDATION_NAMES = {
    "bleu": "dev_bleu", "nll": "dev_loss", "perplexity": "dev_ppl", "train_nll": "loss",
    "best_bleu": "best_dev_bleu",
}  # fmt: skip
_OLD_NAMES = {
    "train": ("nll", _TRAIN_NAMES),
    "validation": ("bleu", _VALIDATION_NAMES),
    "skipped": ("grad_norm", {"grad_norm": "gnorm"}),
}
"""By kind of record: a key that only records of earlier versions have, and new keys by old."""


def with_current_names(record: Mapping[str, Any]) -> dict[str, Any]:
    """Return a record of metrics.jsonl with the keys of this version, whichever wrote it."""
    marker, names = _OLD_NAMES.get(record.get("kind", ""), ("", {}))
    if marker not in record:
        return dict(record)
    return {names.get(key, key): value for key, value in record.items()}


def read_records(run_dir: Path) -> list[dict[str, Any]]:
    """Return the records of a run's metrics.jsonl, oldest first, with the keys of this version.

    A last line that is incomplete, as a killed run leaves it, is not among them.
    """
    return [
        with_current_names(json.loads(line)) for line in complete_lines(run_dir / "metrics.jsonl")
    ]


class RunLogger:
    """The first worker's; a context that is left when training has ended, or broken off."""

    def __init__(
        self,
        experiment: Experiment,
        corpus: TrainingData,
        run_dir: Path,
        update: int,
        num_workers: int,
        say: Callable[[str], None],
        remote: RemoteRun | None,
        scorer: CheckpointScorer | None,
    ) -> None:
        """Go on after that many updates.

        Args:
            say: also gets the lines of the log.
            remote: the run in an object store, of which run_dir is the copy here.
            scorer: scores checkpoints elsewhere.
        """
        self._journal = Journal(run_dir, update, say)
        self._pulse = Heartbeat(run_dir, num_workers)
        self._writer = AsyncCheckpointWriter(run_dir, experiment, corpus.subword.to_json(), remote)
        self._late = AsyncValidator(
            scorer, self._writer, run_dir, experiment, corpus.dev, self._journal, remote
        )
        self._restart: Restart | None = None
        self._update = update
        self._num_workers = num_workers
        self._has_ended = False

    def __enter__(self) -> "RunLogger":
        return self

    def __exit__(self, *error: object) -> None:
        self._writer.wait()
        self._pulse.close(self._has_ended)
        self._journal.close()
        # Last: what goes up into an object store is all of the above.
        self._writer.close()

    def after_loss(self, why: str, heard: LastUpdate | None, damaged: Sequence[str]) -> None:
        """Find out whether workers before these were lost; what that has cost is told later.

        Args:
            why: they were, as far as it is known.
            heard: the last update that they were heard of.
            damaged: newer checkpoints that were passed over, and why.
        """
        # The file may be on a host that is gone; what was heard of its workers is not.
        before = self._pulse.before or heard
        if before is not None:
            self._restart = Restart(
                why, before, heard, self._update, self._num_workers, "; ".join(damaged)
            )

    def say(self, line: str) -> None:
        """As `Journal.say`."""
        self._journal.say(line)

    def write(
        self, kind: str, update: int, values: Mapping[str, Any], known_at: int | None = None
    ) -> None:
        """As `Journal.write`."""
        self._journal.write(kind, update, values, known_at)

    def keep_hyps(self, update: int, language: str, hyps: Sequence[str]) -> None:
        """As `Journal.keep_hyps`."""
        self._journal.keep_hyps(update, language, hyps)

    def beat(self, update: int) -> None:
        """So many updates are done; after the first one, what a loss before it has cost."""
        self._pulse.beat(update)
        if self._restart is not None:
            self._restart.tell(self._journal, update)
            self._restart = None

    def save(self, learner: Learner, progress: TrainState, validation: Validation | None) -> None:
        """Begin to write a checkpoint, and to have it scored where its score is awaited."""
        state = learner.state(progress.update, asdict(progress))
        awaited = [update for update, _ in progress.awaited]
        if validation is not None:
            self._writer.write(state, validation.bleu, validation.signature, awaited)
        elif progress.update in awaited:
            self._writer.write(state, pending=awaited, on_complete=self._late.ask)
        else:
            self._writer.write(state, pending=awaited)

    def fail(self, error: OSError) -> None:
        """A checkpoint could not be begun."""
        self._writer.record_error(error)

    def wait(self) -> None:
        """Until the checkpoint that was begun is on the disk."""
        self._writer.wait()

    @property
    def has_failed(self) -> bool:
        """Whether there is a problem with a checkpoint that nobody was told."""
        return self._writer.has_error

    def problem(self) -> tuple[str, int]:
        """Why a checkpoint could not be written, told once, and how many in a row could not."""
        return self._writer.take_error(), self._writer.num_failures

    def ask_again(self, progress: TrainState) -> None:
        """After a start: have those scored whose scores were to come when the run was stopped."""
        self._late.ask_again([update for update, _ in progress.awaited])

    def collect(self) -> None:
        """Write down the late scores that have come; does not wait."""
        self._late.collect()

    def late_score(self, update: int) -> tuple[float, str, float] | None:
        """As `AsyncValidator.wait`."""
        return self._late.wait(update)

    def end(self, line: str) -> None:
        """Training has ended by itself: its last line."""
        self._has_ended = True
        self._journal.say(line)


class NoRecords:
    """The other workers'."""

    has_failed = False

    def __enter__(self) -> "NoRecords":
        return self

    def __exit__(self, *error: object) -> None: ...

    def say(self, line: str) -> None: ...

    def write(
        self, kind: str, update: int, values: Mapping[str, Any], known_at: int | None = None
    ) -> None: ...

    def keep_hyps(self, update: int, language: str, hyps: Sequence[str]) -> None: ...

    def beat(self, update: int) -> None: ...

    def save(
        self, learner: Learner, progress: TrainState, validation: Validation | None
    ) -> None: ...

    def fail(self, error: OSError) -> None:
        """Who writes nothing has no disk that could be full: this is another error."""
        raise error

    def wait(self) -> None: ...

    def problem(self) -> tuple[str, int]:
        """None, and none."""
        return "", 0

    def collect(self) -> None: ...

    def late_score(self, update: int) -> None: ...

    def end(self, line: str) -> None: ...


AnyRecords = RunLogger | NoRecords
"""What a worker has of them."""
