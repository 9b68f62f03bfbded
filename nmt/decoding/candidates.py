"""Choice of the next tokens from logits on the host, for engines whose output is numpy arrays.

The same as `TorchEngine` does on its device: log-softmax, then the best, given or drawn tokens.

Shapes: R rows, k candidates, V vocabulary.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from nmt.corpus.subword import EOS
from nmt.decoding.interface import Best, Draw, FloatArray, Given, IntArray, Query, StepResult

BLOCK = 32
"""Tokens represented by their best one in the first round of `best_tokens`."""
CHUNK = 1 << 17
"""Logits that are normalised at once: they stay in the cache between two passes."""


def choose(logits: FloatArray, query: Query, log_sums: FloatArray | None = None) -> StepResult:
    """Return the result of a step without attention.

    Args:
        logits: logits of the next tokens, [R, V], contiguous; overwritten.
        query: what to choose.
        log_sums: `log_sum_exp` of the logits, [R]; None: it is computed.
    """
    sums = (log_sum_exp(logits) if log_sums is None else log_sums)[:, None]
    rows = query.full_rows
    distributions = None if rows is None else logits[rows] - sums[rows]
    if isinstance(query.choice, Given):
        ids = query.choice.tokens[:, None]
        return StepResult(ids, np.take_along_axis(logits, ids, 1) - sums)
    logits[:, :EOS] = -np.inf
    if query.forbidden is not None:
        logits[query.forbidden] = -np.inf
    if isinstance(query.choice, Best):
        ids = best_tokens(logits, query.choice.size)
    else:
        ids = draw_tokens(logits - sums, query.choice)
    values = np.take_along_axis(logits, ids, 1) - sums
    return StepResult(ids, values, distributions=distributions)


def log_sum_exp(logits: FloatArray) -> FloatArray:
    """Return the log of the summed exponentials of each row, [R], of logits, [R, V]."""
    num_rows, vocab = logits.shape
    size = max(1, CHUNK // vocab)
    buffer = np.empty((min(size, num_rows), vocab), np.float32)
    result = np.empty(num_rows, np.float32)
    for start in range(0, num_rows, size):
        block = logits[start : start + size]
        exps, maxima = buffer[: len(block)], block.max(axis=1)
        np.subtract(block, maxima[:, None], out=exps)
        np.exp(exps, out=exps)
        result[start : start + size] = np.log(exps.sum(axis=1)) + maxima
    return result


def mean_log_probs(logits: Sequence[FloatArray]) -> FloatArray:
    """Return the log of the summed probabilities of the models of an ensemble, [R, V].

    It is not normalised. The only model of a sequence of one needs no ensemble.
    """
    total = logits[0] - log_sum_exp(logits[0])[:, None]
    for other in logits[1:]:
        np.logaddexp(total, other - log_sum_exp(other)[:, None], out=total)
    return total


def best_tokens(logits: FloatArray, size: int) -> IntArray:
    """Return the ids of the most likely tokens of each row, best first, ties by lower id, [R, k].

    Args:
        logits: contiguous, [R, V].
        size: number of tokens; at most V are returned.
    """
    num_rows, vocab = logits.shape
    if size == 1:
        ids: IntArray = logits.argmax(axis=1)[:, None]
        return ids
    num_blocks = vocab // BLOCK
    if size >= num_blocks:
        return _stable_topk(logits, np.arange(vocab), min(size, vocab))
    # Two rounds: first the k best blocks by their best token, then the k best tokens of these
    # blocks and of the incomplete last block.
    cut = num_blocks * BLOCK
    maxima = logits[:, :cut].reshape(num_rows, num_blocks, BLOCK).max(axis=2)
    best = _stable_topk(maxima, np.arange(num_blocks), size)
    ids = (best[:, :, None] * BLOCK + np.arange(BLOCK)).reshape(num_rows, -1)
    if cut < vocab:
        rest = np.broadcast_to(np.arange(cut, vocab), (num_rows, vocab - cut))
        ids = np.concatenate([ids, rest], axis=1)
    places = _stable_topk(np.take_along_axis(logits, ids, 1), ids, size)
    return np.take_along_axis(ids, places, 1)


def draw_tokens(log_probs: FloatArray, draw: Draw) -> IntArray:
    """Draw a token for each row by inverting the cumulative distribution.

    Args:
        log_probs: log-probability of each next token, [R, V]; -inf for forbidden tokens.
        draw: random numbers, temperature, top_k and top_p.

    Returns:
        The token at which the cumulative probability exceeds the number, [R, 1].
    """
    ids = None
    values = log_probs / np.float32(draw.temperature)
    # Sorting is only needed where a rank or a nucleus decides.
    if draw.top_k or draw.top_p < 1:
        ids = np.argsort(-values, axis=1, kind="stable")[:, : draw.top_k or None]
        values = np.take_along_axis(values, ids, 1)
    probs = np.exp(values - values.max(axis=1, keepdims=True))
    probs /= probs.sum(axis=1, keepdims=True)
    sums = probs.cumsum(axis=1, dtype=np.float64)  # [R, V]
    # The nucleus is the first token, and each further one while the sum before it is below top_p.
    last = (sums[:, :-1] < draw.top_p).sum(axis=1)
    thresholds = draw.numbers * sums[np.arange(len(sums)), last]
    # Rounding can leave a threshold above all sums: never leave the nucleus.
    picks = np.minimum((sums <= thresholds[:, None]).sum(axis=1), last)[:, None]
    return picks if ids is None else np.take_along_axis(ids, picks, 1)


def _stable_topk(values: FloatArray, ids: npt.NDArray[Any], k: int) -> IntArray:
    """Return positions of the k largest values of each row, best first, ties by lower id."""
    # The bits of a float, inverted if it is negative, are an integer of the same order; with the id
    # in the low 32 bits all keys are distinct, so that any selection gives the same positions.
    bits = values.view(np.int32)
    keys = ids - ((bits ^ ((bits >> 31) & 0x7FFFFFFF)).astype(np.int64) << 32)
    best = np.argpartition(keys, k - 1, axis=1)[:, :k] if k < keys.shape[1] else None
    if best is None:
        return np.argsort(keys, axis=1)
    order = np.argsort(np.take_along_axis(keys, best, 1), axis=1)
    return np.take_along_axis(best, order, 1)
