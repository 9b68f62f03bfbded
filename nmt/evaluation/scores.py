"""Scores: BLEU, chrF2 and TER of detokenised text, as the `sacrebleu` command prints them.

Every number has its signature (Post 2018) and its 95 % interval from bootstrap resampling (Koehn
2004). Resampling uses sacreBLEU's statistics and draws, but one resample at a time: sacreBLEU's own
function holds a thousand resamples at once, gigabytes for a large test set.
"""

import json
import logging
import re
import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from nmt.errors import ConfigError, DataError
from nmt.evaluation import slices
from nmt.evaluation.failures import FailureReport
from nmt.evaluation.sacrebleu_metrics import (
    DEFAULT_METRICS,
    METRICS,
    check_metrics,
    find_wrong_tokenizer,
    has_spaces,
    make_metric,
    resampling_seed,
)
from nmt.evaluation.slices import Slice

log = logging.getLogger(__name__)

NUM_RESAMPLES = 1000
_SLOW_TER_WORDS = 150
"""Words from which TER, which tries all shifts of word sequences, can take seconds for a line."""
_MAX_TOKENISED = 0.05
"""Share of lines with marks of tokenisation from which a warning is given."""
_TOKENISED = re.compile(r" [.,。，](?= |$)|@@(?= |$)|@-@|&(?:apos|quot|amp);|▁")


@dataclass(frozen=True)
class Score:
    """Score of one metric."""

    name: str
    """Name that sacreBLEU gives the metric: BLEU, chrF2, TER."""
    value: float
    signature: str
    verbose: str
    """Precisions, brevity penalty and lengths of BLEU; empty for other metrics."""
    interval: tuple[float, float] | None
    """Mean and half width of the 95 % interval; None without resampling, or if all scores are 0."""
    label: str = ""
    """Description of an extra (`MetricKind.label`); empty for a score to report."""

    def line(self, width: int = 1) -> str:
        """Return the score as `sacrebleu -w width -f text` prints it."""
        confidence = f" ({self._confidence(width)})" if self.interval else ""
        verbose = f" {self.verbose}" if self.verbose else ""
        return f"{self.name}|{self.signature} = {self.value:.{width}f}{confidence}{verbose}"

    def tree(self, width: int = 1) -> dict[str, Any]:
        """Return the score as `sacrebleu -w width -f json` prints it."""
        # Rounded through text, as sacreBLEU does.
        value = float(f"{self.value:.{width}f}")
        tree: dict[str, Any] = {"name": self.name, "score": value, "signature": self.signature}
        if self.interval:
            mean, half_width = self.interval
            tree["confidence_mean"] = float(f"{mean:.{width}f}")
            tree["confidence_var"] = float(f"{half_width:.{width}f}")
            tree["confidence"] = self._confidence(width)
        if self.verbose:
            tree["verbose_score"] = self.verbose
        # sacreBLEU repeats the parts of the signature as keys.
        return tree | dict(part.split(":") for part in self.signature.split("|"))

    def _confidence(self, width: int) -> str:
        assert self.interval
        return "μ = {:.{width}f} ± {:.{width}f}".format(*self.interval, width=width)


@dataclass(frozen=True)
class ScoreReport:
    """Scores of one system on one test set."""

    test_set: str
    system: str
    checkpoint: str
    """Name of the checkpoint; empty if unknown."""
    num_segments: int
    scores: tuple[Score, ...]
    warnings: tuple[str, ...]
    slices: tuple[Slice, ...] = ()
    failures: FailureReport | None = None
    """Failures by rule; None if they were not requested."""

    def text(self, width: int = 1) -> str:
        """Return a title, the lines of the `sacrebleu` command, labelled extras and warnings."""
        title = f"{self.test_set}: {self.num_segments:,} segments, {self.system}"
        if self.checkpoint:
            title += f", checkpoint {self.checkpoint}"
        lines = _align_equals([score.line(width) for score in self.scores if not score.label])
        # Extras are labelled, so that they are not mistaken for scores to report.
        extras = [f"{score.label}: {score.line(width)}" for score in self.scores if score.label]
        return "\n".join([title, *lines, *extras, *(f"warning: {text}" for text in self.warnings)])

    def json(self, width: int = 8) -> str:
        """Return the objects of `sacrebleu -w width -f json` with test set, system and slices."""
        tree: dict[str, Any] = {
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
        if self.failures is not None:
            tree["failures"] = self.failures.tree()
        return json.dumps(tree, indent=1, ensure_ascii=False)


def score(
    hyps: Sequence[str], references: Sequence[Sequence[str]], tgt_language: str, *,
    test_set: str, system: str, checkpoint: str = "", metrics: Sequence[str] = DEFAULT_METRICS,
    num_resamples: int = NUM_RESAMPLES, labels: Mapping[str, Sequence[str]] | None = None,
) -> ScoreReport:  # fmt: skip
    """Score detokenised translations against untouched references.

    Args:
        hyps: one line per segment.
        references: one or more sequences of lines, each as long as `hyps`.
        tgt_language: target language; selects BLEU's tokenizer.
        test_set, system, checkpoint: names for the report.
        metrics: names in METRICS; reported in the order of METRICS.
        num_resamples: resamples for the intervals; 1 or less for no intervals.
        labels: slice name of each segment, for each kind of `slices.KINDS`.

    Raises:
        DataError: there are no lines, or the numbers of lines differ.
        ConfigError: a metric is unknown, or its tokenizer is not installed.
    """
    check_metrics(metrics, tgt_language)
    hyps, references = check_lines(hyps, references, test_set)
    # Before the slow part, so that the user can stop it.
    num_long = sum(line.count(" ") + 1 >= _SLOW_TER_WORDS for line in hyps)
    if "ter" in metrics and num_long:
        log.warning(
            f"{test_set}: {num_long:,} translations have {_SLOW_TER_WORDS} words or more; TER can "
            "take seconds for each; to omit it, leave ter out of --metrics"
        )
    # In the order of METRICS, whatever the order of the request.
    scores = tuple(
        _score(name, hyps, references, tgt_language, num_resamples)
        for name in METRICS
        if name in metrics
    )
    warnings = tuple(_warn(hyps, references, tgt_language, metrics))
    parts = slices.score_slices(hyps, references, tgt_language, labels or {})
    return ScoreReport(test_set, system, checkpoint, len(hyps), scores, warnings, parts)


def check_dev_set(tgt_language: str, refs: Sequence[str]) -> None:
    """Check before training that validation and evaluation will be able to score.

    Args:
        tgt_language: target language.
        refs: reference lines of the dev set.

    Raises:
        ConfigError: a tokenizer is not installed, or that of the language needs spaces, which the
            references do not have.
        DataError: the dev set is empty.
    """
    check_metrics(DEFAULT_METRICS, tgt_language)
    if not refs:
        raise DataError("the dev set is empty: validation needs at least one pair (corpus.dev)")
    if problem := find_wrong_tokenizer(tgt_language, refs):
        raise ConfigError.from_message(f"corpus.tgt {tgt_language}: {problem}")


def bleu(hyps: Sequence[str], refs: Sequence[str], tgt_language: str) -> Score:
    """Return BLEU with one reference and without an interval, for validation.

    Raises:
        DataError, ConfigError: as in `score`.
    """
    return _score("bleu", *check_lines(hyps, [refs], "dev set"), tgt_language, num_resamples=0)


def _score(
    name: str, hyps: Sequence[str], references: Sequence[Sequence[str]], tgt_language: str,
    num_resamples: int,
) -> Score:  # fmt: skip
    metric = make_metric(name, tgt_language)
    stats = metric._extract_corpus_statistics(hyps, references)
    result = metric._aggregate_and_compute(stats)
    if num_resamples > 1:
        result.estimate_ci(_resample(metric, stats, num_resamples))
    # sacreBLEU sets a mean of -1 without resampling, and prints no interval around 0.
    interval = (float(result._mean), float(result._ci)) if result._mean > 0 else None
    signature = str(metric.get_signature())
    label = METRICS[name].label
    return Score(result.name, float(result.score), signature, result._verbose, interval, label)


def _resample(metric: Any, stats: Sequence[Any], num: int) -> list[Any]:
    """Return the scores of resampled test sets; bit for bit those of sacreBLEU."""
    seed = resampling_seed()
    rng = np.random.default_rng(None if seed == "none" else int(seed))
    metric.n_bootstrap, metric.seed = num, seed
    # float32 and the order of draws are those of sacreBLEU, else the intervals would differ.
    table = np.array(stats, dtype="float32")
    resamples = []
    for _ in range(num):
        rows = rng.choice(len(table), size=len(table), replace=True)
        resamples.append(metric._compute_score_from_stats(table[rows].sum(0)))
    if len({type(resample.score) for resample in resamples}) > 1:
        # Blank and perfect resamples have Python floats, with which sacreBLEU's mean fails.
        for resample in resamples:
            resample.score = float(resample.score)
    return resamples


def check_lines(
    hyps: Sequence[str], references: Sequence[Sequence[str]], test_set: str
) -> tuple[list[str], list[list[str]]]:
    """Strip white space at the ends of lines, as the sacrebleu command does.

    Raises:
        DataError: there are no lines, or the numbers of lines differ.
    """
    assert references
    for refs in references:
        if len(refs) != len(hyps):
            raise DataError(
                f"{test_set}: the translation has {len(hyps):,} lines, the reference "
                f"{len(refs):,}: both need one line per segment"
            )
    if not hyps:
        raise DataError(f"{test_set} is empty: a score needs at least one segment")
    return [line.rstrip() for line in hyps], [
        [line.rstrip() for line in refs] for refs in references
    ]


def _warn(
    hyps: Sequence[str], references: Sequence[Sequence[str]], tgt_language: str,
    metrics: Sequence[str],
) -> list[str]:  # fmt: skip
    """Return warnings about text that makes scores misleading."""
    warnings = []
    for side, lines in [("translation", hyps), *(("reference", refs) for refs in references)]:
        # A single mark is normal ("Quoi ?"); many lines with marks are not.
        marked = [number for number, line in enumerate(lines) if _TOKENISED.search(line)]
        if len(marked) > _MAX_TOKENISED * len(lines):
            warnings.append(
                f"the {side} looks tokenised in {len(marked):,} of {len(lines):,} lines, first in "
                f"line {marked[0] + 1}; scores need detokenised text"
            )
        if num_blank := sum(not line for line in lines):
            warnings.append(f"{num_blank:,} of {len(lines):,} lines of the {side} are blank")
    # TER splits at spaces only.
    if "ter" in metrics and not has_spaces(tgt_language):
        warnings.append(f"TER counts space-separated words, and {tgt_language} has no spaces")
    if problem := find_wrong_tokenizer(tgt_language, references[0]):
        warnings.append(f"target language {tgt_language or 'not given'}: {problem}")
    # An accented letter is one character in NFC and two in NFD: the two do not match.
    decomposed = [
        number
        for number, (hyp, *refs) in enumerate(zip(hyps, *references, strict=True), start=1)
        if len({unicodedata.is_normalized("NFC", line) for line in (hyp, *refs)}) > 1
    ]
    if decomposed:
        warnings.append(
            f"translation and reference differ in Unicode normalisation (NFC or NFD) in "
            f"{len(decomposed):,} of {len(hyps):,} lines, first in line {decomposed[0]}, and equal "
            "letters do not match: convert both files to NFC (uconv -x any-nfc)"
        )
    return warnings


def _align_equals(lines: Sequence[str]) -> list[str]:
    """Align the equals signs, as the sacrebleu command does."""
    column = max((line.index("=") for line in lines), default=0)
    return [" " * (column - line.index("=")) + line for line in lines]
