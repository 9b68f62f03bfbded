"""Ray session of a command: its connection, the monitor of the head and the run directory's lock.

Importing this module sets the environment variables that Ray reads when it is imported.
"""

import contextlib
import os
import re
import secrets
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, Self

import ray
from ray.exceptions import RayError, RayTaskError
from ray.util.placement_group import (
    placement_group,
    placement_group_table,
    remove_placement_group,
)

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


PROBE_TIMEOUT_S = 5.0
"""Seconds in which the head accepts a connection before Ray is started."""
WAIT_INTERVALS_S = (15.0, 60.0)
"""Seconds of waiting for resources before the first report, and between two later ones."""
_CAUSES = (
    (
        r"cluster was started with:.*?Ray: (\S+).*?Python: (\S+).*?Ray: (\S+).*?Python: (\S+)",
        r"it has Ray \1 with Python \2, this process Ray \3 with Python \4; install the same "
        "versions on both sides",
    ),
    (
        r"InvalidAuthToken|Unauthenticated|no authentication token",
        "it rejects the {token}; set RAY_AUTH_MODE=token, with the token of its head in "
        "RAY_AUTH_TOKEN, the file RAY_AUTH_TOKEN_PATH or ~/.ray/auth_token",
    ),
    (
        r"AF_UNIX path length",
        "the path of the temporary folder is too long for sockets: {temp}; set RAY_TMPDIR to a "
        "short one, such as /tmp",
    ),
    (
        r"(Permission denied|Read-only file system|No space left on device|Not a directory)",
        r"\1: {temp}; set RAY_TMPDIR to a writable folder with free space",
    ),
)
"""Pattern of Ray's messages, and cause with advice for the user."""


@contextlib.contextmanager
def connect(num_cpus: int, output: Path) -> Iterator[None]:
    """Connect to the cluster of RAY_ADDRESS, or start one here, and redirect the output to a file.

    Does nothing inside another `connect`.

    Args:
        num_cpus: cores that the work needs; a cluster started here has at least as many.
        output: file for all output of Ray, torch and the workers.

    Raises:
        NmtError: the cluster does not answer, cannot be started, or lost an actor of this command.
    """
    if ray.is_initialized():
        yield
        return
    address = os.environ.get("RAY_ADDRESS", "")
    _check_head(address)
    _check_token(is_local=not address)
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
        _consoles[:] = [console]
        start = output.stat().st_size
        waiting = threading.Timer(
            WAIT_INTERVALS_S[0], report, [f"waiting for Ray to answer; its output: {output}"]
        )
        try:
            with _blocked_signals():
                waiting.start()
                ray.init(**options, runtime_env=environment)
        except Exception as error:  # Ray has no class for a start that timed out.
            problem = "cannot start Ray on this machine"
            if address:
                problem = f"cannot connect to Ray at RAY_ADDRESS ({address})"
            reason = _find_cause(error, output, start, bool(address))
            raise NmtError(f"{problem}: {reason}; Ray and torch output: {output}") from None
        finally:
            waiting.cancel()
        try:
            with HeadMonitor(ray.get_runtime_context().gcs_address, output, console):
                yield
        except RayTaskError:
            # A bug, not a lost process: keep the traceback.
            raise
        except RayError as error:
            raise NmtError(
                f"lost a process of Ray ({type(error).__name__}: {_first_line(error)}); run the "
                f"same command again to resume; Ray and torch output: {output}"
            ) from None
        finally:
            ray.shutdown()


_consoles: list[Console] = []
"""The console of the connection: standard error is redirected."""


def report(line: str) -> None:
    """Log a line on the terminal of the connected command."""
    for console in _consoles:
        if console.is_terminal:
            # Another console may show a progress bar on the current line.
            console.print("")
        console.log(line)


def _check_head(address: str) -> None:
    """Raise NmtError unless the head accepts connections; Ray would try for minutes, silently."""
    host, _, port = address.rpartition(":")
    if address in ("", "local", "auto"):
        return
    if "://" in address or not host or not port.isdecimal():
        raise NmtError(
            f"RAY_ADDRESS is {address!r}: expected HEAD:PORT of the head, usually HEAD:6379, or no "
            "RAY_ADDRESS for Ray on this machine; only cluster/submit.py uses http://HEAD:8265"
        )
    if not is_reachable(host.strip("[]"), int(port), PROBE_TIMEOUT_S):
        raise NmtError(
            f"cannot connect to Ray at RAY_ADDRESS ({address}): nothing accepts "
            "connections there; start the cluster, or unset RAY_ADDRESS"
        )


def _check_token(is_local: bool) -> None:
    """Create the token of a local cluster, mode 0600; refuse one that other users can read.

    Ray would create it with mode 0644.
    """
    mode = os.environ.get("RAY_AUTH_MODE", "token" if is_local else "")
    if mode.lower() != "token" or os.environ.get("RAY_AUTH_TOKEN"):
        return
    path = Path(os.environ.get("RAY_AUTH_TOKEN_PATH") or Path.home() / ".ray/auth_token")
    try:
        if is_local and not path.exists():
            path.parent.mkdir(parents=True, exist_ok=True)
            temp = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
            with open(os.open(temp, os.O_CREAT | os.O_WRONLY, 0o600), "w") as file:
                file.write(secrets.token_hex(32))
            # Linked, not renamed: of two commands that start at once, one creates the token.
            with contextlib.suppress(FileExistsError):
                path.hardlink_to(temp)
            temp.unlink()
        status = path.stat()
    except OSError as error:
        raise NmtError(
            f"{path}: no token for Ray: {error.strerror}; set RAY_AUTH_TOKEN_PATH to the file with "
            "the token of the cluster"
        ) from None
    if status.st_mode & 0o077:
        raise NmtError(f"other users can read {path}, the token of Ray: chmod 600 {path}")


@contextlib.contextmanager
def _blocked_signals() -> Iterator[None]:
    """Block TERM and HUP in the processes and threads that are started inside.

    They may be sent to every process of a run. Only the command itself handles them: Ray must live
    until the checkpoint is written. Ray blocks INT itself.
    """
    blocked = {signal.SIGTERM, signal.SIGHUP}
    previous = signal.pthread_sigmask(signal.SIG_BLOCK, blocked)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, previous)


def _find_cause(error: BaseException, output: Path, start: int, is_remote: bool) -> str:
    """Return cause and advice for a failed start, from the error and the output since `start`."""
    with output.open("rb") as file:
        file.seek(start)
        text = f"{error}\n{error.__cause__}\n{file.read().decode(errors='replace')}"
    temp = os.environ.get("RAY_TMPDIR") or os.environ.get("TMPDIR") or "/tmp"
    has_token = os.environ.get("RAY_AUTH_MODE", "").lower() == "token"
    token = "token" if has_token else "connection without a token"
    for pattern, cause in _CAUSES:
        if match := re.search(pattern, text, re.DOTALL):
            return match.expand(cause).format(temp=temp, token=token)
    advice = "start the cluster, or unset RAY_ADDRESS" if is_remote else "try when it is less busy"
    return f"{_first_line(error).partition('. ')[0].rstrip('.')}; {advice}"


def _first_line(error: BaseException) -> str:
    return (str(error).strip() or repr(error)).splitlines()[0]


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
    """Return True if a host accepts a TCP connection."""
    try:
        socket.create_connection((host, port), timeout=timeout_s).close()
    except OSError:
        return False
    return True


@contextlib.contextmanager
def lock_run_directory(folder: Path) -> Iterator[None]:
    """Create and lock the directory of a run or of a search: two commands would mix their files.

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


def resolve_auto(cluster: Cluster, max_workers: int) -> Cluster:
    """Replace auto by the GPUs of the Ray cluster, once connected, or of this machine.

    Before the connection to a cluster of RAY_ADDRESS nothing is known, and auto stays.

    Args:
        max_workers: most workers that have something to do.
    """
    num_gpus = count_gpus()
    return cluster if num_gpus is None else cluster.resolve(num_gpus, max_workers)


def count_gpus() -> int | None:
    """Return the GPUs of the connected Ray cluster, or of this machine; None: not known yet."""
    if ray.is_initialized():
        return int(ray.cluster_resources().get("GPU", 0))
    if os.environ.get("RAY_ADDRESS"):
        return None
    import torch  # slow, and not needed to prepare a corpus

    return torch.cuda.device_count()


def describe_unused_gpus(cluster: Cluster) -> str:
    """Describe GPUs that a resolved cluster leaves unused by training on the CPU; "" for none."""
    num_gpus = count_gpus()
    if cluster.num_gpus or not num_gpus:
        return ""
    return (
        f"on the CPU, with {num_gpus} GPU{'s' * (num_gpus > 1)} unused: set "
        "cluster.workers=auto cluster.gpus_per_worker=auto"
    )


def fit_workers(cluster: Cluster, at_least: int) -> int:
    """Wait until `at_least` workers fit; return the number that fit, up to cluster.workers.max.

    Raises:
        TrainingError: as `wait_for_resources`.
    """
    fitting = wait_for_resources(_resources_of_worker(cluster), at_least)
    return max(at_least, min(cluster.workers.max, fitting))


def check_workers_fit(cluster: Cluster, max_workers: int) -> None:
    """Check that the cluster has room for cluster.workers.min workers, busy or not.

    Args:
        max_workers: most workers that have something to do.

    Raises:
        TrainingError: as `wait_for_resources`.
    """
    cluster = resolve_auto(cluster, max_workers)
    _count_fitting(_resources_of_worker(cluster), cluster.workers.min, "worker")


def wait_for_resources(each: Mapping[str, int], count: int = 1, kind: str = "worker") -> int:
    """Wait until the resources of `count` workers are free, and report what is missing.

    Returns:
        The number of workers that the hosts of the cluster can hold.

    Raises:
        TrainingError: the cluster cannot hold them and adds no hosts; Ray would wait for ever.
    """
    fitting = _count_fitting(each, count, kind)
    group = placement_group([dict(each)] * count)
    start_s = time.monotonic()
    report_s, interval_s = WAIT_INTERVALS_S
    try:
        # Short waits: signals are handled between them.
        while not group.wait(1):
            if time.monotonic() - start_s > report_s:
                report_s += interval_s
                _report_missing(each, count, kind)
    finally:
        remove_placement_group(group)
    return fitting


def _count_fitting(each: Mapping[str, int], count: int, kind: str) -> int:
    """Return the number of workers that the hosts can hold; raise TrainingError if too few."""
    hosts = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    # A worker does not span hosts.
    fitting = sum(min(int(host.get(key, 0)) // n for key, n in each.items()) for host in hosts)
    from nmt.jobs.ray_internals import is_autoscaling  # imports ray.train, which is slow

    if fitting < count and not is_autoscaling():
        workers = f"{count} {kind}{'s' * (count > 1)} with"
        problem = f"{workers} {_words(each)} each do not fit: {len(hosts)} hosts have room for "
        problem += f"{fitting}, and a {kind} does not span hosts"
        for key, n in each.items():
            if count * n > (total := int(sum(host.get(key, 0) for host in hosts))):
                problem = f"{workers} {n} {key} each need {count * n}, but the cluster has {total}"
        raise TrainingError(f"{problem}: lower cluster.workers (--workers), or add hosts")
    return fitting


def report_missing_workers(cluster: Cluster) -> None:
    """Report what training waits for, unless its workers are placed."""
    job = ray.get_runtime_context().get_job_id()
    # The last bytes of the id of a placement group are those of its job.
    groups = [group for key, group in placement_group_table().items() if key.endswith(job)]
    if not any(group["state"] == "CREATED" for group in groups):
        _report_missing(_resources_of_worker(cluster), cluster.workers.min, "worker")


def _report_missing(each: Mapping[str, int], count: int, kind: str) -> None:
    free, total = ray.available_resources(), ray.cluster_resources()
    parts = (f"{free.get(key, 0):.0f} of {total.get(key, 0):.0f} {key}s free" for key in each)
    workers = f"{count} {kind}{'s' * (count > 1)} with {_words(each)} each"
    # Free resources are not what it waits for: Ray starts a process per worker, slowly if it is
    # busy, and a worker does not span hosts.
    is_enough = all(free.get(key, 0) >= count * number for key, number in each.items())
    report(f"waiting for {workers}{' to start' * is_enough}: {', '.join(parts)}")


def _resources_of_worker(cluster: Cluster) -> dict[str, int]:
    each = {"CPU": cluster.cpus_per_worker, "GPU": cluster.num_gpus}
    return {key: number for key, number in each.items() if number}


def _words(each: Mapping[str, int]) -> str:
    return " and ".join(f"{number} {key}{'s' * (number > 1)}" for key, number in each.items())
