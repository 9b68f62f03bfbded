"""Metrics: those of sacreBLEU that can be reported, and their settings for a target language.

To add a metric, add a row to `METRICS` here and to the conformance test of the metrics.
"""

import os
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache, partial
from typing import Any

from sacrebleu.metrics import BLEU, CHRF, TER

from nmt.corpus.text import UNSPACED
from nmt.errors import ConfigError, did_you_mean

DEFAULT_TOKENIZER = "13a"
"""BLEU tokenizer of languages with spaces between words."""
_LANGUAGES = {
    "zh": "zh zho chi cmn yue wuu hsn hak gan cdo nan lzh hans hant hani hanb bopo",
    "ja-mecab": "ja jpn jpan hrkt hira kana",
    "ko-mecab": "ko kor kore hang",
    # flores200 would do as well, but it downloads a model.
    "char": "th tha nod lo lao km khm my mya bur mnw shn blk bo bod tib dz dzo khb tdd ii iii "
    "thai laoo khmr mymr tibt lana talu tale yiii",
}
"""Languages (ISO 639-1, 639-2, 639-3) and scripts (ISO 15924) by BLEU tokenizer."""
_TOKENIZERS = {code: name for name, codes in _LANGUAGES.items() for code in codes.split()}
_CODE = re.compile("([a-z]+)(?:[-_][a-z]{3})?(?:[-_]([a-z]{4}))?(?:[-_].*)?")
"""Language, script: zh, zho_Hans, zh-Hant-TW, zh-cmn-Hans."""


def bleu_tokenizer(code: str) -> str:
    """Return the BLEU tokenizer of a language code: ISO 639, FLORES (zho_Hans) or BCP 47."""
    match = _CODE.fullmatch(code.lower())
    language, script = match.groups() if match else ("", None)
    # The script decides for a language that is written in several: nan_Hant, nan_Latn.
    if script is not None and script not in _TOKENIZERS:
        return DEFAULT_TOKENIZER
    return _TOKENIZERS.get(language) or _TOKENIZERS.get(script or "", DEFAULT_TOKENIZER)


def has_spaces(tgt_language: str) -> bool:
    """Return True if the language is written with spaces between words."""
    return bleu_tokenizer(tgt_language) in (DEFAULT_TOKENIZER, "ko-mecab")


def find_wrong_tokenizer(tgt_language: str, refs: Sequence[str]) -> str:
    """Describe references without spaces whose language is not known as one; empty: none."""
    letters = "".join("".join(line.split()) for line in refs)
    if not has_spaces(tgt_language) or 2 * len(UNSPACED.findall(letters)) <= len(letters):
        return ""
    return (
        f"BLEU would split words at spaces (tokenizer {bleu_tokenizer(tgt_language)}), which the "
        "references do not have: use its ISO 639 code, such as zh, ja or th"
    )


def _make_bleu(tgt_language: str, lowercase: bool = False, tokenize: str | None = None) -> BLEU:
    tokenize = tokenize or bleu_tokenizer(tgt_language)
    try:
        # force: sacreBLEU's warning about tokenised text is replaced by one in the report.
        return BLEU(lowercase=lowercase, force=True, tokenize=tokenize)
    except (RuntimeError, AssertionError):
        raise ConfigError.from_message(
            f"BLEU for corpus.tgt {tgt_language} needs the tokenizer MeCab, which is not "
            f"installed: run pip install 'sacrebleu[{tokenize.partition('-')[0]}]'"
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


@lru_cache(maxsize=4)
def _sentence_metric(tgt_language: str) -> BLEU:
    # effective_order: n-grams longer than the segment do not count.
    return BLEU(effective_order=True, force=True, tokenize=bleu_tokenizer(tgt_language))


def sentence_bleu(hyp: str, ref: str, tgt_language: str) -> float:
    """Return the smoothed BLEU of one segment, 0 to 100."""
    return float(_sentence_metric(tgt_language).sentence_score(hyp, [ref]).score)


def resampling_seed() -> str:
    """Return sacreBLEU's seed as its signature shows it: a whole number, or "none".

    Raises:
        ConfigError: SACREBLEU_SEED is anything else.
    """
    seed = os.environ.get("SACREBLEU_SEED", "12345").lower()
    if not (seed == "none" or seed.isdecimal()):
        raise ConfigError("SACREBLEU_SEED", repr(seed), "it must be a whole number or none")
    return seed
