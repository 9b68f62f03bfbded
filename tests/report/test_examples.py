"""Examples: chosen by their score, with where the model looked."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from nmt.report.examples import PLACES, choose
from nmt.report.runs import read_runs


def test_examples_are_of_a_scored_test_set_with_the_attention_of_each_piece(
    here: Path, nmt: Callable[..., Any]
) -> None:
    nmt("evaluate runs/tiny --test news --metrics chrf")
    [run] = read_runs([Path("runs/tiny")])
    found = choose(run, 3)
    assert [each.what for each in found] == list(PLACES)
    scores = [each.chrf for each in found]
    assert scores == sorted(scores, reverse=True)
    kept = Path("runs/tiny/evaluation/news.de").read_text(encoding="utf-8").split("\n")
    for each in found:
        assert each.hyp == kept[each.line - 1]
        assert len(each.weights) == len(each.tgt_pieces) == len(each.strongest)
        for weights in each.weights:
            assert len(weights) == len(each.src_pieces)
            assert sum(weights) == pytest.approx(1.0, abs=0.01)


def test_a_run_that_was_not_evaluated_has_no_examples(here: Path) -> None:
    [run] = read_runs([Path("runs/tiny")])
    assert choose(run, 3) == []
