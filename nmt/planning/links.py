"""The time of an all-reduce, from what the links carry.

A ring of n members sends 2 (n - 1) / n of the bytes over each link, in 2 (n - 1) steps (Patarasuk &
Yuan 2009). Workers of one node are a ring of their own over the node's inside; one ring joins the
nodes, each over its own link.
"""

from dataclasses import dataclass


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
