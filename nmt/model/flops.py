"""Floating-point operations of a model, reported by the modules that own the weights.

A multiply-add counts as two operations. Counted are matrix products of real tokens: weights, and
attention scores and contexts. Padding, softmax, gates, norms and the optimizer are not counted, so
that rates and utilisation measure useful work only.
"""

from dataclasses import dataclass

from torch import Tensor

PASSES = 3
"""Passes of an update: forward, gradients of inputs, gradients of weights; all cost the same."""


@dataclass(frozen=True)
class Flops:
    """Floating-point operations of one forward pass."""

    per_src: int = 0
    """Per source token."""
    per_tgt: int = 0
    """Per target token."""
    per_src_tgt: int = 0
    """Per source token and target token of the same pair: attention."""

    def __add__(self, other: "Flops") -> "Flops":
        return Flops(
            self.per_src + other.per_src,
            self.per_tgt + other.per_tgt,
            self.per_src_tgt + other.per_src_tgt,
        )

    def forward(self, src_lengths: Tensor, tgt_lengths: Tensor) -> int:
        """Return the operations of a forward pass.

        Args:
            src_lengths: source tokens of each pair, padding not counted, [B].
            tgt_lengths: target tokens of each pair, [B].
        """
        per_src = self.per_src * int(src_lengths.sum())
        per_tgt = self.per_tgt * int(tgt_lengths.sum())
        return per_src + per_tgt + self.per_src_tgt * int((src_lengths * tgt_lengths).sum())

    def update(self, src_lengths: Tensor, tgt_lengths: Tensor) -> int:
        """Return the operations of forward and backward; arguments as of `forward`."""
        return PASSES * self.forward(src_lengths, tgt_lengths)


def matmul_flops(*weights: Tensor) -> int:
    """Return the operations of one vector multiplied with each of these matrices."""
    return 2 * sum(weight.numel() for weight in weights)
