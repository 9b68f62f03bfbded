"""Distillation: the loss that keeps the distribution of another model.

The teacher (Hinton et al. 2015) is the initial model in fine-tuning (Li & Hoiem 2016; for
translation, Dakwale & Monz 2017). With its distribution t, the loss of a token is KL(t||p), and
d KL / dz = p - t for the logits z of p.

Shapes: N target tokens, D width, V vocabulary, C tokens of a chunk.
"""

from typing import Any

import torch
from torch import Tensor, nn

from nmt.batching.batch import Batch
from nmt.model.matmul import multiply_rows, sum_outer_products
from nmt.model.seq2seq import Seq2Seq
from nmt.training.loss import LossSums, scaled_gradients, tokens_of_chunk


def distillation_loss(
    forward: nn.Module, model: Seq2Seq, teacher: Seq2Seq, batch: Batch, scale: float,
    dtype: torch.dtype,
) -> LossSums:  # fmt: skip
    """Run two models over a batch and sum the divergence of their distributions of target tokens.

    Args:
        forward, model, batch, dtype: as in `nmt.training.loss.compute_loss`.
        teacher: model whose distribution is kept, in evaluation mode.
        scale: factor of the divergence.
    """
    autocast = torch.autocast(batch.src.device.type, dtype, enabled=dtype != torch.float32)
    inputs = batch.src, batch.src_lengths, batch.tgt_in, batch.real
    with torch.no_grad(), autocast:
        kept: Tensor = teacher(*inputs)
    with autocast:
        hidden: Tensor = forward(*inputs)
    with_gradient = torch.is_grad_enabled()
    divergence, nll = _ChunkedDistillation.apply(  # type: ignore[no-untyped-call]
        hidden, model.output_weight, kept, teacher.output_weight, batch.tgt_out, dtype,
        with_gradient,
    )  # fmt: skip
    return LossSums(scale * divergence, nll)


class _ChunkedDistillation(torch.autograd.Function):
    """Function of `distillation_loss`, computed as in `nmt.training.loss`."""

    @staticmethod
    def forward(
        ctx: Any,
        hidden: Tensor,
        weight: Tensor,
        kept: Tensor,
        kept_weight: Tensor,
        targets: Tensor,
        dtype: torch.dtype,
        with_gradient: bool,
    ) -> tuple[Tensor, Tensor]:
        chunk = tokens_of_chunk(hidden.device.type, 2 * weight.size(0), hidden.size(1))
        cast_weight, cast_kept = weight.to(dtype), kept_weight.to(dtype)
        divergence, nll = hidden.new_zeros(2, dtype=torch.float32).unbind()
        grad_hidden = torch.empty_like(hidden, dtype=torch.float32)
        grad_weight = torch.zeros_like(weight)
        for start in range(0, hidden.size(0), chunk):
            inputs = hidden[start : start + chunk].to(dtype)  # [C, D]
            logits = multiply_rows(inputs, cast_weight.T, chunk).float()  # [C, V]
            log_probs = logits.log_softmax(dim=1)
            kept_inputs = kept[start : start + chunk].to(dtype)
            kept_logits = multiply_rows(kept_inputs, cast_kept.T, chunk).float()
            log_kept = kept_logits.log_softmax(dim=1)
            probs, kept_probs = log_probs.exp(), log_kept.exp()
            nll -= log_probs.gather(1, targets[start : start + chunk, None]).sum()
            divergence += (kept_probs * log_kept.sub_(log_probs)).sum()
            if with_gradient:
                grad_logits = probs.sub_(kept_probs).to(dtype)
                grad_inputs = multiply_rows(grad_logits, cast_weight, chunk, step=2)
                grad_hidden[start : start + chunk] = grad_inputs
                grad_weight += sum_outer_products(grad_logits, inputs, chunk)
        ctx.save_for_backward(grad_hidden.to(hidden.dtype), grad_weight)
        ctx.mark_non_differentiable(nll)
        return divergence, nll

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor | None, ...]:
        return *scaled_gradients(ctx, grad_outputs[0]), *(None,) * 5
