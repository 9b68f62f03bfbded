"""The function of a validation task, called without Ray."""

import shutil
import uuid
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch

from nmt.checkpoint.load import load_checkpoint
from nmt.checkpoint.remote import RemoteRun
from nmt.config.experiment import Experiment
from nmt.corpus.prepared import read_dev
from nmt.errors import CheckpointError
from nmt.jobs import validation_tasks
from nmt.jobs.train import load_training_data
from nmt.storage import ObjectStore
from nmt.training.distributed import World
from nmt.training.loop import train
from nmt.training.validation import validate

NAME = "update-00000010"
LONG = [("One two red. Green house one. Two red green.", "Eins zwei rot. Grün Haus eins.")]
"""Longer than any pair of the training corpus."""


@pytest.fixture(scope="module")
def run(
    experiment: Experiment, s3: str, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, str]:
    """Directory and address of a run with shared validation."""
    changes = {"updates": 10, "validate_every": 10, "checkpoint_every": 10, "precision": "tf32"}
    training = experiment.training.model_copy(update=changes)
    short = experiment.model_copy(update={"training": training})
    run_dir, address = tmp_path_factory.mktemp("run"), f"s3://bucket/{uuid.uuid4().hex}{s3}"
    data = load_training_data(short, Path(short.prepared))
    train(short, data, World(), run_dir, remote=RemoteRun(ObjectStore(address), run_dir))
    return run_dir, address


def score(run_dir: Path, dev: tuple[Sequence[str], Sequence[str]], address: str = "") -> Any:
    return validation_tasks._score_checkpoint._function(NAME, dev, run_dir, address, 1)


def test_a_task_scores_as_the_workers(
    run: tuple[Path, str], experiment: Experiment, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Honest numbers (nmt/README.md, Guarantees)."""
    used: list[tuple[str, torch.device]] = []
    monkeypatch.setattr(validation_tasks, "set_product_precision", lambda *each: used.append(each))
    checkpoint = load_checkpoint(run[0] / "checkpoints" / NAME)
    found = score(run[0], read_dev(experiment.prepared))
    assert (found["bleu"], found["signature"], found["nll"]) == (
        checkpoint.info.bleu, checkpoint.info.bleu_signature, checkpoint.info.dev_loss
    )  # fmt: skip
    assert used == [("tf32", torch.device("cpu"))]
    # A line that the workers split, by the longest source in training.
    dev = [source for source, _ in LONG], [reference for _, reference in LONG]
    unlimited, stored = (
        validate(checkpoint.model(), checkpoint.subword, each, dev, World()).hyps
        for each in (experiment, checkpoint.experiment)
    )
    assert score(run[0], dev)["hyps"] == stored != unlimited


@pytest.mark.parametrize("kind", ["missing", "stale", "complete"])
def test_a_task_on_another_host_leaves_no_copy(
    kind: str, run: tuple[Path, str], experiment: Experiment, tmp_path: Path
) -> None:
    address, copy = run[1], tmp_path / "checkpoints" / NAME
    if kind != "missing":
        shutil.copytree(run[0] / "checkpoints" / NAME, copy)
    if kind == "stale":
        (copy / "bundle.json").write_text("{}")
    found = score(tmp_path, read_dev(experiment.prepared), address)
    assert found["bleu"] == load_checkpoint(run[0] / "checkpoints" / NAME).info.bleu
    # A copy of the workers is used, and stays.
    left = [copy] if kind != "missing" else []
    assert [path.parent for path in tmp_path.rglob("bundle.json")] == left


@pytest.mark.parametrize("name", ["bundle.json", "weights.safetensors"])
def test_a_failed_download_of_a_task_leaves_nothing(
    name: str, run: tuple[Path, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept = ObjectStore.read, ObjectStore.download

    def read(store: ObjectStore, file: str) -> bytes | None:
        return None if file.endswith(f"/{name}") else kept[0](store, file)

    def download(store: ObjectStore, file: str, path: Path) -> bool:
        return not file.endswith(f"/{name}") and kept[1](store, file, path)

    monkeypatch.setattr(ObjectStore, "read", read)
    monkeypatch.setattr(ObjectStore, "download", download)
    with pytest.raises(CheckpointError, match=f"{name} is missing"):
        score(tmp_path, ([], []), run[1])
    assert not list(tmp_path.iterdir())
