"""Results of tasks on Ray: what goes wrong in one is said in a line, as if it had happened here."""

from collections.abc import Callable
from typing import Any

import ray
from ray.exceptions import RayError, RayTaskError

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
