"""The small parts that encoder and decoder share: dropout and the feed-forward part of a block.

Shapes: B sentences, T positions, D width, F hidden width.
"""

import torch
from torch import Tensor, nn

from nmt.config.experiment import ModelConfig


def drop(x: Tensor, share: float, is_training: bool, is_locked: bool = False) -> Tensor:
    """Set a share of the values to 0 and scale the others up (Srivastava et al. 2014).

    Locked, [B, T, D] loses the same of its D values at all positions of a sentence (Gal &
    Ghahramani 2016; Merity et al. 2018).
    On CPU the share is rounded to 1/256: `torch.bernoulli` draws one 64-bit number a value there,
    which costs as much as a matrix product at these widths; here one draw serves eight values.
    """
    if not is_training or share == 0:
        return x
    shape = (x.size(0), 1, x.size(2)) if is_locked else x.shape
    if x.device.type != "cpu":
        if is_locked:
            return x * nn.functional.dropout(x.new_ones(shape), share, training=True)
        return nn.functional.dropout(x, share, training=True)
    return x * keep_mask(shape, share).to(x.dtype)


def keep_mask(shape: torch.Size | tuple[int, ...], share: float) -> Tensor:
    """Random factors on CPU: 0 for about `share` of them, else 1/(1 - share), fp32.

    The share is rounded to n/256, n from 1 to 255.
    """
    dropped = min(max(1, round(share * 256)), 255)
    num_values = torch.Size(shape).numel()
    # random_() without bounds fills 63 bits: the top bit of every eighth byte would be 0.
    draws = torch.empty((num_values + 7) // 8, dtype=torch.int64).random_(-(2**63), None)
    kept = draws.view(torch.uint8)[:num_values].view(shape) >= dropped
    return kept.to(torch.float32).mul_(256 / (256 - dropped))


def drop_words(x: Tensor, share: float, is_training: bool) -> Tensor:
    """Set whole embeddings, [B, T, D], to 0 without scaling up (Gal & Ghahramani 2016)."""
    if not is_training or share == 0:
        return x
    kept = torch.rand(x.shape[:2], device=x.device) >= share
    return x * kept[..., None].to(x.dtype)


class FeedForward(nn.Module):
    """Two linear maps around a ReLU, at each position (Vaswani et al. 2017, eq. 2)."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.expand = nn.Linear(config.width, config.ffn_width)
        self.contract = nn.Linear(config.ffn_width, config.width)

    def forward(self, x: Tensor) -> Tensor:
        """Map [..., D] to [..., D] through [..., F]."""
        out: Tensor = self.contract(self.expand(x).relu())
        return out
