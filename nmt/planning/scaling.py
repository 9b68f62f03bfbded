"""Predicted time of an update on 1 to 64 nodes.

Compute: for updates sampled over an epoch, each worker processes its micro-batches of the schedule
in the time given by the probe plus noise, and all wait for the slowest. All-reduce: a ring of n
members sends 2 (n - 1) / n of the bytes over each link in 2 (n - 1) steps (Patarasuk & Yuan 2009);
the workers of a node form one ring, the nodes another. On GPUs the all-reduce overlaps with the
last backward; on CPUs it uses the same cores. Finally each worker makes the same optimizer step.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from nmt.batching.schedule import Schedule
from nmt.config.experiment import Experiment
from nmt.corpus.shards import Lengths
from nmt.planning.probe import Probe


@dataclass(frozen=True)
class Links:
    """Bandwidths between workers."""

    between_gbit: float
    """Gbit/s between two nodes, per direction."""
    inside_gbit: float
    """Gbit/s between two workers of a node, per direction."""
    latency_us: float
    """Latency of one ring step in microseconds."""

    def all_reduce_s(self, num_bytes: float, nodes: int, workers_per_node: int) -> float:
        """Return the seconds of an all-reduce over all workers."""
        inside_s = self._ring_s(num_bytes, workers_per_node, self.inside_gbit)
        return inside_s + self._ring_s(num_bytes, nodes, self.between_gbit)

    def _ring_s(self, num_bytes: float, members: int, gbit: float) -> float:
        if members == 1:
            return 0.0
        sent = 2 * (members - 1) / members * num_bytes * 8 / (gbit * 1e9)
        return sent + 2 * (members - 1) * self.latency_us * 1e-6


ON_CPUS = Links(between_gbit=10, inside_gbit=10, latency_us=100)
"""gloo over TCP; within a machine it reaches 1 to 2 GB/s on a core shared with training."""
ON_GPUS = Links(between_gbit=400, inside_gbit=2400, latency_us=10)
"""NCCL over InfiniBand NDR and NVLink."""
NODES = (1, 2, 4, 8, 16, 32, 64)
MAX_SAMPLED_UPDATES = 400
OVERLAP = 0.6
"""Share of the last backward on a GPU during which gradients are sent."""
BACKWARD = 2 / 3
"""Share of backward in the time of a micro-batch."""

Positions = npt.NDArray[np.float64]
"""Positions of each micro-batch, padding included, [updates, micro-batches]."""


@dataclass(frozen=True)
class Hosts:
    """Resources of a node."""

    workers_per_node: int
    cpus_per_worker: int
    cores_per_node: int
    """0 for as many as the workers request."""
    has_gpus: bool

    @property
    def contention(self) -> float:
        """Slow-down factor of workers that share cores."""
        requested = self.workers_per_node * self.cpus_per_worker
        return max(1.0, requested / self.cores_per_node) if self.cores_per_node else 1.0


@dataclass(frozen=True)
class ScalingRow:
    """Predicted seconds of an update on a number of nodes."""

    nodes: int
    workers: int
    compute_s: float
    """Forward and backward, mean over workers."""
    waiting_s: float
    """Mean time until the slowest worker is ready."""
    all_reduce_s: float
    """All-reduce that does not overlap with backward."""
    step_s: float
    tgt_tokens: float
    """Target tokens per update."""
    efficiency: float
    """Tokens per second and worker relative to a single worker."""

    @property
    def update_s(self) -> float:
        """Total seconds of an update."""
        return self.compute_s + self.waiting_s + self.all_reduce_s + self.step_s

    @property
    def tgt_tokens_per_s(self) -> float:
        """Target tokens per second of all workers."""
        return self.tgt_tokens / self.update_s

    @property
    def limit(self) -> str:
        """Part of an update that limits its speed."""
        parts = {
            "all-reduce": self.all_reduce_s,
            "waiting for the slowest worker": self.waiting_s,
            "optimizer step": self.step_s,
        }
        largest = max(parts, key=lambda name: parts[name])
        # Below 15 % of the update the compute itself is the limit.
        return largest if parts[largest] > 0.15 * self.update_s else "forward and backward"


def sample_positions(
    lengths: tuple[Lengths, Lengths], schedule: Schedule
) -> tuple[Positions, float]:
    """Return micro-batch sizes of updates sampled over an epoch, and mean target tokens.

    Args:
        lengths: source and target lengths that the schedule was made with, without EOS.
        schedule: updates of the run.
    """
    num_sampled = min(MAX_SAMPLED_UPDATES, schedule.updates_per_epoch)
    numbers = np.linspace(0, schedule.updates_per_epoch - 1, num_sampled).astype(int)
    src, tgt = lengths
    sizes, tokens = [], []
    for number in np.unique(numbers):
        update = schedule.update(int(number))
        sizes.append([
            len(rows) * (int(src[rows].max()) + int(tgt[rows].max()) + 2) if len(rows) else 0
            for rows in update.micro_batches
        ])  # fmt: skip
        tokens.append(update.num_tgt_tokens)
    return np.array(sizes, dtype=np.float64), float(np.mean(tokens))


def predict_scaling(
    experiment: Experiment,
    gradient_bytes: int,
    sizes: tuple[Positions, float],
    probe: Probe,
    links: Links,
    hosts: Hosts,
    nodes: Sequence[int] = NODES,
) -> Iterator[ScalingRow]:
    """Predict an update for each number of nodes with at least one micro-batch per worker.

    Args:
        experiment: its micro-batches limit the number of workers.
        gradient_bytes: bytes of the all-reduce per update.
        sizes: result of `sample_positions`.
        probe: measured times of one worker.
        links: bandwidths.
        hosts: resources of each node.
        nodes: numbers of nodes, ascending.
    """
    positions, tgt_tokens = sizes
    single_s = _micro_batches_s(positions, 1, probe)[0] + probe.step_s
    for num_nodes in nodes:
        workers = num_nodes * hosts.workers_per_node
        if workers > experiment.batching.micro_batches:
            # A worker needs at least one micro-batch per update.
            return
        mean_s, slowest_s = _micro_batches_s(positions, workers, probe)
        all_reduce_s = links.all_reduce_s(gradient_bytes, num_nodes, hosts.workers_per_node)
        # Gradients are sent during the backward of the last micro-batch, on GPUs only.
        last_s = probe.micro_batch_s(float(positions.mean()))
        overlap_s = OVERLAP * BACKWARD * last_s if hosts.has_gpus else 0.0
        row = ScalingRow(
            num_nodes,
            workers,
            mean_s * hosts.contention,
            (slowest_s - mean_s) * hosts.contention,
            max(0.0, all_reduce_s * hosts.contention - overlap_s),
            probe.step_s * hosts.contention,
            tgt_tokens,
            0.0,
        )
        yield replace(row, efficiency=single_s / workers / row.update_s)


def _micro_batches_s(positions: Positions, workers: int, probe: Probe) -> tuple[float, float]:
    """Return seconds per update of the mean and of the slowest worker, averaged over updates."""
    # Fixed seed: equal inputs give an equal plan.
    noise = np.random.default_rng(0).normal(scale=probe.spread_s, size=positions.shape)
    seconds = probe.fixed_s + probe.position_s * positions + noise
    by_worker = np.stack([seconds[:, rank::workers].sum(axis=1) for rank in range(workers)])
    return float(by_worker.mean()), float(by_worker.max(axis=0).mean())
