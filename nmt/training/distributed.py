"""The workers of a run as the training loop sees them: my number, how many, what we agree on.

Agreement goes over gloo on CPU tensors even where gradients go over NCCL, so that a question like
"does anyone want to stop?" never waits for a GPU.

The sum of all workers' gradients: DistributedDataParallel, and what it lacks here.

DDP sends buckets of gradients while the last backward of an update goes on (Li et al. 2020). It
changes its buckets once, after its first backward: passes without a pair bring that about before
the first update, so that three workers that were resumed add in the order of three that were never
stopped (P4). And a worker that runs out of memory while gradients are sent would leave the others
waiting: it sends NaN for the buckets that it still owes, so all see a gradient that is not finite,
ask each other why, drop it, and begin again with a new DDP; the old one is in the midst of a pass.
"""

import contextlib
import gc
import inspect
import json
import math
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

T = TypeVar("T")


@dataclass(frozen=True)
class World:
    """One worker's view; `World()` is a run of one worker, without any communication."""

    rank: int = 0
    size: int = 1
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))
    group: Any = None
    """The gloo group for agreement."""
    gradient_dtype: torch.dtype = torch.float32
    """Numbers in which gradients are sent; float32, or bfloat16 for half the bytes."""

    @classmethod
    def from_process_group(
        cls,
        device: torch.device,
        timeout_s: float = 1800,
        gradient_dtype: torch.dtype = torch.float32,
    ) -> "World":
        """The world of this process's default process group, which must have been started."""
        rank, size = dist.get_rank(), dist.get_world_size()
        group = None
        if size > 1:
            group = dist.new_group(backend="gloo", timeout=timedelta(seconds=timeout_s))
        return cls(rank, size, device, group, gradient_dtype)

    @property
    def is_main(self) -> bool:
        """Whether this worker is the one that speaks and writes."""
        return self.rank == 0

    def broadcast(self, tensor: torch.Tensor) -> None:
        """Fill a tensor with what the first worker has there; all workers must ask."""
        if self.size > 1:
            dist.broadcast(tensor, src=0)

    def all_reduce(self, values: list[float]) -> list[float]:
        """The sums of numbers over all workers; all workers must ask."""
        if self.size == 1:
            return values
        tensor = torch.tensor(values, dtype=torch.float64)
        dist.all_reduce(tensor, group=self.group)
        totals: list[float] = tensor.tolist()
        return totals

    def all_gather(self, mine: T) -> list[T]:
        """What every worker has, by rank, of what JSON keeps as it is; all workers must ask."""
        if self.size == 1:
            return [mine]
        # Not all_gather_object, which pickles (P10).
        text = json.dumps(mine).encode()
        sizes = self.all_reduce(
            [float(len(text) * (rank == self.rank)) for rank in range(self.size)]
        )
        padded = text.ljust(int(max(sizes)))
        everyone = [torch.empty(len(padded), dtype=torch.uint8) for _ in range(self.size)]
        sent = torch.frombuffer(bytearray(padded), dtype=torch.uint8)
        dist.all_gather(everyone, sent, group=self.group)
        return [json.loads(theirs.numpy().tobytes()) for theirs in everyone]


BUCKET_MIB: float | None = None
"""Gradients sent at once; None: as torch has it, 1 MiB to begin early, then 25 to fill the wire."""
_NAMES = ("forward_sync_buffers", "broadcast_buffers")
"""What torch 2.13 calls the sending of buffers before each forward, and what torch 2.11 does."""


@dataclass
class _Buckets:
    """What is sent of an update, and what there is to send."""

    gradient_dtype: torch.dtype
    """Numbers in which they are sent."""
    sizes: dict[int, int] = field(default_factory=dict)
    """Values in each bucket, by its place in the order of sending."""
    num_sent: int = 0
    witness: Tensor | None = None
    """A parameter of the last bucket: its gradient is NaN where a worker owed that bucket."""


class GradientAllReduce:
    """The gradients of a model, summed over all workers of an update."""

    def __init__(self, model: nn.Module, world: World) -> None:
        self.model = model
        """What forward goes through."""
        self._model = model
        self._world = world
        self._buckets = _Buckets(world.gradient_dtype)
        self._pass: Callable[[], object] = lambda: None

    def connect(self, pass_without_pairs: Callable[[], object]) -> None:
        """Share gradients from now on, beginning with the first worker's weights; all must ask.

        Args:
            pass_without_pairs: forward and backward through `model`, sending, with gradients of 0.
        """
        if self._world.size == 1:
            return
        self._pass = pass_without_pairs
        device = self._world.device
        known = inspect.signature(DistributedDataParallel).parameters
        # Our buffers are constants: sending them round before each forward would be waiting alone.
        buffers: dict[str, Any] = {next(name for name in _NAMES if name in known): False}
        wrapped = DistributedDataParallel(
            self._model,
            device_ids=[device.index] if device.type == "cuda" else None,
            bucket_cap_mb=BUCKET_MIB,
            gradient_as_bucket_view=True,
            **buffers,
        )
        self._buckets = _Buckets(self._world.gradient_dtype)
        # Not with ourselves as its state: that would be a circle which nobody can take apart.
        wrapped.register_comm_hook(self._buckets, _send)
        self.model = wrapped
        for _ in range(2):  # the second one has the buckets that stay
            self._buckets.sizes.clear()
            self._pass()
            self.clear()

    def sending(self, is_my_last: bool) -> AbstractContextManager[object]:
        """For forward and backward both: gradients are sent in this worker's last ones alone."""
        self._buckets.num_sent = 0
        if is_my_last or not isinstance(self.model, DistributedDataParallel):
            return contextlib.nullcontext()
        return self.model.no_sync()

    def finish(self, has_failed: bool = False) -> int:
        """Agree on the sum; all workers must ask.

        Args:
            has_failed: this worker could not do its share.

        Returns:
            How many could not; where it is not 0 the sum is void.
        """
        if self._world.size == 1:
            return int(has_failed)
        if has_failed:
            self._send_nan()
        elif math.isfinite(self._of_last_bucket()):
            return 0
        num_failed = sum(self._world.all_gather(has_failed))
        if num_failed:
            self.model = self._model
            gc.collect()  # with the old DDP go its hooks on the parameters
            self.clear()
            self.connect(self._pass)
        return num_failed

    def clear(self) -> None:
        """Begin an update."""
        self._model.zero_grad(set_to_none=True)

    def _of_last_bucket(self) -> float:
        witness = self._buckets.witness
        assert witness is not None
        assert witness.grad is not None
        return float(witness.grad.view(-1)[-1])

    def _send_nan(self) -> None:
        buckets = self._buckets
        assert buckets.num_sent < len(buckets.sizes)  # the last one is whole when backward is over
        for place in range(buckets.num_sent, len(buckets.sizes)):
            size = (buckets.sizes[place],)
            owed = torch.full(
                size, math.nan, dtype=buckets.gradient_dtype, device=self._world.device
            )
            dist.all_reduce(owed)


def _send(
    buckets: _Buckets,
    bucket: dist.GradBucket,  # type: ignore[name-defined]
) -> torch.futures.Future[Tensor]:
    """Sum a bucket over all workers, where DDP alone would take the mean."""
    buckets.sizes[bucket.index()] = bucket.buffer().numel()
    buckets.num_sent += 1
    if bucket.is_last():
        buckets.witness = bucket.parameters()[-1]
    # The same tensor where it is sent as it is, and to copy a tensor to itself does nothing.
    sent = bucket.buffer().to(buckets.gradient_dtype)
    work = dist.all_reduce(sent, async_op=True)
    assert work is not None
    summed: torch.futures.Future[Tensor] = work.get_future().then(
        lambda future: bucket.buffer().copy_(future.value()[0])
    )
    return summed
