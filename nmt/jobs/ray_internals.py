"""Private APIs of Ray: preemption notices, recovery from lost hosts, a leaner trainer.

Ray's own waits are for large clusters: after the power loss of a host, 94 s pass until training
resumes; with the settings of `nmt.jobs.ray_session` 29 s, with `LostHosts` 12 s (three hosts in
network namespaces of one machine). On two cores the start of a run is dominated by the number of
processes to start, 1 to 1.5 s of a core each: `Trainer` starts none that a run does not use.
Only this module uses private APIs of Ray. Where they have changed, runs still work, only
with Ray's own delays.
"""

import logging
import os
import socket
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import ray
import ray.train
from ray.train.torch import TorchTrainer

from nmt.jobs.mailbox import Post

NOTICE_S = 120.0
"""Seconds from a notice until a host is taken away, where nobody says when; Ray waits so long."""


class Notices:
    """Asks Ray whether hosts of this run are about to be taken away."""

    def __init__(self, post: Post) -> None:
        self._post = post
        self._known: tuple[object, float] | None = None

    def deadline(self) -> float | None:
        """When, in seconds since 1970; None: nobody said so. All workers must ask at once."""
        info = ray.train.get_preemption_info()
        if info is None:
            return None
        if self._known is None or self._known[0] != info:
            given = info.deadline_ms / 1000 if info.deadline_ms else time.time() + NOTICE_S
            self._known = info, given
            ranks = ", ".join(map(str, info.preempted_ranks))
            self._post.notice(f"the host of workers {ranks} was taken away", given)
        return self._known[1]


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


_UNUSED = "DatasetsCallback"
"""Hands out Ray Data to the workers: ours read shards of their own."""
_OUTLIVING = "PlacementGroupCleanerCallback"
"""Cleans up behind a dead controller; without a dashboard it only complains, once a second."""


class Trainer(TorchTrainer):  # type: ignore[misc]
    """A TorchTrainer that starts what a run needs."""

    def _create_default_callbacks(self) -> list[Any]:
        # A cluster of others outlives this command; one that was started here does not.
        is_ours = not os.environ.get("RAY_ADDRESS")
        needless = {_UNUSED, _OUTLIVING} if is_ours else {_UNUSED}
        made = super()._create_default_callbacks()
        return [each for each in made if type(each).__name__ not in needless]
