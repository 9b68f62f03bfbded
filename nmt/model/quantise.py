"""Cheaper numbers for translating: the large products in bf16 or int8, all else in fp32.

int8 is dynamic: each row of a weight matrix has a scale, set once, and each row of what it is
multiplied with has one, set as it comes. Sums of int8 products are whole numbers, so that a row
gets the same whatever other rows there are, and P7 holds for int8 too. It is `torch._int_mm` and
plain tensors, not torch.ao.quantization: that is deprecated, and has one scale for a whole batch,
twice the error. Small matrices stay fp32: to bring their inputs to int8 costs what they would save.
Shapes: R rows, I inputs, O outputs.
"""

import time
from typing import Literal

import torch
from torch import Tensor, nn

from nmt.model.lstm import LSTM, cell
from nmt.model.seq2seq import Seq2Seq

Precision = Literal["fp32", "bf16", "int8"]
PRECISIONS: tuple[Precision, ...] = ("fp32", "bf16", "int8")

MIN_WEIGHTS = 1 << 15
"""Weights from which on a matrix is made cheaper: 128 x 256."""
BLOCK = 1 << 19
"""Sums of int8 products that are made at once."""
_LARGEST = 127


class Int8Linear(nn.Module):
    """A linear map with int8 weights: fp32 in, fp32 out. For CPUs."""

    weight: Tensor
    scale: Tensor
    bias: Tensor | None

    def __init__(self, weight: Tensor, bias: Tensor | None) -> None:
        super().__init__()
        whole, scale = quantise_rows(weight)
        self.register_buffer("weight", whole)  # [O, I]
        self.register_buffer("scale", scale)  # [O]
        self.register_buffer("bias", None if bias is None else bias.detach())

    def forward(self, x: Tensor) -> Tensor:
        """Map [..., I] to [..., O]."""
        rows = x.reshape(-1, x.size(-1))
        most = rows.abs().amax(dim=1, keepdim=True)
        scale = most.clamp_(min=torch.finfo(rows.dtype).tiny * _LARGEST).div_(_LARGEST)
        whole = (rows / scale).round_().to(torch.int8)
        # For few rows in few operations: each costs as much as the product.
        size = max(64, BLOCK // self.scale.size(0))
        if rows.size(0) <= size:
            out = self._scaled(torch._int_mm(whole, self.weight.t()).float(), scale)
            return out.view(*x.shape[:-1], -1)
        # For many in blocks that stay in the cache: megabytes that are freed at each step go back
        # to the system and come again page by page, which cost more than the product.
        out = rows.new_empty(rows.size(0), self.scale.size(0))
        for start in range(0, rows.size(0), size):
            part = slice(start, start + size)
            sums = torch._int_mm(whole[part], self.weight.t())
            self._scaled(out[part].copy_(sums), scale[part])
        return out.view(*x.shape[:-1], -1)

    def _scaled(self, sums: Tensor, factors: Tensor) -> Tensor:
        """Sums, [R, O] as fp32, by both scales and with the bias, in place."""
        sums.mul_(self.scale).mul_(factors)
        return sums if self.bias is None else sums.add_(self.bias)


class Bf16Linear(nn.Module):
    """A linear map with bf16 weights: fp32 in, fp32 out."""

    weight: Tensor
    bias: Tensor | None

    def __init__(self, weight: Tensor, bias: Tensor | None) -> None:
        super().__init__()
        self.register_buffer("weight", weight.detach().bfloat16())  # [O, I]
        self.register_buffer("bias", None if bias is None else bias.detach().bfloat16())

    def forward(self, x: Tensor) -> Tensor:
        """Map [..., I] to [..., O]."""
        return nn.functional.linear(x.bfloat16(), self.weight, self.bias).float()


class QuantisedLSTM(LSTM):
    """A trained layer with cheaper products.

    Whole sequences are one fused call as before, in bf16 if that was asked for: there is none in
    int8.
    """

    def __init__(self, trained: LSTM, precision: Precision) -> None:
        nn.Module.__init__(self)  # LSTM's own would draw fresh weights
        self.hidden_size = trained.hidden_size
        self.weight_dropout = 0.0
        self.weight_ih, self.weight_hh = trained.weight_ih, trained.weight_hh
        self.bias = trained.bias
        self.register_buffer("bias_hh", trained.bias_hh, persistent=False)
        self.is_bf16 = precision == "bf16"
        self.from_input = _linear(trained.weight_ih, trained.bias, precision)
        self.from_hidden = _linear(trained.weight_hh, None, precision)

    def forward(self, x: Tensor, start: tuple[Tensor, Tensor] | None = None) -> Tensor:
        """Run over whole sequences, [B, T, I] to [B, T, H]."""
        with torch.autocast(x.device.type, torch.bfloat16, enabled=self.is_bf16):
            return super().forward(x, start).float()

    def step(self, x: Tensor, state: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
        """One position: x [B, I] and the state before it, each [B, H], to the state after it."""
        h, c = state
        return cell(self.from_input(x) + self.from_hidden(h), c)


def quantise_model(model: Seq2Seq, precision: Precision) -> Seq2Seq:
    """Make the large products of a trained model cheaper, in place; it translates, no more."""
    if precision == "fp32":
        return model
    for parent in list(model.modules()):
        for name, child in list(parent.named_children()):
            if type(child) is LSTM:
                setattr(parent, name, QuantisedLSTM(child, precision))
            elif type(child) is nn.Linear and child.weight.numel() >= MIN_WEIGHTS:
                setattr(parent, name, _linear(child.weight, child.bias, precision))
    return model.eval()


def bf16_gain(size: int = 512, times: int = 8) -> float:
    """How many times as fast as in fp32 this machine's CPU makes a matrix product in bf16.

    About 2 on an AMD EPYC with AVX-512, a half on an Intel Xeon whose AMX is not to be had.
    """
    best: dict[torch.dtype, float] = {}
    matrices = [torch.ones(size, size, dtype=dtype) for dtype in (torch.float32, torch.bfloat16)]
    for matrix in matrices * times:
        # Time on the processor: other processes may be about.
        began = time.thread_time()
        _ = matrix @ matrix
        took = time.thread_time() - began
        best[matrix.dtype] = min(took, best.get(matrix.dtype, took))
    return best[torch.float32] / best[torch.bfloat16]


def quantise_rows(weight: Tensor) -> tuple[Tensor, Tensor]:
    """A matrix in int8, [O, I], and what each of its rows is to be multiplied with, [O], fp32.

    What `restore` makes of it is quantised to the same again.
    """
    weight = weight.detach().float()
    scale = weight.abs().amax(dim=1) / _LARGEST
    divisor = scale.clamp(min=torch.finfo(torch.float32).tiny)[:, None]
    return (weight / divisor).round().clamp(-_LARGEST, _LARGEST).to(torch.int8), scale


def restore(whole: Tensor, scale: Tensor) -> Tensor:
    """The matrix that `quantise` has rounded, fp32."""
    return whole.float() * scale[:, None]


def _linear(weight: Tensor, bias: Tensor | None, precision: Precision) -> nn.Module:
    return Int8Linear(weight, bias) if precision == "int8" else Bf16Linear(weight, bias)
