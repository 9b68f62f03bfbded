"""The workers of a run as the training loop sees them: my number, how many, what we agree on.

Agreement goes over gloo on CPU tensors even where gradients go over NCCL, so that a question like
"does anyone want to stop?" never waits for a GPU.
"""

import json
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any, TypeVar

import torch
import torch.distributed as dist

T = TypeVar("T")


@dataclass(frozen=True)
class World:
    """One worker's view; `World()` is a run of one worker, without any communication."""

    rank: int = 0
    size: int = 1
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))
    group: Any = None
    """The gloo group for agreement."""
    wire: torch.dtype = torch.float32
    """Numbers in which gradients are sent; float32, or bfloat16 for half the bytes."""

    @classmethod
    def of_process_group(
        cls, device: torch.device, timeout_s: float = 1800, wire: torch.dtype = torch.float32
    ) -> "World":
        """The world of this process's default process group, which must have been started."""
        rank, size = dist.get_rank(), dist.get_world_size()
        group = None
        if size > 1:
            group = dist.new_group(backend="gloo", timeout=timedelta(seconds=timeout_s))
        return cls(rank, size, device, group, wire)

    @property
    def is_first(self) -> bool:
        """Whether this worker is the one that speaks and writes."""
        return self.rank == 0

    def copy_first(self, tensor: torch.Tensor) -> None:
        """Fill a tensor with what the first worker has there; all workers must ask."""
        if self.size > 1:
            dist.broadcast(tensor, src=0)

    def sum(self, values: list[float]) -> list[float]:
        """The sums of numbers over all workers; all workers must ask."""
        if self.size == 1:
            return values
        tensor = torch.tensor(values, dtype=torch.float64)
        dist.all_reduce(tensor, group=self.group)
        totals: list[float] = tensor.tolist()
        return totals

    def gather(self, mine: T) -> list[T]:
        """What every worker has, by rank, of what JSON keeps as it is; all workers must ask."""
        if self.size == 1:
            return [mine]
        # Not all_gather_object, which pickles (P10).
        text = json.dumps(mine).encode()
        sizes = self.sum([float(len(text) * (rank == self.rank)) for rank in range(self.size)])
        padded = text.ljust(int(max(sizes)))
        everyone = [torch.empty(len(padded), dtype=torch.uint8) for _ in range(self.size)]
        sent = torch.frombuffer(bytearray(padded), dtype=torch.uint8)
        dist.all_gather(everyone, sent, group=self.group)
        return [json.loads(theirs.numpy().tobytes()) for theirs in everyone]
