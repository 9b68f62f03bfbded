"""Hypotheses of a search: their scores, their prefixes, and the choice of their continuations.

Scores are log-probabilities over a length penalty plus a coverage penalty (Wu et al. 2016,
equation 14), or with `length_norm: average` over a power of the length.

Shapes: B slots for sentences, K beam, R = B * K rows, G groups, V vocabulary, S padded source
length, L tokens so far.
"""

import math
from dataclasses import dataclass
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from nmt.config.decoding import DecodingConfig

BLOCK = 64
"""Tokens represented by their best one in the first round of `best_continuations`."""
_TINY = torch.finfo(torch.float32).tiny


@dataclass(frozen=True, eq=False)
class Hypothesis:
    """Target sequence found by a search."""

    tokens: list[int]
    """Token ids without BOS; EOS last if finished."""
    score: float
    """Ranking score: log-probability over the length penalty, plus the coverage penalty."""
    token_log_probs: list[float]
    """Natural log-probability of each token."""
    is_finished: bool
    """True if it ends with EOS; False if it was truncated at the maximum length."""
    attention: Tensor | None
    """Attention of each token over the source tokens, [L, S]; None unless requested."""


class Prefixes(NamedTuple):
    """Prefixes of all rows of a search."""

    tokens: Tensor
    """Token ids, [R, L]."""
    log_probs: Tensor
    """Log-probability of each token, [R, L]."""
    attention: Tensor | None
    """Attention of each token, [R, L, S]; None unless requested."""
    coverage: Tensor | None
    """Attention summed over the tokens, [R, S]; None without a coverage penalty."""

    def select(self, rows: Tensor) -> "Prefixes":
        """Return the prefixes of these rows."""
        return Prefixes(
            self.tokens.index_select(0, rows),
            self.log_probs.index_select(0, rows),
            None if self.attention is None else self.attention.index_select(0, rows),
            None if self.coverage is None else self.coverage.index_select(0, rows),
        )

    def append(self, tokens: Tensor, log_probs: Tensor, attention: Tensor) -> "Prefixes":
        """Return the prefixes longer by one token per row, [R], with its attention, [R, S]."""

        def cat(old: Tensor, new: Tensor) -> Tensor:
            return torch.cat([old, new[:, None]], dim=1)

        return Prefixes(
            cat(self.tokens, tokens),
            cat(self.log_probs, log_probs),
            None if self.attention is None else cat(self.attention, attention),
            None if self.coverage is None else self.coverage + attention,
        )


def max_length(num_src_tokens: int, decoding: DecodingConfig) -> int:
    """Return the maximum number of target tokens, EOS included."""
    # A limit relative to the source bounds the loops of a model that never ends a sentence.
    limit = math.ceil(num_src_tokens * decoding.max_length_ratio) + decoding.max_length_extra
    return min(limit, decoding.max_length or limit)


def length_penalty(length: int, alpha: float, norm: Literal["gnmt", "average"] = "gnmt") -> float:
    """Return the divisor of the log-probability of `length` tokens, EOS included.

    `gnmt` is ((5 + length) / 6)^alpha (Wu et al. 2016, equation 14), `average` is length^alpha.
    """
    base = length if norm == "average" else (5 + length) / 6
    return float(base**alpha)


def coverage_penalty(coverage: Tensor, src_lengths: Tensor, beta: float) -> Tensor:
    """Return the penalty for source tokens with little attention (Wu et al. 2016, equation 14).

    Args:
        coverage: attention summed over the target tokens, [..., S].
        src_lengths: number of real source tokens, [...].
        beta: weight.

    Returns:
        beta * sum over source tokens of log(min(coverage, 1)): 0 or less, [...].
    """
    # Clamped below as well: log(0) would make the score -inf for a single unattended token.
    is_pad = torch.arange(coverage.size(-1), device=coverage.device) >= src_lengths[..., None]
    logs = coverage.clamp(_TINY, 1).log().masked_fill(is_pad, 0)
    # cumsum adds in the same order for any number of rows; sum does not.
    return beta * logs.cumsum(dim=-1)[..., -1]


def best_continuations(log_probs: Tensor, totals: Tensor) -> Tensor:
    """Return the K best continuations of each sentence.

    Of equal continuations the lower row, then the lower token comes first.

    Args:
        log_probs: log-probability of each next token, contiguous, [R, V].
        totals: log-probability of each hypothesis, [B, K].

    Returns:
        row * V + token of each continuation, best first, [B, K].
    """
    (num_sentences, beam), (num_rows, vocab) = totals.shape, log_probs.shape
    num_blocks, device = vocab // BLOCK, totals.device
    # Two rounds, because topk over [B, K * V] costs a third of the output layer: first the K best
    # blocks by their best token, then the K best tokens of these blocks and of the incomplete last
    # block.
    cut = num_blocks * BLOCK
    firsts = torch.arange(0, num_rows * vocab, vocab, device=device).view_as(totals)
    ids = (firsts[:, :, None] + torch.arange(cut, vocab, device=device)).flatten(1)
    values = (log_probs[:, cut:] + totals.view(-1, 1)).view(num_sentences, -1)
    if num_blocks > 0:
        maxima = log_probs[:, :cut].view(num_rows, num_blocks, BLOCK).amax(dim=2)
        maxima = (maxima + totals.view(-1, 1)).view(num_sentences, -1)
        best = _stable_topk(maxima, torch.arange(maxima.size(1), device=device), beam)
        rows = best // num_blocks
        starts = firsts.gather(1, rows) + best % num_blocks * BLOCK
        block_ids = starts[:, :, None] + torch.arange(BLOCK, device=device)
        # unfold is a view with a window at every offset; indexing copies K windows per sentence.
        blocks = log_probs.view(-1).unfold(0, BLOCK, 1)[starts] + totals.gather(1, rows)[:, :, None]
        ids = torch.cat([block_ids.flatten(1), ids], dim=1)
        values = torch.cat([blocks.flatten(1), values], dim=1)
    return ids.gather(1, _stable_topk(values, ids, beam))


def diverse_continuations(
    log_probs: Tensor, totals: Tensor, num_free: Tensor, diversity: float
) -> Tensor:
    """Return the continuations of diverse beam search (Vijayakumar et al. 2018).

    The K hypotheses of a sentence are G groups of K / G, each a beam of its own. The groups choose
    one after the other; a token costs `diversity` for each time that an earlier group chose it in
    this step (Hamming diversity). The cost affects the choice only, not the totals: a score stays
    the model's log-probability.

    Args:
        log_probs, totals: as in `best_continuations`.
        num_free: places of each group that no finished hypothesis occupies, [B, G].
        diversity: cost in nats.

    Returns:
        row * V + token of each continuation, group by group, best first, [B, K].
    """
    num_sentences, vocab = totals.size(0), log_probs.size(1)
    num_groups = num_free.size(1)
    log_probs_by_group = log_probs.view(num_sentences, num_groups, -1, vocab)
    totals = totals.view(num_sentences, num_groups, -1)
    size, chosen = totals.size(2), []
    counts = log_probs.new_zeros(num_sentences, vocab)  # of each token in the groups so far
    ranks = torch.arange(size, device=totals.device)
    firsts = torch.arange(num_sentences, device=totals.device)[:, None] * num_groups * size
    for group in range(num_groups):
        penalised = (log_probs_by_group[:, group] - diversity * counts[:, None]).view(-1, vocab)
        best = best_continuations(penalised, totals[:, group].contiguous())
        places, tokens = best // vocab % size, best % vocab
        picks = (firsts + group * size + places) * vocab + tokens
        values = totals[:, group].gather(1, places) + log_probs.view(-1)[picks]
        # Later groups avoid only continuations that stay in the beam.
        is_kept = (values != -torch.inf) & (ranks < num_free[:, group, None])
        counts.scatter_add_(1, tokens, is_kept.to(counts.dtype))
        chosen.append(picks)
    return torch.cat(chosen, dim=1)


def _stable_topk(values: Tensor, ids: Tensor, k: int) -> Tensor:
    """Return positions of the k largest values of each row, best first, ties by lower id."""
    # topk leaves the order of ties open. The bits of a float, inverted if it is negative, are an
    # integer of the same order; with the id in the low 32 bits all keys are distinct.
    bits = values.view(torch.int32)
    keys = ((bits ^ ((bits >> 31) & 0x7FFFFFFF)).long() << 32) - ids
    return keys.topk(k, dim=1).indices
