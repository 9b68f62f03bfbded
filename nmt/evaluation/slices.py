"""Slices: scores of groups of segments of a test set, which show where a system is weak.

A segment is in one slice of each kind: by the length of its reference, by the training frequency of
the rarest word of its reference, and by its corpus. The slices of a kind partition the test set,
and are scored from sacreBLEU's per-segment statistics, which add up to those of the whole set.
Lengths and words follow BLEU's tokenizer for the language, so they work without spaces too.
"""

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

from nmt.corpus.shards import Shards
from nmt.corpus.subword import Subword
from nmt.corpus.text import read_lines
from nmt.errors import DataError
from nmt.evaluation.sacrebleu_metrics import make_metric

LENGTHS = ("0", "1 to 9", "10 to 19", "20 to 29", "30 to 39", "40 to 49", "50 or more")
"""Slices by length, in tokens."""
FREQUENCIES = ("never", "1 to 9", "10 to 99", "100 to 999", "1,000 or more", "no words")
"""Slices by training frequency of the rarest word."""
KINDS = {
    "length": "tokens of the reference",
    "rarity": "training frequency of the rarest word of the reference",
    "corpus": "corpus of the segment",
}
"""Kinds of slices, and the meaning of their names."""
_ROWS = 10_000


@dataclass(frozen=True)
class Slice:
    """Group of segments of a test set, and its scores."""

    kind: str
    """A key of KINDS."""
    name: str
    num_segments: int
    num_ref_tokens: int
    """Reference tokens that BLEU counts: for each segment those of the closest length."""
    bleu: float
    """BLEU without an interval."""
    chrf: float

    def tree(self) -> dict[str, Any]:
        """Return the slice as a JSON object."""
        return {
            "kind": self.kind,
            "slice": self.name,
            "segments": self.num_segments,
            "ref_tokens": self.num_ref_tokens,
            "BLEU": round(self.bleu, 8),
            "chrF2": round(self.chrf, 8),
        }


def score_slices(
    hyps: Sequence[str],
    references: Sequence[Sequence[str]],
    tgt_language: str,
    labels: Mapping[str, Sequence[str]],
) -> tuple[Slice, ...]:
    """Score all slices of all kinds.

    Args:
        hyps, references: lines without white space at their ends.
        tgt_language: target language.
        labels: slice name of each segment, for each kind.
    """
    metrics = [make_metric(name, tgt_language) for name in ("bleu", "chrf")]
    # The statistics of a segment are extracted once for all slices that it is in.
    stats = [metric._extract_corpus_statistics(hyps, references) for metric in metrics if labels]
    result = []
    for kind, names in labels.items():
        for name in _ordered_names(kind, names):
            rows = [row for row, label in enumerate(names) if label == name]
            bleu, chrf = (
                metric._aggregate_and_compute([counts[row] for row in rows])
                for metric, counts in zip(metrics, stats, strict=True)
            )
            scores = float(bleu.score), float(chrf.score)
            result.append(Slice(kind, name, len(rows), int(bleu.ref_len), *scores))
    return tuple(result)


def by_length(refs: Sequence[str], tgt_language: str) -> list[str]:
    """Return the slice of each segment by the length of its reference."""
    tokenize = make_metric("bleu", tgt_language).tokenizer
    counts = [len(tokenize(ref.rstrip()).split()) for ref in refs]
    # Slice 0 is for empty references; the others are ten tokens wide, the last one open.
    last = len(LENGTHS) - 1
    return [LENGTHS[min(count // 10 + 1, last) if count else 0] for count in counts]


def by_rarity(refs: Sequence[str], tgt_language: str, training: Iterable[str]) -> list[str]:
    """Return the slice of each segment by the rarest word of its reference, ignoring case.

    Args:
        refs: one reference per segment.
        tgt_language: target language.
        training: lines of the target side of the training text; read once. Memory grows with the
            words of the references only.
    """
    words_of = _word_splitter(tgt_language)
    words = [words_of(ref) for ref in refs]
    vocabulary = {word for line in words for word in line}
    counts: Counter[str] = Counter()
    # Only words of the references are counted: training text can have millions of others.
    for line in training:
        counts.update(word for word in words_of(line) if word in vocabulary)
    return [_frequency(min((counts[word] for word in line), default=None)) for line in words]


def read_training_lines(path: Path) -> Iterator[str]:
    """Yield the target side of training text: a text file, or a folder of `nmt prepare`.

    Raises:
        DataError: it is neither, or it is corrupt.
    """
    if not path.is_dir():
        yield from read_lines(path)
        return
    shards = Shards.open(path)
    subword = Subword.read(path / "tokenizer.json")
    # A block of rows at a time bounds memory.
    rows = iter(range(len(shards)))
    while some := list(islice(rows, _ROWS)):
        for _, tgt in shards.pairs(some):
            yield subword.decode(tgt.tolist())


def by_corpus(path: Path, num_segments: int) -> list[str]:
    """Return the slice of each segment from a file with the name of its corpus on each line.

    Raises:
        DataError: the file is missing or has another number of lines.
    """
    names = [line.strip() for line in read_lines(path)]
    if len(names) != num_segments:
        raise DataError(
            f"{path} has {len(names):,} lines, the test set has {num_segments:,} segments: it "
            "needs the name of a corpus for each segment"
        )
    return names


def text(systems: Sequence[str], slices: Sequence[Sequence[Slice]]) -> str:
    """Return a table per kind: a row per slice, the scores of the systems side by side."""
    lines: list[str] = []
    names = systems if len(systems) > 1 else [""]
    heads = [f"{name} {metric}".strip() for name in names for metric in ("BLEU", "chrF2")]
    for kind, meaning in KINDS.items():
        per_system = [[part for part in of_system if part.kind == kind] for of_system in slices]
        if not per_system[0]:
            continue
        rows = [["", "segments", *heads]]
        for parts in zip(*per_system, strict=True):
            scores = [f"{score:.2f}" for part in parts for score in (part.bleu, part.chrf)]
            rows.append([parts[0].name, f"{parts[0].num_segments:,}", *scores])
        lines += [f"by {kind}: {meaning}", *align_columns(rows)]
    return "\n".join(lines)


def align_columns(rows: Sequence[Sequence[str]]) -> list[str]:
    """Align the columns of a table: the first one to the left, the others to the right."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return [
        "  ".join(["", row[0].ljust(widths[0]), *(map(str.rjust, row[1:], widths[1:]))])
        for row in rows
    ]


def _ordered_names(kind: str, names: Sequence[str]) -> list[str]:
    """Return the names of the slices that are not empty; corpora in order of appearance."""
    # Lengths and frequencies have an order of their own.
    known = {"length": LENGTHS, "rarity": FREQUENCIES}.get(kind, names)
    present = set(names)
    return [name for name in dict.fromkeys(known) if name in present]


def _word_splitter(tgt_language: str) -> Callable[[str], list[str]]:
    tokenize = make_metric("bleu", tgt_language).tokenizer

    def split(line: str) -> list[str]:
        # Punctuation is frequent in any text: it does not make a line common.
        tokens = tokenize(line.rstrip()).casefold().split()
        return [token for token in tokens if any(map(str.isalnum, token))]

    return split


def _frequency(count: int | None) -> str:
    if count is None:
        return FREQUENCIES[-1]
    return FREQUENCIES[sum(count >= limit for limit in (1, 10, 100, 1000))]
