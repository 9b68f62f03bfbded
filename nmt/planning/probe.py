"""Twenty updates made here, by one worker: what a micro-batch and an optimizer step take.

A micro-batch takes a fixed time and one that grows with its positions, padding counted: a line laid
through twenty micro-batches from all over an epoch. Where whole ones would take too long they are
cut to fewer pairs of the same lengths.
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from nmt.batching.batch import Batch, make_batch
from nmt.batching.schedule import Rows, Schedule
from nmt.config.experiment import Experiment
from nmt.corpus.shards import Shards
from nmt.training.distributed import World
from nmt.training.learner import Learner

UPDATES = 20
FIRST_PAIRS = 4
"""Pairs of the micro-batch that shows how large the others may be."""


@dataclass(frozen=True)
class Probe:
    """What was measured, in seconds of an otherwise idle core."""

    fixed_s: float
    """Of a micro-batch, whatever its size."""
    position_s: float
    """Of each of its positions, padding counted."""
    spread_s: float
    """What it differs by itself from the sum of the two, standard deviation."""
    step_s: float
    """Of clipping, optimizer and average."""
    saved_bytes: float
    """Kept for backward, for each position."""
    position_flops: float
    """Useful work in each position, forward and backward."""
    share: float
    """Mean size of the micro-batches made, of the whole ones; 1: they were whole."""

    def micro_batch_s(self, positions: float) -> float:
        """Of one with so many positions."""
        return self.fixed_s + self.position_s * positions


def probe(
    experiment: Experiment, shards: Shards, schedule: Schedule, num_pieces: int, seconds: float
) -> Probe:
    """Make micro-batches of twenty updates, in about so many seconds."""
    learner = Learner(experiment, num_pieces, World())
    numbers = np.linspace(0, schedule.updates_per_epoch - 1, UPDATES).astype(int)
    rows = [schedule.update(int(number)).micro_batches[0] for number in numbers]
    pairs_s = _seconds_of(lambda: _learn(learner, _batch(shards, rows[0], FIRST_PAIRS)))
    saved = 0

    def weigh(tensor: Tensor) -> Tensor:
        nonlocal saved
        saved += tensor.nbytes
        return tensor

    first = _batch(shards, rows[0], FIRST_PAIRS)
    with torch.autograd.graph.saved_tensors_hooks(weigh, lambda tensor: tensor):
        pairs_s = min(pairs_s, _seconds_of(lambda: _learn(learner, first)))
    per_position_s = pairs_s / first.num_padded
    most = seconds / UPDATES / per_position_s  # positions that the time allows to each
    steps, points, shares, flops, padded = [], [], [], 0.0, 0
    for number, of_update in zip(numbers, rows, strict=True):
        steps.append(_seconds_of(lambda: learner.step(int(number))))  # noqa: B023 called at once
        batch = _batch(shards, of_update, max(1, len(of_update)))
        share = min(1.0, most / batch.num_padded)
        if share < 1:
            batch = _batch(shards, of_update, max(1, round(share * len(of_update))))
        took_s = _seconds_of(lambda: _learn(learner, batch))  # noqa: B023 called at once
        points.append((batch.num_padded, took_s))
        shares.append(share)
        flops += learner.model.flops().update(batch.src_lengths, batch.tgt_lengths)
        padded += batch.num_padded
    fixed_s, position_s = line_through(points)
    return Probe(
        fixed_s,
        position_s,
        spread_about(points, fixed_s, position_s),
        float(np.median(steps)),
        saved / first.num_padded,
        flops / padded,
        float(np.mean(shares)),
    )


def line_through(points: Sequence[tuple[float, float]]) -> tuple[float, float]:
    """Fixed part and slope, neither below 0, of the line that lies nearest."""
    sizes, seconds = np.array(points, dtype=float).T
    apart = sizes - sizes.mean()
    slope = float((apart * seconds).sum() / (apart**2).sum()) if apart.any() else 0.0
    fixed = float(seconds.mean() - slope * sizes.mean())
    if slope <= 0 or fixed < 0:
        return 0.0, float(seconds.sum() / sizes.sum())
    return fixed, slope


def spread_about(points: Sequence[tuple[float, float]], fixed_s: float, position_s: float) -> float:
    """Standard deviation about a line, by the median of what points are off: a few may be far."""
    sizes, seconds = np.array(points, dtype=float).T
    return float(1.4826 * np.median(np.abs(seconds - fixed_s - position_s * sizes)))


def _batch(shards: Shards, rows: Rows, num_pairs: int) -> Batch:
    """The pairs that come last: they are the longest."""
    return make_batch(shards.pairs(rows[-num_pairs:]))


def _learn(learner: Learner, batch: Batch) -> None:
    learner.backward(batch, max(1, len(batch.tgt_out)), is_my_last=True)


def _seconds_of(work: Callable[[], object]) -> float:
    """By the wall clock; with one thread, of the processor, which other load does not stretch."""
    wall, cpu = time.perf_counter(), time.process_time()
    work()
    return min(time.perf_counter() - wall, time.process_time() - cpu)
