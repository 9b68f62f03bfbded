"""The time of an all-reduce, from what the links carry.

A ring of n members sends 2 (n - 1) / n of the bytes over each link, in 2 (n - 1) steps (Patarasuk &
Yuan 2009). Workers of one node are a ring of their own over the node's inside; one ring joins the
nodes, each over its own link.

The time of an update on 1 to 64 nodes: the schedule, the probe and the links put together.

For each of some updates from all over an epoch, each worker has its micro-batches, as the schedule
deals them, each a little quicker or slower than its size says; all wait for the slowest. Then
gradients are summed, and each worker makes the same step. On GPUs the sum goes on during the last
backward; on CPUs it takes the same cores.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from nmt.batching.schedule import Schedule
from nmt.config.experiment import Experiment
from nmt.corpus.shards import Shards
from nmt.planning.probe import Probe


@dataclass(frozen=True)
class Links:
    """What joins the workers."""

    between_gbit: float
    """Gbit/s between two nodes, each way."""
    inside_gbit: float
    """Gbit/s between two workers of a node, each way."""
    latency_us: float
    """Microseconds that one step of a ring takes besides."""

    def all_reduce_s(self, num_bytes: float, nodes: int, workers_per_node: int) -> float:
        """Seconds of a sum of that many bytes over all workers."""
        return self._ring_s(num_bytes, workers_per_node, self.inside_gbit) + self._ring_s(
            num_bytes, nodes, self.between_gbit
        )

    def _ring_s(self, num_bytes: float, members: int, gbit: float) -> float:
        if members == 1:
            return 0.0
        sent = 2 * (members - 1) / members * num_bytes * 8 / (gbit * 1e9)
        return sent + 2 * (members - 1) * self.latency_us * 1e-6


ON_CPUS = Links(between_gbit=10, inside_gbit=10, latency_us=100)
"""gloo over TCP; inside a machine it makes 1 to 2 GB/s, on one core with the rest of the work."""
ON_GPUS = Links(between_gbit=400, inside_gbit=2400, latency_us=10)
"""NCCL over InfiniBand NDR and NVLink."""


NODES = (1, 2, 4, 8, 16, 32, 64)
SAMPLE = 400
"""Most updates that are looked at."""
OVERLAP = 0.6
"""Share of the last backward, on a GPU, during which gradients are already sent."""
BACKWARD = 2 / 3
"""Share of a micro-batch's time that is backward."""

Positions = npt.NDArray[np.float64]
"""Of each micro-batch of each update, padding counted, [updates, micro-batches]."""


@dataclass(frozen=True)
class Hosts:
    """What the workers run on."""

    workers_per_node: int
    cpus_per_worker: int
    cores_per_node: int
    """0: as many as the workers ask for."""
    has_gpus: bool

    @property
    def crowding(self) -> float:
        """How much slower workers are that have to share cores."""
        asked = self.workers_per_node * self.cpus_per_worker
        return max(1.0, asked / self.cores_per_node) if self.cores_per_node else 1.0


@dataclass(frozen=True)
class ScalingRow:
    """An update on so many nodes, in seconds."""

    nodes: int
    workers: int
    compute_s: float
    """Forward and backward, mean of the workers."""
    waiting_s: float
    """For the slowest worker."""
    all_reduce_s: float
    """What of it is not hidden behind backward."""
    step_s: float
    tgt_tokens: float
    """Of an update."""
    efficiency: float
    """Tokens a second of each worker, of those of one worker by itself."""

    @property
    def update_s(self) -> float:
        """All of it."""
        return self.compute_s + self.waiting_s + self.all_reduce_s + self.step_s

    @property
    def tgt_tokens_per_s(self) -> float:
        """Target tokens a second, of all workers together."""
        return self.tgt_tokens / self.update_s

    @property
    def limit(self) -> str:
        """What to change first for more speed."""
        parts = {
            "the all-reduce": self.all_reduce_s,
            "waiting for the slowest worker": self.waiting_s,
            "the optimizer step, which each worker makes": self.step_s,
        }
        worst = max(parts, key=lambda name: parts[name])
        return worst if parts[worst] > 0.15 * self.update_s else "forward and backward"


def positions_of(shards: Shards, schedule: Schedule) -> tuple[Positions, float]:
    """Sizes of the micro-batches of updates from all over an epoch, and their mean tokens."""
    num_updates = schedule.updates_per_epoch
    numbers = np.unique(np.linspace(0, num_updates - 1, min(SAMPLE, num_updates)).astype(int))
    src, tgt = shards.src_lengths, shards.tgt_lengths
    sizes, tokens = [], []
    for number in numbers:
        update = schedule.update(int(number))
        sizes.append([
            len(rows) * (int(src[rows].max()) + int(tgt[rows].max()) + 2) if len(rows) else 0
            for rows in update.micro_batches
        ])  # fmt: skip
        tokens.append(update.num_tgt_tokens)
    return np.array(sizes, dtype=np.float64), float(np.mean(tokens))


def rows_of(
    experiment: Experiment,
    gradient_bytes: int,
    sizes: tuple[Positions, float],
    probe: Probe,
    links: Links,
    hosts: Hosts,
    nodes: Sequence[int] = NODES,
) -> Iterator[ScalingRow]:
    """One for each number of nodes whose workers all have a share of an update.

    Args:
        gradient_bytes: that are sent of each update.
    """
    positions, tgt_tokens = sizes
    alone = ScalingRow(
        1, 1, _micro_batches_s(positions, 1, probe)[0], 0, 0, probe.step_s, tgt_tokens, 1
    )
    for num_nodes in nodes:
        workers = num_nodes * hosts.workers_per_node
        if workers > experiment.batching.micro_batches:
            return
        mean_s, slowest_s = _micro_batches_s(positions, workers, probe)
        sent_s = links.all_reduce_s(gradient_bytes, num_nodes, hosts.workers_per_node)
        last_s = probe.micro_batch_s(float(positions.mean()))
        hidden_s = OVERLAP * BACKWARD * last_s if hosts.has_gpus else 0.0
        row = ScalingRow(
            num_nodes,
            workers,
            mean_s * hosts.crowding,
            (slowest_s - mean_s) * hosts.crowding,
            max(0.0, sent_s * hosts.crowding - hidden_s),
            probe.step_s * hosts.crowding,
            tgt_tokens,
            0.0,
        )
        efficiency = alone.update_s / workers / row.update_s
        yield ScalingRow(**{**vars(row), "efficiency": efficiency})


def _micro_batches_s(positions: Positions, workers: int, probe: Probe) -> tuple[float, float]:
    """Of an update, mean over updates: the mean worker's seconds, and the slowest one's."""
    luck = np.random.default_rng(0).normal(scale=probe.spread_s, size=positions.shape)
    seconds = probe.fixed_s + probe.position_s * positions + luck
    of_workers = np.stack([seconds[:, rank::workers].sum(axis=1) for rank in range(workers)])
    return float(of_workers.mean()), float(of_workers.max(axis=0).mean())
