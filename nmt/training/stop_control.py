"""How a run is looked after: what stops it, and what makes it save.

The loop asks `StopControl` once after each update. Rank 0 decides, by its clock and by what
it was told, and all workers do the same after the same update.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

from nmt.batching.schedule import Update
from nmt.errors import TrainingError
from nmt.training.distributed import World
from nmt.training.run_log import AnyRecords, LastUpdate

MAX_UNWRITTEN = 3
"""Checkpoints in a row that cannot be written, after which the run stops."""
LOOK_S = 1.0
"""Seconds between two looks for a notice that hosts will be taken away."""
MARGIN_S = 3.0
"""Seconds before they are at which the last checkpoint begins, at the latest."""


@dataclass(frozen=True)
class RunHooks:
    """What surrounds a run; by default nothing does."""

    max_lost_updates: int = 0
    """Most updates that a loss may cost; 0: training.checkpoint_every alone counts."""
    loss_reason: str = ""
    """Why workers before these were lost, as far as it is known; the first worker is told."""
    last_update: LastUpdate | None = None
    """The last update that they were heard of."""
    min_split: int = 1
    """Least number of parts that each micro-batch is cut into; see `nmt.training.memory`."""
    on_update: Callable[[Update], None] = lambda update: None
    """Told each update before it is made, at each worker."""
    on_pause: Callable[[str], None] = lambda what: None
    """Told what is done between two updates that may take long, at each worker."""
    deadline: Callable[[], float | None] | None = None
    """When hosts of this run will be taken away, in seconds since 1970; None: nobody said so. All
    workers ask at once, and all get the same answer."""


class Orders(NamedTuple):
    """What is to be done after an update, the same at all workers."""

    stop: bool
    save: bool
    hurry: bool
    """Wait until the checkpoint is on the disk: hosts will be taken away."""
    unwritten: bool
    """A checkpoint before could not be written."""


class StopControl:
    """Asks after each update what is to be done."""

    def __init__(
        self,
        world: World,
        hooks: RunHooks,
        should_stop: Callable[[int], bool],
        records: AnyRecords,
    ) -> None:
        """Args: should_stop: told the updates done, at the first worker; True: stop."""
        self._world = world
        self._hooks = hooks
        self._at_update = should_stop
        # Half of it: a checkpoint is on the disk before the next one begins, but no sooner.
        self._every = (hooks.max_lost_updates + 1) // 2
        self._records = records
        self._looked = 0.0
        self._deadline: float | None = None
        self._is_saved_late = False
        self.save_s = 0.0
        """Seconds that the last checkpoint took."""

    def ask(self, done: int) -> Orders:
        """All workers must ask, after the same update."""
        stop = look = late = unwritten = False
        if self._world.is_main:
            stop = self._at_update(done)
            look = self._hooks.deadline is not None and time.time() - self._looked > LOOK_S
            late = self._is_late()
            unwritten = self._records.has_failed
        asked = self._world.all_reduce([float(flag) for flag in (stop, look, late, unwritten)])
        stop, look, late, unwritten = (number > 0 for number in asked)
        self._is_saved_late |= late
        hurry = (look and self._look(done)) or late
        is_due = self._every > 0 and done % self._every == 0
        return Orders(stop, hurry or is_due, hurry, unwritten)

    def _is_late(self) -> bool:
        if self._deadline is None or self._is_saved_late:
            return False
        return time.time() > self._deadline - max(MARGIN_S, 2 * self.save_s)

    def _look(self, done: int) -> bool:
        assert self._hooks.deadline is not None
        self._looked = time.time()
        deadline = self._hooks.deadline()
        if deadline is None or deadline == self._deadline:
            return False
        self._deadline, self._is_saved_late = deadline, False
        left_s = deadline - time.time()
        self._records.write("notice", done, {"left_s": round(left_s, 3)})
        self._records.say(
            f"update {done:,}: hosts of this run will be taken away in {left_s:.0f} s; a "
            "checkpoint now, and one more just before"
        )
        return True


def check_written(records: AnyRecords, world: World, is_end: bool, update: int) -> None:
    """Act on how checkpoints went: without one that could not be written training goes on.

    All workers must ask after the same update, so that nobody waits for one that gave up.

    Args:
        is_end: nothing is trained after this.

    Raises:
        TrainingError: it was the last one of the run, or one too many in a row.
    """
    problem, failures = world.all_gather(records.problem())[0]
    if not problem:
        return
    if is_end or failures >= MAX_UNWRITTEN:
        which = "the last checkpoint" if is_end else f"{failures} checkpoints in a row"
        raise TrainingError(
            f"{which} could not be written: {problem}; the same command then goes on from the last "
            "good one"
        )
    records.write("unwritten", update, {"problem": problem})
    records.say(
        f"update {update:,}: training goes on without a checkpoint ({failures} of "
        f"{MAX_UNWRITTEN} in a row that end the run): {problem}"
    )
