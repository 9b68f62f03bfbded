"""Building blocks of encoder and decoder: dropout, embedding, feed-forward layer.

Shapes: B sentences, T positions, D width, F hidden width.
"""

import math

import torch
from torch import Tensor, nn

from nmt.config.experiment import ModelConfig
from nmt.model.flops import matmul_flops
from nmt.model.matmul import Linear


def drop(x: Tensor, rate: float, is_training: bool, is_locked: bool = False) -> Tensor:
    """Apply dropout (Srivastava et al. 2014).

    On CPU the rate is rounded to 1/256: `torch.bernoulli` draws a 64-bit number per value there,
    which costs as much as a matrix product at these widths. Here one draw serves eight values.

    Args:
        x: any shape; [B, T, D] if locked.
        rate: share of values set to 0; the others are scaled by 1 / (1 - rate).
        is_training: False returns `x` unchanged.
        is_locked: use one mask for all positions of a sentence (Gal & Ghahramani 2016; Merity
            et al. 2018).
    """
    if not is_training or rate == 0:
        return x
    shape = (x.size(0), 1, x.size(2)) if is_locked else x.shape
    if x.device.type != "cpu":
        if is_locked:
            return x * nn.functional.dropout(x.new_ones(shape), rate, training=True)
        return nn.functional.dropout(x, rate, training=True)
    return x * keep_mask(shape, rate).to(x.dtype)


def keep_mask(shape: torch.Size | tuple[int, ...], rate: float) -> Tensor:
    """Draw a dropout mask on CPU, fp32: 0 for about `rate` of the values, else 1 / (1 - rate).

    The rate is rounded to n / 256, n from 1 to 255.
    """
    threshold = min(max(1, round(rate * 256)), 255)
    num_values = torch.Size(shape).numel()
    # random_() without bounds fills 63 bits: the top bit of every eighth byte would be 0.
    draws = torch.empty((num_values + 7) // 8, dtype=torch.int64).random_(-(2**63), None)
    is_kept = draws.view(torch.uint8)[:num_values].view(shape) >= threshold
    return is_kept.to(torch.float32).mul_(256 / (256 - threshold))


def drop_words(x: Tensor, rate: float, is_training: bool) -> Tensor:
    """Set whole embeddings, [B, T, D], to 0 without scaling the others (Gal & Ghahramani 2016)."""
    if not is_training or rate == 0:
        return x
    is_kept = torch.rand(x.shape[:2], device=x.device) >= rate
    return x * is_kept[..., None].to(x.dtype)


class Embedding(nn.Embedding):
    """Token embeddings, scaled, with word dropout and dropout of values."""

    def __init__(self, config: ModelConfig, vocab_size: int) -> None:
        super().__init__(vocab_size, config.width)
        # Embedded tokens enter the residual stream with unit variance.
        self.scale = math.sqrt(config.width) if config.preset == "residual" else 1.0
        self.is_locked = config.locked_dropout
        self.set_dropout(config)

    def set_dropout(self, config: ModelConfig) -> None:
        """Take the dropout rates of `config`."""
        self.dropout, self.word_dropout = config.embedding_dropout, config.word_dropout

    def lookup(self, tokens: Tensor) -> Tensor:
        """Embed token ids, [...], without dropout: [..., D]."""
        return super().forward(tokens) * self.scale

    def forward(self, tokens: Tensor, kept: Tensor | None = None) -> Tensor:
        """Embed token ids, [B, T], with dropout in training: [B, T, D].

        Args:
            tokens: token ids, [B, T].
            kept: 0 where Cutoff erases the embeddings, else 1; [B, T, 1] or [B, 1, D].
        """
        x = self.lookup(tokens)
        if kept is not None:
            x = x * kept.to(x.dtype)
        x = drop_words(x, self.word_dropout, self.training)
        return drop(x, self.dropout, self.training, self.is_locked)


class FeedForward(nn.Module):
    """Position-wise feed-forward layer (Vaswani et al. 2017, equation 2)."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.expand = Linear(config.width, config.ffn_width)
        self.contract = Linear(config.ffn_width, config.width)

    def forward(self, x: Tensor) -> Tensor:
        """Map [..., D] to [..., D] through [..., F]."""
        out: Tensor = self.contract(self.expand(x).relu())
        return out

    def flops(self) -> int:
        """Return the floating-point operations per position of a forward pass."""
        return matmul_flops(self.expand.weight, self.contract.weight)
