"""Ends this process with a line where the head of Ray's cluster is gone.

Ray ends a process that has not reached the head for a minute, in C++ and without a word for a
person. Here that is seen a little sooner, and said. A head that hangs still answers, for its host
does; then both wait.

One command at a time trains in a folder: two would write each other's checkpoints and log.

A connection to Ray: the cluster of RAY_ADDRESS where that is set, else one started here.
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
from nmt.console import Console, redirect_output
from nmt.corpus.io import try_lock
from nmt.errors import NmtError, TrainingError

PATIENCE_S = 45.0
"""Seconds without an answer after which the head is gone; Ray's own are 60."""
EVERY_S = 3.0
"""Seconds between two questions."""


class HeadMonitor:
    """Watches while it is entered; made where standard error still leads to a person."""

    def __init__(
        self, address: str, chatter: Path, console: Console, end: Callable[[int], None] = os._exit
    ) -> None:
        """Args: address: HOST:PORT of the head; chatter: where Ray's own words are."""
        self._address, self._chatter, self._console, self._end = address, chatter, console, end
        self._is_over = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="head", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._is_over.set()
        self._thread.join()

    def _watch(self) -> None:
        answered = time.monotonic()
        while not self._is_over.wait(EVERY_S):
            if self._answers():
                answered = time.monotonic()
            elif time.monotonic() - answered > PATIENCE_S:
                below = "\n" if self._console.is_terminal else ""  # a bar of somebody else's
                self._console.print(
                    f"{below}nmt: the head of Ray at {self._address} is gone, and this command "
                    f"with it; the same command goes on where it was; more in {self._chatter}"
                )
                self._end(2)
                break

    def _answers(self) -> bool:
        host, _, port = self._address.rpartition(":")
        try:
            with socket.create_connection((host.strip("[]"), int(port)), timeout=EVERY_S):
                return True
        except OSError:
            return False


LOCK = "lock"
"""File in the folder that its driver holds, with which process that is. It is free again when
that process has ended, however it did."""


@contextlib.contextmanager
def lock_run_directory(folder: Path) -> Iterator[None]:
    """Be the only command that trains in the folder of a run or of a search; the folder is made.

    Raises:
        TrainingError: another command trains there, or the folder cannot be written.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock = (folder / LOCK).open("a+", encoding="utf-8")
    except OSError as error:
        raise TrainingError(
            f"{folder}: cannot be written: {error.strerror}; set `storage` in the cluster file to "
            "a folder that can be"
        ) from None
    with lock:
        if not try_lock(lock, folder):
            lock.seek(0)
            raise TrainingError(
                f"{folder}: another command trains there ({lock.read().strip()}); wait for it, or "
                "give the experiment another name"
            )
        lock.truncate(0)
        lock.write(f"process {os.getpid()} on {socket.gethostname()}\n")
        lock.flush()
        yield


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
    with Console() as console, redirect_output(chatter):
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
            with HeadMonitor(head, chatter, console):
                yield
        finally:
            ray.shutdown()
