"""`nmt config`: show and explain settings."""

import re
from pathlib import Path

import pytest
from cli_calls import Nmt

from nmt.config.files import load_experiment
from nmt.config.preset import resolve


def test_shown_settings_load_to_equal_settings(here: Path, nmt: Nmt) -> None:
    answer = nmt("config show tiny.yaml model.dropout=0.3 cluster.workers=2")
    Path("shown.yaml").write_text(answer.out, encoding="utf-8")
    assert load_experiment("shown.yaml") == load_experiment("tiny.yaml", ["model.dropout=0.3"])
    assert "\n# workers: 2\n" in answer.out


def test_shown_settings_leave_sizes_to_the_preset(here: Path, nmt: Nmt) -> None:
    changes = ["preset=auto", "name=other"]
    Path("shown.yaml").write_text(nmt(f"config show tiny.yaml {' '.join(changes)}").out)
    shown, given = load_experiment("shown.yaml"), load_experiment("tiny.yaml", changes)
    assert resolve(shown, 100).training == resolve(given, 100).training


@pytest.mark.parametrize("key", ["training.patience", "cluster.storage", "corpus.train.tsv"])
def test_explain_prints_a_setting(key: str, nmt: Nmt) -> None:
    answer = nmt(f"config explain {key}")
    assert answer.status == 0
    assert re.fullmatch(rf"{re.escape(key)}: [A-Z].*\.  \[.*]\n", answer.out)
