"""Messages between the workers of a run and the command that started it.

The mailbox is an actor on the host of the command, as is Ray's controller: it outlives the workers
and keeps their last update and the reasons of their loss for the group that replaces them. This
module imports neither Ray Train nor torch: the actor would import them before the first worker is
requested.
"""

import time
from typing import Any, NamedTuple

import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

POLL_S = 0.3
"""Seconds between two polls, in both directions."""
NOTICE_WINDOW_S = 10.0
"""Seconds before the deadline of a preemption notice from which the notice explains a loss."""

Message = tuple[str, Any]
"""Kind and content: log (line), update (updates done), lost (reason), notice (reason, deadline),
out_of_memory (reason, split factor), error (text), ended (RunResult)."""


class PreviousGroup(NamedTuple):
    """Worker groups before the one that starts, as known to the mailbox."""

    loss_reason: str = ""
    """Reasons of their loss, joined by "; "; empty for the first group."""
    last_update: tuple[int, float] | None = None
    """Updates done and time of the last update reported, in seconds since 1970."""
    min_split: int = 1
    """Split factor of micro-batches to use at least, after running out of memory."""


def start_mailbox() -> Any:
    """Start the actor on this host and return its handle."""
    node_id = ray.get_runtime_context().get_node_id()
    here = NodeAffinitySchedulingStrategy(node_id, soft=False)
    return ray.remote(num_cpus=0, scheduling_strategy=here)(Mailbox).remote()


class Mailbox:
    """State of the actor: unread messages, the stop request and the history of worker groups."""

    def __init__(self) -> None:
        self._unread: list[Message] = []
        self._is_stop_requested = False
        self._reasons: list[str] = []
        self._num_reasons_given = 0
        self._notice: tuple[str, float] | None = None
        self._last_update: tuple[int, float] | None = None
        self._min_split = 1

    def send(self, message: Message) -> bool:
        """Store a message for the driver; return True if the driver requested a stop."""
        kind, content = message
        reason = ""
        if kind == "update":
            self._last_update = (content, time.time())
            # Reasons sent since this group started are about this group and stay.
            del self._reasons[: self._num_reasons_given]
            self._num_reasons_given = 0
        elif kind == "notice":
            # For the next group only: the training loop logs the notice itself.
            self._notice = content
        elif kind == "lost":
            reason = content
        elif kind == "out_of_memory":
            reason, split = content
            self._min_split = max(self._min_split, 2 * split)
        # Ray reports a failure once per attempt; the driver prints each reason once.
        if kind != "notice" and reason not in self._reasons:
            self._unread.append(message)
            self._reasons += [reason] if reason else []
        return self._is_stop_requested

    def start_group(self) -> PreviousGroup:
        """Register a new worker group; return the history of the groups before it."""
        reasons = list(self._reasons)
        self._num_reasons_given = len(reasons)
        if self._notice is not None and time.time() > self._notice[1] - NOTICE_WINDOW_S:
            reasons.insert(0, self._notice[0])
            self._notice = None
        # A group that Ray resized reports no loss.
        if self._last_update is not None and not reasons:
            reasons = ["the workers were replaced"]
        return PreviousGroup("; ".join(reasons), self._last_update, self._min_split)

    def receive(self) -> list[Message]:
        """Return all messages since the last call."""
        messages, self._unread = self._unread, []
        return messages

    def request_stop(self) -> None:
        """Make rank 0 stop after its current update."""
        self._is_stop_requested = True


class MailboxClient:
    """Worker side of the mailbox; no method waits for the driver."""

    def __init__(self, mailbox: Any) -> None:
        self._mailbox = mailbox
        self._pending: Any = None
        self._sent_s = 0.0

    def send(self, kind: str, content: Any) -> None:
        """Send a message to the driver."""
        self._mailbox.send.remote((kind, content))

    def report_update(self, update: int) -> bool:
        """Report the updates done, every POLL_S; return True if a stop was requested.

        The answer is that of an earlier call, so that an update does not wait for a round trip.
        """
        if self._pending is not None and ray.wait([self._pending], timeout=0)[0]:
            answer, self._pending = self._pending, None
            if ray.get(answer):
                return True
        if self._pending is None and time.monotonic() - self._sent_s > POLL_S:
            self._sent_s = time.monotonic()
            self._pending = self._mailbox.send.remote(("update", update))
        return False
