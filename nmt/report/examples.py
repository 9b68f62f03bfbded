"""Example translations with attention weights.

Segments are chosen at quantiles of sentence chrF2. The files of an evaluation contain no attention;
therefore the model translates the chosen segments again.
"""

from dataclasses import dataclass

from nmt.checkpoint.load import Checkpoint
from nmt.decoding.torch_engine import TorchEngine
from nmt.decoding.translator import Translator
from nmt.evaluation.results import source_suffix
from nmt.evaluation.sacrebleu_metrics import sentence_chrf
from nmt.report.charts import HeatMap
from nmt.report.runs import Run

QUANTILES = {"90th percentile": 0.9, "median": 0.5, "10th percentile": 0.1}
"""Quantiles of sentence chrF2 at which examples are chosen."""
MAX_WORDS = 24
"""Longest source whose attention matrix is still readable."""


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
    attention: HeatMap
    """Attention weights averaged over heads."""


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
            heat_map = HeatMap(result.tokens, result.src_tokens, weights)
            examples.append(Example(name, row + 1, quantile, chrf, *texts, heat_map))
    return examples
