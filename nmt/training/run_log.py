"""Files of a run beside its checkpoints: log, metrics, TensorBoard, heartbeat, dev translations.

Rank 0 writes them with `RunLogger`. The heartbeat is the last update done, overwritten after each
update and removed when the run ends by itself: where one is found at a start, the previous workers
were lost. `read_records` reads metrics.jsonl of any version.
"""

import contextlib
import json
import math
import os
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch

from nmt.batching.schedule import Schedule
from nmt.config.experiment import Experiment, TrainingConfig
from nmt.config.settings import Count, NaturalFloat, Number, Timestamp, parse_record
from nmt.training.distributed import World
from nmt.training.state import EndReason, TrainState

METRICS = "metrics.jsonl"
NAME = "pulse.json"
"""File of the heartbeat."""
_WIDTH = 100
"""Bytes of the heartbeat file: always the same, so that it is never read half-written."""

_OLD_NAMES = {
    "train": (
        "nll",
        {"loss": "smoothed_loss", "nll": "loss", "perplexity": "ppl", "grad_norm": "gnorm"}
        | {"learning_rate": "lr", "epoch": "ep"},
    ),
    "validation": (
        "bleu",
        {"bleu": "dev_bleu", "nll": "dev_loss", "perplexity": "dev_ppl", "train_nll": "loss"}
        | {"best_bleu": "best_dev_bleu"},
    ),
    "skipped": ("grad_norm", {"grad_norm": "gnorm"}),
}
"""By kind of record: a key that only earlier versions wrote, and the new key of each old one."""


@dataclass(frozen=True, kw_only=True)
class _Record:
    """Keys of a record of metrics.jsonl that readers rely on; further ones are not checked."""

    kind: str
    update: Count
    time: Timestamp = 0.0
    train_s: NaturalFloat = 0.0
    known_at: Count = 0


@dataclass(frozen=True, kw_only=True)
class _TrainRecord(_Record):
    loss: Number | None = None
    lr: Number | None = None
    gnorm: Number | None = None
    tgt_tokens_per_s: Number | None = None


@dataclass(frozen=True, kw_only=True)
class _ValidationRecord(_Record):
    dev_bleu: Number
    dev_loss: Number | None
    signature: str = ""


_RECORDS = {"train": _TrainRecord, "validation": _ValidationRecord}


def parse_metrics_line(line: bytes) -> dict[str, Any] | None:
    """Return a record of metrics.jsonl with the keys of this version, whichever wrote it.

    Returns:
        The record; None for a damaged line or a value of another type.
    """
    try:
        record = json.loads(line)
        marker, names = _OLD_NAMES.get(record["kind"], ("", {}))
        if marker in record:
            record = {names.get(key, key): value for key, value in record.items()}
        parse_record(_RECORDS.get(record["kind"], _Record), record)
    except (ValueError, TypeError, KeyError, IndexError, AttributeError, RecursionError):
        return None
    return dict(record)


def read_records(run_dir: Path) -> tuple[list[dict[str, Any]], list[int]]:
    """Read metrics.jsonl of a run, with the keys of this version.

    Returns:
        The records, oldest first, and the numbers of the lines that are not records. An incomplete
        last line, as a killed run leaves it, is in neither.
    """
    parsed = [parse_metrics_line(line) for line in _complete_lines(run_dir / METRICS)]
    unreadable = [number for number, each in enumerate(parsed, start=1) if each is None]
    return [each for each in parsed if each is not None], unreadable


@dataclass(frozen=True)
class LastUpdate:
    """Last update done by a group of workers."""

    update: Count
    """Updates done."""
    time: Timestamp
    workers: Count


def read_heartbeat(run_dir: Path) -> LastUpdate | None:
    """Return the last update of lost workers; None: the run ended by itself, or is new."""
    try:
        return parse_record(LastUpdate, (run_dir / NAME).read_bytes())
    except (OSError, ValueError):
        return None


class RunLogger:
    """Writer of the log files of a run, on rank 0."""

    def __init__(
        self, run_dir: Path, update: int, num_workers: int, log: Callable[[str], None]
    ) -> None:
        """Continue the files of a run. Records of updates that will be repeated are removed.

        Args:
            update: updates done.
            num_workers: size of the world.
            log: called with each line of the log.
        """
        # Imported here: readers of metrics.jsonl do not wait for TensorBoard.
        from torch.utils.tensorboard import SummaryWriter

        run_dir.mkdir(parents=True, exist_ok=True)
        self._run_dir = run_dir
        self._update = update
        self._num_workers = num_workers
        self._print = log
        metrics = run_dir / METRICS
        kept = [line for line in _complete_lines(metrics) if _is_kept(line, update)]
        scratch = metrics.with_suffix(".tmp")
        scratch.write_bytes(b"".join(kept))
        scratch.replace(metrics)
        self._metrics = _LineFile(metrics)
        self._log = _LineFile(run_dir / "train.log")
        self._events: SummaryWriter | None
        self._events = SummaryWriter(str(run_dir / "tensorboard"), purge_step=update + 1)
        self._before = read_heartbeat(run_dir)
        self._heartbeat = os.open(run_dir / NAME, os.O_RDWR | os.O_CREAT, 0o644)
        self._restart: dict[str, Any] | None = None
        self._lost_at = 0.0
        self._signature = ""
        self._has_ended = False

    def end(self, line: str) -> None:
        """Log the last line of a run that ends by itself, its last update in a checkpoint."""
        self._has_ended = True
        self.log(line)

    def close(self) -> None:
        """Close the files; the heartbeat is removed if the run has ended by itself."""
        os.close(self._heartbeat)
        if self._has_ended:
            (self._run_dir / NAME).unlink(missing_ok=True)
        self._metrics.close()
        self._log.close()
        if self._events is not None:
            with contextlib.suppress(OSError):
                self._events.close()

    def log(self, line: str) -> None:
        """Log a line."""
        self._log.add(f"{time.strftime('%Y-%m-%d %H:%M:%S')} {line}")
        self._print(line)

    def write(
        self, kind: str, update: int, values: Mapping[str, Any], known_at: int | None = None
    ) -> None:
        """Add a record to metrics.jsonl and its numbers to TensorBoard.

        Numbers that are not finite become null: JSON has neither NaN nor infinity.

        Args:
            kind: train, validation, restart, ...
            update: updates done.
            known_at: updates done by now, where the record is about an earlier update.
        """
        plain = {
            name: None if isinstance(value, float) and not math.isfinite(value) else value
            for name, value in values.items()
        }
        record = {"kind": kind, "update": update, "time": round(time.time(), 3), **plain}
        if known_at not in (None, update):
            record["known_at"] = known_at
        self._metrics.add(json.dumps(record, ensure_ascii=False, allow_nan=False))
        for name, value in plain.items():
            if isinstance(value, int | float):
                self._add_event(f"{kind}/{name}", value, update)

    def log_dev_score(self, line: str, signature: str, beam: int) -> None:
        """Log the line of a validation; before the first one, signature and beam of dev BLEU."""
        if signature != self._signature:
            self._signature = signature
            self.log(f"dev BLEU signature {signature} | beam {beam}")
        self.log(line)

    def write_hyps(self, update: int, language: str, hyps: Sequence[str]) -> None:
        """Write the translations of a validation, for example to dev/update-00000500.de."""
        file = self._run_dir / "dev" / f"update-{update:08d}.{language}"
        text = "".join(f"{hyp}\n" for hyp in hyps)
        try:
            file.parent.mkdir(exist_ok=True)
            file.write_text(text, encoding="utf-8", newline="")
        except OSError as error:
            self.log(f"cannot write {file}: {error.strerror}")

    def heartbeat(self, update: int) -> None:
        """Record the updates done; after the first update of a restart, log its cost."""
        record = {"update": update, "time": round(time.time(), 3), "workers": self._num_workers}
        # A full disk must not stop training: a restart then knows less about its cost.
        with contextlib.suppress(OSError):
            os.pwrite(self._heartbeat, json.dumps(record).ljust(_WIDTH).encode(), 0)
        if self._restart is not None:
            self._log_restart(update)

    def expect_restart(
        self, reason: str, reported: LastUpdate | None, skipped_checkpoints: Sequence[str]
    ) -> None:
        """If previous workers were lost, measure the cost; it is logged after the next update.

        Args:
            reason: reason for the loss, if known.
            reported: last update that the workers reported over the network. The file may be older,
                or its host may be lost.
            skipped_checkpoints: error messages of newer checkpoints that are corrupt.
        """
        before = self._before or reported
        if before is None:
            return
        last = max(before, reported or before, key=lambda each: each.update)
        reasons = [reason or "the run ended without a last checkpoint"]
        if before.workers != self._num_workers:
            reasons.append(f"from {before.workers} to {self._num_workers} workers")
        self._lost_at = last.time
        self._restart = {
            "why": "; ".join([*reasons, *skipped_checkpoints]),
            "from_update": self._update,
            "updates_lost": max(0, last.update - self._update),
            "workers_before": before.workers,
            "workers": self._num_workers,
        }

    def _log_restart(self, update: int) -> None:
        assert self._restart is not None
        values, self._restart = self._restart, None
        lost_s = time.time() - self._lost_at
        self.write("restart", update, values | {"s_lost": round(lost_s, 3)})
        self.log(
            f"restarted: {values['why']} | resumed from update {values['from_update']:,} | lost "
            f"{values['updates_lost']:,} updates, {lost_s:.1f} s"
        )

    def _add_event(self, name: str, value: float, update: int) -> None:
        if self._events is None:
            return
        try:
            self._events.add_scalar(name, value, update)
        except OSError as error:  # of an earlier write, in the background
            self._events = None
            self.log(f"TensorBoard events stop until the next start: {error.strerror}")


class _LineFile:
    """Append-only file of complete lines. If the disk is full, lines wait for the next write."""

    def __init__(self, path: Path) -> None:
        self._file = path.open("ab", buffering=0)
        self._pending = b""

    def add(self, line: str) -> None:
        self._pending += f"{line}\n".encode()
        end = os.fstat(self._file.fileno()).st_size
        try:
            written = self._file.write(self._pending)
        except OSError:
            written = 0
        if written == len(self._pending):
            self._pending = b""
        else:
            # A disk that fills may take a part: remove it, so that lines stay whole.
            self._file.truncate(end)

    def close(self) -> None:
        self._file.close()


def _is_kept(line: bytes, update: int) -> bool:
    """Return False for records of updates that are repeated; restarts and notices stay."""
    record = parse_metrics_line(line)
    if record is None:
        return True  # damaged: readers count it
    known_at: int = record.get("known_at", record["update"])
    return record["kind"] in ("restart", "notice") or known_at <= update


def _complete_lines(path: Path) -> list[bytes]:
    """Return the complete lines: the last one of a killed run may be torn."""
    if not path.exists():
        return []
    with path.open("rb") as file:
        lines = list(file)
    return lines if not lines or lines[-1].endswith(b"\n") else lines[:-1]


def format_train_line(update: int, values: Mapping[str, float | None]) -> str:
    """Format the log line of the updates since the last one.

    Data wait is shown above 2 %, padding above 10 %.
    """

    def text(name: str, form: str) -> str:
        value = values[name]
        return "-" if value is None else format(value, form)

    def speed(name: str) -> str:
        return "-" if (value := values[name]) is None else f"{value / 1000:.1f}k"

    eta = str(timedelta(seconds=int(values["eta_s"] or 0)))
    parts = [
        f"update {update:,}",
        f"ep {text('ep', '.2f')}",
        f"loss {text('loss', '.3f')}",
        f"ppl {text('ppl', '.2f')}",
        *([f"risk {text('risk', '.3f')}"] if values.get("risk") is not None else []),
        f"lr {text('lr', '.1e')}",
        f"gnorm {text('gnorm', '.2f')}",
        f"{speed('src_tokens_per_s')}/{speed('tgt_tokens_per_s')} tok/s",
        # 0:45 for 45 seconds, 1:02:05 for an hour.
        f"ETA {eta.removeprefix('0:').removeprefix('0')}",
    ]
    if (values["data_wait_percent"] or 0) > 2:
        parts.append(f"data wait {text('data_wait_percent', '.1f')} %")
    if (values["padding_percent"] or 0) > 10:
        parts.append(f"padding {text('padding_percent', '.1f')} %")
    if values["skipped"]:
        parts.append(f"{text('skipped', '.0f')} skipped")
    if values["overflows"]:
        parts.append(f"{text('overflows', '.0f')} overflows")
    return " | ".join(parts)


def format_start_line(
    experiment: Experiment, schedule: Schedule, num_parameters: int, update: int, world: World
) -> str:
    """Format the log line of a start: model, hardware, data, and where it resumes."""
    left_out = schedule.num_left_out
    parts = [
        f"{num_parameters:,} parameters",
        experiment.training.precision,
        f"{world.size} worker{'s' * (world.size > 1)} on {world.device.type}",
        f"{schedule.num_pairs:,} pairs" + f" ({left_out:,} longer ones left out)" * (left_out > 0),
        f"{schedule.updates_per_epoch:,} updates per epoch",
        f"{schedule.epochs_at(experiment.training.updates):.1f} epochs",
        f"resumed from update {update:,}" if update else "new run",
    ]
    if world.size > 1 and world.gradient_dtype != torch.float32:
        parts.insert(3, "gradients in bf16")
    return " | ".join(parts)


def format_end_line(reason: EndReason, state: TrainState, training: TrainingConfig) -> str:
    """Format the log line of an end: progress and best score."""
    parts = [
        f"{reason} after {state.update:,} of {training.updates:,} updates",
        f"{state.train_s / 60:.1f} minutes of training",
    ]
    if state.best_bleu is not None:
        parts.append(f"best dev BLEU {state.best_bleu:.2f} at update {state.best_update:,}")
    if state.num_skipped:
        parts.append(f"{state.num_skipped} updates skipped")
    if state.num_overflows:
        parts.append(f"{state.num_overflows} overflows")
    if reason == "stopped early":
        parts.append(
            f"{state.validations_without_gain} validations without a better dev BLEU "
            f"(training.patience={training.patience})"
        )
    return " | ".join(parts)
