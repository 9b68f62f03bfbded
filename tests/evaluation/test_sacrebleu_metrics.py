"""Conformance of every metric: a new row of METRICS needs one row of SACREBLEU here."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from sacrebleu.metrics import BLEU, CHRF, TER

from nmt.cli.compare import compare
from nmt.errors import ConfigError
from nmt.evaluation import scores
from nmt.evaluation.comparison import compare as compare_systems
from nmt.evaluation.sacrebleu_metrics import DEFAULT_METRICS, METRICS, check_metrics, sentence_bleu

HYPS = ["Ein Hund läuft über den Rasen .", "Zwei Männer spielen Fußball.", "EINE KATZE schläft."]
REFS = ["Ein Hund rennt über den Rasen.", "Zwei Männer spielen Fußball.", "Eine Katze schläft."]
SACREBLEU: dict[str, tuple[Any, list[str]]] = {
    "bleu": (lambda: BLEU(), ["-m", "bleu"]),
    "chrf": (lambda: CHRF(), ["-m", "chrf"]),
    "ter": (lambda: TER(), ["-m", "ter"]),
    "bleu-lc": (lambda: BLEU(lowercase=True), ["-m", "bleu", "-lc"]),
    "bleu-lc-intl": (
        lambda: BLEU(lowercase=True, tokenize="intl"),
        ["-m", "bleu", "-lc", "--tokenize", "intl"],
    ),
}
"""sacreBLEU's own metric, and the options of its command."""


def score(name: str, hyps: list[str] = HYPS) -> scores.ScoreReport:
    return scores.score(
        hyps, [REFS], "de", test_set="toy", system="s", metrics=[name], num_resamples=1
    )


@pytest.mark.parametrize("name", METRICS)
def test_a_metric_equals_sacrebleu_with_its_signature(name: str) -> None:
    """Line in, line out (nmt/README.md, Guarantees)."""
    metric = SACREBLEU[name][0]()
    expected = metric.corpus_score(HYPS, [REFS])
    [found] = score(name).scores
    assert (found.name, found.value) == (expected.name, expected.score)
    assert found.signature == str(metric.get_signature())
    assert found.line(8) == expected.format(width=8, signature=found.signature)


# Of the other metrics test_scores.py compares text and JSON, all in one command.
@pytest.mark.parametrize("name", [name for name, kind in METRICS.items() if kind.label])
def test_an_extra_equals_the_sacrebleu_command(name: str, tmp_path: Path) -> None:
    """Line in, line out (nmt/README.md, Guarantees)."""
    for side, lines in {"hyp": HYPS, "ref": REFS}.items():
        text = "".join(f"{line}\n" for line in lines)
        (tmp_path / side).write_text(text, encoding="utf-8")
    options = [*SACREBLEU[name][1], "-f", "text", "-w", "10"]
    command = [sys.executable, "-m", "sacrebleu", "ref", "-i", "hyp", *options]
    done = subprocess.run(
        command, capture_output=True, check=True, env={**os.environ, "NO_COLOR": "1"}, cwd=tmp_path
    )
    assert score(name).scores[0].line(10) == done.stdout.decode().rstrip("\n")


@pytest.mark.parametrize("name", METRICS)
def test_a_metric_gains_when_translations_improve(name: str) -> None:
    worse = [f"{line} Unsinn" for line in HYPS]
    values = [score(name, hyps).scores[0].value for hyps in (worse, HYPS, REFS)]
    assert METRICS[name].gain(*values[:2]) > 0
    assert METRICS[name].gain(*values[1:]) > 0
    compared = compare_systems(
        {"old": HYPS, "new": REFS}, "old", [REFS], "de", test_set="toy", metrics=[name], test="none"
    )
    assert compared.systems[0].differences[0].gain > 0


@pytest.mark.parametrize("name", METRICS)
def test_a_metric_is_in_text_and_json_of_a_report(name: str) -> None:
    """Honest numbers (nmt/README.md, Guarantees)."""
    report = score(name)
    [found] = report.scores
    label = METRICS[name].label
    assert f"{label}: {found.line()}" if label else found.line() in report.text().split("\n")
    tree = json.loads(report.json())
    [entry] = tree["extras" if label else "scores"]
    assert (entry["name"], entry["signature"]) == (found.name, found.signature)
    assert entry.get("label", "") == label


def test_every_metric_is_in_the_help() -> None:
    [option] = [param for param in compare.params if param.name == "metrics"]
    assert all(name in str(getattr(option, "help", "")) for name in METRICS)
    assert option.default == ",".join(DEFAULT_METRICS)


@pytest.mark.parametrize(
    ("metrics", "message"),
    [
        (["blue"], "'blue' is not a metric; did you mean bleu?"),
        (["x"], "'x' is not a metric; choose from bleu, chrf, ter, bleu-lc, bleu-lc-intl"),
        ([], "no metrics are given; choose from bleu, chrf, ter, bleu-lc, bleu-lc-intl"),
    ],
)
def test_unknown_metrics_are_refused(metrics: list[str], message: str) -> None:
    """Actionable errors (nmt/README.md, Guarantees)."""
    with pytest.raises(ConfigError) as error:
        check_metrics(metrics, "de")
    assert str(error.value) == message


def test_sentence_bleu_of_a_short_segment_has_no_longer_ngrams() -> None:
    assert sentence_bleu("ein Hund", "ein Hund", "de") == pytest.approx(100)
