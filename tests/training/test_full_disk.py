"""A disk that is full when a checkpoint is written."""

from pathlib import Path

import pytest
from toy_ends import assert_near, end_of, records_of
from toy_runs import Run, go

from nmt.checkpoint.run_directory import list_checkpoints
from nmt.errors import TrainingError


def told_of(run: Path, update: int) -> str:
    """How the words about a full disk begin."""
    return f"{run}/checkpoints/update-{update:08d} was not written: the disk is full; it needs "


def test_training_goes_on_without_a_checkpoint_that_could_not_be_written(gloo: Path) -> None:
    """P4."""
    assert_near(gloo / "full", gloo / "two")
    unwritten = [r["update"] for r in records_of(gloo / "full") if r["kind"] == "unwritten"]
    assert unwritten == [4, 7, 13]
    why = told_of(gloo / "full", 6)
    assert (
        f"update 7: training goes on without a checkpoint (2 of 3 in a row that end the run): {why}"
    ) in (gloo / "full" / "train.log").read_text(encoding="utf-8")


def test_a_run_ends_after_a_few_checkpoints_that_could_not_be_written(gloo: Path) -> None:
    """P5, P9: with a word at all workers; nobody waits for the first."""
    run = gloo / "full-for-good"
    for rank in (0, 1):
        said = (run / f"error-{rank}.txt").read_text()
        assert said.startswith(f"3 checkpoints in a row could not be written: {told_of(run, 8)}")
        assert said.endswith(
            " MB: free some space, or keep fewer checkpoints (training.keep_last); the same "
            "command then goes on from the last good one"
        )
    assert end_of(run).update == 2


def test_a_run_has_not_finished_without_its_last_checkpoint(toy_file: Path) -> None:
    """P9."""
    with pytest.raises(TrainingError) as error:
        go(toy_file, Run("full-at-the-end", full=[20]))
    run = toy_file.parent / "full-at-the-end"
    assert str(error.value).startswith(
        f"the last checkpoint could not be written: {told_of(run, 20)}"
    )
    assert [folder.name for folder in list_checkpoints(run)] == ["update-00000010"]
