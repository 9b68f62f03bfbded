"""Validation beside training, and runs in an object store, on a real local Ray."""

import contextlib
import os
import shutil
import signal
import threading
import time
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest
import ray
from test_train import WORDS, make_experiment

from nmt.checkpoint.remote import RemoteRun, fetch_checkpoint
from nmt.config.cluster import Cluster, Workers
from nmt.config.experiment import Experiment
from nmt.console import Console
from nmt.corpus.prepare import prepare
from nmt.corpus.prepared import read_dev
from nmt.jobs import train
from nmt.jobs.train import get_run_address, get_run_dir, read_finished, train_on_ray
from nmt.jobs.validation_tasks import ValidationTasks
from nmt.storage import ObjectStore
from nmt.training.validation import Validation

pytestmark = pytest.mark.ray

OURS = uuid.uuid4().hex.encode()
"""In the environment of all that this test starts."""


@pytest.fixture(scope="module")
def experiment(tmp_path_factory: pytest.TempPathFactory) -> Experiment:
    made = make_experiment(tmp_path_factory.mktemp("corpus"))
    prepare(made)
    return made


@pytest.fixture(scope="module")
def cluster(s3: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """A Ray of two cores, which the processes below join, and a run in an object store."""
    # After s3: what Ray starts inherits the credentials.
    ray.init(
        address="local", num_cpus=2, include_dashboard=False, log_to_driver=False,
        runtime_env={"env_vars": {"NMT_TEST": OURS.decode()}},
    )  # fmt: skip
    yield Cluster(
        storage=f"s3://bucket/{uuid.uuid4().hex}{s3}",
        scratch=str(tmp_path_factory.mktemp("scratch")),
        validation="task",
        validations_behind=1,
    )
    ray.shutdown()


@pytest.fixture(scope="module")
def trained(experiment: Experiment, cluster: Cluster) -> RemoteRun:
    """A run that is finished, and has nothing left here."""
    train_on_ray(experiment, cluster, Console())
    run_dir = get_run_dir(experiment, cluster)
    lines = (run_dir / "train.log").read_text().splitlines()
    assert sum("scored asynchronously" in line for line in lines) == 2
    shutil.rmtree(run_dir)
    return RemoteRun(ObjectStore(get_run_address(experiment, cluster)), run_dir)


def test_a_run_in_a_store_is_finished_there(
    experiment: Experiment, cluster: Cluster, trained: RemoteRun
) -> None:
    """P4, P11."""
    assert trained.newest_complete() is not None
    ended = read_finished(experiment, get_run_dir(experiment, cluster), trained)
    assert ended is not None
    assert ended.update == 30
    best = trained.info(trained.best() or "")
    assert (ended.best_bleu, ended.best_update) == (best.bleu, best.update)
    assert best.bleu is not None


def test_a_model_is_read_from_the_store(
    experiment: Experiment, cluster: Cluster, trained: RemoteRun, tmp_path: Path
) -> None:
    """P5."""
    folder = fetch_checkpoint(get_run_address(experiment, cluster), tmp_path)
    assert folder.name == trained.best()


def test_a_lost_validation_task_is_run_again(
    experiment: Experiment, cluster: Cluster, trained: RemoteRun
) -> None:
    """P4."""
    run_dir = get_run_dir(experiment, cluster)
    folder = trained.pull("update-00000030")
    dev = read_dev(Path(experiment.prepared))
    tasks = ValidationTasks(experiment, dev, run_dir, get_run_address(experiment, cluster), 1, 1)
    killed: list[int] = []

    def kill() -> None:
        while not killed:
            for process in Path("/proc").glob("[0-9]*"):
                with contextlib.suppress(OSError):
                    is_task = (process / "cmdline").read_bytes().startswith(b"ray::_score")
                    if is_task and OURS in (process / "environ").read_bytes():
                        os.kill(int(process.name), signal.SIGKILL)
                        killed.append(int(process.name))
            time.sleep(0.01)

    killer = threading.Thread(target=kill)
    killer.start()
    tasks.ask(30, folder)
    tasks.wait()
    killer.join(10)
    ((update, found),) = tasks.arrived()
    assert killed
    assert update == 30
    assert isinstance(found, Validation)
    assert found.bleu == trained.info("update-00000030").bleu
    assert len(found.hyps) == len(dev[0])
    assert tasks.arrived() == []


def test_a_task_that_cannot_read_its_checkpoint_says_why(
    experiment: Experiment, cluster: Cluster, trained: RemoteRun, tmp_path: Path
) -> None:
    """P9."""
    tasks = ValidationTasks(experiment, (["one"], [WORDS["one"]]), tmp_path, "", 1, 1)
    tasks.ask(7, tmp_path / "checkpoints/update-00000007")
    tasks.wait()
    assert tasks.arrived() == [
        (
            7,
            f"{tmp_path}/checkpoints/update-00000007: no such directory; name a run or one of "
            "its checkpoints",
        )
    ]


def test_workers_share_validation_where_there_is_no_room_beside_them(
    experiment: Experiment, cluster: Cluster
) -> None:
    full = cluster.model_copy(update={"workers": Workers(min=2, max=2)})
    assert train._obstacle_to_tasks(experiment, full) == (
        "a task needs 1 CPU, but the workers leave 0 of the cluster's 2"
    )
    assert train._obstacle_to_tasks(experiment, cluster) == ""
    plateau = experiment.training.model_copy(update={"schedule": "plateau"})
    by_halves = experiment.model_copy(update={"training": plateau})
    assert train._obstacle_to_tasks(by_halves, cluster) == (
        "training.schedule=plateau needs each score at once"
    )
