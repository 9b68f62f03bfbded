"""What Ray's controller tells the mailbox: which workers were lost, and why."""

from collections.abc import Mapping
from typing import Any

from ray.train import UserCallback


class Losses(UserCallback):  # type: ignore[misc]
    """Tells the mailbox of each worker that died or raised; runs at Ray's controller."""

    def __init__(self, mailbox: Any) -> None:
        self._mailbox = mailbox

    def after_exception(self, run_context: Any, worker_exceptions: Mapping[int, Any]) -> None:
        """Called by Ray."""
        self._mailbox.put.remote(("lost", reason_of(worker_exceptions)))


def reason_of(failures: Mapping[int, BaseException]) -> str:
    """Why workers failed, in a line; one that died comes before what it did to others."""
    texts = {rank: str(error) for rank, error in failures.items()}
    for sign, what in (("node has died", "died with the host"), ("died", "died")):
        dead = [str(rank) for rank, text in sorted(texts.items()) if sign in text]
        if dead:
            return f"worker{'s' * (len(dead) > 1)} {', '.join(dead)} {what}"
    rank, text = next(iter(sorted(texts.items())))
    last = next((line.strip() for line in reversed(text.splitlines()) if line.strip()), "no word")
    return f"worker {rank}: {last[:200]}"
