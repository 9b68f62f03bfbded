"""Large matrices in bf16 for translation with PyTorch, and in int8 for storage.

int8 products run in ONNX Runtime (`nmt.model.onnx_forms`). Small matrices stay fp32: converting
their inputs costs what the product saves.

Shapes: R rows, I inputs, O outputs.
"""

import torch
from torch import Tensor, nn

from nmt.config.decoding import Precision
from nmt.model.lstm import LSTM, cell
from nmt.model.seq2seq import Seq2Seq

MIN_WEIGHTS = 1 << 15
"""Smallest matrix that is converted, in weights: 128 x 256."""
_INT8_MAX = 127


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


class Bf16LSTM(LSTM):
    """Trained layer that runs in bf16, with fp32 states."""

    def __init__(self, trained: LSTM) -> None:
        nn.Module.__init__(self)  # LSTM.__init__ would draw new weights
        self.hidden_size = trained.hidden_size
        self.weight_dropout = 0.0
        self.weight_ih, self.weight_hh = trained.weight_ih, trained.weight_hh
        self.bias = trained.bias
        self.register_buffer("bias_hh", trained.bias_hh, persistent=False)
        self.from_input = Bf16Linear(trained.weight_ih, trained.bias)
        self.from_hidden = Bf16Linear(trained.weight_hh, None)

    def forward(self, x: Tensor, start: tuple[Tensor, Tensor] | None = None) -> Tensor:
        """Run over whole sequences, [B, T, I] to [B, T, H], fp32."""
        with torch.autocast(x.device.type, torch.bfloat16):
            return super().forward(x, start).float()

    def step(self, x: Tensor, state: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
        """Run one position: `x`, [B, I], and states before and after it, each [B, H]."""
        h, c = state
        return cell(self.from_input(x) + self.from_hidden(h), c)


def quantise_model(model: Seq2Seq, precision: Precision) -> Seq2Seq:
    """Convert the large matrix products of a model in place; it cannot be trained afterwards.

    Args:
        model: model to convert.
        precision: fp32 or bf16.
    """
    assert precision != "int8"
    if precision == "fp32":
        return model
    # Lists: modules are replaced while the tree is walked.
    for parent in list(model.modules()):
        for name, child in list(parent.named_children()):
            # Exact type: a Bf16LSTM is converted already.
            if type(child) is LSTM:
                setattr(parent, name, Bf16LSTM(child))
            elif isinstance(child, nn.Linear) and child.weight.numel() >= MIN_WEIGHTS:
                setattr(parent, name, Bf16Linear(child.weight, child.bias))
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
