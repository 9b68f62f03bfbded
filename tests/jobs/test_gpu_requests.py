"""GPUs of tasks, actors and workers: requested from Ray where they are used."""

import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import ray
from ray_clusters import start_cluster

from nmt.config.cluster import Cluster
from nmt.config.experiment import Experiment
from nmt.config.files import load_cluster
from nmt.console import Console
from nmt.jobs import ray_session, tasks, validation_tasks
from nmt.jobs import train as train_module
from nmt.jobs.ray_session import describe_unused_gpus, resolve_auto
from nmt.jobs.tasks import run_on_ray, task_device
from nmt.jobs.train import train_on_ray
from nmt.jobs.validation_tasks import ValidationTasks

LOCAL = Path(__file__).resolve().parents[2] / "configs" / "clusters" / "local.yaml"


class ConnectedError(Exception):
    """Raised in place of a connection to Ray."""


@contextlib.contextmanager
def no_connection(*_: object) -> Iterator[None]:
    raise ConnectedError
    yield


@pytest.fixture
def requests(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """Resources that `run_on_ray` waits for and those of its tasks, on a host with one GPU."""
    found: list[dict[str, Any]] = []

    def remote(**resources: Any) -> Callable[..., Any]:
        found.append(resources)
        return lambda function: None

    def wait_for_resources(each: dict[str, Any], kind: str) -> None:
        found.append(each)
        raise ConnectedError

    monkeypatch.setattr(ray, "remote", remote)
    monkeypatch.setattr(ray, "cluster_resources", lambda: {"CPU": 8.0, "GPU": 1.0})
    monkeypatch.setattr(tasks, "wait_for_resources", wait_for_resources)
    return found


@pytest.mark.parametrize(("num_gpus", "awaited"), [(0, {"CPU": 1}), (1, {"CPU": 1, "GPU": 1})])
def test_tasks_request_the_gpus_that_they_use(
    requests: list[dict[str, Any]], num_gpus: int, awaited: dict[str, int]
) -> None:
    with pytest.raises(ConnectedError):
        list(run_on_ray(print, [()], num_gpus))
    assert requests == [{"num_cpus": 1, "num_gpus": num_gpus}, awaited]


@pytest.mark.parametrize(
    ("ids", "is_connected", "device"),
    [([], True, "cpu"), ([1], True, "cuda"), ([0], False, "cpu")],
)
def test_tasks_use_a_gpu_only_if_they_have_requested_one(
    monkeypatch: pytest.MonkeyPatch, ids: list[int], is_connected: bool, device: str
) -> None:
    """Ray lets all others see the GPUs too."""
    monkeypatch.setattr(ray, "is_initialized", lambda: is_connected)
    monkeypatch.setattr(ray, "get_gpu_ids", lambda: ids)
    assert task_device() == device


@pytest.mark.parametrize(("num_gpus", "expected"), [(2, 0), (3, 1)])
def test_validation_takes_a_gpu_that_the_workers_leave(
    monkeypatch: pytest.MonkeyPatch, num_gpus: int, expected: int
) -> None:
    requested: list[int] = []

    class Task:
        def options(self, **resources: Any) -> "Task":
            requested.append(resources["num_gpus"])
            return self

        def remote(self, *_: object) -> object:
            return object()

    monkeypatch.setattr(ray, "cluster_resources", lambda: {"GPU": float(num_gpus)})
    monkeypatch.setattr(validation_tasks, "_score_checkpoint", Task())
    cluster = Cluster(workers=2, gpus_per_worker=1)  # type: ignore[arg-type]
    scorer = ValidationTasks(([], []), Path(), "", cluster)
    scorer.ask(5, Path("update-00000005"))
    assert requested == [expected]


# Defaults.


@pytest.mark.parametrize(
    ("resources", "expected"), [({"CPU": 4.0}, (2, 0)), ({"CPU": 4.0, "GPU": 3.0}, (3, 1))]
)
def test_auto_counts_the_gpus_of_a_connected_cluster(
    monkeypatch: pytest.MonkeyPatch, resources: dict[str, float], expected: tuple[int, int]
) -> None:
    monkeypatch.setattr(ray, "is_initialized", lambda: True)
    monkeypatch.setattr(ray, "cluster_resources", lambda: resources)
    cluster = resolve_auto(load_cluster(LOCAL), max_workers=16)
    assert (cluster.workers.max, cluster.num_gpus) == expected


def test_auto_stays_until_the_cluster_is_connected(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_ADDRESS", "head:6379")
    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    assert resolve_auto(load_cluster(None), 16).gpus_per_worker == "auto"


@pytest.mark.parametrize(
    ("overrides", "num_gpus", "expected"),
    [
        (["gpus_per_worker=0"], 2, ", with 2 GPUs unused"),
        (["workers=2"], 1, ", with 1 GPU unused"),
        ([], 1, ""),
        ([], 0, ""),
    ],
)
def test_a_gpu_machine_that_trains_on_the_cpu_says_so_first(
    experiment: Experiment, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    overrides: list[str], num_gpus: int, expected: str,
) -> None:  # fmt: skip
    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    monkeypatch.setattr(train_module, "connect", no_connection)
    for module in (ray_session, train_module):
        monkeypatch.setattr(module, "count_gpus", lambda: num_gpus)
    lines: list[str] = []
    monkeypatch.setattr(Console, "log", lambda console, line: lines.append(line))
    cluster = load_cluster(None, [f"storage={tmp_path}", *overrides])
    with pytest.raises(ConnectedError), Console() as console:
        train_on_ray(experiment, cluster, console)
    note = " | on the CPU" + expected
    note += ": set cluster.workers=auto cluster.gpus_per_worker=auto"
    assert lines[0] == f"run tiny in {tmp_path / 'tiny'}" + note * bool(expected)


def test_unused_gpus_are_described_in_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ray_session, "count_gpus", lambda: None)
    assert describe_unused_gpus(Cluster()) == ""


@pytest.mark.slow
@pytest.mark.ray
def test_ray_gives_tasks_the_gpus_that_they_request(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """With two GPUs that do not exist: Ray only counts them."""
    with start_cluster(2, "--num-gpus=2") as cluster, cluster.connect():
        assert list(run_on_ray(task_device, [(), ()], num_gpus=1)) == ["cuda", "cuda"]
        assert list(run_on_ray(task_device, [()])) == ["cpu"]
        local = load_cluster(LOCAL)
        assert resolve_auto(local, 16).resolve(0, 16).num_gpus == 1
