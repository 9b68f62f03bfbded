"""Metrics: those of sacreBLEU that can be reported, and their settings for a target language.

To add a metric, add a row to `METRICS` here and to the conformance test of the metrics.
"""

import os
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from sacrebleu.metrics import BLEU, CHRF, TER

from nmt.errors import ConfigError, did_you_mean


def _make_bleu(tgt_language: str, lowercase: bool = False, tokenize: str | None = None) -> BLEU:
    # An explicit tokenizer wins; sacreBLEU warns if a language asks for another.
    language = "" if tokenize else base_language(tgt_language)
    try:
        # force: sacreBLEU's warning about tokenised text is replaced by one in the report.
        return BLEU(lowercase=lowercase, force=True, tokenize=tokenize, trg_lang=language)
    except (RuntimeError, AssertionError):
        raise ConfigError.from_message(
            f"BLEU for corpus.tgt {tgt_language} needs the tokenizer MeCab, which is not "
            f"installed: run pip install 'sacrebleu[{language}]'"
        ) from None


@dataclass(frozen=True)
class MetricKind:
    """One row of `METRICS`."""

    make: Callable[[str], Any]
    """Returns sacreBLEU's metric object for a target language."""
    label: str = ""
    """Description of an extra, a metric for comparisons with older publications only."""
    is_error_rate: bool = False
    """True if lower is better."""
    is_default: bool = True
    """True if it is reported unless other metrics are requested."""

    def gain(self, baseline: float, score: float) -> float:
        """Return the points by which a score is better than the baseline."""
        return baseline - score if self.is_error_rate else score - baseline


METRICS = {
    "bleu": MetricKind(_make_bleu),
    "chrf": MetricKind(lambda tgt_language: CHRF()),
    "ter": MetricKind(lambda tgt_language: TER(), is_error_rate=True),
    "bleu-lc": MetricKind(partial(_make_bleu, lowercase=True), "lower-cased"),
    "bleu-lc-intl": MetricKind(
        partial(_make_bleu, lowercase=True, tokenize="intl"),
        "lower-cased, international tokenisation",
        is_default=False,
    ),
}
"""All metrics by name, in the order of a report."""
DEFAULT_METRICS = tuple(name for name, kind in METRICS.items() if kind.is_default)


def check_metrics(metrics: Sequence[str], tgt_language: str) -> None:
    """Raise ConfigError for metrics that cannot be computed for the target language."""
    if not metrics:
        raise ConfigError.from_message(f"no metrics are given{did_you_mean('', METRICS)}")
    # Metrics are created here to find a missing tokenizer before anything is translated.
    for name in metrics:
        if name not in METRICS:
            hint = did_you_mean(name, METRICS)
            raise ConfigError.from_message(f"{name!r} is not a metric{hint}")
        make_metric(name, tgt_language)


def make_metric(name: str, tgt_language: str) -> Any:
    """Return sacreBLEU's metric object of a name in `METRICS`.

    Raises:
        ConfigError: the tokenizer for the language is not installed.
    """
    return METRICS[name].make(tgt_language)


def sentence_chrf(hyp: str, refs: Sequence[str]) -> float:
    """Return chrF2 of one segment, 0 to 100."""
    return float(CHRF().sentence_score(hyp, refs).score)


def base_language(code: str) -> str:
    """Return the language of a code such as zh-Hans or zh_CN."""
    return re.split("[-_]", code.lower())[0]


def resampling_seed() -> str:
    """Return sacreBLEU's seed as its signature shows it: a whole number, or "none".

    Raises:
        ConfigError: SACREBLEU_SEED is anything else.
    """
    seed = os.environ.get("SACREBLEU_SEED", "12345").lower()
    if not (seed == "none" or seed.isdecimal()):
        raise ConfigError("SACREBLEU_SEED", repr(seed), "it must be a whole number or none")
    return seed
