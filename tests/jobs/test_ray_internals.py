"""Where a test of the installed Ray fails, runs still work, but recover or start more slowly."""

import ast
import inspect
import socket
from pathlib import Path
from typing import Any

import pytest
import ray.train
from ray.data._internal.cluster_autoscaler import default_autoscaling_coordinator as coordinator
from ray.train.torch import TorchConfig, TorchTrainer
from ray.train.v2._internal.execution import callback
from ray.train.v2._internal.execution.failure_handling import FailureDecision
from ray.train.v2.api.exceptions import WorkerGroupError

from nmt.jobs import ray_internals
from nmt.jobs.ray_internals import (
    FailurePolicy,
    LostHostCallback,
    Trainer,
    find_unreachable_hosts,
    recovery_callbacks,
    wait_until_removed,
)
from nmt.training.memory import UpdateOutOfMemoryError

ROOT = Path(__file__).resolve().parents[2]


def node(name: str, port: int, is_alive: bool = True) -> dict[str, Any]:
    return {
        "NodeID": name,
        "NodeManagerAddress": "127.0.0.1",
        "NodeManagerPort": port,
        "Alive": is_alive,
    }


def test_only_ray_internals_imports_private_modules() -> None:
    users = set()
    for folder in ("nmt", "cluster", "tools"):
        for path in (ROOT / folder).rglob("*.py"):
            for statement in ast.walk(ast.parse(path.read_bytes())):
                names: list[str] = []
                if isinstance(statement, ast.ImportFrom):
                    names = [f"{statement.module}.{alias.name}" for alias in statement.names]
                elif isinstance(statement, ast.Import):
                    names = [alias.name for alias in statement.names]
                elif isinstance(statement, ast.Attribute):
                    names = [ast.unparse(statement)]
                if any(name.startswith("ray.") and "._" in name for name in names):
                    users.add(path.relative_to(ROOT).as_posix())
    assert users == {"nmt/jobs/ray_internals.py"}


def test_installed_ray_has_the_recovery_interface() -> None:
    assert ray_internals.ControllerCallback is callback.ControllerCallback
    for name in ("after_controller_start", "before_controller_execute_failure_decision"):
        expected = inspect.signature(getattr(callback.ControllerCallback, name))
        actual = inspect.signature(getattr(LostHostCallback, name))
        assert list(actual.parameters) == list(expected.parameters)
    method = coordinator._AutoscalingCoordinatorActor.get_reserved_resources
    assert list(inspect.signature(method).parameters) == ["self", "requester_id", "recompute"]


def test_without_internals_ray_recovers_by_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    assert [type(each) for each in recovery_callbacks()] == [LostHostCallback]
    monkeypatch.setattr(ray_internals, "ControllerCallback", None)
    assert recovery_callbacks() == []


def test_unreachable_hosts_are_found(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server, socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        port, no_port = server.getsockname()[1], closed.getsockname()[1]
        nodes = [node("up", port), node("down", no_port), node("removed", no_port, False)]
        monkeypatch.setattr(ray_internals.ray, "nodes", lambda: nodes)
        assert find_unreachable_hosts() == {"down"}


def test_recovery_waits_until_the_host_is_removed(monkeypatch: pytest.MonkeyPatch) -> None:
    views = iter([[node("a", 1), node("b", 2)], [node("a", 1), node("b", 2, False)]])
    monkeypatch.setattr(ray_internals.ray, "nodes", lambda: next(views))
    wait_until_removed({"b"})
    assert list(views) == []


def test_recovery_does_not_wait_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ray_internals.ray, "nodes", lambda: [node("b", 2)])
    monkeypatch.setattr(ray_internals, "FORGET_TIMEOUT_S", 0.3)
    wait_until_removed({"b"})


def test_error_in_recovery_does_not_end_the_run(monkeypatch: pytest.MonkeyPatch) -> None:
    def nodes() -> None:
        raise RuntimeError("the cluster does not answer")

    monkeypatch.setattr(ray_internals.ray, "nodes", nodes)
    LostHostCallback().before_controller_execute_failure_decision(None)


def test_out_of_memory_does_not_use_up_max_failures() -> None:
    assert UpdateOutOfMemoryError.__name__ == ray_internals.OUT_OF_MEMORY
    policy = FailurePolicy(ray.train.FailureConfig(max_failures=1))
    out_of_memory = WorkerGroupError(
        "", {0: RuntimeError("reset"), 1: RuntimeError("x.UpdateOutOfMemoryError: rank 1 ran out")}
    )
    unwrapped = WorkerGroupError("", {1: UpdateOutOfMemoryError(12, rank=1, split=2)})
    killed = WorkerGroupError("", {1: RuntimeError("The actor died.")})
    errors = (out_of_memory, killed, out_of_memory, unwrapped)
    assert [policy.make_decision(error) for error in errors] == [FailureDecision.RETRY] * 4
    assert policy.make_decision(killed) == FailureDecision.RAISE


def test_trainer_passes_its_failure_policy_to_the_controller(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    options: dict[str, Any] = {}
    monkeypatch.setattr(
        TorchTrainer, "_initialize_and_run_controller", lambda self, **given: options.update(given)
    )
    trainer = make_trainer(Trainer)
    trainer._initialize_and_run_controller(failure_policy=None, callbacks=[])
    assert isinstance(options["failure_policy"], FailurePolicy)
    assert "failure_policy=create_failure_policy(" in inspect.getsource(TorchTrainer.fit)


def make_trainer(kind: type[TorchTrainer]) -> TorchTrainer:
    return kind(
        print, torch_config=TorchConfig(), scaling_config=ray.train.ScalingConfig(num_workers=1)
    )


@pytest.mark.parametrize(
    ("address", "unused"),
    [
        ("", {"PlacementGroupCleanerCallback", "DatasetsCallback"}),
        ("10.0.0.1:6379", {"DatasetsCallback"}),
    ],
)
def test_trainer_omits_unused_callbacks(
    address: str, unused: set[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RAY_ADDRESS", address)
    default, actual = (
        [type(each).__name__ for each in make_trainer(kind)._create_default_callbacks()]
        for kind in (TorchTrainer, Trainer)
    )
    assert unused <= set(default)
    assert actual == [name for name in default if name not in unused]
