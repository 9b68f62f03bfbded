"""What a search finds, and what its rows have said while it goes on.

Shapes: R rows, L tokens so far, S padded source length.
"""

import math
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor


@dataclass(frozen=True, eq=False)
class Hypothesis:
    """One target sequence and what the model thinks of it; natural logarithms."""

    tokens: list[int]
    """Without BOS; with EOS where it is finished."""
    score: float
    """Log-probability over the length penalty, plus the coverage penalty: what ranks it."""
    token_log_probs: list[float]
    """Of each of `tokens`."""
    is_finished: bool
    """It ends with EOS; otherwise it was cut at the longest length allowed."""
    attention: Tensor | None
    """Where each of `tokens` looked, [tokens, source tokens], if that was asked for."""

    @property
    def log_prob(self) -> float:
        """Of the whole sequence, EOS counted."""
        return math.fsum(self.token_log_probs)


class History(NamedTuple):
    """What each row has said so far."""

    tokens: Tensor
    """[R, L]"""
    log_probs: Tensor
    """Of each token, [R, L]."""
    attention: Tensor | None
    """Where each token looked, [R, L, S], where that is wanted."""
    coverage: Tensor | None
    """The sum of that over the tokens, [R, S], where that is wanted."""

    @classmethod
    def nothing(
        cls, num_rows: int, width: int, device: torch.device, attention: bool, coverage: bool
    ) -> "History":
        """Before the first token."""
        empty = torch.empty(num_rows, 0, device=device)
        looked = empty.new_empty(num_rows, 0, width) if attention else None
        covered = empty.new_zeros(num_rows, width) if coverage else None
        return cls(empty.long(), empty, looked, covered)

    @property
    def needs_attention(self) -> bool:
        """Something of where tokens look is kept."""
        return self.attention is not None or self.coverage is not None

    def select(self, rows: Tensor) -> "History":
        """Of these rows."""
        return History(
            self.tokens.index_select(0, rows),
            self.log_probs.index_select(0, rows),
            None if self.attention is None else self.attention.index_select(0, rows),
            None if self.coverage is None else self.coverage.index_select(0, rows),
        )

    def extend(self, tokens: Tensor, log_probs: Tensor, attention: Tensor) -> "History":
        """By a token of each row, and where it looked, [R, S]."""
        longer = self.attention
        if longer is not None:
            longer = torch.cat([longer, attention[:, None]], dim=1)
        return History(
            torch.cat([self.tokens, tokens[:, None]], dim=1),
            torch.cat([self.log_probs, log_probs[:, None]], dim=1),
            longer,
            None if self.coverage is None else self.coverage + attention,
        )
