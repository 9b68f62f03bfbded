"""Scores: BLEU, chrF2 and TER of detokenised text, as sacreBLEU prints them (Post 2018).

Every number carries its signature and, from bootstrap resampling (Koehn 2004), its 95 % interval.
What is printed here is what the `sacrebleu` command prints for the same files. Resampling runs on
sacreBLEU's own statistics, but one resample at a time: its own function holds all thousand of them
at once, gigabytes for a large test set.
"""

import json
import logging
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from nmt.errors import DataError
from nmt.evaluation import slices
from nmt.evaluation.metrics import (
    DEFAULT_METRICS,
    EXTRAS,
    METRICS,
    check_metrics,
    language_of,
    make_metric,
    resampling_seed,
)
from nmt.evaluation.slices import Slice

log = logging.getLogger(__name__)

NUM_RESAMPLES = 1000
_LONG_WORDS = 150
"""From here on TER, which tries all shifts of all word runs, may take seconds for a bad line."""
_MAX_TOKENISED = 0.05
_TOKENISED = re.compile(r" [.,。，](?= |$)|@@(?= |$)|@-@|&(?:apos|quot|amp);|▁")


@dataclass(frozen=True)
class Bleu:
    """A BLEU score and what it was computed with."""

    score: float
    signature: str


@dataclass(frozen=True)
class Score:
    """One number of one metric."""

    name: str
    """sacreBLEU's name of the metric: BLEU, chrF2, TER."""
    value: float
    signature: str
    verbose: str
    """BLEU's precisions, brevity penalty and lengths; empty for the others."""
    interval: tuple[float, float] | None
    """Mean and half width of the 95 % interval of resamples; None: not resampled, or all 0."""
    label: str = ""
    """Empty for a score to report; what an extra is, for one that is only for comparisons."""

    def line(self, width: int = 1) -> str:
        """The score as `sacrebleu -w width -f text` prints it."""
        confidence = f" ({self._confidence(width)})" if self.interval else ""
        verbose = f" {self.verbose}" if self.verbose else ""
        return f"{self.name}|{self.signature} = {self.value:.{width}f}{confidence}{verbose}"

    def tree(self, width: int = 1) -> dict[str, Any]:
        """The score as `sacrebleu -w width -f json` prints it."""
        value = float(f"{self.value:.{width}f}")
        tree: dict[str, Any] = {"name": self.name, "score": value, "signature": self.signature}
        if self.interval:
            mean, half_width = self.interval
            tree["confidence_mean"] = float(f"{mean:.{width}f}")
            tree["confidence_var"] = float(f"{half_width:.{width}f}")
            tree["confidence"] = self._confidence(width)
        if self.verbose:
            tree["verbose_score"] = self.verbose
        return tree | dict(part.split(":") for part in self.signature.split("|"))

    def _confidence(self, width: int) -> str:
        assert self.interval
        return "μ = {:.{width}f} ± {:.{width}f}".format(*self.interval, width=width)


@dataclass(frozen=True)
class ScoreReport:
    """All scores of one system on one test set."""

    test_set: str
    system: str
    checkpoint: str
    """The checkpoint that translated; empty: not known."""
    num_segments: int
    scores: tuple[Score, ...]
    warnings: tuple[str, ...]
    slices: tuple[Slice, ...] = ()

    def text(self, width: int = 1) -> str:
        """For people: a title, the lines of the `sacrebleu` command, labelled extras, warnings."""
        title = f"{self.test_set}: {self.num_segments:,} segments, {self.system}"
        if self.checkpoint:
            title += f", checkpoint {self.checkpoint}"
        lines = _align([score.line(width) for score in self.scores if not score.label])
        extras = [f"{score.label}: {score.line(width)}" for score in self.scores if score.label]
        return "\n".join([title, *lines, *extras, *(f"warning: {text}" for text in self.warnings)])

    def json(self, width: int = 8) -> str:
        """For programs: the objects of `sacrebleu -w width -f json`, and what they belong to."""
        tree = {
            "test_set": self.test_set,
            "system": self.system,
            "checkpoint": self.checkpoint,
            "segments": self.num_segments,
            "scores": [score.tree(width) for score in self.scores if not score.label],
            "extras": [
                {"label": score.label} | score.tree(width) for score in self.scores if score.label
            ],
            "slices": [part.tree() for part in self.slices],
            "warnings": self.warnings,
        }
        return json.dumps(tree, indent=1, ensure_ascii=False)


def score(
    hyps: Sequence[str],
    references: Sequence[Sequence[str]],
    tgt_language: str,
    *,
    test_set: str,
    system: str,
    checkpoint: str = "",
    metrics: Sequence[str] = DEFAULT_METRICS,
    num_resamples: int = NUM_RESAMPLES,
    labels: Mapping[str, Sequence[str]] | None = None,
) -> ScoreReport:
    """Score detokenised translations against untouched references.

    Args:
        hyps: one line a segment.
        references: one sequence of lines, or several, each as long as `hyps`.
        tgt_language: target language; it chooses BLEU's tokenizer.
        test_set, system, checkpoint: what the numbers belong to.
        metrics: of METRICS.
        num_resamples: resamples for the intervals; 1 or less: no intervals.
        labels: for each kind of slices.KINDS, the name of the slice of each segment.

    Raises:
        DataError: no lines, or not the same number of them.
        ConfigError: an unknown metric, or a tokenizer that is not installed.
    """
    check_metrics(metrics, tgt_language)
    hyps, references = check_lines(hyps, references, test_set)
    if "ter" in metrics and (num_long := sum(_is_long(line) for line in hyps)):
        log.warning(
            "%s: %d translations have %d words or more; TER may take seconds for each, "
            "or leave it out of the metrics",
            test_set,
            num_long,
            _LONG_WORDS,
        )
    scores = tuple(
        _score(name, hyps, references, tgt_language, num_resamples)
        for name in METRICS
        if name in metrics
    )
    warnings = tuple(_warn(hyps, references, tgt_language, metrics))
    parts = slices.cut(hyps, references, tgt_language, labels or {})
    return ScoreReport(test_set, system, checkpoint, len(hyps), scores, warnings, parts)


def bleu(hyps: Sequence[str], refs: Sequence[str], tgt_language: str) -> Bleu:
    """BLEU alone, of one reference and without an interval, for validation; errors as `score`."""
    hyps, references = check_lines(hyps, [refs], "dev set")
    metric = make_metric("bleu", tgt_language)
    value = metric.corpus_score(hyps, references).score
    return Bleu(value, str(metric.get_signature()))


def _score(
    name: str,
    hyps: Sequence[str],
    references: Sequence[Sequence[str]],
    tgt_language: str,
    num_resamples: int,
) -> Score:
    metric = make_metric(name, tgt_language)
    stats = metric._extract_corpus_statistics(hyps, references)
    found = metric._aggregate_and_compute(stats)
    if num_resamples > 1:
        found.estimate_ci(_resample(metric, stats, num_resamples))
    interval = (float(found._mean), float(found._ci)) if found._mean > 0 else None
    signature = str(metric.get_signature())
    label = EXTRAS.get(name, "")
    return Score(found.name, float(found.score), signature, found._verbose, interval, label)


def _resample(metric: Any, stats: Sequence[Any], num: int) -> list[Any]:
    """sacreBLEU's scores of resampled test sets; draws and sums are its own, bit for bit."""
    seed = resampling_seed()
    rng = np.random.default_rng(None if seed == "none" else int(seed))
    metric.n_bootstrap, metric.seed = num, seed
    table = np.array(stats, dtype="float32")
    resamples = []
    for _ in range(num):
        rows = rng.choice(len(table), size=len(table), replace=True)
        resamples.append(metric._compute_score_from_stats(table[rows].sum(0)))
    if len({type(resample.score) for resample in resamples}) > 1:
        # sacreBLEU's mean fails on resamples of which some, blank or perfect, are no numpy numbers.
        for resample in resamples:
            resample.score = float(resample.score)
    return resamples


def check_lines(
    hyps: Sequence[str], references: Sequence[Sequence[str]], test_set: str
) -> tuple[list[str], list[list[str]]]:
    """The same lines without white space at their ends, which the sacrebleu command drops too.

    Raises:
        DataError: no lines, or not the same number of them.
    """
    assert references
    for refs in references:
        if len(refs) != len(hyps):
            raise DataError(
                f"{test_set}: {len(hyps):,} lines of translation, but {len(refs):,} of reference; "
                "both need one line a segment"
            )
    if not hyps:
        raise DataError(f"{test_set}: it has no lines; a score needs one segment or more")
    return [line.rstrip() for line in hyps], [
        [line.rstrip() for line in refs] for refs in references
    ]


def _warn(
    hyps: Sequence[str],
    references: Sequence[Sequence[str]],
    tgt_language: str,
    metrics: Sequence[str],
) -> list[str]:
    """What a reader of the scores should know about the text."""
    found = []
    for what, lines in [("translation", hyps), *(("reference", refs) for refs in references)]:
        marked = [number for number, line in enumerate(lines) if _TOKENISED.search(line)]
        if len(marked) > _MAX_TOKENISED * len(lines):
            found.append(
                f"the {what} looks tokenised in {len(marked):,} of {len(lines):,} lines, first in "
                f"line {marked[0] + 1}; scores are meant for plain text"
            )
        if num_blank := sum(not line for line in lines):
            found.append(f"{num_blank:,} of {len(lines):,} lines of the {what} are blank")
    if "ter" in metrics and language_of(tgt_language) in ("zh", "ja"):
        found.append(f"TER counts what stands between spaces, and {tgt_language} has no spaces")
    return found


def _is_long(line: str) -> bool:
    return line.count(" ") >= _LONG_WORDS - 1


def _align(lines: Sequence[str]) -> list[str]:
    """Put the equals signs below each other, as the sacrebleu command does."""
    column = max((line.index("=") for line in lines), default=0)
    return [" " * (column - line.index("=")) + line for line in lines]
