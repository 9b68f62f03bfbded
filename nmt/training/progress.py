"""How far a run is, and how long it has taken."""

import time
from dataclasses import dataclass, field

from nmt.training.fit import Fit
from nmt.training.metrics import Totals
from nmt.training.scale import LossScale


@dataclass
class Progress:
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
    fit: Fit = field(default_factory=Fit)
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
    since_log: Totals = field(default_factory=Totals)
    """What was counted since the last log line."""
    awaited: list[tuple[int, float | None]] = field(default_factory=list)
    """Validations whose scores are not judged yet, oldest first: updates done, training loss."""
    ledger: str = ""
    """Chain of the pair ledger: what all updates were trained on."""

    @classmethod
    def of(cls, counters: dict[str, object]) -> "Progress":
        """From the counters of a checkpoint."""
        totals = Totals(**counters.pop("since_log", {}))  # type: ignore[arg-type]
        fit = Fit(**counters.pop("fit", {}))  # type: ignore[arg-type]
        scale = LossScale(**counters.pop("scale", {}))  # type: ignore[arg-type]
        progress = cls(**counters, since_log=totals, fit=fit, scale=scale)  # type: ignore[arg-type]
        progress.awaited = [(update, nll) for update, nll in progress.awaited]
        return progress


class Clock:
    """Seconds of training over all parts of a run, and what is left."""

    def __init__(self, progress: Progress) -> None:
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
