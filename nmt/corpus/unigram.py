"""Training a unigram vocabulary: pieces and their log-probabilities by expectation maximisation.

The algorithm of SentencePiece (Kudo 2018, section 3.2): start from many frequent substrings,
estimate their probabilities by EM with a sparse prior, prune the quarter whose removal costs the
least likelihood, and repeat until the vocabulary is small enough.

The UnigramTrainer of `tokenizers` (0.23.3) is not used because it is not deterministic: with one
thread and sorted input, 18 runs in six processes gave 18 different files, also after rounding the
log-probabilities to four digits, because it sums in the order of a randomly seeded hash map.

Shapes: C characters of all words together, L longest piece, V pieces, W words of one length N.
A table [C, L] holds the piece that begins at each character for each length, V where there is none.
"""

import zlib
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
from numpy.lib.stride_tricks import sliding_window_view

Ints = npt.NDArray[np.int64]
Table = npt.NDArray[np.int32]
Floats = npt.NDArray[np.float64]

MAX_PIECE = 16
"""L: characters of the longest piece."""
MAX_WORD = 24
"""Longer words are cut: the product of so many probabilities stays far from underflow."""
MAX_CHARS = 2_000_000
"""Largest C, most frequent words first: bounds time and memory (about 500 MB, 30 s). Of further
words only the characters count."""
SEEDS = 12
"""Initial pieces per final one."""
_KEEP = 0.75
_SLACK = 1.1
_MIN_COUNT = 0.5
_BUCKET = 10_000


def train_unigram(words: Counter[str], size: int) -> list[tuple[str, float]]:
    """Train at most `size` pieces, every character of the words among them.

    Args:
        words: parts of text that no piece may cross, with their counts.
        size: largest number of pieces.

    Returns:
        Pieces and natural log-probabilities, the most probable first.
    """
    if not words:
        return []
    corpus = _Corpus(_frequent_parts(words))
    pieces = _seed(corpus, size)
    while True:
        # Two EM steps before each pruning step, as in SentencePiece.
        for _ in range(2):
            counts = _expected_counts(corpus, pieces)
            pieces, counts = _maximise(pieces, counts)
        if len(counts) <= _SLACK * size:
            return _best(corpus, pieces, size)
        keep = max(int(_SLACK * size), int(_KEEP * len(counts)))
        pieces = _without(pieces, _losses(pieces, counts).argsort(kind="stable")[:-keep])


class _Corpus:
    """All words in one string, with their bounds."""

    def __init__(self, words: list[tuple[str, int]]) -> None:
        self.text = "".join(word for word, _ in words)
        self.lengths = np.array([len(word) for word, _ in words], dtype=np.int64)
        self.counts = np.array([count for _, count in words], dtype=np.float64)
        self.ends = np.cumsum(self.lengths)

    def buckets(self) -> Iterator[tuple[Ints, Floats, int]]:
        """Yield first characters [W] and counts [W] of words of one length N, and N."""
        for length in np.unique(self.lengths):
            rows = np.flatnonzero(self.lengths == length)
            for first in range(0, len(rows), _BUCKET):
                some = rows[first : first + _BUCKET]
                yield self.ends[some] - length, self.counts[some], int(length)


@dataclass(frozen=True)
class _Pieces:
    """A vocabulary during training."""

    table: Table
    """Piece of each substring, or V, [C, L]."""
    log_probs: Floats
    """Natural log-probability of each piece, [V]."""
    places: Ints
    """First occurrence of each piece as a character of the corpus, [V]."""
    sizes: Ints
    """Characters of each piece, [V]."""


def _frequent_parts(words: Counter[str]) -> list[tuple[str, int]]:
    """Return the most frequent words, cut to MAX_WORD characters, with counts, in fixed order."""
    parts: Counter[str] = Counter()
    rest: Counter[str] = Counter()
    num_chars = 0
    for word, count in sorted(words.items(), key=_by_frequency):
        num_chars += len(word)
        if num_chars > MAX_CHARS:
            rest.update(dict.fromkeys(word, count))
            continue
        for first in range(0, len(word), MAX_WORD):
            parts[word[first : first + MAX_WORD]] += count
    # The rest may have characters of its own, each of which must be a piece.
    for character in rest.keys() - set("".join(parts)):
        parts[character] = rest[character]
    return sorted(parts.items())


def _by_frequency(item: tuple[str, int]) -> tuple[int, int, str]:
    """Return the key by which words are sorted: the order of the counter has no effect."""
    word, count = item
    # Ties by a digest: by text, the words of a language without spaces, which occur once each,
    # would be those with the lowest code points.
    return -count, zlib.crc32(word.encode()), word


def _seed(corpus: _Corpus, size: int) -> _Pieces:
    """Return all characters, and the substrings that occur at least twice and cover most text.

    Substrings of length n that repeat consist of two of length n - 1 that do: their key is the
    pair of both ids.
    """
    codes = np.frombuffer(corpus.text.encode("utf-32-le"), dtype=np.uint32)
    counts_here = np.repeat(corpus.counts, corpus.lengths)
    room_here = np.repeat(corpus.ends, corpus.lengths) - np.arange(len(codes))
    columns, scores, firsts, sizes = [], [], [], []
    num = 0
    _, first, here = np.unique(codes, return_index=True, return_inverse=True)
    for length in range(1, MAX_PIECE + 1):
        if length > 1:
            # Extend each repeated substring by the repeated one that starts one character later.
            right = np.append(here[1:], -1)
            valid = np.flatnonzero((here >= 0) & (right >= 0) & (room_here >= length))
            keys = here[valid] * (here.max(initial=0) + 1) + right[valid]
            _, index, inverse = np.unique(keys, return_index=True, return_inverse=True)
            first = valid[index]
            here = np.full(len(codes), -1)
            here[valid] = inverse
        occurring = here >= 0
        counts = np.bincount(here[occurring], weights=counts_here[occurring], minlength=len(first))
        # Characters always stay: every word must have a segmentation.
        is_kept = (counts >= 2) | (length == 1)
        new = np.append(np.where(is_kept, np.cumsum(is_kept) - 1, -1), -1)
        here = new[here]
        columns.append(np.where(here >= 0, here + num, -1).astype(np.int32))
        scores.append(counts[is_kept] * length)
        firsts.append(first[is_kept])
        sizes.append(np.full(is_kept.sum(), length))
        num += int(is_kept.sum())
    table = np.stack(columns, axis=1)
    table[table < 0] = num
    # Characters covered: count times length, as in SentencePiece.
    score = np.concatenate(scores)
    log_probs = np.log(score / score.sum())
    pieces = _Pieces(table, log_probs, np.concatenate(firsts), np.concatenate(sizes))
    order = np.where(pieces.sizes == 1, np.inf, score).argsort(kind="stable")
    return _without(pieces, order[: -max(SEEDS * size, len(scores[0]))])


def _expected_counts(corpus: _Corpus, pieces: _Pieces) -> Floats:
    """Return the expected count of each piece over all segmentations (forward-backward), [V]."""
    probs = np.append(np.exp(pieces.log_probs), 0.0)
    counts = np.zeros(len(probs))
    for starts, word_counts, length in corpus.buckets():
        limit = min(length, MAX_PIECE)
        ids = pieces.table[starts[:, None] + np.arange(length), :limit]  # [W, N, L]
        steps = probs[ids]
        forward = np.zeros((len(starts), length + 1))  # up to each character, all paths
        forward[:, 0] = 1
        for end in range(1, length + 1):
            begins = np.arange(max(0, end - limit), end)
            forward[:, end] = (forward[:, begins] * steps[:, begins, end - begins - 1]).sum(axis=1)
        backward = np.zeros((len(starts), length + 1 + limit))  # from each character to the end
        backward[:, length] = 1
        ahead = sliding_window_view(backward[:, 1:], limit, axis=1)  # [W, N, L]: after the piece
        for begin in reversed(range(length)):
            backward[:, begin] = (steps[:, begin] * ahead[:, begin]).sum(axis=1)
        weight = word_counts / forward[:, length]
        expected = forward[:, :length, None] * steps * ahead[:, :length] * weight[:, None, None]
        counts += np.bincount(ids.ravel(), weights=expected.ravel(), minlength=len(counts))
    return counts[:-1]


def _maximise(pieces: _Pieces, counts: Floats) -> tuple[_Pieces, Floats]:
    """Set the probabilities for expected counts, with a sparse prior; characters always stay."""
    is_kept = (counts >= _MIN_COUNT) | (pieces.sizes == 1)
    pieces = _without(pieces, np.flatnonzero(~is_kept))
    counts = np.maximum(counts[is_kept], _MIN_COUNT)
    # exp(digamma) instead of the count: the Bayesian EM of SentencePiece, which favours few pieces.
    log_probs = _digamma(counts) - _digamma(counts.sum(keepdims=True))
    return replace(pieces, log_probs=log_probs), counts


def _losses(pieces: _Pieces, counts: Floats) -> Floats:
    """Return the log-likelihood lost without each piece, infinite for characters, [V]."""
    log_probs = np.append(pieces.log_probs, -np.inf)
    total = counts.sum()
    losses = np.full(len(counts), np.inf)
    for length in range(2, MAX_PIECE + 1):
        rows = np.flatnonzero(pieces.sizes == length)
        ids = pieces.table[pieces.places[rows][:, None] + np.arange(length), :length]
        ids[:, 0, length - 1] = len(counts)  # the piece itself is not available
        best = np.full((len(rows), length + 1), -np.inf)
        best[:, 0] = 0
        # Best path to each character: its pieces at the places where they begin, V elsewhere.
        paths = np.full((len(rows), length + 1, length), len(counts))
        each = np.arange(len(rows))
        for end in range(1, length + 1):
            scores = best[:, :end] + log_probs[ids[:, np.arange(end), end - 1 - np.arange(end)]]
            begin = scores.argmax(axis=1)
            best[:, end] = scores[each, begin]
            paths[:, end] = paths[each, begin]
            paths[each, end, begin] = ids[each, begin, end - 1 - begin]
        substitutes = paths[:, length]
        is_used = substitutes < len(counts)
        own = counts[rows]
        # Counts after the removal: each occurrence is replaced by its substitutes.
        new_total = total + own * (is_used.sum(axis=1) - 1)
        new_counts = np.append(counts, 0)[substitutes] + own[:, None]
        new_log_probs = np.where(is_used, np.log(new_counts / new_total[:, None]), 0).sum(axis=1)
        losses[rows] = own * (np.log(own / total) - new_log_probs)
    return losses


def _without(pieces: _Pieces, removed: Ints) -> _Pieces:
    """Remove pieces and renumber the rest."""
    is_kept = np.ones(len(pieces.log_probs), dtype=bool)
    is_kept[removed] = False
    num = int(is_kept.sum())
    new = np.append(np.where(is_kept, np.cumsum(is_kept) - 1, num), num).astype(np.int32)
    return _Pieces(
        new[pieces.table], pieces.log_probs[is_kept], pieces.places[is_kept], pieces.sizes[is_kept]
    )


def _best(corpus: _Corpus, pieces: _Pieces, size: int) -> list[tuple[str, float]]:
    """Return the most probable pieces, characters before all others."""
    order = np.where(pieces.sizes == 1, np.inf, pieces.log_probs).argsort(kind="stable")[::-1]
    best = []
    for row in order[:size].tolist():
        first = int(pieces.places[row])
        piece = corpus.text[first : first + int(pieces.sizes[row])]
        # The last digits of exp and log differ between processors.
        best.append((piece, round(float(pieces.log_probs[row]), 4)))
    return sorted(best, key=lambda item: (-item[1], item[0]))


def _digamma(x: Floats) -> Floats:
    """Return the derivative of log gamma to ten digits: recurrence, then an asymptotic series."""
    shift = sum(1 / (x + step) for step in range(8))
    x = x + 8
    square = x**-2
    series = square * (1 / 12 - square * (1 / 120 - square * (1 / 252 - square / 240)))
    return np.asarray(np.log(x) - 0.5 / x - series - shift)
