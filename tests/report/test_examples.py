"""Examples: chosen by score, with attention."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from nmt.report.examples import QUANTILES, choose
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
        assert len(each.weights) == len(each.tgt_tokens) == len(each.strongest)
        for weights in each.weights:
            assert len(weights) == len(each.src_tokens)
            assert sum(weights) == pytest.approx(1.0, abs=0.01)


def test_run_without_evaluation_has_no_examples(here: Path) -> None:
    [run] = read_runs([Path("runs/tiny")])
    assert choose(run, 3) == []
