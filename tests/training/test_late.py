"""Scores that come late decide what they would have decided at once."""

import shutil
from pathlib import Path

import pytest
from toy_ends import assert_near, assert_same, counters_of, records_of
from toy_runs import Run, go

from nmt.checkpoint.format import read_info
from nmt.checkpoint.run_directory import best_checkpoint, list_checkpoints

EVERY = ["training.validate_every=5"]
STILL = ["training.learning_rate=1e-12", "training.patience=1", "training.validate_every=2"]
"""Weights that hardly move, so that the second validation is the first one again."""


@pytest.fixture(scope="session")
def shared(toy_file: Path) -> Path:
    """A run whose workers share each validation."""
    go(toy_file, Run("shared", overrides=EVERY))
    return toy_file.parent / "shared"


@pytest.fixture(scope="session")
def late(toy_file: Path) -> Path:
    """One whose scores come as late as they may, the newest first."""
    go(toy_file, Run("late", overrides=EVERY, desk="reversed"))
    return toy_file.parent / "late"


def validations_of(run: Path) -> list[dict[str, object]]:
    return [record for record in records_of(run) if record["kind"] == "validation"]


def test_late_scores_choose_the_same_best(shared: Path, late: Path) -> None:
    """P4, P11."""
    mine = validations_of(late)
    known_at = [record.pop("known_at") for record in mine]
    assert mine == validations_of(shared)
    assert known_at == [15, 20, 21, 21]
    ours, theirs = best_checkpoint(late), best_checkpoint(shared)
    assert ours is not None
    assert theirs is not None
    assert ours.name == theirs.name
    assert read_info(ours).bleu == read_info(theirs).bleu
    assert read_info(ours).bleu_signature == read_info(theirs).bleu_signature


def test_each_score_and_its_translations_belong_to_its_checkpoint(shared: Path, late: Path) -> None:
    """P11."""
    for folder in list_checkpoints(late):
        of = {record["update"]: record["bleu"] for record in validations_of(shared)}
        assert read_info(folder).bleu == of[read_info(folder).update]
    ours, theirs = (
        {file.name: file.read_text() for file in (run / "dev").iterdir()} for run in (late, shared)
    )
    assert ours == theirs


@pytest.mark.parametrize("desk", ["quick", "lost"])
def test_when_scores_come_changes_nothing(desk: str, toy_file: Path, late: Path) -> None:
    """P4."""
    run = Run(f"late-{desk}", overrides=EVERY, desk=desk)
    go(toy_file, run)
    assert_same(late, toy_file.parent / run.folder)


@pytest.mark.parametrize(
    ("stop_after", "first", "then"),
    [(7, "reversed", "quick"), (12, "quick", "lost"), (16, "lost", "reversed")],
)
def test_resumed_is_never_interrupted(
    stop_after: int, first: str, then: str, toy_file: Path, late: Path
) -> None:
    """P4."""
    folder = f"late-stopped-{stop_after}"
    go(toy_file, Run(folder, overrides=EVERY, desk=first, stop_after=stop_after))
    go(toy_file, Run(folder, overrides=EVERY, desk=then))
    assert_same(late, toy_file.parent / folder)


def test_two_workers_decide_alike(late: Path, gloo: Path) -> None:
    """P3."""
    assert_near(late, gloo / "two-late")
    mine, theirs = (
        [(record["update"], record["known_at"]) for record in validations_of(run)]
        for run in (late, gloo / "two-late")
    )
    assert mine == theirs


def test_early_stopping_acts_a_fixed_number_of_validations_later(toy_file: Path) -> None:
    """P4."""
    for desk in ("quick", "reversed"):
        run = Run(f"late-early-{desk}", overrides=STILL, desk=desk)
        why, progress = go(toy_file, run)
        assert (why, progress.update) == ("stopped early", 8)
        assert (progress.best_update, progress.validations_without_gain) == (2, 1)
        found = best_checkpoint(toy_file.parent / run.folder)
        assert found is not None
        assert found.name == "update-00000002"
        why, progress = go(toy_file, run)
        assert (why, progress.update) == ("stopped early", 8)


def test_going_on_with_more_updates_judges_each_once(toy_file: Path, late: Path) -> None:
    """P4."""
    longer, run = [*EVERY, "training.updates=30"], toy_file.parent / "late-longer"
    shutil.copytree(late, run)
    go(toy_file, Run(run.name, overrides=longer, desk="quick"))
    go(toy_file, Run("late-thirty", overrides=longer, desk="reversed"))
    ours, theirs = (
        [(record["update"], record["known_at"]) for record in validations_of(of)]
        for of in (run, toy_file.parent / "late-thirty")
    )
    assert ours == theirs == [(5, 15), (10, 20), (15, 25), (20, 30), (25, 31), (30, 31)]


def test_what_was_to_come_is_judged_first_where_workers_share_again(
    toy_file: Path, shared: Path
) -> None:
    run = Run("late-then-shared", overrides=EVERY, desk="reversed", stop_after=9)
    go(toy_file, run)
    go(toy_file, Run(run.folder, overrides=EVERY))
    ours = validations_of(toy_file.parent / run.folder)
    assert [record.pop("known_at", None) for record in ours] == [10, None, None, None]
    assert ours == validations_of(shared)
    assert counters_of(toy_file.parent / run.folder) == counters_of(shared)


def test_a_damaged_checkpoint_has_no_score_and_training_goes_on(toy_file: Path) -> None:
    """P5."""
    run = Run("late-damaged", overrides=EVERY, desk="reversed", stop_after=9)
    go(toy_file, run)
    folder = toy_file.parent / run.folder
    (folder / "checkpoints/update-00000005/weights.safetensors").write_bytes(b"damaged")
    go(toy_file, Run(run.folder, overrides=EVERY, desk="lost"))
    assert [record["update"] for record in validations_of(folder)] == [10, 15, 20]
    assert "update 5 has no dev BLEU: " in (folder / "train.log").read_text()
