"""Encoders: embedded source tokens to one vector per position.

Shapes: B sentences, S source positions, D width.
"""

from collections.abc import Sequence
from typing import cast

from torch import Tensor, nn

from nmt.config.experiment import ModelConfig
from nmt.model.flops import Flops
from nmt.model.layers import FeedForward, drop
from nmt.model.lstm import LSTM, BiLSTM, reversal_of


class EncoderBlock(nn.Module):
    """x + Drop(BiLSTM(LN(x))), then x + Drop(FFN(LN(x))) (Domhan 2018, here with LSTMs)."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.dropout = config.dropout
        self.is_locked = config.locked_dropout
        self.lstm_norm = nn.LayerNorm(config.width)
        self.lstm = BiLSTM(config.width, config.width // 2, config.weight_dropout)
        self.ffn_norm = nn.LayerNorm(config.width) if config.ffn_width else None
        self.ffn = FeedForward(config) if config.ffn_width else None

    def set_dropout(self, config: ModelConfig) -> None:
        """Take the dropout rates of `config`."""
        self.dropout = config.dropout
        self.lstm.set_dropout(config)

    def flops(self) -> Flops:
        """Return the floating-point operations of a forward pass."""
        return Flops(per_src=self.lstm.flops() + (self.ffn.flops() if self.ffn is not None else 0))

    def forward(self, x: Tensor, reversal: Tensor) -> Tensor:
        """Map [B, S, D] to [B, S, D]; `reversal`, [B, S], is from `reversal_of`."""
        x = x + self._drop(self.lstm(self.lstm_norm(x), reversal))
        if self.ffn is not None and self.ffn_norm is not None:
            x = x + self._drop(self.ffn(self.ffn_norm(x)))
        return x

    def _drop(self, x: Tensor) -> Tensor:
        return drop(x, self.dropout, self.training, self.is_locked)


class ResidualEncoder(nn.Module):
    """Pre-norm residual blocks and a final layer norm."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.out_width = config.width
        blocks = nn.ModuleList(EncoderBlock(config) for _ in range(config.encoder_layers))
        self.blocks = cast(Sequence[EncoderBlock], blocks)  # ModuleList has no type of its items
        self.norm = nn.LayerNorm(config.width)

    def set_dropout(self, config: ModelConfig) -> None:
        """Take the dropout rates of `config`."""
        for block in self.blocks:
            block.set_dropout(config)

    def flops(self) -> Flops:
        """Return the floating-point operations of a forward pass."""
        return sum((block.flops() for block in self.blocks), Flops())

    def forward(self, x: Tensor, lengths: Tensor) -> Tensor:
        """Encode embedded sources, [B, S, D], with [B] real positions each, to [B, S, D]."""
        # The same for all blocks: none changes lengths or positions.
        reversal = reversal_of(lengths, x.size(1))
        for block in self.blocks:
            x = block(x, reversal)
        out: Tensor = self.norm(x)
        return out


class GnmtEncoder(nn.Module):
    """One bidirectional layer, then unidirectional ones, residual from the third (Wu et al. 2016).

    The shape is that of NVIDIA's GNMT v2 (DeepLearningExamples): each direction of the first layer
    has the full width, so the second layer reads 2D.
    """

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        width = config.width
        self.out_width = width
        self.dropout = config.dropout
        self.is_locked = config.locked_dropout
        self.first = BiLSTM(width, width, config.weight_dropout)
        widths = [2 * width] + [width] * (config.encoder_layers - 2)
        rest = nn.ModuleList(LSTM(w, width, config.weight_dropout) for w in widths)
        self.rest = cast(Sequence[LSTM], rest)

    def set_dropout(self, config: ModelConfig) -> None:
        """Take the dropout rates of `config`."""
        self.dropout = config.dropout
        self.first.set_dropout(config)
        for lstm in self.rest:
            lstm.set_dropout(config)

    def flops(self) -> Flops:
        """Return the floating-point operations of a forward pass."""
        return Flops(per_src=self.first.flops() + sum(lstm.flops() for lstm in self.rest))

    def forward(self, x: Tensor, lengths: Tensor) -> Tensor:
        """Encode embedded sources, [B, S, D], with [B] real positions each, to [B, S, D]."""
        x = self.first(self._drop(x), reversal_of(lengths, x.size(1)))
        for depth, lstm in enumerate(self.rest):
            out = lstm(self._drop(x))
            # The second layer changes the width from 2D to D: no residual connection.
            x = out if depth == 0 else x + out
        return x

    def _drop(self, x: Tensor) -> Tensor:
        return drop(x, self.dropout, self.training, self.is_locked)


def make_encoder(config: ModelConfig) -> ResidualEncoder | GnmtEncoder:
    """Build the encoder of `config.preset`."""
    match config.preset:
        case "residual":
            return ResidualEncoder(config)
        case "gnmt":
            return GnmtEncoder(config)
