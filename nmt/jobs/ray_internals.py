"""Private APIs of Ray: fast recovery from lost hosts, free restarts, a trainer that starts faster.

Only this module imports them. Each use is guarded: where the installed Ray differs, runs still work
with Ray's own behaviour (longer waits, and restarts for memory count as failures).

- Lost hosts. Ray's waits are for large clusters: training resumes 94 s after a host loses power,
  29 s with the settings of `nmt.jobs.ray_session`, 12 s with `LostHostCallback` (three hosts in
  network namespaces of one machine).
- Start-up. On two cores it is dominated by processes to start, 1 to 1.5 s of a core each: `Trainer`
  leaves out those that a run does not use.
- Memory. A restart with smaller micro-batches is not a failure: it must not use up `max_failures`.
"""

import logging
import os
import socket
import time
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import ray
from ray.train.torch import TorchTrainer

try:
    from ray.data._internal.cluster_autoscaler.default_autoscaling_coordinator import (
        get_or_create_autoscaling_coordinator,
    )
    from ray.train.v2._internal.execution.callback import ControllerCallback
    from ray.train.v2._internal.execution.failure_handling import (
        DefaultFailurePolicy,
        FailureDecision,
    )
except ImportError:
    ControllerCallback = DefaultFailurePolicy = None

log = logging.getLogger(__name__)

PROBE_TIMEOUT_S = 1.0
"""Seconds in which a host answers a connection attempt."""
FORGET_TIMEOUT_S = 15.0
"""Maximum seconds until the cluster has removed a lost host."""
OUT_OF_MEMORY = "UpdateOutOfMemoryError"
"""Name of the exception of `nmt.training.memory` that a restart with smaller parts can resolve."""

_DATASETS = "DatasetsCallback"
"""Distributes Ray Data to the workers, which read shards instead."""
_CLEANER = "PlacementGroupCleanerCallback"
"""Cleans up after a dead controller; without a dashboard it logs an error each second."""


class Trainer(TorchTrainer):  # type: ignore[misc]
    """TorchTrainer that starts fewer processes and uses `FailurePolicy`."""

    def _create_default_callbacks(self) -> list[Any]:
        # A cluster of RAY_ADDRESS outlives this command; one that it started does not.
        unused = {_DATASETS} if os.environ.get("RAY_ADDRESS") else {_DATASETS, _CLEANER}
        defaults = super()._create_default_callbacks()
        return [each for each in defaults if type(each).__name__ not in unused]

    def _initialize_and_run_controller(self, **options: Any) -> Any:
        if DefaultFailurePolicy is not None and "failure_policy" in options:
            options["failure_policy"] = FailurePolicy(self.run_config.failure_config)
        return super()._initialize_and_run_controller(**options)


def is_memory_failure(failures: Mapping[int, BaseException]) -> bool:
    """Return True if the workers failed because an update of one of them ran out of memory."""
    # By name: Ray passes on the exception itself, or a wrapper whose text is the traceback.
    return any(OUT_OF_MEMORY in f"{type(error).__name__} {error}" for error in failures.values())


class FailurePolicy(DefaultFailurePolicy or object):  # type: ignore[misc]
    """Ray's policy, but out of memory is always retried and never counted.

    The number of these restarts is bounded: each doubles the split factor, and a pair that cannot
    be split further ends the run with an error.
    """

    def make_decision(self, training_failed_error: Any) -> Any:
        """Decide on a failure; called by Ray."""
        if is_memory_failure(getattr(training_failed_error, "worker_failures", {})):
            return FailureDecision.RETRY
        return super().make_decision(training_failed_error)


class LostHostCallback(ControllerCallback or object):  # type: ignore[misc]
    """After a failure, waits until the cluster has removed the hosts that do not answer.

    Only then does the controller request new workers, so that none is placed on a lost host.
    """

    def __init__(self) -> None:
        self._requester = ""

    def after_controller_start(self, train_run_context: Any) -> None:
        """Remember the name under which the controller reserves resources; called by Ray."""
        self._requester = f"train-{train_run_context.run_id}"

    def before_controller_execute_failure_decision(self, failure_decision: Any) -> None:
        """Wait and refresh the reserved resources; called by Ray."""
        # An error here would end the run.
        try:
            wait_until_removed(find_unreachable_hosts())
            coordinator = get_or_create_autoscaling_coordinator()
            answer = coordinator.get_reserved_resources.remote(self._requester, recompute=True)
            ray.get(answer, timeout=FORGET_TIMEOUT_S)
        except Exception:
            log.warning("fast recovery failed, waiting as Ray does by default", exc_info=True)


def recovery_callbacks() -> list[Any]:
    """Return callbacks of the controller for fast recovery; none if Ray's internals changed."""
    return [LostHostCallback()] if ControllerCallback is not None else []


def find_unreachable_hosts() -> set[str]:
    """Return the node ids of hosts that are alive for the cluster but do not answer."""
    nodes = [node for node in ray.nodes() if node["Alive"]]
    with ThreadPoolExecutor(max_workers=32) as pool:
        answers = pool.map(_is_reachable, nodes)
        return {node["NodeID"] for node, answer in zip(nodes, answers, strict=True) if not answer}


def wait_until_removed(hosts: set[str]) -> None:
    """Wait until the cluster has removed hosts, at most FORGET_TIMEOUT_S."""
    deadline = time.monotonic() + FORGET_TIMEOUT_S
    while hosts & {node["NodeID"] for node in ray.nodes() if node["Alive"]}:
        if time.monotonic() > deadline:
            return
        time.sleep(0.1)


def _is_reachable(node: dict[str, Any]) -> bool:
    address = node["NodeManagerAddress"], node["NodeManagerPort"]
    try:
        socket.create_connection(address, timeout=PROBE_TIMEOUT_S).close()
    except OSError:
        return False
    return True


def is_autoscaling() -> bool:
    """Return True if an autoscaler has registered types of hosts that it can add."""
    try:
        config = ray._private.state.state.get_cluster_config()
    except Exception:  # without this API no cluster counts as autoscaling
        return False
    return config is not None and bool(config.node_group_configs)
