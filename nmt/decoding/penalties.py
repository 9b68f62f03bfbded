"""What a log-probability becomes to be compared with those of other lengths, and length limits.

Length and coverage penalty as Wu et al. 2016, equation 14: log P / lp + cp; or the mean of
log-probabilities in place of lp.
"""

import math
from typing import Literal

import torch
from torch import Tensor

from nmt.config.decoding import DecodingConfig

_LEAST = torch.finfo(torch.float32).tiny


def max_length(num_src_tokens: int, decoding: DecodingConfig) -> int:
    """Most tokens of a target, EOS counted."""
    limit = math.ceil(num_src_tokens * decoding.max_length_ratio) + decoding.max_length_extra
    return min(limit, decoding.max_length or limit)


def length_penalty(length: int, alpha: float, norm: Literal["gnmt", "average"] = "gnmt") -> float:
    """What a log-probability of `length` tokens, EOS counted, is divided by."""
    base = length if norm == "average" else (5 + length) / 6
    return float(base**alpha)


def coverage_penalty(coverage: Tensor, src_lengths: Tensor, beta: float) -> Tensor:
    """What is added to a score for source tokens that were hardly looked at: 0 or less.

    Args:
        coverage: what all target tokens together looked at each source token, [..., S].
        src_lengths: real source tokens, [...].
        beta: its weight.
    """
    is_pad = torch.arange(coverage.size(-1), device=coverage.device) >= src_lengths[..., None]
    logs = coverage.clamp(_LEAST, 1).log().masked_fill(is_pad, 0)
    # cumsum adds in one order whatever the number of rows; sum does not (P7).
    return beta * logs.cumsum(dim=-1)[..., -1]
