"""LSTM layers (Hochreiter & Schmidhuber 1997) with the forget gate of Gers et al. 2000.

A layer is one fused call over the whole sequence: cuDNN on GPU, oneDNN on CPU. Sequences are
padded, never packed: PackedSequence leaves the fused path on CPU and costs 1.2 to 2 times as much.
A forward layer never reads padding before real tokens. Nor does a backward layer, because its rows
are reversed within their length.

Shapes: B sentences, T positions, I input size, H state size.
"""

from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.overrides import handle_torch_function, has_torch_function_unary

from nmt.config.experiment import ModelConfig
from nmt.model.flops import matmul_flops
from nmt.model.layers import drop


class Gates(NamedTuple):
    """Gate activations of one step, each [B, H]."""

    input: Tensor
    """Share of the candidate that enters the cell state, 0 to 1."""
    forget: Tensor
    """Share of the cell state that is kept, 0 to 1."""
    candidate: Tensor
    """Candidate cell state, -1 to 1."""
    output: Tensor
    """Share of the cell state that enters the hidden state, 0 to 1."""


class LSTM(nn.Module):
    """One unidirectional layer.

    cuDNN adds two biases, whose gradients are equal. One is trained here and the other is a
    constant 0, so that clipping and weight decay count it once. The forget gate bias starts at 1
    (Gers et al. 2000; Jozefowicz et al. 2015), recurrent weights start orthogonal (Saxe et al.
    2014).

    Args:
        input_size: I.
        hidden_size: H.
        weight_dropout: share of recurrent weights dropped in training, drawn anew in each call
            (Merity et al. 2018, section 2).
    """

    bias_hh: Tensor

    def __init__(self, input_size: int, hidden_size: int, weight_dropout: float = 0.0) -> None:
        super().__init__()
        self.hidden_size = hidden_size
        self.weight_dropout = weight_dropout
        self.weight_ih = nn.Parameter(torch.empty(4 * hidden_size, input_size))
        self.weight_hh = nn.Parameter(torch.empty(4 * hidden_size, hidden_size))
        self.bias = nn.Parameter(torch.zeros(4 * hidden_size))
        self.register_buffer("bias_hh", torch.zeros(4 * hidden_size), persistent=False)
        # Gate by gate: both initialisations depend on the shape of a matrix.
        for part in self.weight_ih.chunk(4):
            nn.init.xavier_uniform_(part)
        for part in self.weight_hh.chunk(4):
            nn.init.orthogonal_(part)
        with torch.no_grad():
            self.bias[hidden_size : 2 * hidden_size] = 1

    def set_dropout(self, config: ModelConfig) -> None:
        """Take the dropout rates of `config`."""
        self.weight_dropout = config.weight_dropout

    def flops(self) -> int:
        """Return the floating-point operations per position of a forward pass."""
        return matmul_flops(self.weight_ih, self.weight_hh)

    def forward(self, x: Tensor, start: tuple[Tensor, Tensor] | None = None) -> Tensor:
        """Run over whole sequences.

        Args:
            x: inputs, [B, T, I].
            start: initial hidden and cell state, each [B, H]; None: zeros.

        Returns:
            Hidden states, [B, T, H], in the dtype of autocast where it is enabled, else of `x`.
        """
        # An export records the layer as one operator (`nmt.model.onnx_graph`).
        if has_torch_function_unary(x):
            recorded: Tensor = handle_torch_function(LSTM.forward, (x,), self, x, start)
            return recorded
        device = x.device.type
        wanted = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else x.dtype
        # oneDNN has no fp16 LSTM with a backward pass.
        is_missing = device == "cpu" and wanted == torch.float16
        dtype = torch.float32 if is_missing else wanted
        # CUDA autocast would run cuDNN LSTMs in fp16 without loss scaling and flatten the weights
        # in each call: cast explicitly with autocast off. One flat cast keeps the weights in the
        # single chunk of memory that cuDNN requires.
        with torch.autocast(device, enabled=False):
            weights: tuple[Tensor, ...]
            # Dropped before the fused call, so the mask is the same at all positions.
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
        """Run one position, without dropout.

        Args:
            x: input, [B, I].
            state: hidden and cell state before it, each [B, H].

        Returns:
            Hidden and cell state after it, each [B, H], fp32.
        """
        if has_torch_function_unary(x):
            recorded: tuple[Tensor, Tensor] = handle_torch_function(LSTM.step, (x,), self, x, state)
            return recorded
        # Not the fused call: it reorders the weights in each call, which costs 14 times as much.
        h, c = state
        gates = nn.functional.linear(x, self.weight_ih, self.bias)
        gates = gates + nn.functional.linear(h.to(x.dtype), self.weight_hh)
        return cell(gates, c)

    def step_with_gates(
        self, x: Tensor, state: tuple[Tensor, Tensor]
    ) -> tuple[tuple[Tensor, Tensor], Gates]:
        """Run one position gate by gate, as in the textbook.

        Reference implementation for tests of the fused call, and the source of gate activations.
        Arguments as of `step`; returns the state after the position and its gates.
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
    """Return hidden and cell state, each [B, H], fp32, of raw gates, [B, 4H], and the last cell."""
    i, f, g, o = gates.float().chunk(4, dim=-1)
    c = f.sigmoid() * c + i.sigmoid() * g.tanh()
    return o.sigmoid() * c.tanh(), c


class BiLSTM(nn.Module):
    """Two unidirectional layers; one reads each row from its last real token to its first."""

    def __init__(self, input_size: int, hidden_size: int, weight_dropout: float = 0.0) -> None:
        super().__init__()
        self.forwards = LSTM(input_size, hidden_size, weight_dropout)
        self.backwards = LSTM(input_size, hidden_size, weight_dropout)

    def set_dropout(self, config: ModelConfig) -> None:
        """Take the dropout rates of `config`."""
        self.forwards.set_dropout(config)
        self.backwards.set_dropout(config)

    def flops(self) -> int:
        """Return the floating-point operations per position of a forward pass."""
        return self.forwards.flops() + self.backwards.flops()

    def forward(self, x: Tensor, reversal: Tensor) -> Tensor:
        """Run over whole sequences in both directions.

        Args:
            x: inputs, [B, T, I].
            reversal: from `reversal_of`, [B, T].

        Returns:
            Hidden states of both directions, [B, T, 2H]; undefined at padding.
        """
        if has_torch_function_unary(x):
            recorded: Tensor = handle_torch_function(BiLSTM.forward, (x,), self, x, reversal)
            return recorded
        ahead = self.forwards(x)
        back = _gather(self.backwards(_gather(x, reversal)), reversal)
        return torch.cat([ahead, back], dim=-1)


def reversal_of(lengths: Tensor, num_positions: int) -> Tensor:
    """Return the indices that reverse each row within its length, [B, T]; padding stays in place.

    Args:
        lengths: real positions of each row, [B].
        num_positions: T.
    """
    if has_torch_function_unary(lengths):
        recorded: Tensor = handle_torch_function(reversal_of, (lengths,), lengths, num_positions)
        return recorded
    positions = torch.arange(num_positions, device=lengths.device)[None]
    return torch.where(positions < lengths[:, None], lengths[:, None] - 1 - positions, positions)


def _gather(x: Tensor, positions: Tensor) -> Tensor:
    """Reorder the positions of [B, T, D] by indices, [B, T]; a reversal is its own inverse."""
    # index_select over a flat view: torch.gather needs its index expanded to D columns.
    flat = positions + torch.arange(x.size(0), device=x.device)[:, None] * x.size(1)
    return x.reshape(-1, x.size(-1)).index_select(0, flat.view(-1)).view_as(x)
