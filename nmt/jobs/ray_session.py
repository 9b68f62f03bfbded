"""Ray session of a command: its connection, the monitor of the head and the run directory's lock.

Importing this module sets the environment variables that Ray reads when it is imported.
"""

import contextlib
import os
import socket
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Self

import ray

import nmt
from nmt.config.cluster import Cluster
from nmt.console import Console, redirect_output
from nmt.corpus.io import try_lock
from nmt.errors import NmtError, TrainingError

for _name, _value in {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    # Detect the end of a worker within half a second, one that does not answer within a minute.
    "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "0.5",
    "RAY_TRAIN_WORKER_HEALTH_CHECK_TIMEOUT_S": "60",
    # Request new workers again after 10 s: the host that they were to be placed on may be lost.
    "RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S": "10",
    # Detect preemption notices within a second.
    "RAY_TRAIN_PREEMPTION_POLL_INTERVAL_S": "1",
}.items():
    os.environ.setdefault(_name, _value)

HEAD_TIMEOUT_S = 45.0
"""Seconds without an answer after which the head counts as lost; less than Ray's own 60."""
HEAD_POLL_S = 3.0
"""Seconds between two connection attempts to the head."""
LOCK = "lock"
"""File in a run directory, locked by the command that trains there; names its process."""
WATCHER_VARIABLE = "RAY_TRAIN_ENABLE_PREEMPTION_WATCHER"
"""Enables an actor that polls for hosts with a preemption notice."""
SHUTDOWN_VARIABLE = "TORCH_PROCESS_GROUP_SHUTDOWN_TIMEOUT_S"
SHUTDOWN_TIMEOUT_S = 3
"""Seconds in which lost workers can close their connections; the others wait for it. Ray's default
is 30. Ray Train does not propagate it: it must be in the runtime environment of the job."""


@contextlib.contextmanager
def connect(num_cpus: int, output: Path) -> Iterator[None]:
    """Connect to the cluster of RAY_ADDRESS, or start one here, and redirect the output to a file.

    Does nothing inside another `connect`.

    Args:
        num_cpus: cores that the work needs; a cluster started here has at least as many.
        output: file for all output of Ray, torch and the workers.

    Raises:
        NmtError: the cluster does not answer, or cannot be started.
    """
    if ray.is_initialized():
        yield
        return
    address = os.environ.get("RAY_ADDRESS", "")
    # Only a cluster that others know of can receive preemption notices.
    os.environ[WATCHER_VARIABLE] = str(int(bool(address)))
    environment: dict[str, Any] = {}
    if SHUTDOWN_VARIABLE not in os.environ:
        environment["env_vars"] = {SHUTDOWN_VARIABLE: str(SHUTDOWN_TIMEOUT_S)}
    if address and "RAY_JOB_CONFIG_JSON_ENV_VAR" not in os.environ:
        # A submitted job has its code on the cluster; any other driver uploads its own.
        environment["py_modules"] = [str(Path(nmt.__file__).parent)]
    options: dict[str, Any] = {"address": address}
    if not address:
        cores = max(num_cpus, os.cpu_count() or 1)
        options = {"address": "local", "num_cpus": cores, "include_dashboard": False}
    with Console() as console, redirect_output(output):
        try:
            ray.init(**options, runtime_env=environment)
        except Exception as error:  # Ray has no class for a start that timed out.
            reason = (str(error).strip() or repr(error)).splitlines()[0].partition(". ")[0]
            problem, advice = "cannot start Ray on this machine", "try again when it is less busy"
            if address:
                problem = f"cannot connect to Ray at RAY_ADDRESS ({address})"
                advice = "start the cluster, or unset RAY_ADDRESS"
            raise NmtError(
                f"{problem}: {reason.rstrip('.')}; {advice}; Ray and torch output: {output}"
            ) from None
        try:
            with HeadMonitor(ray.get_runtime_context().gcs_address, output, console):
                yield
        finally:
            ray.shutdown()


class HeadMonitor:
    """Ends this process with an error line when the Ray head does not answer.

    Ray itself ends a process that has lost the head for a minute without an error line. A head that
    hangs is not detected, because its host still accepts connections.
    """

    def __init__(
        self, address: str, output: Path, console: Console, end: Callable[[int], None] = os._exit
    ) -> None:
        """Prepare a monitor; it runs inside its `with` block.

        Args:
            address: HOST:PORT of the head.
            output: file that the error line refers to.
            console: opened before the output was redirected.
            end: ends the process, with an exit status.
        """
        self._address, self._output, self._console, self._end = address, output, console, end
        host, _, port = address.rpartition(":")
        self._host, self._port = host.strip("[]"), int(port)
        self._is_closed = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="head-monitor", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._is_closed.set()
        self._thread.join()

    def _watch(self) -> None:
        answered_s = time.monotonic()
        while not self._is_closed.wait(HEAD_POLL_S):
            if is_reachable(self._host, self._port, HEAD_POLL_S):
                answered_s = time.monotonic()
            elif time.monotonic() - answered_s > HEAD_TIMEOUT_S:
                # Another console may show a progress bar on the current line.
                newline = "\n" if self._console.is_terminal else ""
                self._console.print(
                    f"{newline}nmt: lost connection to the Ray head at {self._address}; run the "
                    f"same command again to resume; Ray and torch output: {self._output}"
                )
                self._end(2)
                break


def is_reachable(host: str, port: int, timeout_s: float) -> bool:
    """True if a host accepts a TCP connection."""
    try:
        socket.create_connection((host, port), timeout=timeout_s).close()
    except OSError:
        return False
    return True


@contextlib.contextmanager
def lock_run_directory(folder: Path) -> Iterator[None]:
    """Make the directory of a run or of a search, and lock it: two commands would mix their files.

    The lock ends with its process, however that ends.

    Raises:
        TrainingError: another process holds the lock file, or the directory cannot be written.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock = (folder / LOCK).open("a+", encoding="utf-8")
    except OSError as error:
        raise TrainingError(
            f"{folder}: cannot be written: {error.strerror}; set `storage` in the cluster file to "
            "a writable folder"
        ) from None
    # Locked until the block ends, or the process does.
    with lock:
        if not try_lock(lock, folder):
            lock.seek(0)
            raise TrainingError(
                f"{folder}: lock file held by another process ({lock.read().strip()}); wait for it "
                "to end, or give the experiment another name"
            )
        lock.truncate(0)
        lock.write(f"process {os.getpid()} on {socket.gethostname()}\n")
        lock.flush()
        yield


def fit_workers(cluster: Cluster, at_least: int) -> int:
    """Return the number of workers that fit on the connected cluster, up to cluster.workers.max.

    Raises:
        TrainingError: fewer than `at_least` fit; Ray would wait for more resources for ever.
    """
    resources = ray.cluster_resources()
    num_workers = cluster.workers.max
    for kind, each in (("CPU", cluster.cpus_per_worker), ("GPU", cluster.gpus_per_worker)):
        available = int(resources.get(kind, 0))
        if at_least * each > available:
            raise TrainingError(
                f"{at_least} worker{'s' * (at_least > 1)} with {each} {kind} each need "
                f"{at_least * each}, but the cluster has {available}: lower cluster.workers "
                "(--workers), or add hosts"
            )
        # 0 GPUs per worker: no limit.
        if each:
            num_workers = min(num_workers, available // each)
    return num_workers
