"""Examples: a few segments translated again, with a picture of where each piece looked.

They are chosen by sentence chrF2, and say so: one of the better, a typical, one of the weaker. What
was kept of the evaluation has no attention, so the model translates them once more.
"""

from dataclasses import dataclass
from typing import ClassVar

from nmt.decoding.translator import Translator
from nmt.evaluation.sacrebleu_metrics import sentence_chrf
from nmt.report.runs import Run

PLACES = {"one of the better": 0.9, "a typical one": 0.5, "one of the weaker": 0.1}
"""Where an example stands among all segments by sentence chrF2: the share of those below it."""
MAX_WORDS = 24
"""Longest source that an attention picture of is still read."""
LEAST = 0.02
"""Weights below this are left white."""


@dataclass(frozen=True)
class Example:
    """One segment, with what the model said and where it looked."""

    test_set: str
    line: int
    """From 1."""
    what: str
    """A key of PLACES."""
    chrf: float
    """Sentence chrF2 of the translation."""
    src: str
    ref: str
    hyp: str
    src_pieces: list[str]
    tgt_pieces: list[str]
    weights: list[list[float]]
    """Of each target piece, how much it looked at each source piece; mean of the heads."""
    CELL: ClassVar[int] = 22
    """Size of a cell of the picture, in pixels."""

    @property
    def left(self) -> int:
        """Space for the names of the target pieces, in pixels."""
        return 16 + 8 * max(map(len, self.tgt_pieces))

    @property
    def top(self) -> int:
        """Space for the names of the source pieces, which stand aslant."""
        return 24 + 6 * max(map(len, self.src_pieces))

    @property
    def cells(self) -> list[tuple[int, int, float]]:
        """Row, column and weight of all that is not white."""
        return [
            (row, column, weight)
            for row, of_piece in enumerate(self.weights)
            for column, weight in enumerate(of_piece)
            if weight >= LEAST
        ]

    @property
    def strongest(self) -> list[tuple[str, str, float]]:
        """Each target piece, the source piece it looked at most, and how much: the table."""
        pairs = zip(self.tgt_pieces, self.weights, strict=True)
        found = []
        for piece, weights in pairs:
            most = max(weights)
            found.append((piece, self.src_pieces[weights.index(most)], most))
        return found


def choose(run: Run, num_examples: int) -> list[Example]:
    """Examples of the first test set whose text was kept; none without a model or without text."""
    if run.bundle is None or not num_examples:
        return []
    corpus = run.bundle.experiment.corpus
    for evaluation in run.evaluations:
        name = evaluation["test_set"]
        sides = [
            run.text_of(name, ending) for ending in (corpus.src, corpus.tgt, f"{corpus.tgt}.ref")
        ]
        if all(sides) and len({len(side or []) for side in sides}) == 1:
            src, hyps, refs = (side or [] for side in sides)
            return _translated(run, name, src, refs, _rows(src, hyps, refs, num_examples))
    return []


def _rows(
    src: list[str], hyps: list[str], refs: list[str], num_examples: int
) -> list[tuple[str, int]]:
    short = [row for row, line in enumerate(src) if 3 <= len(line.split()) <= MAX_WORDS]
    scored = sorted((sentence_chrf(hyps[row], [refs[row]]), row) for row in short)
    places = list(PLACES.items())[:num_examples]
    return [(what, scored[int(share * (len(scored) - 1))][1]) for what, share in places if scored]


def _translated(
    run: Run, name: str, src: list[str], refs: list[str], rows: list[tuple[str, int]]
) -> list[Example]:
    assert run.bundle
    translator = Translator(run.bundle.model(), run.bundle.subword, run.bundle.experiment)
    lines = [src[row] for _, row in rows]
    examples = []
    for (what, row), found in zip(rows, translator.translate_detailed(lines), strict=True):
        if found.best.attention is not None:
            chrf = sentence_chrf(found.text, [refs[row]])
            weights = [[round(each, 4) for each in of] for of in found.best.attention.tolist()]
            texts = src[row], refs[row], found.text
            pieces = found.src_tokens, found.tokens
            examples.append(Example(name, row + 1, what, chrf, *texts, *pieces, weights))
    return examples
