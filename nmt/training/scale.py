"""The scale of the loss in fp16, whose smallest numbers are too large for many gradients.

The loss counts `value` times, so that gradients stand where fp16 has its digits, and the step
divides again (Micikevicius et al. 2018, section 3.2); powers of two, so that neither rounds. Where
a gradient overflows the update is made again at half the scale: no pair is skipped for it. Where
the loss itself is not finite the scale is not to blame, and the update is skipped as in bf16.
"""

from dataclasses import dataclass

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
