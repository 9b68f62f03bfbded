"""What is counted while training, and where it is written.

`Meter` counts at every worker; `Journal` writes log lines, metrics.jsonl, TensorBoard events and
dev translations at the first one only. What was counted since the last log line is in a checkpoint
too, so that the log of a run that was stopped is that of one that was not (P4).
"""

import contextlib
import json
import math
import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

from torch import Tensor

from nmt.batching.batch import Batch
from nmt.training.distributed import World
from nmt.training.loss import LossSums


@dataclass(frozen=True)
class MeterTotals:
    """Sums over all workers since the last log line.

    An update that was skipped counts for speed and padding, not for what was learnt.
    """

    smoothed: float = 0.0
    """Loss of the updates that were made, nats."""
    nll: float = 0.0
    """The same without label smoothing."""
    tokens: float = 0.0
    """Target tokens that the two are over."""
    src_tokens: float = 0.0
    tgt_tokens: float = 0.0
    padded: float = 0.0
    """Positions of both sides, padding counted."""
    wait_s: float = 0.0
    """Seconds that the loop waited for batches, mean of the workers."""
    elapsed_s: float = 0.0
    """Seconds of training, mean of the workers."""
    grad_norm: float = 0.0
    """Sum over the updates that were made."""
    updates: float = 0.0
    """Updates that were made."""

    def summarise(self) -> dict[str, float | None]:
        """What a log line says; None where no update was made."""
        nll = _mean(self.nll, self.tokens)
        real = self.src_tokens + self.tgt_tokens
        return {
            "loss": _mean(self.smoothed, self.tokens),
            "nll": nll,
            "perplexity": None if nll is None else perplexity(nll),
            "grad_norm": _mean(self.grad_norm, self.updates),
            "src_tokens_per_s": _mean(self.src_tokens, self.elapsed_s),
            "tgt_tokens_per_s": _mean(self.tgt_tokens, self.elapsed_s),
            "data_wait_percent": _mean(100 * self.wait_s, self.elapsed_s),
            "padding_percent": 100 * (1 - real / max(1, self.padded)),
        }


class Meter:
    """Counts at one worker since the last log line."""

    def __init__(self, before: MeterTotals | None = None) -> None:
        """Go on from what all workers had counted when the run was stopped."""
        self.wait_s = 0.0
        """Seconds that the loop waited for batches."""
        self._before = before or MeterTotals()
        self._started = time.perf_counter()
        self._src_tokens = 0
        self._tgt_tokens = 0
        self._padded = 0
        self._tokens = 0
        self._grad_norms: list[float] = []
        # Left on the device until they are asked for: no waiting for a GPU in between.
        self._losses: list[LossSums] = []
        self._of_update: list[tuple[int, LossSums]] = []

    def count(self, batch: Batch, loss: LossSums) -> None:
        """Add a micro-batch, as it is on the CPU, and its loss."""
        num_tgt_tokens = len(batch.tgt_out)
        self._src_tokens += int(batch.src_lengths.sum())
        self._tgt_tokens += num_tgt_tokens
        self._padded += batch.num_padded
        sums = LossSums(loss.smoothed.detach(), loss.nll.detach())
        self._of_update.append((num_tgt_tokens, sums))

    def end_update(self, grad_norm: float) -> None:
        """What was counted since the last call is an update; skipped if its norm is not finite."""
        if math.isfinite(grad_norm):
            self._grad_norms.append(grad_norm)
            self._tokens += sum(num_tokens for num_tokens, _ in self._of_update)
            self._losses += [sums for _, sums in self._of_update]
        self._of_update = []

    @contextlib.contextmanager
    def paused(self) -> Iterator[None]:
        """Leave what is done inside out of the speed."""
        before = time.perf_counter()
        yield
        self._started += time.perf_counter() - before

    def totals(self, world: World) -> MeterTotals:
        """Of all workers, who all must ask; counting goes on."""
        elapsed_s = time.perf_counter() - self._started
        before = self._before if world.is_main else MeterTotals()
        sums = world.all_reduce(
            [
                _sum(before.smoothed, [loss.smoothed for loss in self._losses]),
                _sum(before.nll, [loss.nll for loss in self._losses]),
                before.tokens + self._tokens,
                before.src_tokens + self._src_tokens,
                before.tgt_tokens + self._tgt_tokens,
                before.padded + self._padded,
                before.wait_s * world.size + self.wait_s,
                before.elapsed_s * world.size + elapsed_s,
            ]
        )
        smoothed, nll, tokens, src_tokens, tgt_tokens, padded, wait_s, elapsed_s = sums
        return MeterTotals(
            smoothed=smoothed,
            nll=nll,
            tokens=tokens,
            src_tokens=src_tokens,
            tgt_tokens=tgt_tokens,
            padded=padded,
            wait_s=wait_s / world.size,
            elapsed_s=elapsed_s / world.size,
            grad_norm=sum(self._grad_norms, start=self._before.grad_norm),
            updates=self._before.updates + len(self._grad_norms),
        )


def perplexity(nll: float) -> float:
    """Of so many nats for each token; held below e^50."""
    return math.exp(min(nll, 50.0))


def _sum(start: float, values: list[Tensor]) -> float:
    # One after the other in fp64, as they come: a stop between two of them changes nothing.
    return float(sum((value.double() for value in values), start=start))


def _mean(total: float, count: float) -> float | None:
    return total / count if count else None


class Journal:
    """What the first worker writes down of a run."""

    def __init__(self, run_dir: Path, update: int, say: Callable[[str], None]) -> None:
        """Go on after that many updates; records of later ones, which are trained again, go.

        Args:
            say: also gets the lines of train.log.
        """
        run_dir.mkdir(parents=True, exist_ok=True)
        self._run_dir = run_dir
        self._say = say
        metrics = run_dir / "metrics.jsonl"
        kept = [line for line in complete_lines(metrics) if _is_kept(json.loads(line), update)]
        scratch = metrics.with_suffix(".tmp")
        scratch.write_text("".join(kept), encoding="utf-8")
        scratch.replace(metrics)
        self._metrics = _Lines(metrics)
        self._log = _Lines(run_dir / "train.log")
        # Imported here: readers of metrics.jsonl need neither TensorBoard nor the second it takes.
        from torch.utils.tensorboard import SummaryWriter

        self._events: SummaryWriter | None
        self._events = SummaryWriter(str(run_dir / "tensorboard"), purge_step=update + 1)

    def write(
        self, kind: str, update: int, values: Mapping[str, Any], known_at: int | None = None
    ) -> None:
        """Add a record: its kind (train, validation, restart, ...), the updates done, its values.

        A number that is not finite becomes null: JSON has none.

        Args:
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

    def say(self, line: str) -> None:
        """Log a line for people."""
        self._log.add(f"{time.strftime('%Y-%m-%d %H:%M:%S')} {line}")
        self._say(line)

    def keep_hyps(self, update: int, language: str, hyps: Sequence[str]) -> None:
        """Keep a validation's translations: dev/update-00000500.de."""
        file = self._run_dir / "dev" / f"update-{update:08d}.{language}"
        text = "".join(f"{hyp}\n" for hyp in hyps)
        try:
            file.parent.mkdir(exist_ok=True)
            file.write_text(text, encoding="utf-8", newline="")
        except OSError as error:
            self.say(f"{file} was not written: {error.strerror}")

    def close(self) -> None:
        """Write what is left."""
        self._metrics.close()
        self._log.close()
        if self._events is not None:
            with contextlib.suppress(OSError):
                self._events.close()

    def _add_event(self, name: str, value: float, update: int) -> None:
        if self._events is None:
            return
        try:
            self._events.add_scalar(name, value, update)
        except OSError as error:  # of a write before this one, in the background
            self._events = None
            self.say(f"no more TensorBoard events until the next start: {error.strerror}")


class _Lines:
    """Whole lines at the end of a file; what a full disk does not take is written with the next."""

    def __init__(self, path: Path) -> None:
        self._file = path.open("ab", buffering=0)
        self._waiting = b""

    def add(self, line: str) -> None:
        self._waiting += f"{line}\n".encode()
        end = os.fstat(self._file.fileno()).st_size
        try:
            taken = self._file.write(self._waiting)
        except OSError:
            taken = 0
        if taken == len(self._waiting):
            self._waiting = b""
        else:
            # A disk that fills may take a part: none of it, so that lines stay whole.
            self._file.truncate(end)

    def close(self) -> None:
        self._file.close()


def _is_kept(record: Mapping[str, Any], update: int) -> bool:
    """Updates that are trained again are recorded again; what a loss has cost stays."""
    known_at: int = record.get("known_at", record["update"])
    return record["kind"] in ("restart", "notice") or known_at <= update


def complete_lines(path: Path) -> list[str]:
    """Whole lines only: the last one of a run that was killed may be torn."""
    if not path.exists():
        return []
    with path.open(encoding="utf-8") as file:
        return [line for line in file if line.endswith("}\n")]


def describe(update: int, m: Mapping[str, float | None]) -> str:
    """What a person reads every training.log_every updates."""

    def shown(name: str, form: str) -> str:
        value = m[name]
        return "-" if value is None else format(value, form)

    skipped = f", {shown('skipped', '.0f')} updates skipped" if m["skipped"] else ""
    split = f", {shown('split', '.0f')} micro-batches split" if m["split"] else ""
    return (
        f"update {update:,} (epoch {shown('epoch', '.2f')}): loss {shown('loss', '.3f')} "
        f"nats/token, perplexity {shown('perplexity', '.2f')}, lr {shown('learning_rate', '.2e')}, "
        f"gradient norm {shown('grad_norm', '.2f')}, "
        f"{shown('src_tokens_per_s', ',.0f')} src + {shown('tgt_tokens_per_s', ',.0f')} tgt "
        f"tokens/s, data wait {shown('data_wait_percent', '.1f')} %, "
        f"padding {shown('padding_percent', '.1f')} %, "
        f"ETA {timedelta(seconds=int(m['eta_s'] or 0))}{skipped}{split}"
    )
