"""Statistics of a corpus that tell improbable pairs apart: lengths, last marks, word order.

`PairModel.fit` learns from a sample of pairs; `judge` then looks at pairs one by one. Nothing is
assumed about the languages: lengths are compared in characters, with a curve learnt from the
corpus; marks and capitals count only where the corpus has them on both sides nearly always; words
are runs between spaces, or letters in scripts without spaces.
"""

import json
import re
import zlib
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from nmt.config.corpus import CleaningConfig
from nmt.config.settings import parse_record
from nmt.corpus.io import atomic_write
from nmt.corpus.text import ENDS_SENTENCE, UNSPACED

MIN_PAIRS = 1_000
"""Pairs from which on a model is learnt; smaller corpora pass all of its rules."""
MIN_AGREEMENT = 0.9
"""Share of pairs that must agree on a mark or capital before its absence means anything."""
LENGTH_LIMITS = (-3.75, 3.0)
"""Lowest and highest deviation of a target length, in robust standard deviations."""
WIDE_LENGTH_LIMITS = (-4.25, 4.0)
"""The same where pairs are scored by adequacy besides, which finds most of those between."""
TRUNCATED_LIMIT = 1.5
MAX_GAIN = 3.5
"""Nats by which the order of words must be better than random ones, where something is wrong."""
NUM_SHUFFLES = 8
MAX_WORDS = 200
"""Words of a line that the word order model looks at."""
TABLE_SIZE = 1 << 20
"""Cells of the hashed counts of word pairs."""

Floats = npt.NDArray[np.float64]
_WORD = re.compile(rf"{UNSPACED.pattern}|(?:(?!{UNSPACED.pattern})\S)+")
_OPENING = "\"'“„«»‹›([{¿¡‚‘’*-–— "


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
        # Twice more without what is far from the first curve: bad pairs must not bend it.
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
            # Few pairs say little about their bin: the whole corpus counts as 50 more.
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
    has_marks: bool
    """True if both sides nearly always end in a mark together."""
    has_capitals: bool
    """True if both sides nearly always start with a capital together."""
    orders: list["OrderModel"]
    """Word order of source and target."""

    @classmethod
    def fit(cls, src: Sequence[str], tgt: Sequence[str]) -> "PairModel | None":
        """Learn from a sample of pairs; None if there are too few."""
        if len(src) < MIN_PAIRS:
            return None
        marks = np.array([[ends_sentence(t) for t in side] for side in (src, tgt)])
        cases = np.array([[_first_case(t) for t in side] for side in (src, tgt)])
        return cls(
            LengthModel.fit(log_lengths(src), log_lengths(tgt)),
            _agree(marks[0], marks[1]),
            _agree(cases[0] == 1, cases[1] == 1, (cases != 0).all(axis=0)),
            [OrderModel.fit(src), OrderModel.fit(tgt)],
        )

    def save(self, path: Path) -> None:
        """Write the model atomically."""
        facts = asdict(self.lengths) | {"marks": self.has_marks, "capitals": self.has_capitals}
        counts = [array for order in self.orders for array in (order.singles, order.pairs)]
        with atomic_write(path) as temporary, temporary.open("wb") as file:
            np.savez(file, *counts, facts=np.frombuffer(json.dumps(facts).encode(), np.uint8))

    @classmethod
    def load(cls, path: Path) -> "PairModel":
        """Read a model of `save`."""
        with np.load(path) as arrays:
            facts = json.loads(arrays["facts"].tobytes())
            counts = [arrays[f"arr_{number}"] for number in range(4)]
        orders = [OrderModel(*counts[:2]), OrderModel(*counts[2:])]
        lengths = parse_record(LengthModel, facts)
        return cls(lengths, facts["marks"], facts["capitals"], orders)

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
            elif cleaning.word_order and self._is_shuffled(one, two):
                reason = "word_order"
            reasons.append(reason)
        return reasons

    def _is_truncated(self, src: str, tgt: str, deviation: float) -> bool:
        if not self.has_marks or abs(deviation) < TRUNCATED_LIMIT:
            return False
        short, long = (tgt, src) if deviation < 0 else (src, tgt)
        return ends_sentence(long) and not ends_sentence(short)

    def _is_shuffled(self, src: str, tgt: str) -> bool:
        for number, (text, other) in enumerate(((src, tgt), (tgt, src))):
            # Shuffling moves the first word and the last mark: lines with both in place are not
            # scored, which would take longer than all other rules.
            has_lost_mark = self.has_marks and ends_sentence(other) and not ends_sentence(text)
            has_lost_capital = (
                self.has_capitals and _first_case(other) == 1 and _first_case(text) == -1
            )
            if has_lost_mark or has_lost_capital:
                gain = self.orders[number].gain(text)
                if gain is not None and gain < MAX_GAIN:
                    return True
        return False


class OrderModel:
    """Bigram models of words, to compare the order of a line with random ones.

    There is one for each half of the lines, so that a line is compared with the others only.
    """

    def __init__(self, singles: npt.NDArray[np.uint32], pairs: npt.NDArray[np.uint32]) -> None:
        """Wrap counts of words and of word pairs in hashed cells, [2, N]; use `fit`."""
        self.singles, self.pairs = singles, pairs
        self._totals = np.maximum(1, singles.sum(axis=1)).tolist()

    @classmethod
    def fit(cls, lines: Iterable[str]) -> "OrderModel":
        """Count words and word pairs."""
        singles, pairs = (np.zeros((2, TABLE_SIZE), dtype=np.uint32) for _ in range(2))
        for line in lines:
            words, half = _hash_words(line), _half(line)
            np.add.at(singles[half], words % TABLE_SIZE, 1)
            np.add.at(pairs[half], _hash_pairs(words), 1)
        return cls(singles, pairs)

    def gain(self, line: str) -> float | None:
        """Return by how many nats a line is more probable than shuffles of it; None: too short."""
        words = _hash_words(line)
        inner = words[1:-1]
        if len(inner) < 3:
            return None
        # Seeded by the line: the result depends on nothing else.
        other = 1 - _half(line)
        random = np.random.default_rng(zlib.crc32(line.encode()))
        orders = [random.permutation(inner) for _ in range(NUM_SHUFFLES)]
        shuffled = [
            self._score(np.concatenate([words[:1], order, words[-1:]]), other) for order in orders
        ]
        return self._score(words, other) - float(np.mean(shuffled))

    def _score(self, words: npt.NDArray[np.int64], half: int) -> float:
        both = self.pairs[half, _hash_pairs(words)].astype(np.float64)
        before = self.singles[half, words[:-1] % TABLE_SIZE].astype(np.float64)
        after = (self.singles[half, words[1:] % TABLE_SIZE] + 0.5) / self._totals[half]
        # Dirichlet smoothing with the frequency of the second word.
        return float(np.log((both + 2.0 * after) / (before + 2.0)).sum())


def _half(line: str) -> int:
    return zlib.crc32(line.encode()) & 1


def ends_sentence(text: str) -> bool:
    """Return True if a text ends with the mark of a sentence, closing quotes aside."""
    return bool(ENDS_SENTENCE.search(text, max(0, len(text) - 8)))


def log_lengths(lines: Sequence[str]) -> Floats:
    """Return log lengths in characters; a few are added, because short lines vary more."""
    return np.log(np.fromiter(map(len, lines), dtype=np.float64, count=len(lines)) + 3.0)


def _first_case(text: str) -> int:
    """Return 1 for a text that starts with a capital, -1 for a small letter, 0 for neither."""
    first = text.lstrip(_OPENING)[:1]
    return first.isupper() - first.islower()


def _agree(src: npt.NDArray[np.bool_], tgt: npt.NDArray[np.bool_], where: Any = True) -> bool:
    """Return True if each side nearly always has a property where the other one has it."""
    both = (src & tgt & where).sum()
    return bool(min(both / max(1, (side & where).sum()) for side in (src, tgt)) >= MIN_AGREEMENT)


def _hash_words(line: str) -> npt.NDArray[np.int64]:
    """Return numbers of the words, with 1 before and 2 after them."""
    words = _WORD.findall(line)[:MAX_WORDS]
    return np.array([1, *(zlib.crc32(word.encode()) for word in words), 2], dtype=np.int64)


def _hash_pairs(words: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    return np.asarray((words[:-1] * 1_000_003 + words[1:]) % TABLE_SIZE)
