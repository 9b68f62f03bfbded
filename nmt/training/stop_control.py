"""Hooks of a run, and decisions after each update: stop, save, or end with an error.

Rank 0 decides by its clock and its requests; a collective makes every rank do the same after the
same update. With several ranks it runs during the next update, so that no rank waits for it: a
request takes effect one update later.
"""

import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import torch

from nmt.batching.schedule import Update
from nmt.checkpoint.async_writer import AsyncCheckpointWriter
from nmt.errors import TrainingError
from nmt.training.distributed import World
from nmt.training.meter import UpdateStats
from nmt.training.run_log import LastUpdate, RunLogger
from nmt.training.state import Learner, TrainState

MAX_FAILED_CHECKPOINTS = 3
"""Checkpoints in a row that cannot be written before the run ends."""
POLL_S = 1.0
"""Seconds between two queries for a preemption notice."""
MARGIN_S = 3.0
"""Least seconds between the start of the last checkpoint and the preemption."""


@dataclass(frozen=True)
class RunHooks:
    """Optional hooks and limits of a run."""

    max_lost_updates: int = 0
    """Updates that a failure may cost at most; 0: only training.checkpoint_every limits them."""
    loss_reason: str = ""
    """Reason for the loss of the previous workers, if known; only that of rank 0 is used."""
    last_update: LastUpdate | None = None
    """Last update that the previous workers reported."""
    min_split: int = 1
    """Least split factor; see `nmt.training.memory`."""
    on_update: Callable[[Update], None] = lambda update: None
    """Called before each update, on each rank."""
    on_pause: Callable[[str], None] = lambda activity: None
    """Called before each activity between two updates that may take long, on each rank."""
    deadline: Callable[[], float | None] | None = None
    """Return the time at which hosts of this run will be preempted, in seconds since 1970, or None.

    Collective: all ranks call it at once, and get the same answer."""


class StopDecision(NamedTuple):
    """Decision after an update, the same on all ranks."""

    stop: bool
    save: bool
    is_urgent: bool
    """True if training waits until the checkpoint is written: hosts will be preempted."""
    has_write_failed: bool
    """True if an earlier checkpoint could not be written."""


class StopControl:
    """Decides after each update whether to stop or to save."""

    def __init__(
        self,
        world: World,
        hooks: RunHooks,
        should_stop: Callable[[int], bool],
        logger: RunLogger | None,
        writer: AsyncCheckpointWriter | None,
    ) -> None:
        """Create the control of one rank.

        Args:
            should_stop: called on rank 0 with the updates done; True requests a stop.
            logger: on rank 0.
            writer: of checkpoints, on rank 0.
        """
        self._world = world
        self._hooks = hooks
        self._should_stop = should_stop
        # Half of the limit: a checkpoint is written before the next one starts, but not sooner.
        self._save_every = (hooks.max_lost_updates + 1) // 2
        self._logger = logger
        self._writer = writer
        self._polled = 0.0
        self._deadline: float | None = None
        self._is_last_save_done = False
        self._flags: Callable[[], list[float]] | None = None
        """Waits for the sums of the flags of the last update; None: no collective is pending."""
        self.save_s = 0.0
        """Seconds that the last urgent checkpoint took."""

    def decide(self, done: int) -> StopDecision:
        """Decide after update `done`. Collective: call on every rank."""
        stop = poll = last_save = failed = False
        if self._world.is_main:
            stop = self._should_stop(done)
            poll = self._hooks.deadline is not None and time.time() - self._polled > POLL_S
            last_save = self._is_last_save_due()
            failed = self._writer is not None and self._writer.error is not None
            # Not again in the next update, where the flag of this one arrives.
            self._is_last_save_done |= last_save
            self._polled = time.time() if poll else self._polled
        flags = [float(flag) for flag in (stop, poll, last_save, failed)]
        stop, poll, last_save, failed = (count > 0 for count in self._exchange(flags))
        self._is_last_save_done |= last_save
        is_urgent = (poll and self._is_new_deadline(done)) or last_save
        is_due = self._save_every > 0 and done % self._save_every == 0
        return StopDecision(stop, is_urgent or is_due, is_urgent, failed)

    def close(self) -> None:
        """Wait for the last flags: no collective is left when the process group is closed."""
        if self._flags is not None:
            self._flags()
            self._flags = None

    def _exchange(self, flags: list[float]) -> list[float]:
        """Start to sum flags over the ranks; return the sums of the update before.

        With one rank they are those of this update.
        """
        started = self._world.start_all_reduce(flags)
        if self._world.size == 1:
            return started()
        arrived, self._flags = self._flags, started
        return arrived() if arrived is not None else [0.0] * len(flags)

    def handle_skipped(
        self, update: Update, stats: UpdateStats, learner: Learner, state: TrainState
    ) -> None:
        """Count and log an update without a finite gradient. Collective: call on every rank.

        Raises:
            TrainingError: training.max_skipped updates in a row had none. Overflows of fp16, whose
                loss is finite, do not count while the loss scale can fall.
        """
        training = learner.experiment.training
        if learner.scaler.is_enabled():
            losses = torch.stack([each.smoothed for each in stats.losses]).tolist()
            loss = self._world.all_reduce([sum(losses)])[0]
            scale = learner.loss_scale.value
            if math.isfinite(loss) and scale >= 1:
                state.num_overflows += 1
                if self._logger is not None:
                    self._logger.write("overflow", state.update, {"loss_scale": scale})
                    self._logger.log(
                        f"update {state.update:,} skipped | fp16 gradient overflow | loss scale "
                        f"lowered to {scale:,g}"
                    )
                return
        state.num_skipped += 1
        state.skipped_in_a_row += 1
        rows = sorted(int(row) for part in update.micro_batches for row in part)
        if self._logger is not None:
            self._logger.write("skipped", state.update, {"gnorm": str(stats.gnorm), "pairs": rows})
            self._logger.log(
                f"update {state.update:,} skipped | gnorm {stats.gnorm} | pairs {rows[0]} to "
                f"{rows[-1]}, all {len(rows)} in metrics.jsonl"
            )
        if state.skipped_in_a_row >= training.max_skipped:
            raise TrainingError(
                f"the gradient of {training.max_skipped} updates in a row was not finite, the last "
                f"one update {state.update}: lower training.learning_rate "
                f"({training.learning_rate}) or use training.precision=fp32; repeat the command to "
                "resume from the last checkpoint"
            )

    def check_written(self, update: int, is_end: bool) -> None:
        """Act on a checkpoint that could not be written. Collective: call on every rank.

        Training continues without it, a few times in a row.

        Args:
            is_end: True if nothing is trained after this update.

        Raises:
            TrainingError: it was the last checkpoint of the run, or one too many in a row.
        """
        found = ("", 0)
        if self._writer is not None:
            found = (self._writer.take_error(), self._writer.num_failures)
        problem, failures = self._world.all_gather(found)[0]
        if not problem:
            return
        if is_end or failures >= MAX_FAILED_CHECKPOINTS:
            which = "the last checkpoint" if is_end else f"{failures} checkpoints in a row"
            raise TrainingError(
                f"{which} could not be written: {problem}; repeat the command to resume from the "
                "last complete one"
            )
        if self._logger is not None:
            self._logger.write("unwritten", update, {"problem": problem})
            self._logger.log(
                f"update {update:,} | checkpoint failed ({failures} in a row, "
                f"{MAX_FAILED_CHECKPOINTS} end the run): {problem}"
            )

    def _is_last_save_due(self) -> bool:
        if self._deadline is None or self._is_last_save_done:
            return False
        return time.time() > self._deadline - max(MARGIN_S, 2 * self.save_s)

    def _is_new_deadline(self, done: int) -> bool:
        assert self._hooks.deadline is not None
        self._polled = time.time()
        deadline = self._hooks.deadline()
        if deadline is None or deadline == self._deadline:
            return False
        self._deadline, self._is_last_save_done = deadline, False
        left_s = deadline - time.time()
        if self._logger is not None:
            self._logger.write("notice", done, {"left_s": round(left_s, 3)})
            self._logger.log(
                f"update {done:,} | hosts of this run will be preempted in {left_s:.0f} s | saving "
                "a checkpoint now and one just before"
            )
        return True
