"""Counts of training between two log lines: losses, tokens, padding and time.

Each rank counts its own micro-batches; `Meter.totals` sums over the ranks. The totals since the
last log line are part of a checkpoint, so that the log of a resumed run equals that of a run that
was never stopped.
"""

import contextlib
import math
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

import torch

from nmt.batching.schedule import Rows
from nmt.training.distributed import World
from nmt.training.loss import LossSums


class UpdateStats(NamedTuple):
    """Counts of one update on one rank. Losses stay on the device: nothing waits for a GPU."""

    update: int
    """Updates done, this one included."""
    losses: list[LossSums]
    """Loss of each micro-batch, or of each part of a split one, without graph."""
    gnorm: float
    """Norm of the gradient over all ranks, before clipping."""
    src_tokens: int
    """Source tokens, EOS counted."""
    tgt_tokens: int
    """Target tokens, EOS counted."""
    positions: int
    """Positions of both sides, padding counted."""
    rows: list[Rows]
    """Row numbers in the prepared corpus of each micro-batch."""
    is_skipped: bool
    """True if the weights were left unchanged: the gradient was not finite."""


@dataclass(frozen=True)
class MeterTotals:
    """Sums over all ranks since the last log line; the field names are keys of a checkpoint.

    A skipped update counts for speed and padding, not for losses and gradient norm.
    """

    smoothed: float = 0.0
    """Label-smoothed loss, which is optimised, in nats."""
    nll: float = 0.0
    """Negative log-likelihood without label smoothing, in nats."""
    risk: float = 0.0
    """Risk of sampled translations times target tokens; 0 without minimum risk training."""
    tokens: float = 0.0
    """Target tokens of these losses."""
    src_tokens: float = 0.0
    tgt_tokens: float = 0.0
    padded: float = 0.0
    """Positions of both sides, padding counted."""
    wait_s: float = 0.0
    """Seconds spent waiting for batches, mean over the ranks."""
    elapsed_s: float = 0.0
    """Seconds of training, mean over the ranks."""
    grad_norm: float = 0.0
    """Sum of the gradient norms."""
    updates: float = 0.0
    """Updates that were not skipped."""

    def summary(self) -> dict[str, float | None]:
        """Return the values of a log line; None where no update was made."""
        loss = _mean(self.nll, self.tokens)
        real = self.src_tokens + self.tgt_tokens
        return {
            "smoothed_loss": _mean(self.smoothed, self.tokens),
            "loss": loss,
            "ppl": None if loss is None else perplexity(loss),
            "gnorm": _mean(self.grad_norm, self.updates),
            "src_tokens_per_s": _mean(self.src_tokens, self.elapsed_s),
            "tgt_tokens_per_s": _mean(self.tgt_tokens, self.elapsed_s),
            "data_wait_percent": _mean(100 * self.wait_s, self.elapsed_s),
            "padding_percent": 100 * (1 - real / max(1, self.padded)),
        } | ({"risk": _mean(self.risk, self.tokens)} if self.risk else {})


class Meter:
    """Counts of one rank since the last log line."""

    def __init__(self, before: MeterTotals | None = None) -> None:
        """Start counting.

        Args:
            before: totals since the last log line when the run was stopped.
        """
        self.wait_s = 0.0
        """Seconds spent waiting for batches."""
        self._before = before or MeterTotals()
        self._started = time.perf_counter()
        self._src_tokens = 0
        self._tgt_tokens = 0
        self._positions = 0
        self._tokens = 0
        self._gnorms: list[float] = []
        self._losses: list[LossSums] = []

    def add(self, stats: UpdateStats) -> None:
        """Count an update."""
        self._src_tokens += stats.src_tokens
        self._tgt_tokens += stats.tgt_tokens
        self._positions += stats.positions
        if not stats.is_skipped:
            self._gnorms.append(stats.gnorm)
            self._tokens += stats.tgt_tokens
            self._losses += stats.losses

    @contextlib.contextmanager
    def paused(self) -> Iterator[None]:
        """Exclude the time spent inside from the speed."""
        before = time.perf_counter()
        yield
        self._started += time.perf_counter() - before

    def totals(self, world: World) -> MeterTotals:
        """Return the sums over all ranks and keep counting. Collective: call on every rank."""
        # All ranks resume with the same totals: only those of rank 0 may enter the sums.
        before = self._before if world.is_main else MeterTotals()
        elapsed_s = time.perf_counter() - self._started
        smoothed, nll, risk = _read_losses(self._losses)
        counts = {
            "smoothed": _add(before.smoothed, smoothed),
            "nll": _add(before.nll, nll),
            "risk": _add(before.risk, risk),
            "tokens": before.tokens + self._tokens,
            "src_tokens": before.src_tokens + self._src_tokens,
            "tgt_tokens": before.tgt_tokens + self._tgt_tokens,
            "padded": before.padded + self._positions,
            "wait_s": before.wait_s + self.wait_s / world.size,
            "elapsed_s": before.elapsed_s + elapsed_s / world.size,
        }
        sums = world.all_reduce(list(counts.values()))
        # The gradient norm is the same on every rank.
        grad_norm = _add(self._before.grad_norm, self._gnorms)
        updates = self._before.updates + len(self._gnorms)
        return MeterTotals(
            **dict(zip(counts, sums, strict=True)), grad_norm=grad_norm, updates=updates
        )


def perplexity(loss: float) -> float:
    """Return exp(loss) of a loss in nats per token, at most e^50."""
    return math.exp(min(loss, 50.0))


def _add(total: float, values: list[float]) -> float:
    # One by one in the order of the updates: a stop between two of them changes no bit. `sum`
    # compensates rounding errors from Python 3.12 on.
    for value in values:
        total += value
    return total


def _read_losses(losses: list[LossSums]) -> tuple[list[float], list[float], list[float]]:
    """Return smoothed losses, negative log-likelihoods and risks; waits once for the device."""
    if not losses:
        return [], [], []
    smoothed, nll, risk = zip(*losses, strict=True)
    risks = [each for each in risk if each is not None]
    values: list[float] = torch.stack([*smoothed, *nll, *risks]).tolist()
    number = len(losses)
    return values[:number], values[number : 2 * number], values[2 * number :]


def _mean(total: float, count: float) -> float | None:
    return total / count if count else None
