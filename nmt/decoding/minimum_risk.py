"""Minimum Bayes risk: the candidate that is most similar to the others (Kumar & Byrne 2004).

Candidates are samples, with chrF2 as similarity (Eikema & Aziz 2020), or those of a beam, weighted
by their scores, with sentence BLEU or chrF2.

Shapes: N sentences.
"""

from collections import Counter
from collections.abc import Hashable, Sequence
from typing import Literal

import numpy as np
import numpy.typing as npt

BLEU_ORDERS = range(1, 5)
CHRF_ORDERS = range(1, 7)
CHRF_BETA = 2

Matrix = npt.NDArray[np.float64]


def expected_similarity(
    similarity: Literal["bleu", "chrf"],
    texts: Sequence[str],
    tokens: Sequence[Sequence[str]],
    scores: Sequence[float],
    scale: float,
) -> list[float]:
    """Return the expected similarity of each candidate of a beam to the others, 0 to 100.

    The expectation is over candidates with probabilities proportional to exp(scale * score).

    Args:
        similarity: bleu compares tokens, so that it needs no words; chrf compares texts.
        texts: candidates.
        tokens: their tokens.
        scores: their ranking scores.
        scale: 0 weights all candidates alike; a large one leaves the best score.
    """
    pairs = pairwise_bleu(tokens) if similarity == "bleu" else pairwise_chrf(texts)
    exponents = scale * np.array(scores, np.float64)
    weights = np.exp(exponents - exponents.max())
    expected: list[float] = (pairs @ (weights / weights.sum())).tolist()
    return expected


def rank_by_expected_chrf(texts: Sequence[str]) -> list[tuple[int, float]]:
    """Rank samples by their mean chrF2 against all samples.

    Returns:
        For each distinct text the index of its first sample and its mean chrF2, 0 to 100, against
        all samples; best first.
    """
    # Equal texts are compared once and weighted; a Counter keeps the order of first samples.
    counts = Counter(texts)
    shares = np.array(list(counts.values())) / max(1, len(texts))
    expected = (pairwise_chrf(list(counts)) * shares).sum(axis=1).tolist()
    ranked = [(texts.index(text), score) for text, score in zip(counts, expected, strict=True)]
    return sorted(ranked, key=lambda pair: -pair[1])


def pairwise_bleu(sentences: Sequence[Sequence[str]]) -> Matrix:
    """Return sentence BLEU of each sentence against each as reference, 0 to 100, [N, N].

    Counts of n-grams of two and more tokens are increased by one (Lin & Och 2004), so that short
    sentences without a common 4-gram differ.
    """
    lengths = np.array([len(sentence) for sentence in sentences])
    logs = np.minimum(0, 1 - lengths / np.maximum(1, lengths)[:, None])  # brevity penalty
    for order in BLEU_ORDERS:
        totals, matches = _count_matches([tuple(sentence) for sentence in sentences], order)
        added = order > 1
        with np.errstate(divide="ignore"):
            logs += np.log((matches + added) / np.maximum(1, totals + added)[:, None]) / 4
    scores: Matrix = 100 * np.exp(logs)
    return scores


def pairwise_chrf(sentences: Sequence[str]) -> Matrix:
    """Return sentence chrF2 of each sentence against each as reference, 0 to 100, [N, N].

    Equal to sacreBLEU's: the F-score, with recall counted twice, of character n-grams of orders 1
    to 6 without spaces (Popović 2015). Precision and recall are means over the orders that both
    sentences have.
    """
    texts = ["".join(sentence.split()) for sentence in sentences]
    precisions, recalls, num_orders = np.zeros((3, len(texts), len(texts)))
    for order in CHRF_ORDERS:
        totals, matches = _count_matches(texts, order)
        # An order counts only for pairs of which both sides are long enough to have n-grams.
        has_both = (totals[:, None] > 0) & (totals > 0)
        zeros = np.zeros(has_both.shape)
        precisions += np.divide(matches, totals[:, None], out=zeros.copy(), where=has_both)
        recalls += np.divide(matches, totals, out=zeros, where=has_both)
        num_orders += has_both
    for means in (precisions, recalls):
        np.divide(means, num_orders, out=means, where=num_orders > 0)
    weighted = CHRF_BETA**2 * precisions + recalls
    scores = np.zeros(weighted.shape)
    np.divide((1 + CHRF_BETA**2) * precisions * recalls, weighted, out=scores, where=weighted > 0)
    return 100 * scores


def _count_matches(
    sentences: Sequence[str] | Sequence[tuple[str, ...]], order: int
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Count the n-grams of each sentence, [N], and those that two sentences have in common, [N, N].

    The n-grams of a text are those of its characters.
    """
    each: list[Counter[Hashable]] = [
        Counter(sentence[i : i + order] for i in range(len(sentence) - order + 1))
        for sentence in sentences
    ]
    totals = np.array([counter.total() for counter in each], np.int64)
    # An n-gram of a single sentence matches no other.
    num_sentences = Counter(ngram for counter in each for ngram in counter)
    shared = (ngram for ngram, number in num_sentences.items() if number > 1)
    rows = {ngram: row for row, ngram in enumerate(shared)}
    counts = np.zeros((len(rows), len(sentences)), np.min_scalar_type(totals.max(initial=0)))
    for column, counter in zip(counts.T, each, strict=True):
        ngrams = [ngram for ngram in counter if ngram in rows]
        column[[rows[ngram] for ngram in ngrams]] = [counter[ngram] for ngram in ngrams]
    matches = np.zeros((len(sentences), len(sentences)), np.int64)
    for number, column in enumerate(counts.T):
        own = column.nonzero()[0]
        matches[number] = np.minimum(counts[own], column[own, None]).sum(axis=0)
    np.fill_diagonal(matches, totals)
    return totals, matches
