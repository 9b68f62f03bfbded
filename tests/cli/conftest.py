"""New text for `nmt adapt`, and a stand-in for its training."""

from pathlib import Path
from typing import Any

import cli_calls
import pytest
from cli_calls import NEW

from nmt.cli import adapt
from nmt.config.experiment import Experiment


@pytest.fixture
def new_text(here: Path) -> Path:
    for side, lines in zip(("en", "de"), zip(*NEW, strict=True), strict=True):
        Path(f"new.{side}").write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
    return here


@pytest.fixture
def adapted(new_text: Path, monkeypatch: pytest.MonkeyPatch) -> list[Experiment]:
    """Experiments that would be trained; the result of each is the earlier run."""
    found: list[Experiment] = []

    def train_run(experiment: Experiment, *_: Any) -> str:
        found.append(experiment)
        cli_calls.prepare_tests(experiment)
        return "runs/tiny"

    monkeypatch.setattr(adapt, "train_run", train_run)
    monkeypatch.setattr(adapt, "_compare", lambda *_: None)
    # It has the path of the folder that `here` is a copy of.
    Path("runs/tiny/manifest.json").unlink()
    return found
