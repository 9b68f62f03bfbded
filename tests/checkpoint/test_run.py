"""Which checkpoint of a run is taken, which ones are kept."""

import logging
from collections.abc import Callable
from pathlib import Path

import pytest
from toy_checkpoints import flip, message_of, save, truncate

from nmt.checkpoint.format import read_info, verify_checkpoint
from nmt.checkpoint.load import load_checkpoint, load_training_state
from nmt.checkpoint.run_directory import best_checkpoint, newest_complete, prune_checkpoints
from nmt.checkpoint.write import write_score


@pytest.mark.parametrize(
    ("make", "what"),
    [
        (lambda folder: None, ": there is no such folder; name a run or one of its checkpoints"),
        (
            Path.mkdir,
            " is neither a run nor a checkpoint: it has no checkpoints/ and no bundle.json",
        ),
        (
            lambda folder: (folder / "checkpoints").mkdir(parents=True),
            " has no checkpoint yet; `nmt train` with its config writes one",
        ),
        (
            lambda folder: (folder / "checkpoints" / "update-00000001").mkdir(parents=True),
            " has no whole checkpoint; `nmt train` with its config writes one",
        ),
    ],
)
def test_a_folder_without_a_bundle(make: Callable[[Path], None], what: str, tmp_path: Path) -> None:
    """P9."""
    folder = tmp_path / "run"
    make(folder)
    assert message_of(lambda: load_checkpoint(folder)) == f"{folder}{what}"


def test_resuming_takes_the_newest_good_checkpoint(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """P5."""
    folders = [save(tmp_path, update) for update in (1000, 1500, 99_999_999, 100_000_000)]
    truncate(folders[3] / "training/optimizer.safetensors")
    (folders[2] / "bundle.json").unlink()
    with caplog.at_level(logging.WARNING):
        assert newest_complete(tmp_path) == folders[1]
    assert [record.getMessage().split(" is ")[0] for record in caplog.records] == [
        f"passing over a checkpoint: {folders[3]}/training/optimizer.safetensors",
        f"passing over a checkpoint: {folders[2]}/bundle.json",
    ]
    assert load_training_state(tmp_path).update == 1500


def test_a_run_without_a_good_checkpoint(tmp_path: Path) -> None:
    assert newest_complete(tmp_path) is None
    assert best_checkpoint(tmp_path) is None
    assert prune_checkpoints(tmp_path, 1) == []


def test_the_best_has_the_highest_bleu_and_is_the_first_of_equals(tmp_path: Path) -> None:
    for update, bleu in [(1, 20.0), (2, 30.0), (3, 30.0), (4, None)]:
        save(tmp_path, update, bleu)
    assert best_checkpoint(tmp_path) == tmp_path / "checkpoints/update-00000002"


def test_a_run_is_loaded_from_its_best_checkpoint_and_resumed_from_its_newest(
    tmp_path: Path,
) -> None:
    for update, bleu in [(1, 20.0), (2, 10.0)]:
        save(tmp_path, update, bleu)
    assert load_checkpoint(tmp_path).info.update == 1
    assert load_training_state(tmp_path).update == 2


def test_a_run_without_scores_is_loaded_from_its_newest_good_checkpoint(tmp_path: Path) -> None:
    for update in (1, 2, 3):
        save(tmp_path, update)
    truncate(tmp_path / "checkpoints/update-00000003/config.yaml")
    assert load_checkpoint(tmp_path).info.update == 2


def test_keeping_spares_the_newest_and_the_best(tmp_path: Path) -> None:
    for update, bleu in [(1, 20.0), (2, 30.0), (3, 10.0), (4, None), (5, 25.0)]:
        save(tmp_path, update, bleu)
    deleted = prune_checkpoints(tmp_path, 2)
    assert [folder.name for folder in deleted] == ["update-00000001", "update-00000003"]
    left = [folder.name for folder in sorted((tmp_path / "checkpoints").iterdir())]
    assert left == ["update-00000002", "update-00000004", "update-00000005"]


def test_keeping_spares_the_newest_good_one(tmp_path: Path) -> None:
    """P5."""
    folders = [save(tmp_path, update) for update in (1, 2, 3)]
    flip(folders[2] / "weights.safetensors")
    assert prune_checkpoints(tmp_path, 1) == [folders[0]]
    assert newest_complete(tmp_path) == folders[1]


def test_keeping_spares_what_waits_for_its_score(tmp_path: Path) -> None:
    for update in (1, 2, 3, 4):
        save(tmp_path, update)
    assert [folder.name for folder in prune_checkpoints(tmp_path, 1, pending=[2])] == [
        "update-00000001",
        "update-00000003",
    ]


def test_a_late_score_decides_what_is_best(tmp_path: Path) -> None:
    """P11."""
    save(tmp_path, 1, 20.0)
    late = save(tmp_path, 2)
    write_score(late, 30.0, "nrefs:1")
    assert best_checkpoint(tmp_path) == late
    assert (read_info(late).bleu, read_info(late).bleu_signature) == (30.0, "nrefs:1")
    verify_checkpoint(late)


@pytest.mark.parametrize("is_of_another", [True, False])
def test_a_score_that_is_damaged_or_of_another_checkpoint_is_not_used(
    is_of_another: bool, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """P5, P11."""
    one, other = save(tmp_path, 1), save(tmp_path, 2)
    write_score(one, 30.0, "nrefs:1")
    text = (one / "score.json").read_text()
    (one / "score.json").unlink()
    damaged = text if is_of_another else text.replace("30.0", "90.0")
    folder = other if is_of_another else one
    (folder / "score.json").write_text(damaged)
    with caplog.at_level(logging.WARNING):
        assert read_info(folder).bleu is None
    assert caplog.messages == [
        f"a score is not used: score.json beside {folder}/bundle.json: it is of another bundle, or "
        "damaged"
    ]
    assert best_checkpoint(tmp_path) is None
