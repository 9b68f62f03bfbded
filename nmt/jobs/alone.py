"""One command at a time trains a run: two would write each other's checkpoints and log."""

import contextlib
import fcntl
import os
import socket
from collections.abc import Callable, Iterator
from pathlib import Path

from nmt.errors import TrainingError

LOCK = "lock"
"""File in a run's folder that its driver holds, with which process that is. It is free again when
that process has ended, however it did."""


@contextlib.contextmanager
def alone(run_dir: Path, say: Callable[[str], None]) -> Iterator[None]:
    """Be the only command that trains the run of a folder; the folder is made.

    Args:
        say: is told where the file system has no locks.

    Raises:
        TrainingError: another command trains it, or the folder cannot be written.
    """
    try:
        run_dir.mkdir(parents=True, exist_ok=True)
        lock = (run_dir / LOCK).open("a+", encoding="utf-8")
    except OSError as error:
        raise TrainingError(
            f"{run_dir}: cannot be written: {error.strerror}; set `storage` in the cluster file to "
            "a folder that can be"
        ) from None
    with lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            lock.seek(0)
            raise TrainingError(
                f"{run_dir}: another command trains this run ({lock.read().strip()}); wait for it, "
                "or give the experiment another name"
            ) from None
        except OSError:
            say(f"{run_dir} cannot be locked: give the command once only")
        lock.truncate(0)
        lock.write(f"process {os.getpid()} on {socket.gethostname()}\n")
        lock.flush()
        yield
