"""What became of a line: candidates with scores, pieces and attention, and parts of a line joined.

Shapes: T pieces of a candidate, S source pieces.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean

from torch import Tensor


@dataclass(frozen=True, eq=False)
class Candidate:
    """One translation of a line."""

    text: str
    """Without a line end."""
    score: float
    """What ranks it: log-probability, natural, over the length penalty plus the coverage penalty;
    of mbr the mean chrF2 against all samples, 0 to 100. -inf: nothing was allowed."""
    pieces: list[str]
    """The subwords as the model said them; </s> last where it came to an end."""
    token_scores: list[float]
    """Log-probability of each piece, natural."""
    is_finished: bool
    """The model ended it; otherwise it was cut at the longest length allowed."""
    attention: Tensor | None
    """How much each piece looked at each source piece, [T, S], if asked for."""
    words: list[int]
    """The word, as spaces part them, of each piece; -1: of none, such as </s>."""
    num_unsaid: int = 0
    """Terms that had to be said and are not."""
    num_lost: int = 0
    """Protected parts of the source that could not be restored."""

    @property
    def log_prob(self) -> float:
        """Of all pieces, natural."""
        return math.fsum(self.token_scores)


@dataclass(frozen=True, eq=False)
class Translation:
    """What became of one line."""

    src_pieces: list[str]
    """The line as the model read it, </s> last; nothing for a blank line."""
    n_best: list[Candidate]
    """Best first, at least one; samples in the order in which they were drawn."""
    src_words: list[int]
    """The word of each source piece, as of a candidate."""
    num_parts: int = 1
    """Parts that the line was cut into, because it is longer than those of training."""
    num_protected: int = 0
    """Parts of the source that should pass through untouched."""

    @property
    def best(self) -> Candidate:
        """The first of the n best."""
        return self.n_best[0]

    @property
    def text(self) -> str:
        """Of the best candidate; empty for a blank line."""
        return self.best.text

    @property
    def score(self) -> float:
        """Of the best candidate; 0 for a blank line."""
        return self.best.score


def nothing(score: float = 0.0) -> Candidate:
    """What a blank line becomes."""
    return Candidate("", score, [], [], True, None, [])


def join(parts: Sequence[Translation]) -> Translation:
    """The parts of a line as one: the n-th best of each are its n-th best.

    Its score is the mean of theirs; an </s> stands behind each of them.
    """
    if len(parts) == 1:
        return parts[0]
    return Translation(
        [piece for part in parts for piece in part.src_pieces],
        [_join_candidates(each) for each in zip(*(part.n_best for part in parts), strict=False)],
        _join_words([part.src_words for part in parts]),
        len(parts),
        sum(part.num_protected for part in parts),
    )


def _join_candidates(parts: Sequence[Candidate]) -> Candidate:
    looks = [part.attention for part in parts if part.attention is not None]
    return Candidate(
        " ".join(part.text for part in parts if part.text),
        fmean(part.score for part in parts),
        [piece for part in parts for piece in part.pieces],
        [score for part in parts for score in part.token_scores],
        all(part.is_finished for part in parts),
        _block_diagonal(looks) if looks else None,
        _join_words([part.words for part in parts]),
        sum(part.num_unsaid for part in parts),
        sum(part.num_lost for part in parts),
    )


def _join_words(parts: Sequence[list[int]]) -> list[int]:
    joined: list[int] = []
    start = 0
    for words in parts:
        joined += [word + start if word >= 0 else -1 for word in words]
        start += max(words, default=-1) + 1
    return joined


def _block_diagonal(blocks: Sequence[Tensor]) -> Tensor:
    """Each part looks at its own source alone."""
    whole = blocks[0].new_zeros(
        sum(block.size(0) for block in blocks), sum(block.size(1) for block in blocks)
    )
    row = column = 0
    for block in blocks:
        whole[row : row + block.size(0), column : column + block.size(1)] = block
        row, column = row + block.size(0), column + block.size(1)
    return whole
