"""Cross entropy with label smoothing, in chunks, gradients and all.

The loss of a chunk of tokens and its gradient by the logits come from one softmax, in the forward
call; backward only scales. So [tokens, vocabulary] never stands in memory whole, and no logits are
kept. The smoothed part of the target is the same for all tokens: its share of loss and gradient is
a vector, added at the end, not a pass over the logits. For 1,000 tokens, width 128, 6,000 pieces in
bf16 on one core: 22 ms, against 61 to 73 ms for `torch.nn.functional.cross_entropy` on whole
logits, or 26 ms where the process keeps freed memory, as our workers do.
Gradients in forward are the idea of Liger Kernel's fused linear cross entropy (Hsu et al. 2024).
Shapes: N tokens, D width, V vocabulary, C tokens of a chunk.
"""

from typing import Any, NamedTuple

import torch
from torch import Tensor

CHUNK_VALUES = {"cpu": 2**20, "cuda": 2**27}
"""Logits in one chunk: on a CPU they should stay in the cache, on a GPU they should fill it."""


class LossSums(NamedTuple):
    """Sums over tokens, in nats, fp32, on the device; no dimensions."""

    smoothed: Tensor
    """What is learnt from: with label smoothing. Only this one has a gradient."""
    nll: Tensor
    """Negative log-likelihood of the true tokens: what perplexity comes from."""


def cross_entropy(
    hidden: Tensor, weight: Tensor, targets: Tensor, smoothing: float, dtype: torch.dtype
) -> LossSums:
    """Sum the cross entropy of tokens.

    Args:
        hidden: what the output layer reads, [N, D]; N may be 0.
        weight: of the output layer, [V, D].
        targets: true tokens, [N].
        smoothing: share of each target's probability spread evenly over the vocabulary.
        dtype: of the matrix products; sums and softmax are fp32.
    """
    with_gradient = torch.is_grad_enabled()
    sums = _ChunkedCrossEntropy.apply(  # type: ignore[no-untyped-call]
        hidden, weight, targets, smoothing, dtype, with_gradient
    )
    return LossSums(*sums)


class _ChunkedCrossEntropy(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        hidden: Tensor,
        weight: Tensor,
        targets: Tensor,
        smoothing: float,
        dtype: torch.dtype,
        with_gradient: bool,
    ) -> tuple[Tensor, Tensor]:
        vocab_size = weight.size(0)
        chunk = max(64, CHUNK_VALUES.get(hidden.device.type, 2**20) // vocab_size)
        cast_weight = weight.to(dtype)
        mean_weight = weight.mean(dim=0)  # [D]: hidden @ it is the mean logit
        nll = hidden.new_zeros((), dtype=torch.float32)
        log_totals_less_mean = hidden.new_zeros((), dtype=torch.float32)
        by_hidden = torch.empty_like(hidden, dtype=torch.float32)
        by_weight = torch.zeros_like(weight)
        for start in range(0, hidden.size(0), chunk):
            inputs = hidden[start : start + chunk].to(dtype)  # [C, D]
            truth = targets[start : start + chunk, None]  # [C, 1]
            logits = inputs @ cast_weight.T  # [C, V]
            of_truth = logits.gather(1, truth).float()
            # Two steps, cast and softmax: on a CPU they take half as long as softmax(dtype=...).
            share = logits.float().softmax(dim=1)
            nll_of_truth = -share.gather(1, truth).clamp_min(1e-38).log()
            nll += nll_of_truth.sum()
            mean = inputs.float() @ mean_weight
            log_totals_less_mean += (nll_of_truth + of_truth).sum() - mean.sum()
            if with_gradient:
                share.scatter_add_(1, truth, share.new_full(truth.shape, smoothing - 1))
                by_logits = share.to(dtype)
                by_hidden[start : start + chunk] = by_logits @ cast_weight
                by_weight += by_logits.T @ inputs
        smoothed = (1 - smoothing) * nll + smoothing * log_totals_less_mean
        if smoothing and with_gradient:
            by_hidden -= smoothing * mean_weight
            by_weight -= hidden.float().sum(dim=0) * (smoothing / vocab_size)
        ctx.save_for_backward(by_hidden.to(hidden.dtype), by_weight)
        ctx.mark_non_differentiable(nll)
        return smoothed, nll

    @staticmethod
    def backward(ctx: Any, *by_outputs: Tensor) -> tuple[Tensor | None, ...]:
        by_hidden, by_weight = ctx.saved_tensors
        scale = by_outputs[0]
        return by_hidden * scale.to(by_hidden.dtype), by_weight * scale, None, None, None, None
