"""The gradient of an update, where memory may run out.

Where it does at one worker, all workers agree to make the update again, with the micro-batch that
was too large in two halves, and these in two if need be. Each token counts as before, so the
gradient is the same up to the order of sums; only dropout draws other values for halves than for
the whole. The next update is tried whole again. Before the first one, the largest micro-batch that
can come is rehearsed, so that who asks for too much hears of it at once.
"""

import hashlib
from collections.abc import Sequence
from typing import NamedTuple

import torch

from nmt.batching.batch import Batch, make_batch
from nmt.batching.loader import MicroBatch
from nmt.batching.schedule import Schedule, Update
from nmt.config.experiment import Experiment
from nmt.corpus.subword import EOS
from nmt.errors import TrainingError
from nmt.training.distributed import World
from nmt.training.learner import Learner
from nmt.training.loss import LossSums

_SIGNS = ("out of memory", "can't allocate memory", "not enough memory", "ALLOC_FAILED")
"""What torch, CUDA, cuDNN and cuBLAS say in errors that are not torch.OutOfMemoryError."""


class Split(NamedTuple):
    """A micro-batch, or a part of one, that was halved."""

    worker: int
    micro_batch: int
    """Its number within the update."""
    num_pairs: int
    """Pairs of what was too large."""
    positions: int
    """Positions of both its sides, padding counted."""


class Gradient(NamedTuple):
    """What was learnt from at this worker, and what did not fit at any of them."""

    parts: list[tuple[Batch, LossSums]]
    splits: list[Split]


def add_gradient(
    learner: Learner,
    update: Update,
    micro_batches: Sequence[MicroBatch],
    num_tgt_tokens: int,
    seed: int,
    world: World,
) -> Gradient:
    """Add up the gradient of an update over all workers, who all must ask.

    Args:
        micro_batches: of this worker.
        num_tgt_tokens: of all workers' micro-batches.

    Raises:
        TrainingError: a single pair does not fit into a worker's memory.
    """
    parts = [[micro_batch.batch] for micro_batch in micro_batches]
    splits: list[Split] = []
    while True:
        done, failed = _try(learner, update, micro_batches, parts, num_tgt_tokens, seed)
        if not learner.share(failed is not None):
            return Gradient(done, splits)
        learner.forget()
        del done
        mine = None if failed is None else _halve(parts, micro_batches, failed, world.rank)
        found = [Split(*theirs) for theirs in world.all_gather(mine) if theirs is not None]
        splits += found
        for split in found:
            if split.num_pairs < 2:
                raise TrainingError(
                    f"update {update.number + 1}: worker {split.worker} ran out of memory over one "
                    f"pair ({split.positions} tokens of both sides); lower batching.max_length or "
                    "the size of the model, or give each worker more memory"
                )


def rehearse(learner: Learner, experiment: Experiment, schedule: Schedule, begun: int) -> int:
    """Try the largest micro-batch of all here, as the updates after `begun` will need it.

    Returns:
        How many of its pairs fit into memory together: all; half of them, if need be of these; 0.
    """
    stages = (stage.from_update for stage in experiment.stages)
    starts = [begun, *(start for start in stages if start > begun)]
    # R-Drop makes two of each pair.
    learner.begin(max(starts, key=lambda start: experiment.training_at(start).rdrop > 0), 0)
    num_pairs, length = schedule.largest
    side = [EOS] * (length - 1)
    while num_pairs:
        try:
            learner.rehearse(make_batch([(side, side)] * num_pairs))
        except RuntimeError as error:
            if not is_out_of_memory(error):
                raise
        else:
            break
        # Only here is all given back that the model had in memory: the error held it.
        num_pairs //= 2
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
    return num_pairs


def seed_of(seed: int, update: int, micro_batch: int) -> int:
    """The seed of dropout in one micro-batch: 63 bits that depend on all three numbers (P3)."""
    digest = hashlib.blake2b(f"{seed} {update} {micro_batch}".encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little") >> 1


def is_out_of_memory(error: RuntimeError) -> bool:
    """Whether memory ran out, on a GPU or on a CPU."""
    return isinstance(error, torch.OutOfMemoryError) or any(s in str(error) for s in _SIGNS)


def _try(
    learner: Learner,
    update: Update,
    micro_batches: Sequence[MicroBatch],
    parts: list[list[Batch]],
    num_tgt_tokens: int,
    seed: int,
) -> tuple[list[tuple[Batch, LossSums]], tuple[int, int] | None]:
    """This worker's share; where it ran out of memory: the micro-batch here, and the part of it."""
    done: list[tuple[Batch, LossSums]] = []
    num_parts = sum(map(len, parts))
    for here, micro_batch in enumerate(micro_batches):
        torch.manual_seed(seed_of(seed, update.number, micro_batch.index))
        for part, batch in enumerate(parts[here]):
            is_my_last = len(done) == num_parts - 1
            try:
                loss = learner.backward(batch, num_tgt_tokens, is_my_last)
            except RuntimeError as error:
                if not is_out_of_memory(error):
                    raise
                # Returned from here: the error holds all that the model had in memory.
                return done, (here, part)
            done.append((batch, loss))
    return done, None


def _halve(
    parts: list[list[Batch]],
    micro_batches: Sequence[MicroBatch],
    failed: tuple[int, int],
    rank: int,
) -> Split:
    here, part = failed
    batch = parts[here][part]
    if len(batch.src) > 1:
        parts[here][part : part + 1] = batch.split()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
    return Split(rank, micro_batches[here].index, len(batch.src), batch.num_padded)
