"""Notices of preemption: hosts of a run that will be taken away."""

import time

import ray.train

from nmt.jobs.mailbox import Post

NOTICE_S = 120.0
"""Seconds from a notice until a host is taken away, where nobody says when; Ray waits so long."""


class Notices:
    """Asks Ray whether hosts of this run are about to be taken away."""

    def __init__(self, post: Post) -> None:
        self._post = post
        self._known: tuple[object, float] | None = None

    def deadline(self) -> float | None:
        """When, in seconds since 1970; None: nobody said so. All workers must ask at once."""
        info = ray.train.get_preemption_info()
        if info is None:
            return None
        if self._known is None or self._known[0] != info:
            given = info.deadline_ms / 1000 if info.deadline_ms else time.time() + NOTICE_S
            self._known = info, given
            ranks = ", ".join(map(str, info.preempted_ranks))
            self._post.notice(f"the host of workers {ranks} was taken away", given)
        return self._known[1]
