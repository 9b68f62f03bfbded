"""Learning a unigram vocabulary: pieces and their log-probabilities by expectation-maximisation.

Kudo 2018, section 3.2, as SentencePiece does it: many frequent substrings as a start; EM for their
probabilities with a sparse prior; the quarter that the likelihood misses least is pruned; and so
on until few enough are left. `tokenizers` has a trainer for this, but its sums run in the order of
a hash table that is another in each process, and it starts without most words: only what goes on
in two ways in different words is a candidate. Here everything is an array in a fixed order.

Shapes: C characters of all words together, L longest piece, V pieces, W words of one length N.
A table [C, L] holds the piece that begins at each character for each length, V where there is none.
"""

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from numpy.lib.stride_tricks import sliding_window_view

Ints = npt.NDArray[np.int64]
Table = npt.NDArray[np.int32]
Floats = npt.NDArray[np.float64]

MAX_PIECE = 16
"""L: characters of the longest piece."""
MAX_WORD = 24
"""Longer words are cut: the product of so many probabilities is far from the smallest float."""
MAX_CHARS = 2_000_000
"""Most C, the most frequent words first: bounds time and memory (about 500 MB, 30 s)."""
SEEDS = 12
"""Pieces to begin with, for each one wanted."""
_KEEP = 0.75
_SLACK = 1.1
_MIN_COUNT = 0.5
_BUCKET = 10_000


def learn(words: Counter[str], size: int) -> list[tuple[str, float]]:
    """Learn at most `size` pieces, every character of the words among them.

    Args:
        words: what no piece may reach across, and how often it occurs.

    Returns:
        Pieces and natural log-probabilities, the most probable first.
    """
    if not words:
        return []
    corpus = _Corpus(_frequent_parts(words))
    pieces = _seed(corpus, size)
    while True:
        for _ in range(2):
            counts = _expected_counts(corpus, pieces)
            pieces, counts = _maximised(pieces, counts)
        if len(counts) <= _SLACK * size:
            return _best(corpus, pieces, size)
        keep = max(int(_SLACK * size), int(_KEEP * len(counts)))
        pieces = _without(pieces, _losses(pieces, counts).argsort(kind="stable")[:-keep])


class _Corpus:
    """Words as one string, with the places of the words in it."""

    def __init__(self, words: list[tuple[str, int]]) -> None:
        self.text = "".join(word for word, _ in words)
        self.lengths = np.array([len(word) for word, _ in words], dtype=np.int64)
        self.counts = np.array([count for _, count in words], dtype=np.float64)
        self.ends = np.cumsum(self.lengths)

    def buckets(self) -> Iterator[tuple[Ints, Floats, int]]:
        """First characters [W] and counts [W] of some words of one length, and that length N."""
        for length in np.unique(self.lengths):
            rows = np.flatnonzero(self.lengths == length)
            for first in range(0, len(rows), _BUCKET):
                some = rows[first : first + _BUCKET]
                yield self.ends[some] - length, self.counts[some], int(length)


@dataclass(frozen=True)
class _Pieces:
    """A vocabulary in the making."""

    table: Table
    """[C, L]: the piece of each substring, or V."""
    log_probs: Floats
    """[V]."""
    places: Ints
    """[V]: the character where each piece occurs first."""
    sizes: Ints
    """[V]: characters of each piece."""


def _frequent_parts(words: Counter[str]) -> list[tuple[str, int]]:
    parts: Counter[str] = Counter()
    room = MAX_CHARS
    for word, count in sorted(words.items(), key=lambda item: (-item[1], item[0])):
        room -= len(word)
        if room < 0:
            break
        for first in range(0, len(word), MAX_WORD):
            parts[word[first : first + MAX_WORD]] += count
    return sorted(parts.items())


def _seed(corpus: _Corpus, size: int) -> _Pieces:
    """All characters, and the substrings that occur at least twice and cover most text.

    Substrings of length n that repeat are made of two of length n - 1 that do: a key of both ids.
    """
    codes = np.frombuffer(corpus.text.encode("utf-32-le"), dtype=np.uint32)
    places = np.arange(len(codes))
    counts_here = np.repeat(corpus.counts, corpus.lengths)
    room_here = np.repeat(corpus.ends, corpus.lengths) - places
    columns, scores, firsts, sizes = [], [], [], []
    num = 0
    _, first, here = np.unique(codes, return_index=True, return_inverse=True)
    for length in range(1, MAX_PIECE + 1):
        if length > 1:
            right = np.append(here[1:], -1)
            valid = np.flatnonzero((here >= 0) & (right >= 0) & (room_here >= length))
            keys = here[valid] * (here.max(initial=0) + 1) + right[valid]
            _, index, found = np.unique(keys, return_index=True, return_inverse=True)
            first = valid[index]
            here = np.full(len(codes), -1)
            here[valid] = found
        occurring = here >= 0
        counts = np.bincount(here[occurring], weights=counts_here[occurring], minlength=len(first))
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
    score = np.concatenate(scores)
    pieces = _Pieces(
        table, np.log(score / score.sum()), np.concatenate(firsts), np.concatenate(sizes)
    )
    order = np.where(pieces.sizes == 1, np.inf, score).argsort(kind="stable")
    return _without(pieces, order[: -max(SEEDS * size, len(scores[0]))])


def _expected_counts(corpus: _Corpus, pieces: _Pieces) -> Floats:
    """[V]: how often each piece is expected in all segmentations, by their probability."""
    probs = np.append(np.exp(pieces.log_probs), 0.0)
    counts = np.zeros(len(probs))
    for starts, word_counts, length in corpus.buckets():
        limit = min(length, MAX_PIECE)
        ids = pieces.table[starts[:, None] + np.arange(length), :limit]  # [W, N, L]
        steps = probs[ids]
        before = np.zeros((len(starts), length + 1))  # probability of all ways to here
        before[:, 0] = 1
        for end in range(1, length + 1):
            begins = np.arange(max(0, end - limit), end)
            before[:, end] = (before[:, begins] * steps[:, begins, end - begins - 1]).sum(axis=1)
        after = np.zeros((len(starts), length + 1 + limit))  # and from here to the end of the word
        after[:, length] = 1
        ahead = sliding_window_view(after[:, 1:], limit, axis=1)  # [W, N, L]: after the piece
        for begin in reversed(range(length)):
            after[:, begin] = (steps[:, begin] * ahead[:, begin]).sum(axis=1)
        weight = word_counts / before[:, length]
        expected = before[:, :length, None] * steps * ahead[:, :length] * weight[:, None, None]
        counts += np.bincount(ids.ravel(), weights=expected.ravel(), minlength=len(counts))
    return counts[:-1]


def _maximised(pieces: _Pieces, counts: Floats) -> tuple[_Pieces, Floats]:
    """Probabilities for these counts, with Kudo's sparse prior; rare pieces go, characters stay."""
    is_kept = (counts >= _MIN_COUNT) | (pieces.sizes == 1)
    pieces = _without(pieces, np.flatnonzero(~is_kept))
    counts = np.maximum(counts[is_kept], _MIN_COUNT)
    log_probs = _digamma(counts) - _digamma(counts.sum(keepdims=True))
    return _Pieces(pieces.table, log_probs, pieces.places, pieces.sizes), counts


def _losses(pieces: _Pieces, counts: Floats) -> Floats:
    """[V]: how much likelihood the corpus loses without each piece; infinite for characters."""
    log_probs = np.append(pieces.log_probs, -np.inf)
    total = counts.sum()
    losses = np.full(len(counts), np.inf)
    for length in range(2, MAX_PIECE + 1):
        rows = np.flatnonzero(pieces.sizes == length)
        ids = pieces.table[pieces.places[rows][:, None] + np.arange(length), :length]
        ids[:, 0, length - 1] = len(counts)  # without itself
        best = np.full((len(rows), length + 1), -np.inf)
        best[:, 0] = 0
        back = np.zeros((len(rows), length + 1), dtype=np.int64)
        for end in range(1, length + 1):
            begins = np.arange(end)
            ways = best[:, begins] + log_probs[ids[:, begins, end - begins - 1]]
            back[:, end] = ways.argmax(axis=1)
            best[:, end] = ways.max(axis=1)
        instead = _trace(ids, back, len(counts))  # [rows, length]: pieces, then V
        is_used = instead < len(counts)
        ours = counts[rows]
        new_total = total + ours * (is_used.sum(axis=1) - 1)
        new_counts = np.append(counts, 0)[instead] + ours[:, None]
        new_log_probs = np.where(is_used, np.log(new_counts / new_total[:, None]), 0).sum(axis=1)
        losses[rows] = ours * (np.log(ours / total) - new_log_probs)
    return losses


def _trace(ids: Table, back: Ints, nothing: int) -> Ints:
    """The pieces of the best way through each row, the last first, then `nothing`."""
    num_rows, length = back.shape[0], back.shape[1] - 1
    rows = np.arange(num_rows)
    end = np.full(num_rows, length)
    pieces = np.full((num_rows, length), nothing, dtype=np.int64)
    for step in range(length):
        begin = back[rows, end]
        is_on = end > 0
        pieces[is_on, step] = ids[rows, begin, end - begin - 1][is_on]
        end = begin
    return pieces


def _without(pieces: _Pieces, removed: Ints) -> _Pieces:
    is_kept = np.ones(len(pieces.log_probs), dtype=bool)
    is_kept[removed] = False
    num = int(is_kept.sum())
    new = np.append(np.where(is_kept, np.cumsum(is_kept) - 1, num), num).astype(np.int32)
    return _Pieces(
        new[pieces.table], pieces.log_probs[is_kept], pieces.places[is_kept], pieces.sizes[is_kept]
    )


def _best(corpus: _Corpus, pieces: _Pieces, size: int) -> list[tuple[str, float]]:
    order = np.where(pieces.sizes == 1, np.inf, pieces.log_probs).argsort(kind="stable")[::-1]
    found = []
    for row in order[:size].tolist():
        first = int(pieces.places[row])
        piece = corpus.text[first : first + int(pieces.sizes[row])]
        # Rounded, because the last digits of exp and log are not the same on every processor.
        found.append((piece, round(float(pieces.log_probs[row]), 4)))
    return sorted(found, key=lambda item: (-item[1], item[0]))


def _digamma(x: Floats) -> Floats:
    """Derivative of log gamma, to ten digits: recurrence, then an asymptotic series."""
    shift = sum(1 / (x + step) for step in range(8))
    x = x + 8
    square = x**-2
    series = square * (1 / 12 - square * (1 / 120 - square * (1 / 252 - square / 240)))
    return np.asarray(np.log(x) - 0.5 / x - series - shift)
