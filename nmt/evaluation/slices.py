"""Slices: the segments of a test set in groups, each scored alone: where a system is weak.

A segment is in one slice of each kind: by the length of its reference, by how often training saw
the rarest word of its reference, by the corpus it came from. Slices of a kind hold every segment
once, and sacreBLEU's counts are added up for each, so that they sum to those of the whole. Length
and words are as BLEU cuts text for the language: that works without spaces between words too.
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
from nmt.evaluation.metrics import make_metric

LENGTHS = ("0", "1 to 9", "10 to 19", "20 to 29", "30 to 39", "40 to 49", "50 or more")
"""Slices by length, in tokens."""
FREQUENCIES = ("never", "1 to 9", "10 to 99", "100 to 999", "1,000 or more", "no words")
"""Slices by how often training saw the rarest word."""
KINDS = {
    "length": "tokens of the reference",
    "rarity": "times that training saw the rarest word of the reference",
    "corpus": "where the segment comes from",
}
"""Each way of slicing, and what the names of its slices say."""
_ROWS = 10_000


@dataclass(frozen=True)
class Slice:
    """Some segments of a test set, and their scores."""

    kind: str
    """A key of KINDS."""
    name: str
    num_segments: int
    num_ref_tokens: int
    """Tokens that BLEU counts in the references: for each segment those nearest in length."""
    bleu: float
    """Without an interval: look at the number of segments."""
    chrf: float

    def tree(self) -> dict[str, Any]:
        """For programs."""
        return {
            "kind": self.kind,
            "slice": self.name,
            "segments": self.num_segments,
            "ref_tokens": self.num_ref_tokens,
            "BLEU": round(self.bleu, 8),
            "chrF2": round(self.chrf, 8),
        }


def cut(
    hyps: Sequence[str],
    references: Sequence[Sequence[str]],
    tgt_language: str,
    labels: Mapping[str, Sequence[str]],
) -> tuple[Slice, ...]:
    """Score all slices of all kinds.

    Args:
        hyps, references: lines without white space at their ends.
        tgt_language: target language.
        labels: for each kind, the name of the slice of each segment.
    """
    if not labels:
        return ()
    metrics = [make_metric(name, tgt_language) for name in ("bleu", "chrf")]
    stats = [metric._extract_corpus_statistics(hyps, references) for metric in metrics]
    found = []
    for kind, names in labels.items():
        for name in _in_order(kind, names):
            rows = [row for row, label in enumerate(names) if label == name]
            bleu, chrf = (
                metric._aggregate_and_compute([counts[row] for row in rows])
                for metric, counts in zip(metrics, stats, strict=True)
            )
            scores = float(bleu.score), float(chrf.score)
            found.append(Slice(kind, name, len(rows), int(bleu.ref_len), *scores))
    return tuple(found)


def by_length(refs: Sequence[str], tgt_language: str) -> list[str]:
    """The slice of each segment by the length of its reference."""
    cut_words = make_metric("bleu", tgt_language).tokenizer
    counts = [len(cut_words(ref.rstrip()).split()) for ref in refs]
    last = len(LENGTHS) - 1
    return [LENGTHS[min(count // 10 + 1, last) if count else 0] for count in counts]


def by_rarity(refs: Sequence[str], tgt_language: str, training: Iterable[str]) -> list[str]:
    """The slice of each segment by the rarest word of its reference, whatever its case.

    Args:
        training: lines of the target side that the systems were trained on; read once, and only
            the words of the references are counted.
    """
    words_of = _words(tgt_language)
    words = [words_of(ref) for ref in refs]
    wanted = {word for line in words for word in line}
    counts: Counter[str] = Counter()
    for line in training:
        counts.update(word for word in words_of(line) if word in wanted)
    return [_frequency(min((counts[word] for word in line), default=None)) for line in words]


def training_lines(path: Path) -> Iterator[str]:
    """The target side of what was trained on: a text file, or a folder of `nmt prepare`.

    Raises:
        DataError: neither of them, or it is damaged.
    """
    if not path.is_dir():
        yield from read_lines(path)
        return
    shards = Shards.open(path)
    subword = Subword.from_json((path / "tokenizer.json").read_text(encoding="utf-8"))
    rows = iter(range(len(shards)))
    while some := list(islice(rows, _ROWS)):
        for _, tgt in shards.pairs(some):
            yield subword.decode(tgt.tolist())


def by_corpus(path: Path, num_segments: int) -> list[str]:
    """The slice of each segment by a file that names its corpus, line by line.

    Raises:
        DataError: the file is missing or has another number of lines.
    """
    names = [line.strip() for line in read_lines(path)]
    if len(names) != num_segments:
        raise DataError(
            f"{path} has {len(names):,} lines, but the test set has {num_segments:,} segments; "
            "it needs the name of a corpus for each"
        )
    return names


def text(systems: Sequence[str], slices: Sequence[Sequence[Slice]]) -> str:
    """Tables for people, one a kind: a row a slice, the scores of the systems beside each other."""
    lines: list[str] = []
    for kind, meaning in KINDS.items():
        per_system = [[part for part in of_system if part.kind == kind] for of_system in slices]
        if not per_system[0]:
            continue
        names = systems if len(systems) > 1 else [""]
        heads = [f"{name} {metric}".strip() for name in names for metric in ("BLEU", "chrF2")]
        rows = [["", "segments", *heads]]
        for parts in zip(*per_system, strict=True):
            scores = [f"{score:.2f}" for part in parts for score in (part.bleu, part.chrf)]
            rows.append([parts[0].name, f"{parts[0].num_segments:,}", *scores])
        lines += [f"by {kind}: {meaning}", *columns(rows)]
    return "\n".join(lines)


def columns(rows: Sequence[Sequence[str]]) -> list[str]:
    """Rows with their columns below each other: the first to the left, the others to the right."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return [
        "  ".join(["", row[0].ljust(widths[0]), *(map(str.rjust, row[1:], widths[1:]))])
        for row in rows
    ]


def _in_order(kind: str, names: Sequence[str]) -> list[str]:
    """The slices that are not empty; of a corpus in the order in which they come."""
    known = {"length": LENGTHS, "rarity": FREQUENCIES}.get(kind, names)
    present = set(names)
    return [name for name in dict.fromkeys(known) if name in present]


def _words(tgt_language: str) -> Callable[[str], list[str]]:
    cut_words = make_metric("bleu", tgt_language).tokenizer

    def words_of(line: str) -> list[str]:
        tokens = cut_words(line.rstrip()).casefold().split()
        return [token for token in tokens if any(map(str.isalnum, token))]

    return words_of


def _frequency(count: int | None) -> str:
    if count is None:
        return FREQUENCIES[-1]
    return FREQUENCIES[sum(count >= limit for limit in (1, 10, 100, 1000))]
