"""Decoders: embedded target tokens and encoder outputs to one vector per target position.

`forward` runs over whole targets (teacher forcing), `step` over one token of each hypothesis
(search). Both compute the same.

Shapes: B sentences, S source positions, T target positions, R = B * beam hypotheses, D width.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor, nn

from nmt.config.experiment import ModelConfig
from nmt.model.attention import Attention, make_attention
from nmt.model.flops import Flops
from nmt.model.layers import FeedForward, drop
from nmt.model.lstm import LSTM


@dataclass(frozen=True)
class Memory:
    """Encoded sources as the decoder reads them."""

    keys: tuple[Tensor, ...]
    """Attention keys of each attention layer, sentences first."""
    values: tuple[Tensor, ...]
    """Attention values of each attention layer, sentences first."""
    src_lengths: Tensor
    """Real positions of each source, [B]."""
    is_pad: Tensor
    """True at padding, [B, S]."""

    def select(self, sentences: Tensor) -> "Memory":
        """Return the sentences with these indices, [B'], in this order.

        Padding is not trimmed: sums over the source depend on its padded length in their last
        bits, and a translation must not depend on its neighbours.
        """
        return Memory(
            tuple(keys.index_select(0, sentences) for keys in self.keys),
            tuple(values.index_select(0, sentences) for values in self.values),
            self.src_lengths.index_select(0, sentences),
            self.is_pad.index_select(0, sentences),
        )


@dataclass(frozen=True)
class DecoderState:
    """Recurrent state of all LSTM layers after the tokens so far."""

    hidden: tuple[Tensor, ...]
    """Hidden state of each layer, [R, D], fp32."""
    cell: tuple[Tensor, ...]
    """Cell state of each layer, [R, D], fp32."""

    @classmethod
    def zeros(
        cls, num_layers: int, num_rows: int, width: int, device: torch.device
    ) -> "DecoderState":
        """Return the state before the first token."""
        # One tensor for all: states are replaced in each step, never changed in place.
        zeros = (torch.zeros(num_rows, width, device=device),) * num_layers
        return cls(zeros, zeros)

    def select(self, rows: Tensor) -> "DecoderState":
        """Return the rows with these indices, [R'], in this order."""
        return DecoderState(
            tuple(h.index_select(0, rows) for h in self.hidden),
            tuple(c.index_select(0, rows) for c in self.cell),
        )


class DecoderBlock(nn.Module):
    """x + Drop(LSTM(LN(x))), x + Drop(Attention(LN(x), memory)), x + Drop(FFN(LN(x))).

    After Domhan 2018.
    """

    def __init__(self, config: ModelConfig, memory_width: int) -> None:
        super().__init__()
        width = config.width
        self.dropout = config.dropout
        self.is_locked = config.locked_dropout
        self.lstm_norm = nn.LayerNorm(width)
        self.lstm = LSTM(width, width, config.weight_dropout)
        self.attention_norm = nn.LayerNorm(width)
        self.attention = make_attention(config, memory_width)
        self.ffn_norm = nn.LayerNorm(width) if config.ffn_width else None
        self.ffn = FeedForward(config) if config.ffn_width else None

    def set_dropout(self, config: ModelConfig) -> None:
        """Take the dropout rates of `config`."""
        self.dropout = config.dropout
        self.lstm.set_dropout(config)
        self.attention.set_dropout(config)

    def flops(self) -> Flops:
        """Return the floating-point operations of a forward pass."""
        per_tgt = self.lstm.flops() + (self.ffn.flops() if self.ffn is not None else 0)
        return self.attention.flops() + Flops(per_tgt=per_tgt)

    def forward(self, x: Tensor, keys: Tensor, values: Tensor, is_pad: Tensor) -> Tensor:
        """Map [B, T, D] to [B, T, D]; `keys`, `values` and `is_pad` as of `Attention.forward`."""
        x = x + self._drop(self.lstm(self.lstm_norm(x)))
        x = x + self._drop(self.attention(self.attention_norm(x), keys, values, is_pad))
        if self.ffn is not None and self.ffn_norm is not None:
            x = x + self._drop(self.ffn(self.ffn_norm(x)))
        return x

    def step(
        self, x: Tensor, state: tuple[Tensor, Tensor], keys: Tensor, values: Tensor, is_pad: Tensor
    ) -> tuple[Tensor, tuple[Tensor, Tensor], Tensor]:
        """Map one position of each hypothesis, [R, D], to [R, D].

        Also returns the LSTM state after it and the attention weights, [R, S].
        """
        # As forward, without dropout: search runs in evaluation mode only.
        state = self.lstm.step(self.lstm_norm(x), state)
        x = x + state[0]
        context, weights = self.attention.step(self.attention_norm(x), keys, values, is_pad)
        x = x + context
        if self.ffn is not None and self.ffn_norm is not None:
            x = x + self.ffn(self.ffn_norm(x))
        return x, state, weights

    def _drop(self, x: Tensor) -> Tensor:
        return drop(x, self.dropout, self.training, self.is_locked)


class ResidualDecoder(nn.Module):
    """Pre-norm residual blocks with attention in each, and a final layer norm."""

    def __init__(self, config: ModelConfig, memory_width: int) -> None:
        super().__init__()
        self.width = config.width
        self.num_lstms = config.decoder_layers
        blocks = nn.ModuleList(
            DecoderBlock(config, memory_width) for _ in range(config.decoder_layers)
        )
        self.blocks = cast(Sequence[DecoderBlock], blocks)  # ModuleList has no type of its items
        self.norm = nn.LayerNorm(config.width)

    @property
    def attentions(self) -> list[Attention]:
        """Attention layers, first to last."""
        return [block.attention for block in self.blocks]

    @property
    def state_size(self) -> int:
        """Values of the recurrent state of a hypothesis."""
        return 2 * self.num_lstms * self.width

    def set_dropout(self, config: ModelConfig) -> None:
        """Take the dropout rates of `config`."""
        for block in self.blocks:
            block.set_dropout(config)

    def flops(self) -> Flops:
        """Return the floating-point operations of a forward pass."""
        return sum((block.flops() for block in self.blocks), Flops())

    def forward(self, x: Tensor, memory: Memory) -> Tensor:
        """Map embedded target inputs, [B, T, D], to inputs of the output layer, [B, T, D]."""
        for block, keys, values in zip(self.blocks, memory.keys, memory.values, strict=True):
            x = block(x, keys, values, memory.is_pad)
        out: Tensor = self.norm(x)
        return out

    def step(
        self, x: Tensor, state: DecoderState, memory: Memory
    ) -> tuple[Tensor, DecoderState, Tensor]:
        """Map one embedded token of each hypothesis, [R, D], to an output layer input, [R, D].

        Also returns the state after it and the attention weights of the last block, [R, S].
        """
        states: list[tuple[Tensor, Tensor]] = []
        weights = x  # replaced by the first block: there is at least one
        for depth, block in enumerate(self.blocks):
            before = (state.hidden[depth], state.cell[depth])
            x, after, weights = block.step(
                x, before, memory.keys[depth], memory.values[depth], memory.is_pad
            )
            states.append(after)
        hidden, cell = zip(*states, strict=True)
        return self.norm(x), DecoderState(hidden, cell), weights


class GnmtDecoder(nn.Module):
    """LSTM layers; attention of the first is an input of every later one at the same position.

    GNMT v2 as published by NVIDIA (DeepLearningExamples). Unlike in Wu et al. 2016 no layer waits
    for the attention of the previous position, so each is one call over the whole target.
    Residual connections from the third layer.
    """

    def __init__(self, config: ModelConfig, memory_width: int) -> None:
        super().__init__()
        width = config.width
        self.width = width
        self.num_lstms = config.decoder_layers
        self.dropout = config.dropout
        self.is_locked = config.locked_dropout
        self.first = LSTM(width, width, config.weight_dropout)
        self.attention = make_attention(config, memory_width)
        rest = nn.ModuleList(
            LSTM(width + memory_width, width, config.weight_dropout)
            for _ in range(config.decoder_layers - 1)
        )
        self.rest = cast(Sequence[LSTM], rest)

    @property
    def attentions(self) -> list[Attention]:
        """Attention layers, first to last: one."""
        return [self.attention]

    @property
    def state_size(self) -> int:
        """Values of the recurrent state of a hypothesis."""
        return 2 * self.num_lstms * self.width

    def set_dropout(self, config: ModelConfig) -> None:
        """Take the dropout rates of `config`."""
        self.dropout = config.dropout
        self.first.set_dropout(config)
        self.attention.set_dropout(config)
        for lstm in self.rest:
            lstm.set_dropout(config)

    def flops(self) -> Flops:
        """Return the floating-point operations of a forward pass."""
        per_tgt = sum(lstm.flops() for lstm in (self.first, *self.rest))
        return self.attention.flops() + Flops(per_tgt=per_tgt)

    def forward(self, x: Tensor, memory: Memory) -> Tensor:
        """Map embedded target inputs, [B, T, D], to inputs of the output layer, [B, T, D]."""
        x = self.first(drop(x, self.dropout, self.training, self.is_locked))
        context = self.attention(x, memory.keys[0], memory.values[0], memory.is_pad)
        for depth, lstm in enumerate(self.rest):
            # Under autocast x has the dtype of the LSTM, the context that of the encoder outputs.
            joint = torch.cat([x, context.to(x.dtype)], dim=-1)
            out = lstm(drop(joint, self.dropout, self.training, self.is_locked))
            # As published, the second layer has no residual connection.
            x = out if depth == 0 else x + out
        return x

    def step(
        self, x: Tensor, state: DecoderState, memory: Memory
    ) -> tuple[Tensor, DecoderState, Tensor]:
        """Map one embedded token of each hypothesis, [R, D], to an output layer input, [R, D].

        Also returns the state after it and the attention weights, [R, S].
        """
        states = [self.first.step(x, (state.hidden[0], state.cell[0]))]
        x = states[0][0]
        context, weights = self.attention.step(x, memory.keys[0], memory.values[0], memory.is_pad)
        for depth, lstm in enumerate(self.rest, start=1):
            joint = torch.cat([x, context.to(x.dtype)], dim=-1)
            states.append(lstm.step(joint, (state.hidden[depth], state.cell[depth])))
            x = states[-1][0] if depth == 1 else x + states[-1][0]
        hidden, cell = zip(*states, strict=True)
        return x, DecoderState(hidden, cell), weights


def make_decoder(config: ModelConfig, memory_width: int) -> ResidualDecoder | GnmtDecoder:
    """Build the decoder of `config.preset` for encoder outputs of `memory_width`."""
    match config.preset:
        case "residual":
            return ResidualDecoder(config, memory_width)
        case "gnmt":
            return GnmtDecoder(config, memory_width)
