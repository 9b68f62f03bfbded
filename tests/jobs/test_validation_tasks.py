"""Validation beside training, and runs in an object store, on a Ray cluster."""

import contextlib
import os
import shutil
import signal
import threading
import time
import uuid
from pathlib import Path

import pytest
from ray_clusters import WORDS, RayCluster

from nmt.checkpoint.remote import RemoteRun, fetch_checkpoint
from nmt.config.cluster import Cluster, Workers
from nmt.config.experiment import Experiment
from nmt.console import Console
from nmt.corpus.prepared import read_dev
from nmt.jobs import train
from nmt.jobs.train import get_run_address, get_run_dir, read_finished, train_on_ray
from nmt.jobs.validation_tasks import ValidationTasks
from nmt.storage import ObjectStore
from nmt.training.validation import Validation

pytestmark = pytest.mark.ray


@pytest.fixture(scope="module")
def cluster(s3: str, ray_session: RayCluster, tmp_path_factory: pytest.TempPathFactory) -> Cluster:
    """Settings of a run in an object store."""
    return Cluster(
        storage=f"s3://bucket/{uuid.uuid4().hex}{s3}",
        scratch=str(tmp_path_factory.mktemp("scratch")),
        validation="task",
        validations_behind=1,
    )


@pytest.fixture(scope="module")
def trained(experiment: Experiment, cluster: Cluster) -> RemoteRun:
    """A finished run without its local copy."""
    with Console() as console:
        train_on_ray(experiment, cluster, console)
    run_dir = get_run_dir(experiment, cluster)
    lines = (run_dir / "train.log").read_text().splitlines()
    assert sum("scored asynchronously" in line for line in lines) == 2
    shutil.rmtree(run_dir)
    return RemoteRun(ObjectStore(get_run_address(experiment, cluster)), run_dir)


def test_finished_run_is_read_from_the_store(
    experiment: Experiment, cluster: Cluster, trained: RemoteRun
) -> None:
    """Exact resume (nmt/README.md, Guarantees)."""
    assert trained.newest_complete() is not None
    result = read_finished(experiment, get_run_dir(experiment, cluster), trained)
    assert result is not None
    assert result.update == 30
    best = trained.info(trained.best() or "")
    assert (result.best_bleu, result.best_update) == (best.bleu, best.update)
    assert best.bleu is not None


def test_best_checkpoint_is_read_from_the_store(
    experiment: Experiment, cluster: Cluster, trained: RemoteRun, tmp_path: Path
) -> None:
    """Self-contained checkpoints (nmt/README.md, Guarantees)."""
    folder = fetch_checkpoint(get_run_address(experiment, cluster), tmp_path)
    assert folder.name == trained.best()


def test_lost_task_is_run_again(
    experiment: Experiment, cluster: Cluster, trained: RemoteRun, ray_session: RayCluster
) -> None:
    run_dir = get_run_dir(experiment, cluster)
    folder = trained.pull("update-00000030")
    dev = read_dev(Path(experiment.prepared))
    tasks = ValidationTasks(dev, run_dir, get_run_address(experiment, cluster), cluster)
    killed: list[int] = []

    def kill() -> None:
        while not killed:
            for process in Path("/proc").glob("[0-9]*"):
                with contextlib.suppress(OSError):
                    is_task = (process / "cmdline").read_bytes().startswith(b"ray::_score")
                    if is_task and ray_session.tag.encode() in (process / "environ").read_bytes():
                        os.kill(int(process.name), signal.SIGKILL)
                        killed.append(int(process.name))
            time.sleep(0.01)

    killer = threading.Thread(target=kill)
    killer.start()
    tasks.ask(30, folder)
    tasks.wait()
    killer.join(10)
    ((update, validation),) = tasks.arrived()
    assert killed
    assert update == 30
    assert isinstance(validation, Validation)
    assert validation.bleu == trained.info("update-00000030").bleu
    assert len(validation.hyps) == len(dev[0])
    assert tasks.arrived() == []


def test_task_that_cannot_read_its_checkpoint_returns_the_error(
    cluster: Cluster, trained: RemoteRun, tmp_path: Path
) -> None:
    """Actionable errors (nmt/README.md, Guarantees)."""
    tasks = ValidationTasks((["one"], [WORDS["one"]]), tmp_path, "", cluster)
    tasks.ask(7, tmp_path / "checkpoints/update-00000007")
    tasks.wait()
    assert tasks.arrived() == [
        (
            7,
            f"{tmp_path}/checkpoints/update-00000007: no such directory; name a run or one of "
            "its checkpoints",
        )
    ]


def test_workers_validate_if_no_core_is_left(experiment: Experiment, cluster: Cluster) -> None:
    full = cluster.model_copy(update={"workers": Workers(min=2, max=2)})
    assert train._obstacle_to_tasks(experiment, full) == (
        "a task needs 1 CPU, but the workers leave 0 of the cluster's 2"
    )
    assert train._obstacle_to_tasks(experiment, cluster) == ""
    plateau = experiment.training.model_copy(update={"schedule": "plateau"})
    with_plateau = experiment.model_copy(update={"training": plateau})
    assert train._obstacle_to_tasks(with_plateau, cluster) == (
        "training.schedule=plateau needs each score at once"
    )
