"""Metrics: which of sacreBLEU's there are here, and how each is set up for a target language."""

import difflib
import os
import re
from collections.abc import Sequence
from typing import Any

from sacrebleu.metrics import BLEU, CHRF, TER

from nmt.errors import ConfigError

METRICS = ("bleu", "chrf", "ter", "bleu-lc", "bleu-lc-intl")
"""Three metrics to report, and two labelled extras to compare with older publications."""
DEFAULT_METRICS = METRICS[:4]
EXTRAS = {"bleu-lc": "lower-cased", "bleu-lc-intl": "lower-cased, international tokenisation"}


def check_metrics(metrics: Sequence[str], tgt_language: str) -> None:
    """Raise ConfigError before translating for metrics that could not be computed after it."""
    if not metrics:
        raise ConfigError.from_message(f"no metrics are given; known here: {', '.join(METRICS)}")
    for name in metrics:
        if name not in METRICS:
            near = difflib.get_close_matches(name, METRICS, n=1)
            hint = f"did you mean {near[0]}?" if near else f"known here: {', '.join(METRICS)}"
            raise ConfigError.from_message(f"{name!r} is not a metric; {hint}")
        make_metric(name, tgt_language)


def make_metric(name: str, tgt_language: str) -> Any:
    """sacreBLEU's metric object of a name in METRICS.

    Raises:
        ConfigError: the language needs a tokenizer that is not installed.
    """
    if name == "chrf":
        return CHRF()
    if name == "ter":
        return TER()
    is_intl = name == "bleu-lc-intl"
    lang = "" if is_intl else language_of(tgt_language)
    tokenize = "intl" if is_intl else None
    try:
        # force: sacreBLEU would log its warning about tokenised text; ours stands in the report.
        return BLEU(lowercase=name != "bleu", force=True, tokenize=tokenize, trg_lang=lang)
    except (RuntimeError, AssertionError):
        raise ConfigError.from_message(
            f"BLEU for corpus.tgt {tgt_language} cuts words with MeCab, which is not installed "
            f"here; run: pip install 'sacrebleu[{lang}]'"
        ) from None


def sentence_chrf(hyp: str, refs: Sequence[str]) -> float:
    """chrF2 of one segment, 0 to 100."""
    return float(CHRF().sentence_score(hyp, refs).score)


def language_of(code: str) -> str:
    """The language of a code such as zh-Hans or zh_CN."""
    return re.split("[-_]", code.lower())[0]


def resampling_seed() -> str:
    """What sacreBLEU seeds its draws with: a whole number, or none; as its signature says it.

    Raises:
        ConfigError: SACREBLEU_SEED is anything else.
    """
    seed = os.environ.get("SACREBLEU_SEED", "12345").lower()
    if not (seed == "none" or seed.isdecimal()):
        raise ConfigError("SACREBLEU_SEED", repr(seed), "it must be a whole number or none")
    return seed
