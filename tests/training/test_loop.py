"""One run from its first line to its last."""

import re
from pathlib import Path
from typing import Any

import pytest
import torch
from toy_ends import assert_same, end_of, records_of
from toy_runs import Run, corpus_of, go

from nmt.checkpoint.async_writer import AsyncCheckpointWriter
from nmt.checkpoint.load import load_checkpoint
from nmt.checkpoint.run_directory import list_checkpoints
from nmt.config.experiment import Experiment
from nmt.config.files import load_experiment
from nmt.training.distributed import World
from nmt.training.loop import train


def test_the_first_line_says_what_is_trained_on_what(toy: Experiment, tmp_path: Path) -> None:
    """P11."""
    lines: list[str] = []
    short = toy.model_copy(
        update={"batching": toy.batching.model_copy(update={"max_length": 12, "window": 100})}
    )
    train(short, corpus_of(toy), World(), tmp_path, lines.append, lambda update: True)
    assert re.fullmatch(
        r"[\d,]+ parameters, fp32, 1 worker on cpu; \d+ pairs, \d+ longer ones left out; "
        r"\d+ updates an epoch, \d+\.\d epochs in all; from the start",
        lines[0],
    )


@pytest.mark.parametrize(
    "change", ["dropout: 0.5", "word_dropout: 0.5", "subword_dropout: 0.5", "weight_dropout: 0.5"]
)
def test_a_stage_changes_what_is_dropped_from_its_first_update_on(
    toy_file: Path, change: str
) -> None:
    stages = [f"stages=[{{from_update: 4, {change}}}]", "training.log_every=1"]
    name = change.partition(":")[0]
    ends = ["training.updates=6", "training.validate_every=6", "training.checkpoint_every=6"]
    go(toy_file, Run("plain-short", overrides=["training.log_every=1", *ends]))
    go(toy_file, Run(f"stage-{name}", overrides=[*stages, *ends]))
    plain, staged = (
        [each["nll"] for each in records_of(toy_file.parent / run) if each["kind"] == "train"]
        for run in ("plain-short", f"stage-{name}")
    )
    assert plain[:4] == staged[:4]
    assert plain[4] != staged[4]


def test_a_stop_is_told_and_leaves_a_checkpoint(toy_file: Path) -> None:
    told: list[int] = []
    lines: list[str] = []
    experiment = load_experiment(toy_file)
    run = toy_file.parent / "told"

    def at_update(done: int) -> bool:
        told.append(done)
        return done == 3

    why, _ = train(experiment, corpus_of(experiment), World(), run, lines.append, at_update)
    assert why == "interrupted"
    assert told == [1, 2, 3]
    assert end_of(run).update == 3
    assert re.fullmatch(
        r"interrupted after 3 of 20 updates, \d+\.\d minutes of training", lines[-1]
    )


def test_checkpoints_in_the_background_are_those_written_in_the_foreground(
    toy_file: Path, one: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """P4, P5."""
    begin = AsyncCheckpointWriter.write

    def write_and_wait(writer: AsyncCheckpointWriter, *what: Any, **named: Any) -> None:
        begin(writer, *what, **named)
        writer.wait()

    monkeypatch.setattr(AsyncCheckpointWriter, "write", write_and_wait)
    go(toy_file, Run("foreground"))
    run = toy_file.parent / "foreground"
    assert_same(one, run)
    ours, theirs = (
        [load_checkpoint(folder).weights for folder in list_checkpoints(of)] for of in (one, run)
    )
    for mine, other in zip(ours, theirs, strict=True):
        assert all(torch.equal(tensor, other[name]) for name, tensor in mine.items())
