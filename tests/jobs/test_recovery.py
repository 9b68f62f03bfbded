import inspect
import socket
from typing import Any

import pytest
from ray.data._internal.cluster_autoscaler import default_autoscaling_coordinator as coordinator
from ray.train.v2._internal.execution import callback

from nmt.jobs import ray_internals
from nmt.jobs.ray_internals import LostHosts, callbacks, silent_hosts, wait_until_forgotten


def node(name: str, port: int, is_alive: bool = True) -> dict[str, Any]:
    return {
        "NodeID": name,
        "NodeManagerAddress": "127.0.0.1",
        "NodeManagerPort": port,
        "Alive": is_alive,
    }


def test_the_installed_ray_is_as_recovery_expects() -> None:
    """Where this fails, runs go on all the same, but later: look at nmt/jobs/ray_internals.py."""
    assert ray_internals.ControllerCallback is callback.ControllerCallback
    for name in ("after_controller_start", "before_controller_execute_failure_decision"):
        theirs = inspect.signature(getattr(callback.ControllerCallback, name))
        assert list(inspect.signature(getattr(LostHosts, name)).parameters) == list(
            theirs.parameters
        )
    ask = coordinator._AutoscalingCoordinatorActor.get_reserved_resources
    assert list(inspect.signature(ask).parameters) == ["self", "requester_id", "recompute"]


def test_without_its_internals_ray_recovers_by_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    assert [type(each) for each in callbacks()] == [LostHosts]
    monkeypatch.setattr(ray_internals, "ControllerCallback", None)
    assert callbacks() == []


def test_hosts_that_do_not_answer_are_found(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server, socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        port, no_port = server.getsockname()[1], closed.getsockname()[1]
        nodes = [node("here", port), node("gone", no_port), node("known", no_port, False)]
        monkeypatch.setattr(ray_internals.ray, "nodes", lambda: nodes)
        assert silent_hosts() == {"gone"}


def test_a_host_is_waited_for_until_it_is_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    views = iter([[node("a", 1), node("b", 2)], [node("a", 1), node("b", 2, False)]])
    monkeypatch.setattr(ray_internals.ray, "nodes", lambda: next(views))
    wait_until_forgotten({"b"})
    assert list(views) == []


def test_nobody_waits_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ray_internals.ray, "nodes", lambda: [node("b", 2)])
    monkeypatch.setattr(ray_internals, "FORGET_S", 0.3)
    wait_until_forgotten({"b"})


def test_an_error_in_recovery_is_no_failure_of_the_run(monkeypatch: pytest.MonkeyPatch) -> None:
    def nodes() -> None:
        raise RuntimeError("the cluster does not answer")

    monkeypatch.setattr(ray_internals.ray, "nodes", nodes)
    LostHosts().before_controller_execute_failure_decision(None)
