"""What makes a run go on within seconds of the loss of a host, on internals of Ray.

Ray's own waits are for large clusters: after the power loss of a host, 94 s pass until training
goes on; with the settings of `nmt.jobs.session` 29 s, with `LostHosts` 12 s (three hosts in network
namespaces of one machine). Only this file and `nmt.jobs.trainer` know internals of Ray; where they
are not as they were, runs go on all the same, only later.
"""

import logging
import socket
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import ray

try:
    from ray.data._internal.cluster_autoscaler.default_autoscaling_coordinator import (
        get_or_create_autoscaling_coordinator,
    )
    from ray.train.v2._internal.execution.callback import ControllerCallback
except ImportError:
    ControllerCallback = None

log = logging.getLogger(__name__)

PROBE_S = 1.0
"""Seconds in which a host answers."""
FORGET_S = 15.0
"""Seconds until the cluster has noticed that a host is gone, at most."""


def callbacks() -> list[Any]:
    """What the controller is given to recover from lost hosts quickly; nothing if Ray changed."""
    return [LostHosts()] if ControllerCallback is not None else []


class LostHosts(ControllerCallback or object):  # type: ignore[misc]
    """After a failure: finds hosts that do not answer, and waits until the cluster forgets them.

    Only then does the controller ask for places for new workers: not on hosts that are gone.
    """

    def __init__(self) -> None:
        self._requester = ""

    def after_controller_start(self, train_run_context: Any) -> None:
        """Called by Ray."""
        self._requester = f"train-{train_run_context.run_id}"

    def before_controller_execute_failure_decision(self, failure_decision: Any) -> None:
        """Called by Ray; an error here must not end the run."""
        try:
            wait_until_forgotten(silent_hosts())
            coordinator = get_or_create_autoscaling_coordinator()
            answer = coordinator.get_reserved_resources.remote(self._requester, recompute=True)
            ray.get(answer, timeout=FORGET_S)
        except Exception:
            log.warning("lost hosts are left to Ray's own waits", exc_info=True)


def silent_hosts() -> set[str]:
    """Ids of hosts that the cluster believes in, but that do not answer."""
    nodes = [node for node in ray.nodes() if node["Alive"]]
    with ThreadPoolExecutor(max_workers=32) as pool:
        answers = list(pool.map(_answers, nodes))
    return {node["NodeID"] for node, is_there in zip(nodes, answers, strict=True) if not is_there}


def wait_until_forgotten(hosts: set[str]) -> None:
    """Wait until the cluster knows that hosts are gone, or for FORGET_S."""
    until = time.monotonic() + FORGET_S
    while hosts & {node["NodeID"] for node in ray.nodes() if node["Alive"]}:
        if time.monotonic() > until:
            return
        time.sleep(0.1)


def _answers(node: dict[str, Any]) -> bool:
    address = node["NodeManagerAddress"], node["NodeManagerPort"]
    try:
        socket.create_connection(address, timeout=PROBE_S).close()
    except OSError:
        return False
    return True
