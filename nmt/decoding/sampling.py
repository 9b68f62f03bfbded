"""Random numbers of sampling, and minimum Bayes risk selection among samples.

Each token is drawn from the model's distribution, optionally restricted to the `top_k` most likely
tokens (Fan et al. 2018) or to the nucleus of probability `top_p` (Holtzman et al. 2020). Minimum
Bayes risk decoding (Kumar & Byrne 2004; with samples as in Eikema & Aziz 2020) ranks samples by
their mean similarity to all samples, measured by sentence chrF2.

Samples are batch-invariant: the random numbers of a line depend on the seed, its source tokens and
the number of the sample. Equal lines get equal samples, and the first of five samples is the sample
that is drawn alone.

Shapes: L maximum number of tokens, N sentences.
"""

import hashlib
from collections import Counter
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

CHRF_ORDERS = range(1, 7)
CHRF_BETA = 2


def uniform_numbers(
    source: Sequence[int], num_samples: int, length: int, seed: int
) -> npt.NDArray[np.float64]:
    """Return uniform random numbers for the tokens of all samples of a source, [num_samples, L]."""
    rows = []
    for number in range(num_samples):
        name = f"{seed} {number} {' '.join(map(str, source))}"
        # A hash gives each sample a stream of its own, whatever else is in the batch.
        digest = hashlib.blake2b(name.encode(), digest_size=7).digest()
        # The numbers of torch.rand: its generator is seeded with 32 bits, and a number in double
        # precision has the low 53 bits of two words.
        generator = np.random.RandomState(int.from_bytes(digest[-4:], "big"))
        high, low = generator.randint(1 << 32, size=(length, 2), dtype=np.uint64).T
        rows.append(((high << np.uint64(32) | low) & np.uint64((1 << 53) - 1)) / float(1 << 53))
    return np.stack(rows)


def rank_by_expected_chrf(texts: Sequence[str]) -> list[tuple[int, float]]:
    """Rank samples by minimum Bayes risk with chrF2 as utility.

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


def pairwise_chrf(sentences: Sequence[str]) -> npt.NDArray[np.float64]:
    """Return sentence chrF2 of each sentence against each as reference, 0 to 100, [N, N].

    Equal to sacreBLEU's: the F-score, with recall counted twice, of character n-grams of orders 1
    to 6 without spaces (Popović 2015). Precision and recall are means over the orders that both
    sentences have.
    """
    texts = ["".join(sentence.split()) for sentence in sentences]
    precisions, recalls, num_orders = np.zeros((3, len(texts), len(texts)))
    for order in CHRF_ORDERS:
        counts = _count_ngrams(texts, order)
        totals = counts.sum(axis=1)
        # An order counts only for pairs of which both sides are long enough to have n-grams.
        has_both = (totals[:, None] > 0) & (totals > 0)
        matches = np.stack([np.minimum(counts, row).sum(axis=1) for row in counts])
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


def _count_ngrams(texts: Sequence[str], order: int) -> npt.NDArray[np.int64]:
    """Count each n-gram of the texts in each text, [N, distinct n-grams]."""
    columns: dict[str, int] = {}
    each = [Counter(text[i : i + order] for i in range(len(text) - order + 1)) for text in texts]
    for ngram in (ngram for counter in each for ngram in counter):
        columns.setdefault(ngram, len(columns))
    counts = np.zeros((len(texts), len(columns)), dtype=np.int64)
    for row, counter in zip(counts, each, strict=True):
        row[[columns[ngram] for ngram in counter]] = list(counter.values())
    return counts
