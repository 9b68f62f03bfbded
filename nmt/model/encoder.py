"""The encoders: a source sentence to one vector a position.

Shapes: B sentences, S source positions, D width.
"""

from torch import Tensor, nn

from nmt.config.experiment import ModelConfig
from nmt.model.layers import FeedForward, drop
from nmt.model.lstm import LSTM, BiLSTM, reversal_of


class EncoderBlock(nn.Module):
    """x + Drop(BiLSTM(LN(x))), then x + Drop(FFN(LN(x))), after Domhan 2018 but with LSTMs."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.dropout = config.dropout
        self.is_locked = config.locked_dropout
        self.lstm_norm = nn.LayerNorm(config.width)
        self.lstm = BiLSTM(config.width, config.width // 2, config.weight_dropout)
        self.ffn_norm = nn.LayerNorm(config.width) if config.ffn_width else None
        self.ffn = FeedForward(config) if config.ffn_width else None

    def forward(self, x: Tensor, reversal: Tensor) -> Tensor:
        """Refine [B, S, D]."""
        x = x + self._drop(self.lstm(self.lstm_norm(x), reversal))
        if self.ffn is not None and self.ffn_norm is not None:
            x = x + self._drop(self.ffn(self.ffn_norm(x)))
        return x

    def _drop(self, x: Tensor) -> Tensor:
        return drop(x, self.dropout, self.training, self.is_locked)


class ResidualEncoder(nn.Module):
    """Pre-norm residual blocks, and a norm at the end."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.out_width = config.width
        self.blocks = nn.ModuleList(EncoderBlock(config) for _ in range(config.encoder_layers))
        self.norm = nn.LayerNorm(config.width)

    def forward(self, x: Tensor, lengths: Tensor) -> Tensor:
        """Encode embedded sources, [B, S, D] with `lengths` real positions, [B], to [B, S, D]."""
        reversal = reversal_of(lengths, x.size(1))
        for block in self.blocks:
            x = block(x, reversal)
        out: Tensor = self.norm(x)
        return out


class GnmtEncoder(nn.Module):
    """A bidirectional layer, then one-way layers, from the third on residual (Wu et al. 2016).

    In the form of NVIDIA's GNMT v2: each direction of the first layer has the full width, so the
    second layer reads 2D.
    """

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        width = config.width
        self.out_width = width
        self.dropout = config.dropout
        self.is_locked = config.locked_dropout
        self.first = BiLSTM(width, width, config.weight_dropout)
        widths = [2 * width] + [width] * (config.encoder_layers - 2)
        self.rest = nn.ModuleList(LSTM(w, width, config.weight_dropout) for w in widths)

    def forward(self, x: Tensor, lengths: Tensor) -> Tensor:
        """Encode embedded sources, [B, S, D] with `lengths` real positions, [B], to [B, S, D]."""
        x = self.first(self._drop(x), reversal_of(lengths, x.size(1)))
        for depth, lstm in enumerate(self.rest):
            out = lstm(self._drop(x))
            x = out if depth == 0 else x + out
        return x

    def _drop(self, x: Tensor) -> Tensor:
        return drop(x, self.dropout, self.training, self.is_locked)


def make_encoder(config: ModelConfig) -> ResidualEncoder | GnmtEncoder:
    """The encoder of the preset."""
    match config.preset:
        case "residual":
            return ResidualEncoder(config)
        case "gnmt":
            return GnmtEncoder(config)
