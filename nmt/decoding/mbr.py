"""How alike sentences are: sacreBLEU's sentence chrF2, for all pairs of many at once.

chrF2 (Popović 2015): the F-score, with recall counted twice, of the character n-grams of orders 1
to 6, spaces left out; the mean of precisions and of recalls is over the orders that both have.
"""

from collections import Counter
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

ORDERS = range(1, 7)
BETA = 2


def pairwise_chrf(sentences: Sequence[str]) -> npt.NDArray[np.float64]:
    """chrF2 of each as a translation against each as its reference, 0 to 100, [N, N]."""
    texts = ["".join(sentence.split()) for sentence in sentences]
    num_texts = len(texts)
    precisions, recalls, num_orders = np.zeros((3, num_texts, num_texts))
    for order in ORDERS:
        counts = _counts(texts, order)
        totals = counts.sum(axis=1)
        both = (totals[:, None] > 0) & (totals > 0)
        matches = np.stack([np.minimum(counts, row).sum(axis=1) for row in counts])
        precisions += np.divide(matches, totals[:, None], out=np.zeros(both.shape), where=both)
        recalls += np.divide(matches, totals, out=np.zeros(both.shape), where=both)
        num_orders += both
    for means in (precisions, recalls):
        np.divide(means, num_orders, out=means, where=num_orders > 0)
    weighted = BETA**2 * precisions + recalls
    scores = np.zeros(weighted.shape)
    np.divide((1 + BETA**2) * precisions * recalls, weighted, out=scores, where=weighted > 0)
    return 100 * scores


def _counts(texts: Sequence[str], order: int) -> npt.NDArray[np.int64]:
    """How often each n-gram of the texts stands in each of them, [N, n-grams]."""
    columns: dict[str, int] = {}
    each = [Counter(text[i : i + order] for i in range(len(text) - order + 1)) for text in texts]
    for counter in each:
        for ngram in counter:
            columns.setdefault(ngram, len(columns))
    counts = np.zeros((len(texts), len(columns)), dtype=np.int64)
    for row, counter in zip(counts, each, strict=True):
        row[[columns[ngram] for ngram in counter]] = list(counter.values())
    return counts
