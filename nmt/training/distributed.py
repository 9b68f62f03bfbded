"""Ranks of a run: collectives, the all-reduce of gradients, and seeds independent of the rank.

Collectives that agree on decisions use gloo on CPU tensors even where gradients use NCCL, so that
they never wait for a GPU.
"""

import contextlib
import hashlib
import inspect
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

T = TypeVar("T")

BUCKET_MIB: float | None = None
"""Size of a gradient bucket; None: torch's choice, 1 MiB to start early, then 25 MiB."""
_BUFFER_OPTIONS = ("forward_sync_buffers", "broadcast_buffers")
"""Option of DDP that broadcasts buffers before each forward, in torch 2.13 and in torch 2.11."""


@dataclass(frozen=True)
class World:
    """Process group as seen by one rank; `World()` is a single process without communication."""

    rank: int = 0
    size: int = 1
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))
    group: Any = None
    """gloo group of the collectives below."""
    gradient_dtype: torch.dtype = torch.float32
    """Dtype in which gradients are all-reduced: float32, or bfloat16 for half the bytes."""

    @classmethod
    def from_process_group(
        cls,
        device: torch.device,
        timeout_s: float = 1800,
        gradient_dtype: torch.dtype = torch.float32,
    ) -> "World":
        """Create from the default process group, which must be initialised.

        Collective: call on every rank.
        """
        rank, size = dist.get_rank(), dist.get_world_size()
        group = None
        if size > 1:
            group = dist.new_group(backend="gloo", timeout=timedelta(seconds=timeout_s))
        return cls(rank, size, device, group, gradient_dtype)

    @property
    def is_main(self) -> bool:
        """True on rank 0, which writes the files of the run."""
        return self.rank == 0

    def broadcast(self, tensor: Tensor) -> None:
        """Overwrite a tensor with that of rank 0. Collective: call on every rank."""
        if self.size > 1:
            dist.broadcast(tensor, src=0)

    def warm_up_all_reduce(self, weight: Tensor) -> None:
        """All-reduce a tensor like a weight, in the dtype of gradients, and drop it.

        NCCL allocates the buffers of a kind of collective when it is first used. Collective: call
        on every rank.
        """
        if self.size > 1 and self.device.type == "cuda":
            dist.all_reduce(torch.zeros_like(weight, dtype=self.gradient_dtype))

    def all_reduce(self, values: list[float]) -> list[float]:
        """Return the sums over all ranks. Collective: call on every rank."""
        return self.start_all_reduce(values)()

    def start_all_reduce(self, values: list[float]) -> Callable[[], list[float]]:
        """Start to sum over all ranks, and return a function that waits for the sums.

        Collective: call on every rank, in the order of all other collectives.
        """
        if self.size == 1:
            return lambda: values
        tensor = torch.tensor(values, dtype=torch.float64)
        work = dist.all_reduce(tensor, group=self.group, async_op=True)
        assert work is not None

        def wait() -> list[float]:
            work.wait()
            totals: list[float] = tensor.tolist()
            return totals

        return wait

    def all_gather(self, value: T) -> list[T]:
        """Return the values of all ranks, by rank. Collective: call on every rank.

        Args:
            value: anything that JSON represents exactly.
        """
        if self.size == 1:
            return [value]
        # dist.all_gather_object would unpickle what other hosts send.
        text = json.dumps(value).encode()
        length = float(len(text))
        sizes = self.all_reduce([length * (rank == self.rank) for rank in range(self.size)])
        padded = text.ljust(int(max(sizes)))
        texts = [torch.empty(len(padded), dtype=torch.uint8) for _ in range(self.size)]
        sent = torch.frombuffer(bytearray(padded), dtype=torch.uint8)
        dist.all_gather(texts, sent, group=self.group)
        return [json.loads(received.numpy().tobytes()) for received in texts]


def wrap_in_ddp(model: nn.Module, world: World) -> DistributedDataParallel:
    """Wrap a model so that each backward sums gradients over all ranks.

    DDP sends buckets of gradients while backward continues (Li et al. 2020). Collective: call on
    every rank.
    """
    known = inspect.signature(DistributedDataParallel).parameters
    # Our buffers are constants: a broadcast before each forward would only cost time.
    buffers: dict[str, Any] = {next(name for name in _BUFFER_OPTIONS if name in known): False}
    wrapped = DistributedDataParallel(
        model,
        device_ids=[world.device.index] if world.device.type == "cuda" else None,
        bucket_cap_mb=BUCKET_MIB,
        gradient_as_bucket_view=True,
        **buffers,
    )
    wrapped.register_comm_hook(world.gradient_dtype, all_reduce_gradients)
    return wrapped


def all_reduce_gradients(
    dtype: torch.dtype,
    bucket: dist.GradBucket,  # type: ignore[name-defined]
) -> torch.futures.Future[Tensor]:
    """Sum a bucket of gradients over all ranks: communication hook of DDP.

    DDP's default hook takes the mean; here the loss is already divided by the tokens of all ranks.

    Args:
        dtype: dtype in which the bucket is sent.
    """
    # `to` returns the buffer itself where the dtype is the same; then `copy_` does nothing.
    sent = bucket.buffer().to(dtype)
    work = dist.all_reduce(sent, async_op=True)
    assert work is not None
    summed: torch.futures.Future[Tensor] = work.get_future().then(
        lambda future: bucket.buffer().copy_(future.value()[0])
    )
    return summed


@contextlib.contextmanager
def gradient_sync(model: nn.Module, is_last: bool) -> Iterator[None]:
    """All-reduce gradients in this backward only if it is the last one of the rank's update.

    Args:
        model: module of forward; without DDP there is nothing to do.
    """
    if is_last or not isinstance(model, DistributedDataParallel):
        yield
    else:
        with model.no_sync():
            yield


def derive_seed(seed: int, update: int, micro_batch: int) -> int:
    """Return a 63-bit seed that depends on all three numbers.

    Dropout is seeded by it per micro-batch, so it does not depend on the rank that computes it.
    """
    digest = hashlib.blake2b(f"{seed} {update} {micro_batch}".encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little") >> 1
