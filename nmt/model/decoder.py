"""The decoders: what was said so far, and the source, to one vector for each next token.

`forward` runs over whole targets (teacher forced), `step` over one token of each hypothesis; they
compute the same.
Shapes: B sentences, S source positions, T target positions, R = B * beam hypotheses, D width.
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from nmt.config.experiment import ModelConfig
from nmt.model.attention import AdditiveAttention, MultiHeadAttention
from nmt.model.layers import FeedForward, drop
from nmt.model.lstm import LSTM


@dataclass(frozen=True)
class Memory:
    """All that a decoder keeps of B sources."""

    keys: tuple[Tensor, ...]
    """For each attention layer, sentences first; from `remember`."""
    values: tuple[Tensor, ...]
    """As keys."""
    src_lengths: Tensor
    """Real positions of each source, [B]."""
    is_pad: Tensor
    """Which positions are not real, [B, S]."""

    def select(self, sentences: Tensor) -> "Memory":
        """These sentences, [B'], in this order, with as many positions as before (P7)."""
        return Memory(
            tuple(keys.index_select(0, sentences) for keys in self.keys),
            tuple(values.index_select(0, sentences) for values in self.values),
            self.src_lengths.index_select(0, sentences),
            self.is_pad.index_select(0, sentences),
        )


@dataclass(frozen=True)
class DecoderState:
    """Hidden and cell state of each LSTM layer after the tokens so far, each [R, D], fp32."""

    hidden: tuple[Tensor, ...]
    cell: tuple[Tensor, ...]

    @classmethod
    def zeros(
        cls, num_layers: int, num_rows: int, width: int, device: torch.device
    ) -> "DecoderState":
        """The state before the first token."""
        zeros = (torch.zeros(num_rows, width, device=device),) * num_layers
        return cls(zeros, zeros)

    def select(self, rows: Tensor) -> "DecoderState":
        """The states of these rows, [R'], in this order."""
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
        self.attention = _make_attention(config, memory_width)
        self.ffn_norm = nn.LayerNorm(width) if config.ffn_width else None
        self.ffn = FeedForward(config) if config.ffn_width else None

    def forward(self, x: Tensor, keys: Tensor, values: Tensor, is_pad: Tensor) -> Tensor:
        """Refine [B, T, D]."""
        x = x + self._drop(self.lstm(self.lstm_norm(x)))
        x = x + self._drop(self.attention(self.attention_norm(x), keys, values, is_pad))
        if self.ffn is not None and self.ffn_norm is not None:
            x = x + self._drop(self.ffn(self.ffn_norm(x)))
        return x

    def step(
        self, x: Tensor, state: tuple[Tensor, Tensor], keys: Tensor, values: Tensor, is_pad: Tensor
    ) -> tuple[Tensor, tuple[Tensor, Tensor], Tensor]:
        """Refine one position of each hypothesis, [R, D].

        Also gives the state after it and the attention, [R, S].
        """
        state = self.lstm.step(self.lstm_norm(x), state)
        x = x + state[0]
        read, weights = self.attention.step(self.attention_norm(x), keys, values, is_pad)
        x = x + read
        if self.ffn is not None and self.ffn_norm is not None:
            x = x + self.ffn(self.ffn_norm(x))
        return x, state, weights

    def _drop(self, x: Tensor) -> Tensor:
        return drop(x, self.dropout, self.training, self.is_locked)


class ResidualDecoder(nn.Module):
    """Pre-norm residual blocks, each of which reads the source, and a norm at the end."""

    def __init__(self, config: ModelConfig, memory_width: int) -> None:
        super().__init__()
        self.width = config.width
        self.num_lstms = config.decoder_layers
        self.out_width = config.width
        self.blocks = nn.ModuleList(
            DecoderBlock(config, memory_width) for _ in range(config.decoder_layers)
        )
        self.norm = nn.LayerNorm(config.width)

    def remember(self, encoded: Tensor) -> list[tuple[Tensor, Tensor]]:
        """Keys and values of encoder outputs, [B, S, D], for each attention layer."""
        remembered = []
        for block in self.blocks:
            assert isinstance(block, DecoderBlock)
            remembered.append(block.attention.remember(encoded))
        return remembered

    def forward(self, x: Tensor, memory: Memory) -> Tensor:
        """Embedded target inputs, [B, T, D], to what the output layer reads, [B, T, D]."""
        for block, keys, values in zip(self.blocks, memory.keys, memory.values, strict=True):
            x = block(x, keys, values, memory.is_pad)
        out: Tensor = self.norm(x)
        return out

    def step(
        self, x: Tensor, state: DecoderState, memory: Memory
    ) -> tuple[Tensor, DecoderState, Tensor]:
        """One embedded token of each hypothesis, [R, D], to what the output layer reads, [R, D].

        Also gives the state after it and the attention of the last block, [R, S].
        """
        states: list[tuple[Tensor, Tensor]] = []
        weights = x
        for depth, block in enumerate(self.blocks):
            assert isinstance(block, DecoderBlock)
            before = (state.hidden[depth], state.cell[depth])
            x, after, weights = block.step(
                x, before, memory.keys[depth], memory.values[depth], memory.is_pad
            )
            states.append(after)
        hidden, cell = zip(*states, strict=True)
        return self.norm(x), DecoderState(hidden, cell), weights


class GnmtDecoder(nn.Module):
    """The first layer reads the source; what it read is fed to every later layer, same position.

    GNMT v2 as NVIDIA published it (DeepLearningExamples): unlike Wu et al. 2016 no layer waits for
    the attention of an earlier position, so each is one call over the whole target. Residual
    connections from the third layer on.
    """

    def __init__(self, config: ModelConfig, memory_width: int) -> None:
        super().__init__()
        width = config.width
        self.width = width
        self.num_lstms = config.decoder_layers
        self.out_width = width
        self.dropout = config.dropout
        self.is_locked = config.locked_dropout
        self.first = LSTM(width, width, config.weight_dropout)
        self.attention = AdditiveAttention(width, memory_width, config.attention_dropout)
        self.rest = nn.ModuleList(
            LSTM(width + memory_width, width, config.weight_dropout)
            for _ in range(config.decoder_layers - 1)
        )

    def remember(self, encoded: Tensor) -> list[tuple[Tensor, Tensor]]:
        """Keys and values of encoder outputs, [B, S, D], for the one attention layer."""
        return [self.attention.remember(encoded)]

    def forward(self, x: Tensor, memory: Memory) -> Tensor:
        """Embedded target inputs, [B, T, D], to what the output layer reads, [B, T, D]."""
        x = self.first(drop(x, self.dropout, self.training, self.is_locked))
        context = self.attention(x, memory.keys[0], memory.values[0], memory.is_pad)
        for depth, lstm in enumerate(self.rest):
            joint = torch.cat([x, context.to(x.dtype)], dim=-1)
            out = lstm(drop(joint, self.dropout, self.training, self.is_locked))
            x = out if depth == 0 else x + out
        return x

    def step(
        self, x: Tensor, state: DecoderState, memory: Memory
    ) -> tuple[Tensor, DecoderState, Tensor]:
        """One embedded token of each hypothesis, [R, D], to what the output layer reads, [R, D].

        Also gives the state after it and the attention, [R, S].
        """
        states = [self.first.step(x, (state.hidden[0], state.cell[0]))]
        x = states[0][0]
        context, weights = self.attention.step(x, memory.keys[0], memory.values[0], memory.is_pad)
        for depth, lstm in enumerate(self.rest, start=1):
            assert isinstance(lstm, LSTM)
            joint = torch.cat([x, context.to(x.dtype)], dim=-1)
            states.append(lstm.step(joint, (state.hidden[depth], state.cell[depth])))
            x = states[-1][0] if depth == 1 else x + states[-1][0]
        hidden, cell = zip(*states, strict=True)
        return x, DecoderState(hidden, cell), weights


def make_decoder(config: ModelConfig, memory_width: int) -> ResidualDecoder | GnmtDecoder:
    """The decoder of the preset, for encoder outputs of `memory_width`."""
    match config.preset:
        case "residual":
            return ResidualDecoder(config, memory_width)
        case "gnmt":
            return GnmtDecoder(config, memory_width)


def _make_attention(
    config: ModelConfig, memory_width: int
) -> MultiHeadAttention | AdditiveAttention:
    match config.attention:
        case "multi_head":
            return MultiHeadAttention(
                config.width, memory_width, config.heads, config.attention_dropout
            )
        case "additive":
            return AdditiveAttention(config.width, memory_width, config.attention_dropout)
