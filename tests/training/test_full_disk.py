"""Checkpoints that cannot be written because the disk is full."""

from pathlib import Path

import pytest
from toy_results import assert_near, end_of, records_of
from toy_runs import GlooRuns, Run, go

from nmt.checkpoint.run_directory import list_checkpoints
from nmt.errors import TrainingError


def error_of(run: Path, update: int) -> str:
    """Return the start of the message of a checkpoint that could not be written."""
    return f"{run}/checkpoints/update-{update:08d} was not written: the disk is full; it needs "


def test_training_continues_without_a_failed_checkpoint(one: Path, faulty: GlooRuns) -> None:
    """Exact resume (nmt/README.md, Guarantees)."""
    assert_near(faulty / "full", one)
    unwritten = [r["update"] for r in records_of(faulty / "full") if r["kind"] == "unwritten"]
    assert unwritten == [5, 6, 14]
    problem = error_of(faulty / "full", 6)
    assert (f"update 6 | checkpoint failed (2 in a row, 3 end the run): {problem}") in (
        faulty / "full" / "train.log"
    ).read_text(encoding="utf-8")


def test_a_run_ends_after_three_failed_checkpoints(faulty: GlooRuns) -> None:
    """Actionable errors (nmt/README.md, Guarantees): on all ranks, none waits for another."""
    run = faulty / "full-for-good"
    for rank in (0, 1):
        message = (run / f"error-{rank}.txt").read_text()
        assert message.startswith(
            f"3 checkpoints in a row could not be written: {error_of(run, 12)}"
        )
        assert message.endswith("; repeat the command to resume from the last complete one")
    assert end_of(run).update == 3


def test_a_run_fails_without_its_last_checkpoint(toy_file: Path) -> None:
    with pytest.raises(TrainingError) as error:
        go(toy_file, Run("full-at-the-end", full=[20]))
    run = toy_file.parent / "full-at-the-end"
    assert str(error.value).startswith(
        f"the last checkpoint could not be written: {error_of(run, 20)}"
    )
    assert [folder.name for folder in list_checkpoints(run)] == ["update-00000010"]
