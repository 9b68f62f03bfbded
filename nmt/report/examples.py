"""Example translations with attention weights.

Segments are chosen at quantiles of sentence chrF2. The files of an evaluation contain no attention;
therefore the model translates the chosen segments again.
"""

from dataclasses import dataclass
from typing import ClassVar

from nmt.checkpoint.load import Checkpoint
from nmt.decoding.torch_engine import TorchEngine
from nmt.decoding.translator import Translator
from nmt.evaluation.results import source_suffix
from nmt.evaluation.sacrebleu_metrics import sentence_chrf
from nmt.report.runs import Run

QUANTILES = {"90th percentile": 0.9, "median": 0.5, "10th percentile": 0.1}
"""Quantiles of sentence chrF2 at which examples are chosen."""
MAX_WORDS = 24
"""Longest source whose attention matrix is still readable."""
MIN_WEIGHT = 0.02
"""Smaller weights are not drawn."""


@dataclass(frozen=True)
class Example:
    """Segment with its translation and attention weights."""

    test_set: str
    line: int
    """Line number, counted from 1."""
    quantile: str
    """Key of QUANTILES."""
    chrf: float
    """Sentence chrF2 of the translation, 0 to 100."""
    src: str
    ref: str
    hyp: str
    src_tokens: list[str]
    tgt_tokens: list[str]
    weights: list[list[float]]
    """Attention weights averaged over heads, [target tokens, source tokens]."""
    CELL: ClassVar[int] = 22
    """Size of a matrix cell in pixels."""

    @property
    def left(self) -> int:
        """Width of the target tokens in pixels."""
        return 16 + 8 * max(map(len, self.tgt_tokens))

    @property
    def top(self) -> int:
        """Height of the rotated source tokens in pixels."""
        return 24 + 6 * max(map(len, self.src_tokens))

    @property
    def cells(self) -> list[tuple[int, int, float]]:
        """Row, column and weight of the cells to draw."""
        return [
            (row, column, weight)
            for row, by_source in enumerate(self.weights)
            for column, weight in enumerate(by_source)
            if weight >= MIN_WEIGHT
        ]

    @property
    def strongest(self) -> list[tuple[str, str, float]]:
        """Target token, source token with the largest weight, and the weight: rows of the table."""
        return [
            (token, self.src_tokens[weights.index(max(weights))], max(weights))
            for token, weights in zip(self.tgt_tokens, self.weights, strict=True)
        ]


def choose(run: Run, num_examples: int) -> list[Example]:
    """Return examples of the first test set with text; none without a model or text."""
    if run.checkpoint is None or not num_examples:
        return []
    corpus = run.checkpoint.experiment.corpus
    # The first test set whose three files exist and have the same number of lines.
    for evaluation in run.evaluations:
        name = evaluation.test_set
        source = source_suffix(corpus.src, corpus.tgt)
        suffixes = (source, corpus.tgt, f"{corpus.tgt}.ref")
        sides = [run.read_text(name, suffix) for suffix in suffixes]
        if all(sides) and len({len(side or []) for side in sides}) == 1:
            src, hyps, refs = (side or [] for side in sides)
            return _translate(run.checkpoint, name, src, refs, _rows(src, hyps, refs, num_examples))
    return []


def _rows(
    src: list[str], hyps: list[str], refs: list[str], num_examples: int
) -> list[tuple[str, int]]:
    short = [row for row, line in enumerate(src) if 3 <= len(line.split()) <= MAX_WORDS]
    scored = sorted((sentence_chrf(hyps[row], [refs[row]]), row) for row in short)
    quantiles = list(QUANTILES.items())[:num_examples] if scored else []
    return [(name, scored[int(share * (len(scored) - 1))][1]) for name, share in quantiles]


def _translate(
    checkpoint: Checkpoint, name: str, src: list[str], refs: list[str], rows: list[tuple[str, int]]
) -> list[Example]:
    engine = TorchEngine([checkpoint.model()])
    translator = Translator(engine, checkpoint.subword, checkpoint.experiment)
    translations = translator.translate_detailed([src[row] for _, row in rows])
    examples = []
    for (quantile, row), result in zip(rows, translations, strict=True):
        # Lines without text have no tokens.
        if result.tokens and result.best.attention is not None:
            chrf = sentence_chrf(result.text, [refs[row]])
            # Four digits suffice for the page and keep it small.
            attention = result.best.attention.tolist()
            weights = [[round(each, 4) for each in by_source] for by_source in attention]
            texts = src[row], refs[row], result.text
            tokens = result.src_tokens, result.tokens
            examples.append(Example(name, row + 1, quantile, chrf, *texts, *tokens, weights))
    return examples
