"""Results of finished tasks on disk, so that an interrupted preparation resumes.

The result of a task in work/results marks it as done; it is not run again. state.json holds the
files and settings that the work started from; if they have changed, it starts over.
"""

import json
import logging
import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from nmt.config.settings import parse_record
from nmt.corpus.io import atomic_write, try_lock
from nmt.corpus.manifest import MANIFEST, unusable
from nmt.errors import DataError, summarise_names

log = logging.getLogger(__name__)

T = TypeVar("T")

WORK = "work"
Tree = dict[str, Any]
"""A JSON object."""
Task = tuple[Callable[..., Tree], tuple[Any, ...]]
"""A function and its arguments; it returns a small JSON object."""
RunTasks = Callable[[Callable[..., Any], Sequence[tuple[Any, ...]]], Iterator[Any]]
"""Calls a function with each tuple of arguments, anywhere, and yields results as they arrive."""
ProgressCallback = Callable[[str, int, int], None]
"""Called with the name of a stage, the number of tasks done and the number of all."""

_FOLDERS = (
    "work/raw", "work/clean", "work/copies", "work/near", "work/models", "work/judged",
    "work/listed", "work/results", "shards", "tests",
)  # fmt: skip


def run_locally(function: Callable[..., Any], tasks: Sequence[tuple[Any, ...]]) -> Iterator[Any]:
    """Run tasks one after the other in this process."""
    for arguments in tasks:
        yield function(*arguments)


def no_progress(stage: str, done: int, total: int) -> None:
    """Ignore progress."""


@dataclass(frozen=True)
class Stages:
    """Runs stages of tasks and skips the tasks that have a result."""

    work: Path
    """Folder of `open_work`, where results are stored."""
    run_tasks: RunTasks
    progress: ProgressCallback

    def run(
        self, stage: str, kind: type[T], tasks: dict[str, Task], used: str = ""
    ) -> dict[str, T]:
        """Run a stage.

        Args:
            stage: its name.
            kind: type of a result; a task returns it as a JSON object.
            tasks: tasks by key.
            used: pattern of the input files of a task, with {} for its key, removed afterwards.

        Returns:
            Results by key, in the order of `tasks`.

        Raises:
            DataError: a stored result is damaged, or an error of a task.
        """
        results: dict[str, T] = {}
        if not tasks:
            return results
        paths = {key: self.work / "results" / stage / f"{key}.json" for key in tasks}
        for key, path in paths.items():
            with suppress(FileNotFoundError):
                results[key] = _read_result(kind, path)
        if 0 < len(results) < len(tasks):
            log.info("%s: %d of %d tasks are done already", stage, len(results), len(tasks))
        # Paths travel with the task: the process that runs it stores the result.
        todo = [
            (paths[key], key, task, self.work / used.format(key) if used else None)
            for key, task in tasks.items()
            if key not in results
        ]
        self.progress(stage, len(results), len(tasks))
        # Results arrive in any order.
        for key, result in self.run_tasks(_run_task, todo) if todo else ():
            results[key] = parse_record(kind, result)
            self.progress(stage, len(results), len(tasks))
        return {key: results[key] for key in tasks}


def _run_task(path: Path, key: str, task: Task, used: Path | None) -> tuple[str, Tree]:
    """Run a task, store its result at `path`, then remove its input files."""
    # A host can be lost after it stored the result: the task is scheduled again without its input.
    if path.exists():
        return key, _read_result(Tree, path)
    function, arguments = task
    result = function(*arguments)
    path.parent.mkdir(parents=True, exist_ok=True)
    with atomic_write(path) as temporary:
        temporary.write_text(json.dumps(result), encoding="utf-8")
    # After the result is on disk: until then the input is needed to run again.
    if used is not None:
        for file in used.parent.glob(used.name):
            file.unlink(missing_ok=True)
    return key, result


def _read_result(kind: type[T], path: Path) -> T:
    """Read the stored result of a task; DataError if it is damaged."""
    try:
        return parse_record(kind, path.read_bytes())
    except ValueError as error:
        raise unusable(path, f"damaged: {error}") from None


@contextmanager
def open_work(folder: Path, state: Tree) -> Iterator[Path]:
    """Lock the folder of unfinished work in a prepared corpus; empty it if the state differs.

    Args:
        folder: of the corpus to prepare.
        state: JSON object of everything that the results depend on.

    Raises:
        DataError: the folder has other files or cannot be written, or another process holds the
            lock.
    """
    try:
        check_own(folder)
        for part in _FOLDERS:
            (folder / part).mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise DataError(
            f"{folder}: cannot be written: {error.strerror}; set corpus.prepared to another folder"
        ) from None
    with (folder / WORK / "lock").open("w") as lock:
        # Two preparations would remove each other's work.
        if not try_lock(lock, folder):
            raise DataError(
                f"{folder}: locked by another `nmt prepare`; wait for it to finish, or stop it"
            )
        _reset_unless(folder, json.loads(json.dumps(state)))
        yield folder / WORK


def check_own(folder: Path) -> None:
    """Raise DataError for a folder with files that no preparation has written."""
    if not folder.exists() or (folder / MANIFEST).exists() or (folder / WORK / "lock").exists():
        return
    if names := sorted(path.name for path in folder.iterdir() if not path.name.startswith(".")):
        raise DataError(
            f"{folder}: holds other files ({summarise_names(names)}), which preparing could "
            "replace; set corpus.prepared to a new or empty folder"
        )


def _reset_unless(folder: Path, state: Tree) -> None:
    """Remove unfinished work unless it started from this state."""
    path = folder / WORK / "state.json"
    # An unreadable state counts as another state.
    try:
        if parse_record(Tree, path.read_bytes()) == state:
            return
        log.info("%s: files or settings have changed: starting over", folder)
    except (FileNotFoundError, ValueError):
        # Finished by another command after this one found no manifest.
        if (folder / MANIFEST).exists() and not path.exists():
            shutil.rmtree(folder / WORK)
            raise DataError(
                f"{folder}: prepared by another command meanwhile; run the same command again"
            ) from None
    # First: an interruption here must not leave results without their files.
    (folder / MANIFEST).unlink(missing_ok=True)
    path.unlink(missing_ok=True)
    for part in _FOLDERS:
        shutil.rmtree(folder / part)
        (folder / part).mkdir()
    with atomic_write(path) as temporary:
        temporary.write_text(json.dumps(state), encoding="utf-8")
