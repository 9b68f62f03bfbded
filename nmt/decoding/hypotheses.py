"""What a log-probability becomes to be compared with those of other lengths, and length limits.

Length and coverage penalty as Wu et al. 2016, equation 14: log P / lp + cp; or the mean of
log-probabilities in place of lp.

What a search finds, and what its rows have said while it goes on.

Shapes: R rows, L tokens so far, S padded source length.

Which continuations of its hypotheses a sentence goes on with.

Shapes: B slots for sentences, K beam, R = B * K rows, V vocabulary.
"""

import math
from dataclasses import dataclass
from typing import Literal, NamedTuple

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


BLOCK = 64
"""Tokens whose best one stands for all of them in the first round of `best_continuations`."""


def best_continuations(log_probs: Tensor, totals: Tensor) -> Tensor:
    """The K best continuations of each sentence; of equal ones the lower row, then token, first.

    In two rounds, because `topk` over all of [B, K * V] costs a third of the output layer: the K
    best blocks of BLOCK tokens by their best token, then the K best tokens inside those blocks and
    behind the last whole block.

    Args:
        log_probs: of each next token, contiguous, [R, V].
        totals: of each hypothesis, [B, K].

    Returns:
        row * V + token of each, [B, K], best first.
    """
    (num_sentences, beam), (num_rows, vocab) = totals.shape, log_probs.shape
    num_blocks, device = vocab // BLOCK, totals.device
    cut = num_blocks * BLOCK
    firsts = torch.arange(0, num_rows * vocab, vocab, device=device).view_as(totals)
    ids = (firsts[:, :, None] + torch.arange(cut, vocab, device=device)).flatten(1)
    values = (log_probs[:, cut:] + totals.view(-1, 1)).view(num_sentences, -1)
    if num_blocks > 0:
        maxima = log_probs[:, :cut].view(num_rows, num_blocks, BLOCK).amax(dim=2)
        maxima = (maxima + totals.view(-1, 1)).view(num_sentences, -1)
        best = _top(maxima, torch.arange(maxima.size(1), device=device), beam)
        rows = best // num_blocks
        starts = firsts.gather(1, rows) + best % num_blocks * BLOCK
        inside_ids = starts[:, :, None] + torch.arange(BLOCK, device=device)
        # The windows overlap, one for each id: a view, of which K a sentence are copied.
        inside = log_probs.view(-1).unfold(0, BLOCK, 1)[starts] + totals.gather(1, rows)[:, :, None]
        ids = torch.cat([inside_ids.flatten(1), ids], dim=1)
        values = torch.cat([inside.flatten(1), values], dim=1)
    return ids.gather(1, _top(values, ids, beam))


def diverse_continuations(
    log_probs: Tensor, totals: Tensor, num_free: Tensor, diversity: float
) -> Tensor:
    """The K best of each sentence in G groups of K / G hypotheses that follow one another.

    A group pays `diversity` for a token as often as the groups before it chose that at this step
    (Vijayakumar et al. 2018, with Hamming diversity). What is paid counts for this choice alone,
    not in the totals: a score stays what the model thinks.

    Args:
        log_probs, totals: as of `best_continuations`.
        num_free: how many of its best a group has places for, [B, G].
        diversity: in nats.
    """
    num_sentences, vocab = totals.size(0), log_probs.size(1)
    num_groups = num_free.size(1)
    of_groups = log_probs.view(num_sentences, num_groups, -1, vocab)
    totals = totals.view(num_sentences, num_groups, -1)
    num_said = log_probs.new_zeros(num_sentences, vocab)
    size, chosen = totals.size(2), []
    ranks = torch.arange(size, device=totals.device)
    firsts = torch.arange(num_sentences, device=totals.device)[:, None] * num_groups * size
    for group in range(num_groups):
        costly = (of_groups[:, group] - diversity * num_said[:, None]).view(-1, vocab)
        found = best_continuations(costly, totals[:, group].contiguous())
        places, tokens = found // vocab % size, found % vocab
        picks = (firsts + group * size + places) * vocab + tokens
        values = totals[:, group].gather(1, places) + log_probs.view(-1)[picks]
        has_place = (values != -torch.inf) & (ranks < num_free[:, group, None])
        num_said.scatter_add_(1, tokens, has_place.to(num_said.dtype))
        chosen.append(picks)
    return torch.cat(chosen, dim=1)


def _top(values: Tensor, ids: Tensor, k: int) -> Tensor:
    """Positions of the k largest in each row, best first; of equal ones the lower id first."""
    # topk leaves the order of equal values open. The bits of a float, turned over where it is
    # negative, are an integer of the same order; with the id below them no two keys are equal.
    bits = values.view(torch.int32)
    keys = ((bits ^ ((bits >> 31) & 0x7FFFFFFF)).long() << 32) - ids
    return keys.topk(k, dim=1).indices
