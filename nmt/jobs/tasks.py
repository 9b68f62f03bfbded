"""Tasks on Ray: preparing a corpus, and any function with a list of arguments.

Each task uses one core of any host, and a GPU if it requests one; raw files and the prepared folder
have the same path on every host. The results are byte for byte those of one process, and the task
of a lost host is run again.
"""

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, Literal

import ray
from ray.exceptions import RayError, RayTaskError

from nmt.config.experiment import Experiment
from nmt.corpus.doctor import Diagnosis, examine
from nmt.corpus.manifest import Manifest
from nmt.corpus.prepare import prepare
from nmt.corpus.task_cache import ProgressCallback, no_progress
from nmt.errors import DataError, NmtError
from nmt.jobs.ray_session import wait_for_resources

TASKS_PER_WORKER = 2
"""Tasks submitted at once for each one that can run: one that runs and one that waits."""


def prepare_on_ray(
    experiment: Experiment,
    progress: ProgressCallback = no_progress,
    *,
    is_forced: bool = False,
    dropped: Path | None = None,
) -> Manifest:
    """Prepare the corpus of an experiment on the connected Ray cluster.

    Raises:
        DataError: as `nmt.corpus.prepare.prepare`, or a task failed after retries.
    """
    return prepare(experiment, run_on_ray, progress, is_forced=is_forced, dropped=dropped)


def examine_on_ray(experiment: Experiment, progress: ProgressCallback = no_progress) -> Diagnosis:
    """Examine the corpora of an experiment on the connected Ray cluster (`nmt.corpus.doctor`)."""
    return examine(experiment, run_on_ray, progress)


def run_on_ray(
    function: Callable[..., Any], tasks: Sequence[tuple[Any, ...]], num_gpus: int = 0
) -> Iterator[Any]:
    """Call a function with each tuple of arguments; yield the results in the order of completion.

    Args:
        num_gpus: GPUs of each task, 0 or 1; `task_device` returns the device for it.

    Raises:
        DataError: raised by a task, or a task failed after retries; no further task is started.
    """
    remote = ray.remote(num_cpus=1, num_gpus=num_gpus)(catch_error)
    each = {"CPU": 1, "GPU": 1} if num_gpus else {"CPU": 1}
    # Bounded: the arguments of all tasks need not fit into Ray's memory.
    available = min(int(ray.cluster_resources().get(key, 0)) for key in each)
    max_running = TASKS_PER_WORKER * max(1, available)
    if tasks:
        wait_for_resources(each, kind="task")
    waiting = list(reversed(tasks))
    running: list[Any] = []
    # After an error the few tasks that run are left to end: `ray.cancel` of a task that ends at the
    # same time aborts the process (a check in task_manager.cc of Ray 2.60).
    while waiting or running:
        while waiting and len(running) < max_running:
            running.append(remote.remote(function, *waiting.pop()))
        done, running = ray.wait(running, num_returns=1)
        yield get_result(done[0])


def task_device() -> Literal["cpu", "cuda"]:
    """Return the device of this task or actor: cuda only if it has requested a GPU.

    Ray hides no GPU from those that request none: all of them would share the first one.
    """
    return "cuda" if ray.is_initialized() and ray.get_gpu_ids() else "cpu"


def catch_error(function: Callable[..., Any], *arguments: Any) -> tuple[Any, str]:
    """Call a function inside a task; return its result and an empty text, or None and the error.

    Ray would wrap and print an exception with its traceback.
    """
    try:
        return function(*arguments), ""
    except NmtError as error:
        return None, str(error)


def get_result(task: Any) -> Any:
    """Wait for a task that returns as `catch_error`, and return its result.

    Raises:
        DataError: an NmtError of the task, or Ray lost its process too often.
        RayTaskError: any other exception of the task, with its traceback.
    """
    try:
        result, message = ray.get(task)
    except RayTaskError:
        # A bug, not a lost process: keep the traceback.
        raise
    except RayError as error:
        reason = str(error).strip().splitlines()[0]
        raise DataError(
            f"Ray gave up on a task after retries ({type(error).__name__}: {reason}); run the "
            "same command again to resume"
        ) from None
    if message:
        raise DataError(message)
    return result
