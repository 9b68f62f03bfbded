"""A search among models that are trained, on a real local Ray."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from nmt.config.files import load_experiment
from nmt.jobs.tune import validations_of

COMMAND = (
    "tune tiny.yaml training.updates=20 training.warmup_updates=2 training.validate_every=10 "
    "training.checkpoint_every=10 --search training.learning_rate=choice(0.00001,0.02) "
    "--search corpus.subword.vocab_size=choice(310,320) --trials 3 --least 10 cluster.workers=1"
)


@pytest.mark.ray
def test_the_best_of_three_trials_comes_first_and_is_there_to_go_on_with(
    here: Path, nmt: Callable[..., Any]
) -> None:
    """P4: the same command does not train again what is trained."""
    answer = nmt(COMMAND)
    assert answer.status == 0, answer.err
    header, *rows = [line.split() for line in answer.out.splitlines()]
    assert len(rows) == 3
    rates = header.index("training.learning_rate") - 4  # "best dev BLEU", "dev loss", "at update"
    assert rows[0][rates] == "0.02"
    bleus = [float(row[1]) for row in rows]
    assert bleus == sorted(bleus, reverse=True)
    assert any("stopped after 10 of 20 updates" in line for line in answer.out.splitlines())
    best = load_experiment("runs/tiny.tune/best.yaml")
    assert best.name == "tiny.tuned"
    assert best.training.learning_rate == 0.02
    assert (Path(best.prepared) / "manifest.json").exists()
    run = Path("runs/tiny.tune", rows[0][-1])
    assert max(each["dev_bleu"] for each in validations_of(run)) == pytest.approx(
        bleus[0], abs=0.005
    )
    assert nmt(f"evaluate {run} --metrics bleu").status == 0
    written = {path: os.stat(path).st_mtime_ns for path in run.rglob("*.safetensors")}
    again = nmt(COMMAND)
    assert again.status == 0, again.err
    assert again.out == answer.out
    assert written == {path: os.stat(path).st_mtime_ns for path in run.rglob("*.safetensors")}
