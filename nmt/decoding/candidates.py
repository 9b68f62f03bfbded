"""Choice of the next tokens from logits on the host, for engines whose output is numpy arrays.

The same as `TorchEngine` does on its device: log-softmax, then the best, given or drawn tokens.

Shapes: R rows, k candidates, V vocabulary.
"""

import numpy as np

from nmt.corpus.subword import EOS
from nmt.decoding.interface import Best, Draw, FloatArray, Given, IntArray, Query, StepResult
from nmt.errors import ConfigError

CHUNK = 1 << 18
"""Logits that several passes read one after the other: they stay in the cache between them."""
MAX_ROUNDS = 24
"""Most candidates of a row that are found by a pass each; more are sorted."""


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
        values, ids = best_tokens(logits, query.choice.size)
    else:
        ids = draw_tokens(logits - sums, query.choice)
        values = np.take_along_axis(logits, ids, 1)
    return StepResult(ids, values - sums, distributions=distributions)


def choose_candidates(
    columns: IntArray, vocab_size: int, log_probs: FloatArray, query: Query,
    log_sums: FloatArray | None,
) -> StepResult:  # fmt: skip
    """Return the result of a step that chooses among the candidates of a shortlist.

    Args:
        columns: candidates of each row, [R, C], in ascending order from id 0.
        vocab_size: size of the vocabulary, V; also the candidate that stands for none.
        log_probs: their log-probabilities, [R, C], contiguous; overwritten.
        query: what to choose.
        log_sums: as in `choose`.

    Returns:
        Result of the step; its ids are places in the candidates.

    Raises:
        ConfigError: the choice is `Given`: its tokens need not be candidates.
    """
    if isinstance(query.choice, Given):
        rule = "scores need the whole vocabulary: load the model without a shortlist"
        raise ConfigError("shortlist", "requested", rule)
    distributions = None
    if query.full_rows is not None:
        some, ids = log_probs[query.full_rows], columns[query.full_rows]
        # A term can have other tokens: they get the lowest probability of the candidates.
        lowest = np.where(ids == vocab_size, np.inf, some).min(axis=1, keepdims=True)
        distributions = np.repeat(lowest, vocab_size + 1, axis=1).astype(np.float32)
        np.put_along_axis(distributions, ids, some, 1)
        distributions = distributions[:, :-1]
    if query.forbidden is not None:
        rows, tokens = query.forbidden
        # Candidates are in ascending order, and so are rows and candidates as one number.
        numbers = (np.arange(len(columns))[:, None] * (vocab_size + 1) + columns).ravel()
        wanted = rows * (vocab_size + 1) + tokens
        places = numbers.searchsorted(wanted).clip(max=len(numbers) - 1)
        is_there = numbers[places] == wanted
        places = places[is_there] - rows[is_there] * columns.shape[1]
        query = query._replace(forbidden=(rows[is_there], places))
    result = choose(log_probs, query._replace(full_rows=None), log_sums)
    return result._replace(distributions=distributions)


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


def best_tokens(logits: FloatArray, size: int) -> tuple[FloatArray, IntArray]:
    """Return values and ids of the most likely tokens of each row, [R, k] each, best first.

    Of equal tokens the lower id comes first.

    Args:
        logits: logits or log-probabilities, contiguous, [R, V]; overwritten.
        size: number of tokens; at most V are returned.
    """
    num_rows, vocab = logits.shape
    size = min(size, vocab)
    if size > MAX_ROUNDS:
        # Stable, so that of equal tokens the lower id comes first.
        ids = np.argsort(-logits, axis=1, kind="stable")[:, :size]
        return np.take_along_axis(logits, ids, 1), ids
    # A pass over some rows for each candidate: argmax reads several values per clock, where a
    # partial sort takes many clocks per value.
    values, ids = np.empty((num_rows, size), np.float32), np.empty((num_rows, size), np.int64)
    step = max(1, CHUNK // vocab)
    for start in range(0, num_rows, step):
        block, part = logits[start : start + step], slice(start, start + step)
        rows = np.arange(len(block))
        for rank in range(size):
            best = block.argmax(axis=1)
            ids[part, rank], values[part, rank] = best, block[rows, best]
            if rank + 1 < size:
                block[rows, best] = -np.inf
    return values, ids


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
