"""One command at a time trains in a folder: two would write each other's checkpoints and log."""

import contextlib
import os
import socket
from collections.abc import Iterator
from pathlib import Path

from nmt.corpus.files import is_ours
from nmt.errors import TrainingError

LOCK = "lock"
"""File in the folder that its driver holds, with which process that is. It is free again when
that process has ended, however it did."""


@contextlib.contextmanager
def alone(folder: Path) -> Iterator[None]:
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
        if not is_ours(lock, folder):
            lock.seek(0)
            raise TrainingError(
                f"{folder}: another command trains there ({lock.read().strip()}); wait for it, or "
                "give the experiment another name"
            )
        lock.truncate(0)
        lock.write(f"process {os.getpid()} on {socket.gethostname()}\n")
        lock.flush()
        yield
