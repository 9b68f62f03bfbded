"""Unfinished work: which tasks of a stage are done, whether they still count, and who is at it.

A task's result in work/results says that it is done, and it is not done again. The state of the
work is what it was begun with, files and settings: where that has changed, it starts anew.
"""

import json
import logging
import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Protocol

from nmt.corpus.io import atomic_write, try_lock
from nmt.errors import DataError

log = logging.getLogger(__name__)

WORK = "work"
Tree = dict[str, Any]
Task = tuple[Callable[..., Tree], tuple[Any, ...]]
"""A function and its arguments; it returns a small result of plain JSON."""

_FOLDERS = ("work/raw", "work/clean", "work/copies", "work/results", "shards", "tests")


class RunTasks(Protocol):
    """Calls a function with each tuple of arguments, anywhere, and yields results as they come."""

    def __call__(
        self, function: Callable[..., Any], tasks: Sequence[tuple[Any, ...]], /
    ) -> Iterator[Any]: ...


class ProgressCallback(Protocol):
    """Hears how far a stage is: tasks done, and tasks in all."""

    def __call__(self, stage: str, done: int, total: int, /) -> None: ...


def run_locally(function: Callable[..., Any], tasks: Sequence[tuple[Any, ...]]) -> Iterator[Any]:
    """Run tasks one after the other in this process."""
    for arguments in tasks:
        yield function(*arguments)


def no_progress(stage: str, done: int, total: int) -> None:
    """Say nothing."""


class Stages:
    """Runs the tasks whose results are not there yet."""

    def __init__(self, work: Path, run_tasks: RunTasks, progress: ProgressCallback) -> None:
        """Work in a folder of `open_work`."""
        self.work = work
        self._run_tasks = run_tasks
        self._progress = progress

    def run(self, stage: str, tasks: dict[str, Task], used: str = "") -> dict[str, Tree]:
        """Results by key, in the order of tasks; files that match `used`, {} as the key, go."""
        results: dict[str, Tree] = {}
        if not tasks:
            return results
        for key in tasks:
            with suppress(FileNotFoundError):
                results[key] = json.loads(self._path(stage, key).read_text(encoding="utf-8"))
        if 0 < len(results) < len(tasks):
            log.info("%s: %d of %d tasks were done before", stage, len(results), len(tasks))
        todo = [
            (self._path(stage, key), key, task, self.work / used.format(key) if used else None)
            for key, task in tasks.items()
            if key not in results
        ]
        self._progress(stage, len(results), len(tasks))
        for key, result in self._run_tasks(_do, todo) if todo else ():
            results[key] = result
            self._progress(stage, len(results), len(tasks))
        return {key: results[key] for key in tasks}

    def _path(self, stage: str, key: str) -> Path:
        return self.work / "results" / stage / f"{key}.json"


def _do(path: Path, key: str, task: Task, used: Path | None) -> tuple[str, Tree]:
    """Do a task, and leave its result where the next prepare finds it; then remove what it used."""
    if path.exists():  # its host was lost before it could say so, and it is done a second time
        return key, json.loads(path.read_text(encoding="utf-8"))
    function, arguments = task
    result = function(*arguments)
    path.parent.mkdir(parents=True, exist_ok=True)
    with atomic_write(path) as temporary:
        temporary.write_text(json.dumps(result), encoding="utf-8")
    if used is not None:
        for file in used.parent.glob(used.name):
            file.unlink(missing_ok=True)
    return key, result


@contextmanager
def open_work(folder: Path, state: Tree) -> Iterator[Path]:
    """The folder of unfinished work in a folder to be prepared: ours alone, and of this state.

    Raises:
        DataError: it cannot be written, or another process is at work on it.
    """
    try:
        for part in _FOLDERS:
            (folder / part).mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise DataError(
            f"{folder}: cannot be written: {error.strerror}; set corpus.prepared to another folder"
        ) from None
    with (folder / WORK / "lock").open("w") as lock:
        if not try_lock(lock, folder):
            raise DataError(
                f"{folder}: another `nmt prepare` is at work on it; wait for it, or stop it"
            )
        _settle(folder, json.loads(json.dumps(state)))
        yield folder / WORK


def _settle(folder: Path, state: Tree) -> None:
    """Keep what is there if it was begun with this state, else remove it."""
    path = folder / WORK / "state.json"
    try:
        if json.loads(path.read_text(encoding="utf-8")) == state:
            return
        log.info("%s: files or settings have changed; starting anew", folder)
    except (FileNotFoundError, ValueError):
        pass
    for part in _FOLDERS:
        shutil.rmtree(folder / part)
        (folder / part).mkdir()
    with atomic_write(path) as temporary:
        temporary.write_text(json.dumps(state), encoding="utf-8")
