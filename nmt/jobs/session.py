"""A connection to Ray: the cluster of RAY_ADDRESS where that is set, else one started here."""

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

# Read by Ray when it is imported, and handed on by it. No usage reports.
os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
# The end of a worker is seen in half a second; one that does not answer for a minute is dead.
os.environ.setdefault("RAY_TRAIN_HEALTH_CHECK_INTERVAL_S", "0.5")
os.environ.setdefault("RAY_TRAIN_WORKER_HEALTH_CHECK_TIMEOUT_S", "60")
# Places for new workers are asked for anew where they are not there so soon: their host has died.
os.environ.setdefault("RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S", "10")
# A notice that a host will be taken away is seen in a second.
os.environ.setdefault("RAY_TRAIN_PREEMPTION_POLL_INTERVAL_S", "1")

import ray

import nmt
from nmt.console import Console, quiet
from nmt.errors import NmtError
from nmt.jobs.head import HeadWatch

WATCHER_VARIABLE = "RAY_TRAIN_ENABLE_PREEMPTION_WATCHER"
"""Of an actor that asks every second which hosts are about to be taken away."""
SHUTDOWN_VARIABLE = "TORCH_PROCESS_GROUP_SHUTDOWN_TIMEOUT_S"
SHUTDOWN_S = 3
"""Seconds that lost workers are given to close their connections; all others wait for Ray's own 30.
Handed on by nobody: it must be in the environment of all that a job starts."""


@contextlib.contextmanager
def connect(num_cpus: int, chatter: Path) -> Iterator[None]:
    """Be connected to Ray inside, with standard output and error sent to a file; may be nested.

    Args:
        num_cpus: cores that the work needs; a cluster started here offers that many at least.
        chatter: file that gets all that Ray, torch and the workers say.

    Raises:
        NmtError: the cluster does not answer, or none can be started.
    """
    if ray.is_initialized():
        yield
        return
    address = os.environ.get("RAY_ADDRESS", "")
    # A job of a cluster has its code there; a driver outside of it sends its own along.
    is_outside = bool(address) and "RAY_JOB_CONFIG_JSON_ENV_VAR" not in os.environ
    # Nobody drains a cluster that nobody else knows of.
    os.environ[WATCHER_VARIABLE] = str(int(bool(address)))
    environment: dict[str, Any] = {}
    if SHUTDOWN_VARIABLE not in os.environ:
        environment["env_vars"] = {SHUTDOWN_VARIABLE: str(SHUTDOWN_S)}
    if is_outside:
        environment["py_modules"] = [str(Path(nmt.__file__).parent)]
    with Console() as console, quiet(chatter):
        try:
            if address:
                ray.init(address=address, runtime_env=environment)
            else:
                cores = max(num_cpus, os.cpu_count() or 1)
                ray.init(
                    address="local",
                    num_cpus=cores,
                    include_dashboard=False,
                    runtime_env=environment,
                )
        except (
            Exception
        ) as error:  # of a busy machine where nothing starts in time Ray has no class
            reason = (str(error).strip() or repr(error)).splitlines()[0].partition(". ")[0]
            if address:
                place, mend = f"at RAY_ADDRESS ({address})", "start it, or unset RAY_ADDRESS"
            else:
                place, mend = "on this machine", "look there, or try again when it has less to do"
            said = f"no Ray {place}: {reason.rstrip('.')}; {mend}; more in {chatter}"
            raise NmtError(said) from None
        head = ray.get_runtime_context().gcs_address
        try:
            with HeadWatch(head, chatter, console):
                yield
        finally:
            ray.shutdown()
