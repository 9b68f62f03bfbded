"""Matrix products of training in bf16 on a CPU, with few shapes.

oneDNN computes them: for each shape it compiles kernels, which takes 1 to 10 ms, and keeps about
1 MB in its cache of 1,024 primitives. Micro-batches have hundreds of shapes, so operands are padded
with zeros to a few. Sums keep their order, and so the results their bits, at width 128; where
oneDNN adds up long sums in parts, their number can depend on the shape. Products in fp32 are MKL's,
which compiles nothing.

Shapes: N rows, I inputs, O outputs; G matrices of M x K and K x L.
"""

from typing import Any

import torch
from torch import Tensor, nn

ROWS_STEP = 32
"""Minimum step between padded numbers of rows."""
BATCH_STEP = 32
"""Minimum step between padded numbers of matrices."""
SIDE_STEP = 16
"""Step between padded sides of the matrices of a batch: the size of an AMX tile."""
MAX_PADDED_SIDE = 32
"""Longest side that is padded: above it padding would change the order of sums over it."""


def is_padded(x: Tensor) -> bool:
    """Return True if products of `x` are padded here: on a CPU under autocast in bf16."""
    if not torch.is_autocast_enabled("cpu") or x.device.type != "cpu":
        return False
    return torch.get_autocast_dtype("cpu") == torch.bfloat16


class Linear(nn.Linear):
    """Linear layer with padded rows."""

    def forward(self, x: Tensor) -> Tensor:
        """Map [..., I] to [..., O]."""
        if not is_padded(x):
            return super().forward(x)
        out: Tensor = _PaddedLinear.apply(x, self.weight, self.bias)  # type: ignore[no-untyped-call]
        return out


class _PaddedLinear(torch.autograd.Function):
    """Function of `Linear`."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        dtype = torch.bfloat16
        rows = x.reshape(-1, x.size(-1))
        padded = pad(rows, round_up(len(rows), ROWS_STEP), rows.size(1))
        cast_weight, cast_bias = weight.to(dtype), None if bias is None else bias.to(dtype)
        ctx.save_for_backward(padded, cast_weight)
        ctx.x_dtype, ctx.weight_dtype = x.dtype, weight.dtype
        out = nn.functional.linear(padded, cast_weight, cast_bias)
        return out[: len(rows)].view(*x.shape[:-1], -1)

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor | None, ...]:
        x, weight = ctx.saved_tensors
        grad = grad_outputs[0].reshape(-1, len(weight))
        padded = pad(grad, len(x), len(weight))
        grad_x = grad_weight = grad_bias = None
        # Frozen parameters need no gradient.
        if ctx.needs_input_grad[0]:
            grad_x = (padded @ weight)[: len(grad)].to(ctx.x_dtype)
            grad_x = grad_x.view(*grad_outputs[0].shape[:-1], -1)
        if ctx.needs_input_grad[1]:
            grad_weight = (padded.T @ x).to(ctx.weight_dtype)
        if ctx.needs_input_grad[2]:
            grad_bias = grad.sum(0).to(ctx.weight_dtype)
        return grad_x, grad_weight, grad_bias


def matmul(a: Tensor, b: Tensor) -> Tensor:
    """Multiply batches of matrices: [..., M, K] and [..., K, L] to [..., M, L]."""
    if not is_padded(a):
        return a.to(b.dtype) @ b
    out: Tensor = _PaddedMatmul.apply(a, b)  # type: ignore[no-untyped-call]
    return out


class _PaddedMatmul(torch.autograd.Function):
    """Function of `matmul`."""

    @staticmethod
    def forward(ctx: Any, a: Tensor, b: Tensor) -> Tensor:
        ctx.a_shape, ctx.a_dtype, ctx.b_shape, ctx.b_dtype = a.shape, a.dtype, b.shape, b.dtype
        num, m, k, n = padded_batch(a.shape[:-2].numel(), a.size(-2), a.size(-1), b.size(-1))
        a, b = _pad_batch(a, num, m, k), _pad_batch(b, num, k, n)
        ctx.save_for_backward(a, b)
        return _unpad_batch(a @ b, torch.Size([*ctx.a_shape[:-1], ctx.b_shape[-1]]))

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor, Tensor]:
        a, b = ctx.saved_tensors
        grad = _pad_batch(grad_outputs[0], len(a), a.size(1), b.size(2))
        grad_a = _unpad_batch(grad @ b.mT, ctx.a_shape).to(ctx.a_dtype)
        grad_b = _unpad_batch(a.mT @ grad, ctx.b_shape).to(ctx.b_dtype)
        return grad_a, grad_b


def padded_batch(num: int, m: int, k: int, n: int) -> tuple[int, int, int, int]:
    """Return G, M, K and L to which `num` products of [m, k] and [k, n] are padded."""
    up = [-(-side // SIDE_STEP) * SIDE_STEP for side in (m, k, n)]
    # Sums run over K and, in backward, over L and M; those over M keep their order.
    k, n = (side if side > MAX_PADDED_SIDE else up[at] for at, side in ((1, k), (2, n)))
    return round_up(num, BATCH_STEP), up[0], k, n


def _pad_batch(x: Tensor, num: int, rows: int, columns: int) -> Tensor:
    """Cast [..., M, K] and append zeros: [num, rows, columns]."""
    padded = x.new_zeros(num, rows, columns, dtype=torch.bfloat16)
    _unpad_batch(padded, x.shape).copy_(x)
    return padded


def _unpad_batch(padded: Tensor, shape: torch.Size) -> Tensor:
    """Return the view of [G, rows, columns] that `_pad_batch` has filled, of the given shape."""
    batch, (rows, columns) = shape[:-2], shape[-2:]
    whole = padded[: batch.numel()].view(*batch, *padded.shape[1:])
    return whole[..., :rows, :columns]


def multiply_rows(a: Tensor, b: Tensor, max_rows: int, step: int = ROWS_STEP) -> Tensor:
    """Multiply [N, K] and [K, O] to [N, O]; N is at most `max_rows`.

    Args:
        step: step between padded numbers of rows.
    """
    return (_pad_rows(a, max_rows, step) @ b)[: len(a)]


def sum_outer_products(a: Tensor, b: Tensor, max_rows: int) -> Tensor:
    """Sum the outer products of the rows of [N, I] and [N, O]: [I, O]."""
    return _pad_rows(a, max_rows, ROWS_STEP).T @ _pad_rows(b, max_rows, ROWS_STEP)


def _pad_rows(x: Tensor, max_rows: int, step: int) -> Tensor:
    if x.device.type != "cpu" or x.dtype != torch.bfloat16:
        return x
    return pad(x, min(max_rows, -(-len(x) // step) * step), x.size(1))


def round_up(number: int, step: int) -> int:
    """Return the next multiple of `step`, or of a sixteenth of the next power of two if larger."""
    step = max(step, (1 << (max(number, 1) - 1).bit_length()) // 16)
    return -(-number // step) * step


def pad(x: Tensor, *shape: int) -> Tensor:
    """Cast to bf16, and append zeros to each dimension."""
    if x.shape == shape:
        return x.to(torch.bfloat16).contiguous()
    padded = x.new_zeros(shape, dtype=torch.bfloat16)
    padded[tuple(slice(size) for size in x.shape)] = x
    return padded
