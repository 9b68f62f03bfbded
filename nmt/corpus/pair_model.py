"""Statistics of a corpus that identify improbable pairs: lengths, last marks, first capitals.

`PairModel.fit` learns from a sample of pairs; `judge` then looks at pairs one by one. Nothing is
assumed about the languages: lengths are compared in characters, with a curve learnt from the
corpus; marks and capitals count only where the corpus has them on both sides nearly always.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from nmt.config.corpus import CleaningConfig
from nmt.corpus.text import END_MARKS, ENDS_SENTENCE

MIN_PAIRS = 1_000
"""Pairs from which on a model is learnt; smaller corpora pass all of its rules."""
MIN_MARKS = 0.95
"""Share of pairs with a mark at the end of one side that must have it on the other side too,
for its absence to count."""
MIN_CAPITALS = 0.995
"""The same of capitals at the start."""
MIN_ORDER_MARKS = 0.5
"""The same of marks, for a mark inside the other side to be the one that has moved there."""
LENGTH_LIMITS = (-3.75, 3.25)
"""Lowest and highest deviation of a target length, in robust standard deviations."""
WIDE_LENGTH_LIMITS = (-4.25, 4.0)
"""The same where pairs are scored by adequacy besides, which finds most of those between."""
TRUNCATED_LIMITS = (-2.0, 2.5)
"""Deviation beyond which the target, or the source, is truncated if it lacks the last mark."""

Floats = npt.NDArray[np.float64]
OPENING = "\"'“„«»‹›([{¿¡‚‘’*-–— "
"""Characters before the first word of a sentence."""
# A mark and what closes it before another word; a full stop inside 3.5 or U.S. has no space.
_INNER_MARK = re.compile(rf"[{END_MARKS}][^\w\s]{{0,9}} (?=\S)|[\u3002\uff01\uff1f\u0964](?=\w)")


@dataclass(frozen=True)
class LengthModel:
    """Expected log length of a target given that of its source, and its spread."""

    curve: list[float]
    """Coefficients of the quadratic, highest first."""
    edges: list[float]
    """Inner edges of the bins of source lengths."""
    spreads: list[float]
    """Robust standard deviation in each bin."""

    @classmethod
    def fit(cls, src: Floats, tgt: Floats) -> "LengthModel":
        """Fit the model to log lengths."""
        keep = np.ones(len(src), dtype=bool)
        curve = np.zeros(3)
        # Fitted again without outliers: bad pairs must not bend the curve.
        for _ in range(3):
            # A corpus of one length has no quadratic.
            degree = min(2, len(np.unique(src[keep])) - 1)
            curve = np.polyfit(src[keep], tgt[keep], degree)
            errors = np.abs(tgt - np.polyval(curve, src))
            keep = errors <= 4 * 1.4826 * max(float(np.median(errors)), 0.02)
        edges = np.unique(np.quantile(src, np.arange(1, 10) / 10))
        bins = np.searchsorted(edges, src, side="right")
        errors = np.abs(tgt - np.polyval(curve, src))
        whole = float(np.median(errors))
        spreads = []
        for number in range(len(edges) + 1):
            own = errors[bins == number]
            # A bin of few pairs is unreliable: the median of the corpus counts as 50 more.
            local = float(np.median(own)) if len(own) else whole
            spreads.append(1.4826 * max((len(own) * local + 50 * whole) / (len(own) + 50), 0.05))
        return cls(curve.tolist(), edges.tolist(), spreads)

    def deviations(self, src: Floats, tgt: Floats) -> Floats:
        """Return how far target lengths are from those expected, in robust standard deviations."""
        spreads = np.array(self.spreads)[np.searchsorted(self.edges, src, side="right")]
        return np.asarray((tgt - np.polyval(self.curve, src)) / spreads)


@dataclass(frozen=True)
class PairModel:
    """Statistics of one corpus."""

    lengths: LengthModel
    marks: float
    """Share of the pairs with a mark at the end of one side that have it on both; the lower one."""
    capitals: float
    """The same of a capital at the start, among pairs that have the marks and start with letters of
    either case."""

    @classmethod
    def fit(cls, src: Sequence[str], tgt: Sequence[str]) -> "PairModel | None":
        """Learn from a sample of pairs; None if there are too few."""
        if len(src) < MIN_PAIRS:
            return None
        marks = np.array([[ends_sentence(t) for t in side] for side in (src, tgt)])
        cases = np.array([[_first_case(t) for t in side] for side in (src, tgt)])
        return cls(
            LengthModel.fit(log_lengths(src), log_lengths(tgt)),
            _agreement(marks[0], marks[1]),
            # Of pairs with both marks: shuffled pairs must not lower the agreement of capitals.
            _agreement(cases[0] == 1, cases[1] == 1, (cases != 0).all(axis=0) & marks.all(axis=0)),
        )

    def judge(self, src: Sequence[str], tgt: Sequence[str], cleaning: CleaningConfig) -> list[str]:
        """Return the rule that drops each pair, or ""."""
        deviations = self.lengths.deviations(log_lengths(src), log_lengths(tgt))
        low, high = LENGTH_LIMITS if cleaning.min_adequacy is None else WIDE_LENGTH_LIMITS
        reasons = []
        for one, two, deviation in zip(src, tgt, deviations.tolist(), strict=True):
            reason = ""
            if cleaning.length and not low <= deviation <= high:
                reason = "length"
            elif cleaning.truncated and self._is_truncated(one, two, deviation):
                reason = "truncated"
            elif cleaning.word_order and (
                self._is_shuffled(one, two) or self._is_shuffled(two, one)
            ):
                reason = "word_order"
            reasons.append(reason)
        return reasons

    def _is_truncated(self, src: str, tgt: str, deviation: float) -> bool:
        if self.marks < MIN_MARKS:
            return False
        low, high = TRUNCATED_LIMITS
        if deviation < low:
            return ends_sentence(src) and not ends_sentence(tgt)
        return deviation > high and ends_sentence(tgt) and not ends_sentence(src)

    def _is_shuffled(self, whole: str, text: str) -> bool:
        """Return True if a text has lost the order that its other side has.

        Shuffling moves the first word and the last mark, and one of both is nearly always seen.
        """
        # Less agreement than for a lost mark: it is there, at another place. In a language without
        # marks at the end (Thai, Lao) inner ones are those of abbreviations and numbers.
        has_marks = self.marks >= MIN_ORDER_MARKS
        if has_marks and ends_sentence(whole) and not ends_sentence(text):
            inner = [len(_INNER_MARK.findall(each)) for each in (whole, text)]
            if inner[0] < inner[1]:
                return True
        return self.capitals >= MIN_CAPITALS and _first_case(whole) == 1 and _first_case(text) == -1


def ends_sentence(text: str) -> bool:
    """Return True if a text ends with the mark of a sentence, closing quotes aside."""
    return bool(ENDS_SENTENCE.search(text, max(0, len(text) - 8)))


def log_lengths(lines: Sequence[str]) -> Floats:
    """Return log lengths in characters; a few are added, because short lines vary more."""
    return np.log(np.fromiter(map(len, lines), dtype=np.float64, count=len(lines)) + 3.0)


def _first_case(text: str) -> int:
    """Return 1 for a text that starts with a capital, -1 for a small letter, 0 for neither."""
    first = text.lstrip(OPENING)[:1]
    return first.isupper() - first.islower()


def _agreement(src: npt.NDArray[np.bool_], tgt: npt.NDArray[np.bool_], where: Any = True) -> float:
    """Return the share of pairs with a property on one side that have it on both."""
    both = (src & tgt & where).sum()
    return float(min(both / max(1, (side & where).sum()) for side in (src, tgt)))
