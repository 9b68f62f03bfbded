"""Lower precision for translation: large matrix products in bf16 or int8, all else in fp32.

int8 is dynamic quantisation. Each row of a weight matrix has a scale, set once; each row of the
input has a scale, set in each call. Sums of int8 products are exact, so a row gets the same result
whatever the other rows are, and translation is batch-invariant in int8 too.
`torch._int_mm` on plain tensors is used instead of torch.ao.quantization, which is deprecated and
has one scale per batch, with twice the error. Small matrices stay fp32: quantising their inputs
costs what the product saves.

Shapes: R rows, I inputs, O outputs.
"""

import time

import torch
from torch import Tensor, nn

from nmt.config.decoding import Precision
from nmt.model.lstm import LSTM, cell
from nmt.model.seq2seq import Seq2Seq

PRECISIONS: tuple[Precision, ...] = ("fp32", "bf16", "int8")

MIN_WEIGHTS = 1 << 15
"""Smallest matrix that is converted, in weights: 128 x 256."""
BLOCK = 1 << 19
"""Largest block of int32 sums, in values, that `Int8Linear` computes at once."""
_INT8_MAX = 127


class Int8Linear(nn.Module):
    """Linear layer with int8 weights, fp32 input and fp32 output; CPU only."""

    weight: Tensor
    scale: Tensor
    bias: Tensor | None

    def __init__(self, weight: Tensor, bias: Tensor | None) -> None:
        super().__init__()
        quantised, scale = quantise_rows(weight)
        self.register_buffer("weight", quantised)  # [O, I]
        self.register_buffer("scale", scale)  # [O]
        self.register_buffer("bias", None if bias is None else bias.detach())

    def forward(self, x: Tensor) -> Tensor:
        """Map [..., I] to [..., O]."""
        rows = x.reshape(-1, x.size(-1))
        largest = rows.abs().amax(dim=1, keepdim=True)
        scale = largest.clamp_(min=torch.finfo(rows.dtype).tiny * _INT8_MAX).div_(_INT8_MAX)
        quantised = (rows / scale).round_().to(torch.int8)
        # Few rows: as few operations as possible, each costs as much as the product.
        size = max(64, BLOCK // self.scale.size(0))
        if rows.size(0) <= size:
            out = self._rescale(torch._int_mm(quantised, self.weight.t()).float(), scale)
            return out.view(*x.shape[:-1], -1)
        # Many rows: blocks that stay in the cache. Megabytes freed in each step are returned to
        # the system and mapped again page by page, which costs more than the product.
        out = rows.new_empty(rows.size(0), self.scale.size(0))
        for start in range(0, rows.size(0), size):
            block = slice(start, start + size)
            sums = torch._int_mm(quantised[block], self.weight.t())
            self._rescale(out[block].copy_(sums), scale[block])
        return out.view(*x.shape[:-1], -1)

    def _rescale(self, sums: Tensor, scale: Tensor) -> Tensor:
        """Apply both scales and the bias to sums, [R, O], fp32, in place."""
        sums.mul_(self.scale).mul_(scale)
        return sums if self.bias is None else sums.add_(self.bias)


class Bf16Linear(nn.Module):
    """Linear layer with bf16 weights, fp32 input and fp32 output."""

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
    """Trained layer whose step runs in lower precision.

    Whole sequences remain one fused call, in bf16 if requested; oneDNN has none in int8.
    """

    def __init__(self, trained: LSTM, precision: Precision) -> None:
        nn.Module.__init__(self)  # LSTM.__init__ would draw new weights
        self.hidden_size = trained.hidden_size
        self.weight_dropout = 0.0
        self.weight_ih, self.weight_hh = trained.weight_ih, trained.weight_hh
        self.bias = trained.bias
        self.register_buffer("bias_hh", trained.bias_hh, persistent=False)
        self.is_bf16 = precision == "bf16"
        self.from_input = _make_linear(trained.weight_ih, trained.bias, precision)
        self.from_hidden = _make_linear(trained.weight_hh, None, precision)

    def forward(self, x: Tensor, start: tuple[Tensor, Tensor] | None = None) -> Tensor:
        """Run over whole sequences, [B, T, I] to [B, T, H], fp32."""
        with torch.autocast(x.device.type, torch.bfloat16, enabled=self.is_bf16):
            return super().forward(x, start).float()

    def step(self, x: Tensor, state: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
        """Run one position: `x`, [B, I], and states before and after it, each [B, H]."""
        h, c = state
        return cell(self.from_input(x) + self.from_hidden(h), c)


def quantise_model(model: Seq2Seq, precision: Precision) -> Seq2Seq:
    """Convert the large matrix products of a trained model, in place; it cannot be trained then."""
    if precision == "fp32":
        return model
    # Lists: modules are replaced while the tree is walked.
    for parent in list(model.modules()):
        for name, child in list(parent.named_children()):
            # Exact types: subclasses are converted already.
            if type(child) is LSTM:
                setattr(parent, name, QuantisedLSTM(child, precision))
            elif type(child) is nn.Linear and child.weight.numel() >= MIN_WEIGHTS:
                setattr(parent, name, _make_linear(child.weight, child.bias, precision))
    return model.eval()


def quantise_rows(weight: Tensor) -> tuple[Tensor, Tensor]:
    """Return a matrix in int8, [O, I], and the scale of each row, [O], fp32.

    Quantising the result of `dequantise_rows` again returns the same int8 values.
    """
    weight = weight.detach().float()
    scale = weight.abs().amax(dim=1) / _INT8_MAX
    # A row of zeros has scale 0 and must not be divided by it.
    divisor = scale.clamp(min=torch.finfo(torch.float32).tiny)[:, None]
    quantised = (weight / divisor).round().clamp(-_INT8_MAX, _INT8_MAX).to(torch.int8)
    return quantised, scale


def dequantise_rows(quantised: Tensor, scale: Tensor) -> Tensor:
    """Return the fp32 matrix, [O, I], of int8 values, [O, I], and row scales, [O]."""
    return quantised.float() * scale[:, None]


def bf16_gain(size: int = 512, times: int = 8) -> float:
    """Measure the speed of a bf16 matrix product on this CPU as a multiple of fp32.

    About 2 on an AMD EPYC with AVX-512, 0.5 on an Intel Xeon without usable AMX.
    """
    best: dict[torch.dtype, float] = {}
    matrices = [torch.ones(size, size, dtype=dtype) for dtype in (torch.float32, torch.bfloat16)]
    for matrix in matrices * times:
        # CPU time of this thread: other processes may share the core.
        start_s = time.thread_time()
        _ = matrix @ matrix
        elapsed_s = time.thread_time() - start_s
        best[matrix.dtype] = min(elapsed_s, best.get(matrix.dtype, elapsed_s))
    return best[torch.float32] / best[torch.bfloat16]


def _make_linear(weight: Tensor, bias: Tensor | None, precision: Precision) -> nn.Module:
    return Int8Linear(weight, bias) if precision == "int8" else Bf16Linear(weight, bias)
