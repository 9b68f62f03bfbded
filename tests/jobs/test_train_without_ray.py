"""Decisions of a training run that need no Ray cluster."""

import contextlib
import re
import shutil
import uuid
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from nmt.checkpoint.format import CheckpointState
from nmt.checkpoint.remote import RemoteRun
from nmt.checkpoint.run_directory import list_checkpoints
from nmt.checkpoint.write import save_checkpoint
from nmt.config.cluster import Cluster
from nmt.config.experiment import Experiment
from nmt.errors import CheckpointError, NmtError, StorageError, TrainingError
from nmt.jobs import train as jobs_train
from nmt.jobs.mailbox import PreviousGroup
from nmt.jobs.train import check_before_preparation, get_run_address, read_finished
from nmt.storage import ObjectStore
from nmt.training.distributed import World
from nmt.training.memory import UpdateOutOfMemoryError
from nmt.training.run_manifest import Origin


def save(experiment: Experiment, run_dir: Path, scores: dict[int, float | None]) -> list[Path]:
    """Write checkpoints by their updates and dev BLEU."""
    return [
        save_checkpoint(
            run_dir, experiment, "{}",
            CheckpointState(update, {"weight": torch.ones(1)}, None, {}, {}), bleu,
        )
        for update, bleu in scores.items()
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("scores", "expected"),
    [
        ({}, None),
        ({15: 20.0}, None),
        ({15: 20.0, 30: 10.0}, (20.0, 15)),
        ({30: 10.0}, (10.0, 30)),
        # The validation of the last update failed.
        ({15: 20.0, 30: None}, None),
        ({30: None}, None),
    ],
)
@pytest.mark.parametrize("is_stored", [False, True])
def test_a_run_is_finished_after_its_last_validation(
    is_stored: bool, scores: dict[int, float | None], expected: tuple[float, int] | None,
    experiment: Experiment, s3: str, tmp_path: Path,
) -> None:  # fmt: skip
    """Exact resume (nmt/README.md, Guarantees)."""
    saved, remote = save(experiment, tmp_path / "run", scores), None
    if is_stored:
        remote = RemoteRun(ObjectStore(f"s3://bucket/{uuid.uuid4().hex}{s3}"), tmp_path / "run")
        for folder in saved:
            remote.push(folder)
        shutil.rmtree(tmp_path / "run", ignore_errors=True)
        # Its upload failed.
        save(experiment, tmp_path / "run", {30: 40.0})
    result = read_finished(experiment, tmp_path / "run", remote)
    assert (result and (result.best_bleu, result.best_update)) == expected
    assert result is None or (result.end_reason, result.update) == ("finished", 30)


@pytest.mark.parametrize(
    ("error", "is_restarted"),
    [
        (StorageError("s3://bucket/run: no answer from the store"), True),
        (UpdateOutOfMemoryError(7, 0, 1), True),
        (CheckpointError("weights.safetensors is corrupt"), False),
        (TrainingError("no pair fits"), False),
    ],
)
def test_only_errors_that_may_pass_restart_the_workers(
    error: Exception, is_restarted: bool, experiment: Experiment, tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    sent: list[tuple[str, Any]] = []
    mailbox = SimpleNamespace(
        start_group=SimpleNamespace(remote=PreviousGroup), send=SimpleNamespace(remote=sent.append)
    )

    def fail(*_: object) -> None:
        raise error

    world = SimpleNamespace(from_process_group=lambda *_: World())
    for name, value in (
        ("World", world), ("get_device", lambda: torch.device("cpu")), ("load_training_data", fail)
    ):  # fmt: skip
        monkeypatch.setattr(jobs_train, name, value)
    monkeypatch.setattr(jobs_train.ray, "get", lambda answer: answer)
    raises = pytest.raises(type(error)) if is_restarted else contextlib.nullcontext()
    with raises:
        jobs_train._run_worker(
            experiment, Cluster(), tmp_path, tmp_path, mailbox, False, Origin.here()
        )
    assert (("error", str(error)) in sent) == (not is_restarted)


def test_settings_of_a_stored_run_are_compared_early(
    experiment: Experiment, s3: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also on a host without a local copy of the run."""
    cluster = Cluster(storage=f"s3://bucket/{uuid.uuid4().hex}{s3}", scratch=str(tmp_path / "copy"))
    run = RemoteRun(ObjectStore(get_run_address(experiment, cluster)), tmp_path / "run")
    run.push(save(experiment, tmp_path / "run", {15: 20.0})[0])
    compared: list[Path] = []
    monkeypatch.setattr(jobs_train, "check_run", lambda _, folder: compared.append(folder))
    check_before_preparation(experiment, cluster)
    assert [len(list_checkpoints(folder)) for folder in compared] == [1]


@pytest.mark.parametrize(
    ("bucket", "settings", "message"),
    [
        ("missing", {}, "no such bucket"),
        ("bucket", {"init_from": "nowhere"}, "training.init_from: nowhere: no such directory"),
        ("bucket", {"freeze": ["encodr.*"]}, "training.freeze is encodr.*, but it matches no"),
    ],
)
def test_stored_runs_are_checked_before_preparation(
    bucket: str, settings: dict[str, Any], message: str, experiment: Experiment, s3: str,
    tmp_path: Path,
) -> None:  # fmt: skip
    """Actionable errors (nmt/README.md, Guarantees)."""
    training = experiment.training.model_copy(update=settings)
    storage = f"s3://{bucket}/{uuid.uuid4().hex}{s3}"
    cluster = Cluster(storage=storage, scratch=str(tmp_path))
    with pytest.raises(NmtError, match=re.escape(message)):
        check_before_preparation(experiment.model_copy(update={"training": training}), cluster)
