"""Over-fitting made visible: what a model knows of the training set, and what of the dev set.

Both losses are negative log-likelihoods of true tokens without label smoothing. That of training is
of the last log line and has dropout on, so it starts above the one of the dev set; it is the way
they go that tells: training loss falls and dev loss rises where pairs are learnt by heart.

The scale of the loss in fp16, whose smallest numbers are too large for many gradients.

The loss counts `value` times, so that gradients stand where fp16 has its digits, and the step
divides again (Micikevicius et al. 2018, section 3.2); powers of two, so that neither rounds. Where
a gradient overflows the update is made again at half the scale: no pair is skipped for it. Where
the loss itself is not finite the scale is not to blame, and the update is skipped as in bf16.

How far a run is, and how long it has taken.
"""

import time
from dataclasses import dataclass, field
from typing import Literal

from nmt.training.metrics import MeterTotals

EndReason = Literal["finished", "stopped early", "interrupted"]
"""Reason why a call of `train` ended."""

OPEN = 0.02
"""Rise of the dev loss over its lowest, as a share of it, that is no longer noise."""


@dataclass
class OverfittingMonitor:
    """How both losses went; in the counters of a checkpoint, a stop changes nothing (P4)."""

    train_nll: float | None = None
    """Nats for each target token of training since the log line before the last."""
    lowest_nll: float | None = None
    """Lowest loss of a validation so far."""
    lowest_update: int = 0
    """Updates done when it was seen."""
    train_nll_then: float | None = None
    is_open: bool = False
    """Whether the gap has opened, and was told."""

    def note(self, train_nll: float | None) -> None:
        """Keep the loss of a log line; None where it had no update."""
        if train_nll is not None:
            self.train_nll = train_nll

    def describe(self, dev_nll: float) -> str:
        """Both losses, side by side."""
        train = "" if self.train_nll is None else f"train loss {self.train_nll:.3f}, "
        return f"{train}dev loss {dev_nll:.3f} nats/token"

    def judge(self, update: int, dev_nll: float, train_nll: float | None) -> str:
        """Compare a validation with the lowest loss so far; a warning when the gap opens.

        Args:
            train_nll: what `train_nll` was after that update.
        """
        if self.lowest_nll is None or dev_nll < self.lowest_nll:
            self.lowest_nll, self.lowest_update = dev_nll, update
            self.train_nll_then, self.is_open = train_nll, False
            return ""
        if train_nll is None or self.train_nll_then is None or self.is_open:
            return ""
        has_risen = dev_nll > (1 + OPEN) * self.lowest_nll
        if not has_risen or train_nll >= self.train_nll_then:
            return ""
        self.is_open = True
        return (
            f"warning: over-fitting since update {self.lowest_update:,}: dev loss rose from "
            f"{self.lowest_nll:.3f} to {dev_nll:.3f} nats/token while training loss fell from "
            f"{self.train_nll_then:.3f} to {train_nll:.3f}; more model.dropout, "
            "training.subword_dropout or stages with rdrop hold against it, training.patience stops"
        )


FIRST = 2.0**16
GOOD_UPDATES = 2000
"""Updates in a row without an overflow after which the scale is tried twice as large."""


@dataclass
class LossScale:
    """What the loss counts; the counters of a checkpoint have it."""

    value: float = FIRST
    good_updates: int = 0
    """Updates since it changed."""

    def lower(self) -> None:
        """A gradient overflowed."""
        self.value, self.good_updates = self.value / 2, 0

    def end_update(self) -> None:
        """None did."""
        self.good_updates += 1
        if self.good_updates == GOOD_UPDATES:
            self.value, self.good_updates = self.value * 2, 0


@dataclass
class TrainState:
    """How far a run is; the counters of a checkpoint."""

    update: int = 0
    """Updates done."""
    best_bleu: float | None = None
    """Best dev BLEU so far."""
    best_update: int = 0
    """Updates done when it was seen."""
    validations_without_gain: int = 0
    """Validations in a row since then."""
    halvings: int = 0
    """How often the learning rate of schedule plateau was halved."""
    validations_of_plateau: int = 0
    """Validations in a row without a gain since it was halved."""
    fit: OverfittingMonitor = field(default_factory=OverfittingMonitor)
    """How well training and dev set are known."""
    num_skipped: int = 0
    """Updates skipped because their gradient was not finite."""
    skipped_in_a_row: int = 0
    """The last of them without a good one between."""
    num_split: int = 0
    """Micro-batches that were split because memory ran out."""
    scale: LossScale = field(default_factory=LossScale)
    """What the loss counts in fp16."""
    train_s: float = 0.0
    """Seconds of training and validation; time lost between stops is not counted."""
    since_log: MeterTotals = field(default_factory=MeterTotals)
    """What was counted since the last log line."""
    awaited: list[tuple[int, float | None]] = field(default_factory=list)
    """Validations whose scores are not judged yet, oldest first: updates done, training loss."""
    ledger: str = ""
    """Chain of the pair ledger: what all updates were trained on."""

    @classmethod
    def of(cls, counters: dict[str, object]) -> "TrainState":
        """From the counters of a checkpoint."""
        totals = MeterTotals(**counters.pop("since_log", {}))  # type: ignore[arg-type]
        fit = OverfittingMonitor(**counters.pop("fit", {}))  # type: ignore[arg-type]
        scale = LossScale(**counters.pop("scale", {}))  # type: ignore[arg-type]
        progress = cls(**counters, since_log=totals, fit=fit, scale=scale)  # type: ignore[arg-type]
        progress.awaited = [(update, nll) for update, nll in progress.awaited]
        return progress


class TrainingClock:
    """Seconds of training over all parts of a run, and what is left."""

    def __init__(self, progress: TrainState) -> None:
        self._progress = progress
        self._first_update = progress.update
        self._before_s = progress.train_s
        self._started = time.perf_counter()

    def train_s(self) -> float:
        """Seconds until now."""
        return self._before_s + time.perf_counter() - self._started

    def eta_s(self, num_updates: int) -> float:
        """Seconds that are left at the pace so far."""
        pace = (time.perf_counter() - self._started) / (self._progress.update - self._first_update)
        return pace * (num_updates - self._progress.update)
