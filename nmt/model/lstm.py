"""The LSTM layers, and the cell written out.

Hochreiter & Schmidhuber 1997, with the forget gate of Gers et al. 2000. A layer is one fused call
over the whole sequence (cuDNN on a GPU, oneDNN on a CPU). Sequences are padded, never packed:
packing leaves the fused path on a CPU and costs 1.2 to 2 times as much. A forward layer never sees
padding before real tokens; a backward layer is fed rows reversed within their length, so it does
not either.
Shapes: B sentences, T positions, I input size, H state size.
"""

from typing import NamedTuple

import torch
from torch import Tensor, nn

from nmt.model.layers import drop


class Gates(NamedTuple):
    """One step of the cell, taken apart; each [B, H]."""

    input: Tensor
    """How much of the candidate enters the memory cell, 0 to 1."""
    forget: Tensor
    """How much of the memory cell stays, 0 to 1."""
    candidate: Tensor
    """What could enter, -1 to 1."""
    output: Tensor
    """How much of the memory cell is shown, 0 to 1."""


class LSTM(nn.Module):
    """One layer, one direction.

    cuDNN adds two biases with equal gradients: one is trained here, the other is a constant 0, so
    that clipping and weight decay count it once. The forget gate's bias starts at 1 (Gers et al.
    2000; Jozefowicz et al. 2015), the recurrent matrices start orthogonal (Saxe et al. 2014).
    """

    bias_hh: Tensor

    def __init__(self, input_size: int, hidden_size: int, weight_dropout: float = 0.0) -> None:
        """Drop `weight_dropout` of the recurrent weights, others in each call, while training."""
        super().__init__()
        self.hidden_size = hidden_size
        self.weight_dropout = weight_dropout
        self.weight_ih = nn.Parameter(torch.empty(4 * hidden_size, input_size))
        self.weight_hh = nn.Parameter(torch.empty(4 * hidden_size, hidden_size))
        self.bias = nn.Parameter(torch.zeros(4 * hidden_size))
        self.register_buffer("bias_hh", torch.zeros(4 * hidden_size), persistent=False)
        for part in self.weight_ih.chunk(4):
            nn.init.xavier_uniform_(part)
        for part in self.weight_hh.chunk(4):
            nn.init.orthogonal_(part)
        with torch.no_grad():
            self.bias[hidden_size : 2 * hidden_size] = 1

    def forward(self, x: Tensor, start: tuple[Tensor, Tensor] | None = None) -> Tensor:
        """Run over whole sequences.

        Args:
            x: inputs, [B, T, I].
            start: first hidden and cell state, each [B, H]; None: zeros.

        Returns:
            Hidden states, [B, T, H], in the compute type: that which autocast asks for.
        """
        device = x.device.type
        wanted = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else x.dtype
        # oneDNN has no fp16 layer that can be trained.
        is_missing = device == "cpu" and wanted == torch.float16
        dtype = torch.float32 if is_missing else wanted
        # CUDA autocast would run cuDNN LSTMs in fp16 without a scaler, and flatten the weights anew
        # each call: cast here, with autocast off. One flat cast keeps the weights in the single
        # chunk that cuDNN wants.
        with torch.autocast(device, enabled=False):
            weights: tuple[Tensor, ...]
            # Before the fused call, so for all positions alike (Merity et al. 2018, section 2).
            weight_hh = drop(self.weight_hh, self.weight_dropout, self.training)
            weights = (self.weight_ih, weight_hh, self.bias, self.bias_hh)
            if dtype != self.weight_ih.dtype or device == "cuda":
                flat = torch.cat([weight.reshape(-1) for weight in weights]).to(dtype)
                chunks = torch.split(flat, [weight.numel() for weight in weights])
                weights = tuple(c.view(w.shape) for c, w in zip(chunks, weights, strict=True))
            if start is None:
                zeros = x.new_zeros(1, x.size(0), self.hidden_size, dtype=dtype)
                start = (zeros, zeros)
            else:
                start = (start[0].to(dtype)[None], start[1].to(dtype)[None])
            hidden: Tensor
            hidden, _, _ = torch._VF.lstm(
                x.to(dtype), start, weights, True, 1, 0.0, self.training, False, True
            )
        assert hidden.dtype == dtype
        return hidden.to(wanted)

    def step(self, x: Tensor, state: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
        """One position: x [B, I] and the state before it, each [B, H], to the state after it.

        Never a whole-layer call: that reorders the weights for each position, 14 times the cost.
        """
        h, c = state
        gates = nn.functional.linear(x, self.weight_ih, self.bias)
        gates = gates + nn.functional.linear(h.to(x.dtype), self.weight_hh)
        return cell(gates, c)

    def step_by_hand(
        self, x: Tensor, state: tuple[Tensor, Tensor]
    ) -> tuple[tuple[Tensor, Tensor], Gates]:
        """The cell as the textbook has it, gate by gate.

        It is the oracle of the fused call, and what shows the gates.
        """
        h, c = state
        of_input = dict(zip("ifgo", self.weight_ih.chunk(4), strict=True))
        of_hidden = dict(zip("ifgo", self.weight_hh.chunk(4), strict=True))
        bias = dict(zip("ifgo", self.bias.chunk(4), strict=True))
        raw = {gate: x @ of_input[gate].T + h @ of_hidden[gate].T + bias[gate] for gate in "ifgo"}
        gates = Gates(
            input=raw["i"].sigmoid(),
            forget=raw["f"].sigmoid(),
            candidate=raw["g"].tanh(),
            output=raw["o"].sigmoid(),
        )
        c = gates.forget * c + gates.input * gates.candidate
        h = gates.output * c.tanh()
        return (h, c), gates


def cell(gates: Tensor, c: Tensor) -> tuple[Tensor, Tensor]:
    """Hidden and cell state, each [B, H], fp32, after a step with these raw gates, [B, 4H]."""
    i, f, g, o = gates.float().chunk(4, dim=-1)
    c = f.sigmoid() * c + i.sigmoid() * g.tanh()
    return o.sigmoid() * c.tanh(), c


class BiLSTM(nn.Module):
    """Two one-way layers, one of which reads each row from its last real token to its first."""

    def __init__(self, input_size: int, hidden_size: int, weight_dropout: float = 0.0) -> None:
        super().__init__()
        self.forwards = LSTM(input_size, hidden_size, weight_dropout)
        self.backwards = LSTM(input_size, hidden_size, weight_dropout)

    def forward(self, x: Tensor, reversal: Tensor) -> Tensor:
        """Read both ways.

        Args:
            x: inputs, [B, T, I].
            reversal: from `reversal_of`, [B, T].

        Returns:
            Both directions side by side, [B, T, 2H]; what stands in padding means nothing.
        """
        ahead = self.forwards(x)
        back = _gather(self.backwards(_gather(x, reversal)), reversal)
        return torch.cat([ahead, back], dim=-1)


def reversal_of(lengths: Tensor, num_positions: int) -> Tensor:
    """Where each position lands when rows are reversed within their length, [B, T].

    Padding stays in place.
    """
    positions = torch.arange(num_positions, device=lengths.device)[None]
    return torch.where(positions < lengths[:, None], lengths[:, None] - 1 - positions, positions)


def _gather(x: Tensor, positions: Tensor) -> Tensor:
    """Rows of [B, T, D] at [B, T] positions: its own inverse for a reversal."""
    # index_select over a flat view: gather would want its index widened to D columns.
    flat = positions + torch.arange(x.size(0), device=x.device)[:, None] * x.size(1)
    return x.reshape(-1, x.size(-1)).index_select(0, flat.view(-1)).view_as(x)
