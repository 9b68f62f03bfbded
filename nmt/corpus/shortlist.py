"""Lexical shortlist: the target tokens that can translate each source token.

Translation probabilities are those of IBM Model 1 (Brown et al. 1993), estimated by a few rounds of
expectation maximisation on pairs that are spread over the training corpus. A sentence is translated
with the best translations of its tokens, its tokens themselves (names and numbers are copied), and
the most frequent target tokens.

Shapes: V vocabulary, N translations per source token.
"""

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from nmt.corpus.subword import BOS, EOS, PAD

if TYPE_CHECKING:
    from nmt.corpus.shards import Shards  # imports pyarrow, which a translation does not need

TRANSLATIONS = 40
"""Translations of a source token, the token itself included."""
FREQUENT = 100
"""Frequent target tokens that every sentence gets."""
MAX_LINKS = 1 << 23
"""Pairs of a source and a target token from which probabilities are estimated."""
ROUNDS = 5
MULTIPLE = 64
"""The number of candidates is a multiple: sums over them then do not depend on their number."""

Table = npt.NDArray[np.int32]
IntArray = npt.NDArray[np.int64]


def learn_shortlist(shards: "Shards", vocab_size: int) -> Table:
    """Return the translations of each token, [V, N]; row PAD has the frequent tokens.

    Rows with fewer translations are filled with EOS, which every sentence has.
    """
    links = shards.src_lengths.astype(np.int64) * shards.tgt_lengths
    step = max(1, -(-int(links.sum()) // MAX_LINKS))
    pairs = list(shards.pairs(range(0, len(shards), step)))
    keys, owners = _links(pairs, vocab_size)
    unique, inverse = np.unique(keys, return_inverse=True)
    src, tgt = unique // vocab_size, unique % vocab_size
    probs = np.ones(len(unique))
    for _ in range(ROUNDS):
        weights = probs[inverse]
        weights /= np.bincount(owners, weights)[owners]
        counts = np.bincount(inverse, weights)
        probs = counts / np.bincount(src, counts)[src]
    table = np.full((vocab_size, max(TRANSLATIONS, FREQUENT)), EOS, np.int32)
    table[:, 0] = np.arange(vocab_size)
    # By source token, best first: the place of a translation is its distance from the first one.
    order = np.lexsort((tgt, -probs, src))
    firsts = np.searchsorted(src[order], np.arange(vocab_size))
    places = np.arange(len(order)) - firsts[src[order]] + 1
    kept = places < TRANSLATIONS
    table[src[order][kept], places[kept]] = tgt[order][kept]
    frequencies = np.bincount(np.concatenate([pair[1] for pair in pairs]), minlength=vocab_size)
    table[PAD, :FREQUENT] = np.argsort(-frequencies, kind="stable")[:FREQUENT]
    return table


def candidates_of(table: Table, sources: Iterable[Sequence[int]]) -> IntArray:
    """Return the candidates of each source, in ascending order, [B, C].

    All have the ids up to EOS. Shorter lists are filled with V.
    """
    common = np.concatenate([np.arange(EOS + 1), table[PAD]])
    found = [np.unique(np.concatenate([common, table[source].ravel()])) for source in sources]
    size = max(map(len, found))
    result = np.full((len(found), -(-size // MULTIPLE) * MULTIPLE), len(table))
    for row, ids in zip(result, found, strict=True):
        row[: len(ids)] = ids
    return result


def _links(
    pairs: Sequence[tuple[npt.NDArray[np.int32], npt.NDArray[np.int32]]], vocab_size: int
) -> tuple[IntArray, IntArray]:
    """Return source * V + target of each link, and the number of its target position."""
    keys, owners, position = [], [], 0
    for src, tgt in pairs:
        # BOS stands for the empty word, which explains target tokens without a source.
        words = np.concatenate([[BOS], src])
        keys.append((words[None].astype(np.int64) * vocab_size + tgt[:, None]).ravel())
        owners.append(np.repeat(np.arange(position, position + len(tgt)), len(words)))
        position += len(tgt)
    return np.concatenate(keys), np.concatenate(owners)
