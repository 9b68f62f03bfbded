"""Probe of twenty updates on this machine: seconds of a micro-batch and of an optimizer step.

The time of a micro-batch is a constant plus a part proportional to its positions, padding included:
a line fitted through twenty micro-batches sampled over an epoch. If complete micro-batches would
exceed the time limit, they are reduced to fewer pairs of the same lengths.
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from nmt.batching.batch import Batch, make_batch
from nmt.batching.schedule import Rows, Schedule, Update
from nmt.config.experiment import Experiment
from nmt.corpus.shards import Shards
from nmt.training.distributed import World
from nmt.training.loop import make_update
from nmt.training.loss import compute_loss
from nmt.training.state import Learner, TrainState

UPDATES = 20
NUM_FIRST_PAIRS = 4
"""Pairs of the first micro-batch, which decides the size of the others."""


@dataclass(frozen=True)
class Probe:
    """Measured times in seconds, as on an otherwise idle core."""

    fixed_s: float
    """Constant part of a micro-batch."""
    position_s: float
    """Time per position, padding included."""
    spread_s: float
    """Standard deviation of a micro-batch about the fitted line."""
    step_s: float
    """Clipping, optimizer step and average."""
    fixed_bytes: float
    """Bytes saved for backward by any micro-batch, such as weights cast to bf16."""
    position_bytes: float
    """Bytes saved for backward per position."""
    position_flops: float
    """FLOPs per position, forward and backward, padding not computed."""
    share: float
    """Mean size of the measured micro-batches relative to complete ones."""

    def micro_batch_s(self, positions: float) -> float:
        """Return the predicted seconds of a micro-batch."""
        return self.fixed_s + self.position_s * positions

    def micro_batch_bytes(self, positions: float) -> float:
        """Return the predicted bytes that a micro-batch saves for backward."""
        return self.fixed_bytes + self.position_bytes * positions


def run_probe(
    experiment: Experiment, shards: Shards, schedule: Schedule, num_pieces: int, limit_s: float
) -> Probe:
    """Train on micro-batches of twenty updates within about `limit_s` seconds.

    With the settings of the stage that needs most time and memory.
    """
    learner = Learner(experiment, num_pieces, World())
    learner.set_stage(experiment.costliest_update())
    numbers = np.linspace(0, schedule.updates_per_epoch - 1, UPDATES).astype(int)
    rows = [schedule.update(int(number)).micro_batches[0] for number in numbers]
    first = _batch(shards, rows[0], NUM_FIRST_PAIRS)
    # Twice: the first call includes one-time costs.
    first_s = min(_seconds_of(lambda: _train_on(learner, first)) for _ in range(2))
    smaller = _batch(shards, rows[0], NUM_FIRST_PAIRS // 2)
    fixed_bytes, position_bytes = fit_line(
        [(batch.num_padded, saved_bytes(learner, batch)) for batch in (smaller, first)]
    )
    max_positions = limit_s / UPDATES / 2 / (first_s / first.num_padded)
    steps, points, shares, flops, padded = [], [], [], 0.0, 0
    for number, of_update in zip(numbers, rows, strict=True):
        # Without micro-batches an update is clipping, optimizer step and average alone.
        update = Update(int(number), 0, (), 1)
        steps.append(_seconds_of(lambda: make_update(learner, TrainState(), update, [], 1)))  # noqa: B023 called at once
        # Reduce the number of pairs but not their length, which decides the time per position.
        batch = _batch(shards, of_update, max(1, len(of_update)))
        share = min(1.0, max_positions / batch.num_padded)
        if share < 1:
            batch = _batch(shards, of_update, max(1, round(share * len(of_update))))
        # Twice: kernels are compiled once per shape, and training meets each shape often.
        seconds = min(_seconds_of(lambda: _train_on(learner, batch)) for _ in range(2))  # noqa: B023 called at once
        points.append((batch.num_padded, seconds))
        shares.append(share)
        flops += learner.model.flops().update(batch.src_lengths, batch.tgt_lengths)
        padded += batch.num_padded
    fixed_s, position_s = fit_line(points)
    return Probe(
        fixed_s, position_s, spread_about(points, fixed_s, position_s), float(np.median(steps)),
        fixed_bytes, position_bytes, flops / padded, float(np.mean(shares)),
    )  # fmt: skip


def saved_bytes(learner: Learner, batch: Batch) -> int:
    """Train on a batch and return the bytes saved for backward, without those of the weights."""
    weights = {each.untyped_storage().data_ptr() for each in learner.model.parameters()}
    total = 0

    def count(tensor: Tensor) -> Tensor:
        nonlocal total
        total += tensor.nbytes * (tensor.untyped_storage().data_ptr() not in weights)
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(count, lambda tensor: tensor):
        _train_on(learner, batch)
    return total


def fit_line(points: Sequence[tuple[float, float]]) -> tuple[float, float]:
    """Return intercept and slope, neither negative, of the least-squares line."""
    sizes, seconds = np.array(points, dtype=float).T
    centred = sizes - sizes.mean()
    slope = float((centred * seconds).sum() / (centred**2).sum()) if centred.any() else 0.0
    fixed = float(seconds.mean() - slope * sizes.mean())
    if slope <= 0 or fixed < 0:
        # Noise exceeds one of the parts: use a line through the origin.
        return 0.0, float(seconds.sum() / sizes.sum())
    return fixed, slope


def spread_about(points: Sequence[tuple[float, float]], fixed_s: float, position_s: float) -> float:
    """Return the standard deviation about a line, from the median deviation (robust)."""
    sizes, seconds = np.array(points, dtype=float).T
    return float(1.4826 * np.median(np.abs(seconds - fixed_s - position_s * sizes)))


def _batch(shards: Shards, rows: Rows, num_pairs: int) -> Batch:
    """Return the last pairs of a micro-batch, which are its longest."""
    return make_batch(shards.pairs(rows[-num_pairs:]))


def _train_on(learner: Learner, batch: Batch) -> None:
    model, settings = learner.model, learner.settings
    loss = compute_loss(model, model, batch, settings, learner.dtype).smoothed
    # Scaled as in training: with fp16 the optimizer step needs a loss scale.
    learner.scaler.scale(loss / max(1, len(batch.tgt_out))).backward()  # type: ignore[no-untyped-call]


def _seconds_of(function: Callable[[], object]) -> float:
    """Return wall-clock seconds, or CPU seconds if fewer: other load does not count."""
    wall, cpu = time.perf_counter(), time.process_time()
    function()
    return min(time.perf_counter() - wall, time.process_time() - cpu)
