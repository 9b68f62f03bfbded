"""Between the workers of a run and the command that started it: lines, progress, losses, a stop.

The mailbox is an actor on the host of the command, which is that of Ray's controller too: it
outlives the workers, and knows what they had done when they were lost. Nothing of Ray Train is
imported here: the actor would import all of it before the first worker is asked for.
"""

import time
from typing import Any

import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

POLL_S = 0.3
"""Seconds between two looks at what the other side says."""
LATE_S = 10.0
"""Seconds before its deadline from which a notice explains a loss."""


def open_mailbox() -> Any:
    """A mailbox on this host."""
    here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
    return ray.remote(num_cpus=0, scheduling_strategy=here)(Mailbox).remote()


class Mailbox:
    """What each side has to say to the other."""

    def __init__(self) -> None:
        self._letters: list[tuple[str, Any]] = []
        self._is_stop_asked = False
        self._reasons: list[str] = []
        self._notice: tuple[str, float] | None = None
        self._last: tuple[int, float] | None = None

    def put(self, letter: tuple[str, Any]) -> bool:
        """Leave a letter for the driver; says whether the driver wants to stop."""
        kind, content = letter
        is_known = kind == "lost" and content in self._reasons
        if kind == "notice":
            self._notice = content
        elif not is_known:
            self._letters.append(letter)
        if kind == "update":
            self._last, self._reasons = (content, time.time()), []
        elif kind == "lost" and not is_known:
            self._reasons.append(content)
        return self._is_stop_asked

    def enter(self) -> tuple[str, tuple[int, float] | None]:
        """Of a first worker: why those before it were lost, and their last update, and when."""
        reasons = list(self._reasons)
        if self._notice is not None and time.time() > self._notice[1] - LATE_S:
            reasons.insert(0, self._notice[0])
            self._notice = None
        if self._last is not None and not reasons:
            reasons = ["the workers were replaced"]
        return "; ".join(reasons), self._last

    def take(self) -> list[tuple[str, Any]]:
        """All letters since the last call."""
        letters, self._letters = self._letters, []
        return letters

    def ask_to_stop(self) -> None:
        """Tell the first worker to stop after the update it is in."""
        self._is_stop_asked = True


class Post:
    """A worker's side of the mailbox; never waits for the driver."""

    def __init__(self, mailbox: Any) -> None:
        self._mailbox = mailbox
        self._answer: Any = None
        self._asked = 0.0

    def say(self, line: str) -> None:
        """Print a line for people."""
        self._mailbox.put.remote(("line", line))

    def lost(self, reason: str) -> None:
        """This worker is about to end, for that reason."""
        self._mailbox.put.remote(("lost", reason))

    def notice(self, reason: str, deadline: float) -> None:
        """Workers will be lost at that time, in seconds since 1970."""
        self._mailbox.put.remote(("notice", (reason, deadline)))

    def at_update(self, update: int) -> bool:
        """Tell the updates done now and then, and learn a little later whether to stop."""
        if self._answer is not None and ray.wait([self._answer], timeout=0)[0]:
            answer, self._answer = self._answer, None
            if ray.get(answer):
                return True
        if self._answer is None and time.monotonic() - self._asked > POLL_S:
            self._asked = time.monotonic()
            self._answer = self._mailbox.put.remote(("update", update))
        return False
