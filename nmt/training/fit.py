"""Over-fitting made visible: what a model knows of the training set, and what of the dev set.

Both losses are negative log-likelihoods of true tokens without label smoothing. That of training is
of the last log line and has dropout on, so it starts above the one of the dev set; it is the way
they go that tells: training loss falls and dev loss rises where pairs are learnt by heart.
"""

from dataclasses import dataclass

OPEN = 0.02
"""Rise of the dev loss over its lowest, as a share of it, that is no longer noise."""


@dataclass
class Fit:
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
