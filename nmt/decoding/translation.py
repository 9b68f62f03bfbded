"""Translations of lines: n-best candidates with scores, tokens, attention and word alignment.

Alignments are between words separated by spaces: those of the input line as it is, and those of the
translation. The attention of a target word is the mean over its tokens; a source word gets
the sum over its tokens. Attention to the end of the source is left out.

Shapes: T target tokens, S source tokens.
"""

import math
import re
from bisect import bisect_right
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate, chain, groupby
from statistics import fmean
from typing import Any

import numpy as np
import numpy.typing as npt

from nmt.decoding.interface import FloatArray


@dataclass(frozen=True, eq=False)
class WordAttention:
    """Attention between the words of a line.

    A target word attends to the source words of its segment only, so the memory of a line of many
    segments grows with its length and not with the square.
    """

    rows: list[npt.NDArray[np.float64]]
    """Attention of each target word to neighbouring source words."""
    firsts: list[int]
    """First of these source words for each target word."""
    num_src_words: int
    """Source words of the line."""

    @classmethod
    def between(
        cls, attention: npt.NDArray[Any], tgt_words: list[int], src_words: list[int],
        num_src_words: int,
    ) -> "WordAttention":  # fmt: skip
        """Return the attention between words, for that between tokens.

        Args:
            attention: attention between tokens, [T, S].
            tgt_words: index of the word of each target token; -1 for none.
            src_words: index of the word of each source token; -1 for none.
            num_src_words: number of source words; some may have no token.
        """
        first = min((word for word in src_words if word >= 0), default=0)
        src_members = _membership([max(-1, word - first) for word in src_words])
        tgt_members = _membership(tgt_words)
        means = tgt_members / tgt_members.sum(axis=1, keepdims=True).clip(min=1)
        # In double precision: weights of similar size decide an alignment.
        rows = list(means @ attention.astype(np.float64) @ src_members.T)
        return cls(rows, [first] * len(rows), num_src_words)

    @classmethod
    def join(cls, parts: Sequence["WordAttention"], words: Sequence[int]) -> "WordAttention":
        """Join the segments of a line.

        Args:
            parts: attention of each segment to the words of the whole line.
            words: target word of each row; neighbouring rows of the same word become their mean.
        """
        rows = [row for part in parts for row in part.rows]
        firsts = [first for part in parts for first in part.firsts]
        joined = cls([], [], max((part.num_src_words for part in parts), default=0))
        for _, group in groupby(range(len(rows)), key=words.__getitem__):
            members = list(group)
            first = min(firsts[n] for n in members)
            total = np.zeros(max(firsts[n] + len(rows[n]) for n in members) - first)
            for n in members:
                total[firsts[n] - first :][: len(rows[n])] += rows[n]
            joined.rows.append(total / len(members))
            joined.firsts.append(first)
        return joined

    def full_rows(self) -> Iterator[npt.NDArray[np.float64]]:
        """Yield the attention of each target word to all source words."""
        for first, row in zip(self.firsts, self.rows, strict=True):
            yield np.pad(row, (first, self.num_src_words - first - len(row)))

    def matrix(self) -> npt.NDArray[np.float64]:
        """Return the attention between all words, [target words, source words]."""
        return np.array(list(self.full_rows())).reshape(len(self.rows), self.num_src_words)

    def alignment(self) -> list[tuple[int, int]]:
        """Return each target word with the source word of most attention, by source word."""
        if not self.num_src_words:
            return []
        # Without attention it is the first word of the line.
        sources = [
            first + int(row.argmax()) if row.any() else 0
            for first, row in zip(self.firsts, self.rows, strict=True)
        ]
        return sorted((src, tgt) for tgt, src in enumerate(sources))


@dataclass(frozen=True, eq=False)
class Candidate:
    """One entry of an n-best list."""

    text: str
    """Detokenised text without a line end."""
    score: float
    """Ranking score: natural log-probability over the length penalty plus the coverage penalty;
    with `method: mbr` the mean chrF2 against all samples, with `rerank` the expected similarity to
    the beam, 0 to 100. -inf if the constraints allow no translation."""
    tokens: list[str]
    """Subword tokens; `</s>` last if the model ended the translation."""
    token_log_probs: list[float]
    """Natural log-probability of each token."""
    is_finished: bool = True
    """True if the model ended it; False if it was truncated at the maximum length."""
    attentions: tuple[FloatArray, ...] | None = None
    """Attention in each segment, of its target tokens over its source tokens, [T, S] each; None
    unless requested."""
    words: WordAttention | None = None
    """Attention between words; None unless requested, or if the line has protected spans."""
    num_missing_terms: int = 0
    """Requested terms that the translation does not contain."""
    num_lost: int = 0
    """Protected spans of the source that could not be restored."""

    @property
    def log_prob(self) -> float:
        """Natural log-probability of the token sequence."""
        return math.fsum(self.token_log_probs)

    @property
    def attention(self) -> FloatArray | None:
        """Attention of each target token over the source tokens, [T, S]; None unless requested.

        Segments of a line attend to their own source only. Made when it is read: for a line of
        many segments it is far larger than `attentions`.
        """
        return None if self.attentions is None else _block_diagonal(self.attentions)

    @property
    def word_attention(self) -> npt.NDArray[np.float64] | None:
        """Attention between words, [target words, source words]; None without `words`."""
        return None if self.words is None else self.words.matrix()

    @property
    def alignment(self) -> list[tuple[int, int]] | None:
        """Pairs of (source word, target word), from 0, in source order; None without attention.

        Each target word is aligned with the source word that it attends to most.
        """
        return None if self.words is None else self.words.alignment()


@dataclass(frozen=True)
class Gap:
    """Space between two segments of a line, and between their translations."""

    wide: str = ""
    """Space if the translation is Chinese or Japanese."""
    other: str = " "
    """Space in other translations."""
    is_cut: bool = False
    """True if the segments are parts of one sentence."""

    @classmethod
    def after(cls, text: str, gap: str, is_cut: bool) -> "Gap":
        """Return the gap after a source text that white space, or none, follows.

        It is the white space of the input where both languages use it in the same way.
        """
        return cls(gap if _WIDE.match(text[-1:]) else "", gap or " ", is_cut)


NO_GAP = Gap()
_WIDE = re.compile(
    "[\u3000-\u303f\u3041-\u30ff\u3400-\u9fff\uf900-\ufaff\uff01-\uff9f\U00020000-\U0003ffff]"
)
"""Character of Chinese or Japanese, which have no space between sentences."""


@dataclass(frozen=True, eq=False)
class Translation:
    """Translation of one line: an n-best list, and shortcuts to the best candidate."""

    src_tokens: list[str]
    """Subword tokens of the line as the model read it, `</s>` last; empty for a blank line."""
    n_best: list[Candidate]
    """Candidates, best first, at least one; samples in the order in which they were drawn."""
    num_segments: int = 1
    """Segments that the line was split into because it exceeds the maximum source length."""
    num_cuts: int = 0
    """Segments that end inside a sentence, which exceeds the limit itself."""
    num_protected: int = 0
    """Protected spans of the line, which should appear unchanged in the translation."""
    num_copied: int = 0
    """Segments that are copied: words that exceed the limit."""

    @classmethod
    def join(cls, segments: Sequence["Translation"], gaps: Sequence[Gap]) -> "Translation":
        """Join the translations of the segments of a line, with the gaps after them.

        The n-th candidate joins the n-th candidates of the segments; its score is their mean, and
        its tokens keep the `</s>` of each segment. Copied segments are part of each candidate, and
        not of its score.
        """
        if len(segments) == 1:
            return segments[0]
        # Segments can have different numbers of candidates.
        sizes = [len(segment.n_best) for segment in segments if segment.src_tokens]
        size = min(sizes, default=1)
        n_best = [each.n_best if each.src_tokens else each.n_best * size for each in segments]
        return cls(
            [token for segment in segments for token in segment.src_tokens],
            [_join(each, gaps) for each in zip(*(best[:size] for best in n_best), strict=True)],
            len(segments),
            sum(gap.is_cut for gap in gaps),
            sum(segment.num_protected for segment in segments),
            sum(segment.num_copied for segment in segments),
        )

    @property
    def best(self) -> Candidate:
        """Best candidate."""
        return self.n_best[0]

    @property
    def text(self) -> str:
        """Text of the best candidate; empty for a blank line."""
        return self.best.text

    @property
    def score(self) -> float:
        """Score of the best candidate; 0 for a blank line."""
        return self.best.score

    @property
    def tokens(self) -> list[str]:
        """Subword tokens of the best candidate."""
        return self.best.tokens

    @property
    def alignment(self) -> list[tuple[int, int]] | None:
        """Word alignment of the best candidate (`Candidate.alignment`)."""
        return self.best.alignment


def split_words(text: str) -> list[str]:
    """Return the words of a text, separated by one or more spaces; no other character does."""
    return [word for word in text.split(" ") if word]


def word_indices(tokens: Iterable[bytes], words: Iterable[str]) -> list[int]:
    """Return the index of the word of each token; -1 for none, as for EOS.

    A token belongs to the word of its first byte other than a space. Words are found by the number
    of such bytes before the token, so that neither has to be split like the other.

    Args:
        tokens: bytes of each token.
        words: words of the same text, without spaces; those without text belong to no token.
    """
    ends = list(accumulate(len(word.encode()) for word in words))
    indices, offset = [], 0
    for token in tokens:
        size = len(token) - token.count(b" ")
        # Only bytes that are not UTF-8 give a token beyond the last word.
        indices.append(min(bisect_right(ends, offset), len(ends) - 1) if size else -1)
        offset += size
    return indices


def replace_invalid(tokens: Sequence[bytes]) -> list[bytes]:
    """Return the bytes of tokens with U+FFFD for those that are not UTF-8, as in the text."""
    data, start = b"".join(tokens), 0
    if "\ufffd" not in data.decode(errors="replace"):
        return list(tokens)
    parts = [data[at : at + 1] for at in range(len(data))]
    while True:
        try:
            data[start:].decode()
            break
        except UnicodeDecodeError as error:
            first, end = start + error.start, start + error.end
            parts[first:end] = ["\ufffd".encode(), *[b""] * (end - first - 1)]
            start = end
    ends = accumulate(map(len, tokens))
    spans = [slice(end - len(token), end) for token, end in zip(tokens, ends, strict=True)]
    return [b"".join(parts[span]) for span in spans]


def _join(candidates: Sequence[Candidate], gaps: Sequence[Gap]) -> Candidate:
    text, gap = "", NO_GAP
    attentions = [each.attentions for each in candidates if each.attentions is not None]
    # Copies have neither tokens nor a score; a missing translation has no tokens and scores -inf.
    scores = [each.score for each in candidates if each.tokens or each.score]
    for each, following in zip(candidates, gaps, strict=True):
        if text and each.text:
            text += gap.wide if _WIDE.match(text[-1]) else gap.other
        text, gap = text + each.text, following
    return Candidate(
        text,
        fmean(scores or [0.0]),
        [token for each in candidates for token in each.tokens],
        [log_prob for each in candidates for log_prob in each.token_log_probs],
        all(each.is_finished for each in candidates),
        # Without attention of all segments there is none of the line.
        tuple(chain(*attentions)) if len(attentions) == len(candidates) else None,
        _join_words(text, candidates),
        sum(each.num_missing_terms for each in candidates),
        sum(each.num_lost for each in candidates),
    )


def _block_diagonal(blocks: Sequence[FloatArray]) -> FloatArray:
    """Join matrices along the diagonal; zero elsewhere."""
    joined = np.zeros(np.sum([block.shape for block in blocks], axis=0), np.float32)
    row = column = 0
    for block in blocks:
        num_rows, num_columns = block.shape
        joined[row : row + num_rows, column : column + num_columns] = block
        row, column = row + num_rows, column + num_columns
    return joined


def _join_words(text: str, candidates: Sequence[Candidate]) -> WordAttention | None:
    """Join the attention of words of segments, which all refer to the words of the whole line."""
    parts = [each.words for each in candidates if each.words is not None]
    if len(parts) < len(candidates):
        return None
    # Without a space between two segments, their words at that point are one.
    words = [word.encode() for each in candidates for word in split_words(each.text)]
    return WordAttention.join(parts, word_indices(words, split_words(text)))


def _membership(words: list[int]) -> npt.NDArray[np.float64]:
    """Return 1 where a token belongs to a word, [words, tokens]."""
    numbers = np.arange(max(words, default=-1) + 1)
    is_member: npt.NDArray[np.bool_] = np.equal(numbers[:, None], np.array(words))
    return is_member.astype(np.float64)
