"""Selection and pruning of checkpoints."""

import errno
import logging
from collections.abc import Callable
from pathlib import Path

import pytest
from toy_checkpoints import FILES, files_below, flip, message_of, save, truncate

from nmt.checkpoint import write
from nmt.checkpoint.format import CheckpointInfo, read_info, verify_checkpoint
from nmt.checkpoint.load import load_checkpoint, load_training_state
from nmt.checkpoint.run_directory import (
    best_checkpoint,
    highest_bleu,
    newest_complete,
    prune_checkpoints,
)
from nmt.checkpoint.write import write_score


def write_text(path: Path) -> None:
    path.parent.mkdir()
    path.write_text("text")


@pytest.mark.parametrize(
    ("make", "problem"),
    [
        (lambda folder: None, ": no such directory; name a run or one of its checkpoints"),
        (
            Path.mkdir,
            " is neither a run nor a checkpoint: it has no checkpoints/ and no bundle.json",
        ),
        (
            lambda folder: write_text(folder / "encoder.onnx"),
            " is an exported ONNX model, which has no weights to train from: name the run or the "
            "checkpoint that it was exported from",
        ),
        (
            lambda folder: (folder / "checkpoints").mkdir(parents=True),
            " has no checkpoint yet: run `nmt train` with its experiment file",
        ),
        (
            lambda folder: (folder / "checkpoints" / "update-00000001").mkdir(parents=True),
            " has no complete checkpoint: run `nmt train` with its experiment file",
        ),
    ],
)
def test_a_path_without_a_checkpoint_is_refused(
    make: Callable[[Path], None], problem: str, tmp_path: Path
) -> None:
    folder = tmp_path / "run"
    make(folder)
    assert message_of(lambda: load_checkpoint(folder)) == f"{folder}{problem}"


def test_resume_uses_the_newest_complete_checkpoint(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Self-contained checkpoints (nmt/README.md, Guarantees)."""
    folders = [save(tmp_path, update) for update in (1000, 1500, 99_999_999, 100_000_000)]
    truncate(folders[3] / "training/optimizer.safetensors")
    (folders[2] / "bundle.json").unlink()
    with caplog.at_level(logging.WARNING):
        assert newest_complete(tmp_path) == folders[1]
    assert [record.getMessage().split(" is ")[0] for record in caplog.records] == [
        f"skipped a checkpoint: {folders[3]}/training/optimizer.safetensors",
        f"skipped a checkpoint: {folders[2]}/bundle.json",
    ]
    assert load_training_state(tmp_path).update == 1500


def test_a_run_without_checkpoints(tmp_path: Path) -> None:
    assert newest_complete(tmp_path) is None
    assert best_checkpoint(tmp_path) is None
    assert prune_checkpoints(tmp_path, 1) == []


def test_the_best_is_the_oldest_with_the_highest_bleu(tmp_path: Path) -> None:
    for update, bleu in [(1, 20.0), (2, 30.0), (3, 30.0), (4, None)]:
        save(tmp_path, update, bleu)
    assert best_checkpoint(tmp_path) == tmp_path / "checkpoints/update-00000002"


def test_a_run_loads_its_best_and_resumes_its_newest(
    tmp_path: Path,
) -> None:
    for update, bleu in [(1, 20.0), (2, 10.0)]:
        save(tmp_path, update, bleu)
    assert load_checkpoint(tmp_path).info.update == 1
    assert load_training_state(tmp_path).update == 2


def test_a_run_without_scores_loads_its_newest_complete(tmp_path: Path) -> None:
    for update in (1, 2, 3):
        save(tmp_path, update)
    truncate(tmp_path / "checkpoints/update-00000003/config.yaml")
    assert load_checkpoint(tmp_path).info.update == 2


def test_pruning_keeps_the_newest_and_the_best(tmp_path: Path) -> None:
    for update, bleu in [(1, 20.0), (2, 30.0), (3, 10.0), (4, None), (5, 25.0)]:
        save(tmp_path, update, bleu)
    deleted = prune_checkpoints(tmp_path, 2)
    assert [folder.name for folder in deleted] == ["update-00000001", "update-00000003"]
    left = [folder.name for folder in sorted((tmp_path / "checkpoints").iterdir())]
    assert left == ["update-00000002", "update-00000004", "update-00000005"]


def test_pruning_keeps_the_newest_complete_one(tmp_path: Path) -> None:
    """Self-contained checkpoints (nmt/README.md, Guarantees)."""
    folders = [save(tmp_path, update) for update in (1, 2, 3)]
    flip(folders[2] / "weights.safetensors")
    assert prune_checkpoints(tmp_path, 1) == [folders[0]]
    assert newest_complete(tmp_path) == folders[1]


def test_pruning_keeps_checkpoints_with_pending_scores(tmp_path: Path) -> None:
    for update in (1, 2, 3, 4):
        save(tmp_path, update)
    assert [folder.name for folder in prune_checkpoints(tmp_path, 1, pending=[2])] == [
        "update-00000001",
        "update-00000003",
    ]


def test_a_late_score_selects_the_best(tmp_path: Path) -> None:
    """Honest numbers (nmt/README.md, Guarantees)."""
    save(tmp_path, 1, 20.0)
    late = save(tmp_path, 2)
    write_score(late, 30.0, "nrefs:1")
    assert best_checkpoint(tmp_path) == late
    assert (read_info(late).bleu, read_info(late).bleu_signature) == (30.0, "nrefs:1")
    verify_checkpoint(late)


@pytest.mark.parametrize("is_of_another", [True, False])
def test_a_corrupt_or_stale_score_is_ignored(
    is_of_another: bool, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Self-contained checkpoints, honest numbers (nmt/README.md, Guarantees)."""
    one, other = save(tmp_path, 1), save(tmp_path, 2)
    write_score(one, 30.0, "nrefs:1")
    text = (one / "score.json").read_text()
    (one / "score.json").unlink()
    corrupt = text if is_of_another else text.replace("30.0", "90.0")
    folder = other if is_of_another else one
    (folder / "score.json").write_text(corrupt)
    with caplog.at_level(logging.WARNING):
        assert read_info(folder).bleu is None
    assert caplog.messages == [
        f"score.json beside {folder}/bundle.json ignored: it belongs to another checkpoint or is "
        "corrupt"
    ]
    assert best_checkpoint(tmp_path) is None


def test_a_score_that_cannot_be_written_keeps_the_earlier_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Self-contained checkpoints (nmt/README.md, Guarantees)."""
    folder = save(tmp_path, 1)
    write_score(folder, 30.0, "nrefs:1")

    def fail(path: Path) -> None:
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(write, "_sync", fail)
    message = message_of(lambda: write_score(folder, 40.0, "nrefs:1"))
    assert message == f"{folder}/score.json was not written: Input/output error"
    assert read_info(folder).bleu == 30.0
    assert files_below(folder) == sorted([*FILES, "score.json"])


def test_scores_of_an_earlier_dev_set_do_not_count() -> None:
    """Honest numbers (nmt/README.md, Guarantees)."""
    infos = {
        update: CheckpointInfo(update, bleu, "", (), "", {}, dev=dev)
        for update, bleu, dev in [(1, 40.0, "old"), (2, 30.0, "new"), (3, 20.0, "new")]
    }
    assert highest_bleu(infos) == 2
