"""Results of tasks on Ray: what goes wrong in one is said in a line, as if it had happened here.

Preparing on Ray: chunks of the corpus as tasks of one core each, on all hosts of the cluster.

The raw files and the prepared folder lie where every host sees them under the same path. The bytes
are those of `nmt.corpus.prepare` in one process; a task whose host is lost is done elsewhere.
"""

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import ray
from ray.exceptions import RayError, RayTaskError

from nmt.config.experiment import Experiment
from nmt.corpus.manifest import Manifest
from nmt.corpus.prepare import prepare
from nmt.corpus.task_cache import ProgressCallback, no_progress
from nmt.errors import DataError, NmtError


def attempt(function: Callable[..., Any], *arguments: Any) -> tuple[Any, str]:
    """Of a task: its result, or what is wrong.

    An exception Ray would hand on with a traceback, and print.
    """
    try:
        return function(*arguments), ""
    except NmtError as error:
        return None, str(error)


def result_of(task: Any) -> Any:
    """The result of a task that was done with `attempt`.

    Raises:
        DataError: what is wrong, or the cluster lost the task for good.
    """
    try:
        result, message = ray.get(task)
    except RayTaskError:  # a mistake of ours keeps its traceback
        raise
    except RayError as error:
        reason = str(error).strip().splitlines()[0]
        raise DataError(
            f"the cluster lost a task too often ({type(error).__name__}: {reason}); the same "
            "command goes on where it stopped"
        ) from None
    if message:
        raise DataError(message)
    return result


TASKS_PER_CPU = 2
"""Tasks handed to Ray at once, for each core: one that runs and one that waits."""


def prepare_on_ray(experiment: Experiment, progress: ProgressCallback = no_progress) -> Manifest:
    """Prepare the corpus of an experiment on the cluster that `ray.init` has joined or started.

    Raises:
        DataError: as `nmt.corpus.prepare.prepare`, or the cluster lost a task for good.
    """
    return prepare(experiment, run_on_ray, progress)


def run_on_ray(function: Callable[..., Any], tasks: Sequence[tuple[Any, ...]]) -> Iterator[Any]:
    """Run tasks on the cluster, a bounded number at once; yields results as they come.

    Raises:
        DataError: what a task raised, as if it had run here; the other tasks are called off.
    """
    remote = ray.remote(num_cpus=1)(attempt)
    most = TASKS_PER_CPU * max(1, int(ray.cluster_resources().get("CPU", 1)))
    waiting = list(reversed(tasks))
    running: list[Any] = []
    try:
        while waiting or running:
            while waiting and len(running) < most:
                running.append(remote.remote(function, *waiting.pop()))
            done, running = ray.wait(running, num_returns=1)
            yield result_of(done[0])
    finally:
        for task in running:
            ray.cancel(task)
