"""Translations of lines: n-best candidates with scores, tokens, attention and word alignment.

Alignments are between words separated by spaces: those of the input line as it is, and those of the
translation. The attention of a target word is the mean over its tokens; a source word gets
the sum over its tokens. Attention to the end of the source is left out.

Shapes: T target tokens, S source tokens.
"""

import math
import re
from bisect import bisect_right
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import accumulate, chain
from statistics import fmean
from typing import Any

import numpy as np
import numpy.typing as npt

from nmt.corpus.text import UNSPACED
from nmt.decoding.interface import FloatArray


@dataclass(frozen=True, eq=False)
class Candidate:
    """One entry of an n-best list."""

    text: str
    """Detokenised text without a line end."""
    score: float
    """Ranking score: natural log-probability over the length penalty plus the coverage penalty;
    with `method: mbr` the mean chrF2 against all samples, 0 to 100. -inf if the constraints allow
    no translation."""
    tokens: list[str]
    """Subword tokens; `</s>` last if the model ended the translation."""
    token_log_probs: list[float]
    """Natural log-probability of each token."""
    is_finished: bool = True
    """True if the model ended it; False if it was truncated at the maximum length."""
    attentions: tuple[FloatArray, ...] | None = None
    """Attention in each segment, of its target tokens over its source tokens, [T, S] each; None
    unless requested."""
    word_attention: npt.NDArray[np.float64] | None = None
    """Attention between words, [target words, source words]; None unless requested, or if the line
    has protected spans."""
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
    def alignment(self) -> list[tuple[int, int]] | None:
        """Pairs of (source word, target word), from 0, in source order; None without attention.

        Each target word is aligned with the source word that it attends to most.
        """
        return None if self.word_attention is None else hard_alignment(self.word_attention)


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
        is_wide = bool(_WIDE.match(text[-1:]))
        # Without white space a sentence ends, or a word of a script without spaces, but a word of
        # other scripts was cut.
        is_inside = is_cut and not (is_wide or UNSPACED.match(text[-1:]))
        return cls(gap if is_wide else "", gap or ("" if is_inside else " "), is_cut)


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

    @classmethod
    def join(cls, segments: Sequence["Translation"], gaps: Sequence[Gap]) -> "Translation":
        """Join the translations of the segments of a line, with the gaps after them.

        The n-th candidate joins the n-th candidates of the segments; its score is their mean, and
        its tokens keep the `</s>` of each segment.
        """
        if len(segments) == 1:
            return segments[0]
        return cls(
            [token for segment in segments for token in segment.src_tokens],
            # Not strict: segments can have different numbers of candidates.
            [
                _join(each, gaps)
                for each in zip(*(segment.n_best for segment in segments), strict=False)
            ],
            len(segments),
            sum(gap.is_cut for gap in gaps),
            sum(segment.num_protected for segment in segments),
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


def word_indices(tokens: Iterable[bytes], words: Iterable[str], start: int = 0) -> list[int]:
    """Return the index of the word of each token; -1 for none, as for EOS.

    A token belongs to the word of its first byte other than a space. Words are found by the number
    of such bytes before the token, so that neither has to be split like the other.

    Args:
        tokens: bytes of each token.
        words: words of the same text, without spaces; those without text belong to no token.
        start: number of such bytes in the text before the first token.
    """
    ends = list(accumulate(len(word.encode()) for word in words))
    indices, offset = [], start
    for token in tokens:
        size = len(token) - token.count(b" ")
        # Only bytes that are not UTF-8 give a token beyond the last word.
        indices.append(min(bisect_right(ends, offset), len(ends) - 1) if size else -1)
        offset += size
    return indices


def word_attention(
    attention: npt.NDArray[Any], tgt_words: list[int], src_words: list[int], num_src_words: int
) -> npt.NDArray[np.float64]:
    """Return the attention between words, [target words, source words].

    Args:
        attention: attention between tokens, [T, S].
        tgt_words: index of the word of each target token; -1 for none.
        src_words: index of the word of each source token; -1 for none.
        num_src_words: number of source words; some may have no token.
    """
    tgt_membership = _membership(tgt_words, max(tgt_words, default=-1) + 1)
    means = tgt_membership / tgt_membership.sum(axis=1, keepdims=True).clip(min=1)
    # In double precision: weights of similar size decide an alignment.
    by_word: npt.NDArray[np.float64] = means @ attention.astype(np.float64)
    return by_word @ _membership(src_words, num_src_words).T


def hard_alignment(weights: npt.NDArray[np.float64]) -> list[tuple[int, int]]:
    """Return each target word with the source word of most attention, sorted by source word."""
    if not weights.size:
        return []
    return sorted((src, tgt) for tgt, src in enumerate(weights.argmax(axis=1).tolist()))


def _join(candidates: Sequence[Candidate], gaps: Sequence[Gap]) -> Candidate:
    text, gap = "", NO_GAP
    attentions = [each.attentions for each in candidates if each.attentions is not None]
    for each, following in zip(candidates, gaps, strict=True):
        if text and each.text:
            text += gap.wide if _WIDE.match(text[-1]) else gap.other
        text, gap = text + each.text, following
    return Candidate(
        text,
        fmean(each.score for each in candidates),
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


def _join_words(text: str, candidates: Sequence[Candidate]) -> npt.NDArray[np.float64] | None:
    """Join the attention of words of segments, which all refer to the words of the whole line."""
    rows = [each.word_attention for each in candidates if each.word_attention is not None]
    if len(rows) < len(candidates):
        return None
    # Without a space between two segments, their words at that point are one.
    parts = [word.encode() for each in candidates for word in split_words(each.text)]
    words = np.array(word_indices(parts, split_words(text)), np.int64)
    attention = np.concatenate(rows)
    starts = np.flatnonzero(np.diff(words, prepend=-1))
    if len(starts) == len(words):
        return attention
    counts = np.diff(starts, append=len(words))[:, None]
    means: npt.NDArray[np.float64] = np.add.reduceat(attention, starts, axis=0) / counts
    return means


def _membership(words: list[int], num_words: int) -> npt.NDArray[np.float64]:
    """Return 1 where a token belongs to a word, [words, tokens]."""
    is_member: npt.NDArray[np.bool_] = np.equal(np.arange(num_words)[:, None], np.array(words))
    return is_member.astype(np.float64)
