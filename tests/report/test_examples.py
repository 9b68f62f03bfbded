"""Examples: chosen by score, with attention."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from report_files import example

from nmt.report.examples import QUANTILES, choose
from nmt.report.page import render
from nmt.report.runs import read_runs


def test_examples_have_the_attention_of_each_token(here: Path, nmt: Callable[..., Any]) -> None:
    nmt("evaluate runs/tiny --test news --metrics chrf")
    [run] = read_runs([Path("runs/tiny")])
    examples = choose(run, 3)
    assert [each.quantile for each in examples] == list(QUANTILES)
    scores = [each.chrf for each in examples]
    assert scores == sorted(scores, reverse=True)
    hyps = Path("runs/tiny/evaluation/news.de").read_text(encoding="utf-8").split("\n")
    for each in examples:
        assert each.hyp == hyps[each.line - 1]
        heat_map = each.attention
        assert len(heat_map.weights) == len(heat_map.rows) == len(heat_map.strongest)
        for weights in heat_map.weights:
            assert len(weights) == len(heat_map.columns)
            assert sum(weights) == pytest.approx(1.0, abs=0.01)


@pytest.mark.parametrize(
    ("line", "lines"),
    [
        ("\u200b \u200b \u200b", []),
        ("3 a\r dog runs.", [1, 1, 1]),
        ("a dog", []),
        # The matrix of more than 24 words is not readable.
        ("a dog runs." + " a cat sleeps." * 7, [1, 1, 1]),
        ("a dog runs." + " a cat sleeps." * 8, []),
    ],
)
def test_unusual_lines(line: str, lines: list[int], here: Path, nmt: Callable[..., Any]) -> None:
    for name, text in (("my.en", line), ("my.de", "3 ein Hund rennt.")):
        Path(name).write_bytes(f"{text}\n".encode())
    assert nmt("evaluate runs/tiny --src my.en --ref my.de --metrics chrf").status == 0
    [run] = read_runs([Path("runs/tiny")])
    examples = choose(run, 3)
    assert [each.line for each in examples] == lines
    render([run], [examples])


def test_strongest_source_token_of_each_target_token() -> None:
    assert example().attention.strongest == [("▁&amp;", "▁<b>", 0.9), ("</s>", "</s>", 0.8)]


def test_run_without_evaluation_has_no_examples(here: Path) -> None:
    [run] = read_runs([Path("runs/tiny")])
    assert choose(run, 3) == []
