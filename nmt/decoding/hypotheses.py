"""Hypotheses of a search: their scores, and the choice of their continuations.

Scores are log-probabilities over a length penalty plus a coverage penalty (Wu et al. 2016,
equation 14), or with `length_norm: average` over a power of the length.

Shapes: B slots for sentences, K beam, R = B * K rows, G groups, k candidates of a row, S padded
source length, L tokens.
"""

import math
from dataclasses import dataclass
from typing import Literal

import numpy as np

from nmt.config.decoding import DecodingConfig
from nmt.decoding.interface import FloatArray, IntArray

_TINY = np.finfo(np.float32).tiny
_MAX_PENALTY = 1e38
"""Largest divisor of log-probabilities: that of 6,300 tokens with `length_norm: average`."""


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
    attention: FloatArray | None
    """Attention of each token over the source tokens, [L, S]; None unless requested."""


def max_length(num_src_tokens: int, decoding: DecodingConfig) -> int:
    """Return the maximum number of target tokens, EOS included."""
    # A limit relative to the source bounds the loops of a model that never ends a sentence.
    limit = math.ceil(num_src_tokens * decoding.max_length_ratio) + decoding.max_length_extra
    return min(limit, decoding.max_length or limit)


def length_penalty(length: int, alpha: float, norm: Literal["gnmt", "average"] = "gnmt") -> float:
    """Return the divisor of the log-probability of `length` tokens, EOS included.

    `gnmt` is ((5 + length) / 6)^alpha (Wu et al. 2016, equation 14), `average` is length^alpha; at
    most 1e38.
    """
    base = length if norm == "average" else (5 + length) / 6
    # Scores are fp32: an infinite divisor would make those of long hypotheses equal.
    return min(float(base**alpha), _MAX_PENALTY)


def coverage_penalty(coverage: FloatArray, src_lengths: IntArray, beta: float) -> FloatArray:
    """Return the penalty for source tokens with little attention (Wu et al. 2016, equation 14).

    Args:
        coverage: attention summed over the target tokens, [R, S].
        src_lengths: number of real source tokens, [R].
        beta: weight.

    Returns:
        beta * sum over source tokens of log(min(coverage, 1)): 0 or less, [R].
    """
    # Clamped below as well: log(0) would make the score -inf for a single unattended token.
    logs = np.log(coverage.clip(_TINY, 1))
    logs[np.arange(coverage.shape[1]) >= src_lengths[:, None]] = 0
    penalties: FloatArray = np.float32(beta) * logs.sum(axis=1)
    return penalties


def best_continuations(log_probs: FloatArray, totals: FloatArray) -> IntArray:
    """Return the K best continuations of each sentence among the candidates of its rows.

    Of equal continuations the lower row comes first, then the earlier candidate.

    Args:
        log_probs: log-probability of each candidate, best first, [B, K, k].
        totals: log-probability of each hypothesis, [B, K].

    Returns:
        place * k + candidate of each continuation, best first, [B, K].
    """
    values = (totals[:, :, None] + log_probs).reshape(len(totals), -1)
    return np.argsort(-values, axis=1, kind="stable")[:, : totals.shape[1]]


def diverse_continuations(
    ids: IntArray, log_probs: FloatArray, totals: FloatArray, num_free: IntArray, diversity: float
) -> IntArray:
    """Return the continuations of diverse beam search (Vijayakumar et al. 2018).

    The K hypotheses of a sentence are G groups of K / G, each a beam of its own. The groups choose
    one after the other; a token costs `diversity` for each time that an earlier group chose it in
    this step (Hamming diversity). The cost affects the choice only, not the totals: a score stays
    the model's log-probability. K candidates of each row suffice: earlier groups make at most
    K - K / G of them more expensive.

    Args:
        ids: candidates of each row, best first, [B, K, k].
        log_probs, totals: as in `best_continuations`.
        num_free: places of each group that no finished hypothesis occupies, [B, G].
        diversity: cost in nats.

    Returns:
        place * k + candidate of each continuation, group by group, best first, [B, K].
    """
    (num_sentences, beam, num_candidates), num_groups = ids.shape, num_free.shape[1]
    size = beam // num_groups
    chosen = np.full((num_sentences, 0), -1)  # tokens of the groups so far
    values = (totals[:, :, None] + log_probs).reshape(num_sentences, -1)
    picks = []
    for group, first in enumerate(range(0, beam, size)):
        part = slice(first, first + size)
        counts = (ids[:, part, :, None] == chosen[:, None, None]).sum(axis=3)
        penalised = log_probs[:, part] - np.float32(diversity) * counts.astype(np.float32)
        best = best_continuations(penalised, totals[:, part]) + first * num_candidates
        tokens = np.take_along_axis(ids.reshape(num_sentences, -1), best, 1)
        is_kept = np.take_along_axis(values, best, 1) != -np.inf
        # Later groups avoid only continuations that stay in the beam.
        is_kept &= np.arange(size) < num_free[:, group, None]
        chosen = np.concatenate([chosen, np.where(is_kept, tokens, -1)], axis=1)
        picks.append(best)
    return np.concatenate(picks, axis=1)
