"""Memory: splitting of micro-batches that do not fit, and the allocator settings of workers.

The largest micro-batch that can occur is tried before update 1. If it does not fit on some rank,
all ranks cut each micro-batch into the same number of parts, the split factor: 2, 4, and so on.
Each token keeps its weight in the loss, so the gradient is the same up to summation order; dropout
draws other values for parts than for the whole. The factor is stored in the checkpoint.

The trial has what an update has: gradients, AdamW's moments, and on several GPUs the buffers of
NCCL, which a collective has allocated before (`Learner.share_weights`).

If an update runs out of memory later, `UpdateOutOfMemoryError` ends the worker. Its group is
restarted from the last checkpoint with the next split factor (`nmt.jobs.train`).
"""

import ctypes
import os
import time
from collections.abc import Callable

import torch

from nmt.batching.batch import make_batch
from nmt.batching.loader import grown_length
from nmt.batching.schedule import Schedule
from nmt.config.cluster import Cluster
from nmt.config.experiment import Experiment
from nmt.corpus.subword import EOS
from nmt.errors import TrainingError
from nmt.training.distributed import World
from nmt.training.loss import compute_loss
from nmt.training.state import Learner

MEMORY_ENVIRONMENT = {
    "MALLOC_TRIM_THRESHOLD_": "1000000000",
    "MALLOC_MMAP_THRESHOLD_": "2097152",
    "MALLOC_ARENA_MAX": "1",
    "GLIBC_TUNABLES": "glibc.malloc.tcache_count=0:glibc.malloc.mxfast=0:glibc.malloc.hugetlb=1",
    "ONEDNN_PRIMITIVE_CACHE_CAPACITY": "128",
}
"""Settings of glibc and oneDNN for training on a CPU.

Those of glibc, because each update frees and allocates the same sizes:

- Keep up to 1 GB of freed memory, and map only blocks from 2 MiB one by one, in huge pages. With
  the defaults page faults took a sixth of the time; with 250 kB CPU time rose by 60 %.
- One arena for all threads: Ray trains in a thread that would get its own, in heaps of 64 MiB,
  which had grown to 1.0 GB beside 0.5 GB of the first after 400 updates of Multi30k.
- No caches of small freed blocks: they lie between large ones, which then cannot be joined. This
  and the huge pages saved 0.15 GB at equal CPU time.

oneDNN keeps 128 compiled kernels instead of 1,024, at 0.2 to 0.5 MB each. Training in bf16 pads
products to few shapes (`nmt.model.matmul`), but LSTM layers have one per length and batch. Of the
376 kernels of an update of Multi30k nine are compiled again, in 0.4 ms each: 2 % of its time on an
EPYC. The memory after 150 updates is 729 instead of 826 MiB. On a Xeon with AMX `nmt bench
sustained` has 871 MiB at 0.93 of the speed of repeated updates; with 512 kernels 1,052 MiB at
0.97."""

MAPPED_IN_SMALL_PAGES = 32 << 20
"""Least size of a block that is mapped by itself where there are no huge pages."""
GPU_ALLOCATOR = "expandable_segments:True"
"""Setting of torch's GPU allocator: batches of varying lengths do not fragment its memory."""
_ALLOCATOR_VARIABLES = ("PYTORCH_ALLOC_CONF", "PYTORCH_CUDA_ALLOC_CONF")
"""Environment variable of that setting, and its earlier name, which torch still reads."""
GPU_TIMEOUT_S, GPU_SETTLED_S = 30.0, 3.0
"""Seconds to wait for the memory of earlier processes: at most, and without a change."""
FREE_SHARE = 0.9
"""Share of a GPU's memory that is free when no other process uses it."""

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD, _M_ARENA_MAX = -1, -3, -8
"""Parameters of `mallopt` in glibc's malloc.h."""

_MESSAGES = (
    "out of memory",
    "can't allocate memory",
    "not enough memory",
    "ALLOC_FAILED",
    "DEVICE_ALLOCATION_FAILED",  # cuDNN 9
    "CUBLAS_STATUS_NOT_INITIALIZED",  # cuBLAS has no memory for its handle
    "CUDA calloc",  # NCCL
)
"""Parts of the messages of torch, CUDA, cuDNN, cuBLAS and NCCL that are not OutOfMemoryError."""


class UpdateOutOfMemoryError(RuntimeError):
    """An update ran out of memory, and its micro-batches can be split further."""

    def __init__(self, update: int, rank: int, split: int) -> None:
        """Describe the update, counted from 1, and the split factor in use."""
        super().__init__(
            f"rank {rank} ran out of memory in update {update} with split factor {split}"
        )
        self.update = update
        self.rank = rank
        self.split = split

    def __reduce__(self) -> tuple[type, tuple[int, int, int]]:
        # Ray sends the exception to another process.
        return type(self), (self.update, self.rank, self.split)


def is_out_of_memory(error: BaseException) -> bool:
    """Return True if an error means that memory ran out, on a GPU or on a CPU."""
    if isinstance(error, torch.OutOfMemoryError):
        return True
    return isinstance(error, RuntimeError) and any(text in str(error) for text in _MESSAGES)


def out_of_memory_in(update: int, rank: int, split: int, schedule: Schedule) -> Exception:
    """Return the error to raise where update `update`, counted from 1, ran out of memory."""
    if split < schedule.largest[0]:
        return UpdateOutOfMemoryError(update, rank, split)
    return _no_pair_fits(f"update {update}: rank {rank}", schedule)


def find_split(
    learner: Learner,
    experiment: Experiment,
    schedule: Schedule,
    world: World,
    first_update: int,
    min_split: int,
) -> int:
    """Try the largest micro-batch, and agree on a split factor. Collective: call on every rank.

    Args:
        first_update: updates done; only stages from there on matter.
        min_split: least factor to try.

    Returns:
        The least factor min_split * 2^n with which the largest micro-batch fits on all ranks.

    Raises:
        TrainingError: a rank runs out of memory with a single pair.
    """
    learner.set_stage(experiment.costliest_update(first_update))
    num_pairs, length = schedule.largest
    src_length = length
    if experiment.changes_sources:
        src_length = min(grown_length(length), experiment.batching.max_length)
    split = max(world.all_gather(min_split))
    found = 0
    while not found:
        part = -(-num_pairs // split)
        if _fits(learner, part, src_length, length):
            found = split
        elif part == 1:
            break
        split *= 2
    # NCCL and cuDNN allocate their own memory and cannot use what torch has cached.
    if learner.device.type == "cuda":
        torch.cuda.empty_cache()
    factors = world.all_gather(found)
    if 0 in factors:
        raise _no_pair_fits(f"rank {factors.index(0)}", schedule)
    return max(factors)


def _fits(learner: Learner, num_pairs: int, src_length: int, tgt_length: int) -> bool:
    """Run forward and backward over equal pairs; weights and gradients are as before."""
    pair = [EOS] * (src_length - 1), [EOS] * (tgt_length - 1)
    learner.model.train()
    moments: list[torch.Tensor] = []
    try:
        # AdamW allocates its moments in update 1: they must fit beside the activations.
        if not learner.optimizer.state:
            moments += [torch.empty_like(w) for w in learner.model.parameters() for _ in range(2)]
        batch = make_batch([pair] * num_pairs).to(learner.device)
        loss = compute_loss(learner.model, learner.model, batch, learner.settings, learner.dtype)
        loss.smoothed.backward()  # type: ignore[no-untyped-call]
        return True
    except RuntimeError as error:
        if not is_out_of_memory(error):
            raise
    finally:
        moments.clear()
        learner.model.zero_grad(set_to_none=True)
    # Not before: the error keeps the activations alive until its handler ends.
    if learner.device.type == "cuda":
        torch.cuda.empty_cache()
    return False


def _no_pair_fits(where: str, schedule: Schedule) -> TrainingError:
    return TrainingError(
        f"{where} ran out of memory with a single pair of {schedule.largest[1]:,} tokens per side; "
        "lower batching.max_length or the size of the model, or give each worker more memory"
    )


def wait_for_gpu_memory(device: torch.device, log: Callable[[str], object]) -> None:
    """Wait until earlier processes have freed their memory on a GPU.

    The memory of a killed worker is freed some time after its process has ended: the memory trial
    of the worker that replaces it would find a split factor that is too large.
    """
    if device.type != "cuda":
        return
    start_s = changed_s = time.monotonic()
    free, total = torch.cuda.mem_get_info(device)
    while free < FREE_SHARE * total:
        now_s = time.monotonic()
        # Another program may keep its memory.
        if now_s - changed_s >= GPU_SETTLED_S or now_s - start_s >= GPU_TIMEOUT_S:
            log(
                f"other processes use the GPU: {free / 2**30:.1f} of {total / 2**30:.1f} GiB of "
                "its memory are free"
            )
            return
        time.sleep(0.2)
        before, (free, total) = free, torch.cuda.mem_get_info(device)
        changed_s = time.monotonic() if free != before else changed_s


def worker_environment(cluster: Cluster) -> dict[str, str]:
    """Return the environment variables of a worker: threads, allocators, those of the user."""
    variables = {"OMP_NUM_THREADS": str(cluster.cpus_per_worker), **MEMORY_ENVIRONMENT}
    if not any(name in cluster.env or name in os.environ for name in _ALLOCATOR_VARIABLES):
        variables[_ALLOCATOR_VARIABLES[0]] = GPU_ALLOCATOR
    return variables | cluster.env


def configure_memory() -> None:
    """Apply `MEMORY_ENVIRONMENT` to this process and to the processes that it starts.

    Environment variables that are set already win. Without glibc only child processes are affected.
    """
    before = set(os.environ)
    for name, value in MEMORY_ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    # glibc has read its environment at the start of this process.
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is None:
        return
    mallopt(_M_TRIM_THRESHOLD, int(os.environ["MALLOC_TRIM_THRESHOLD_"]))
    mallopt(_M_ARENA_MAX, int(os.environ["MALLOC_ARENA_MAX"]))
    # Tunables cannot be set any more: blocks would be mapped in pages of 4 KiB.
    if "MALLOC_MMAP_THRESHOLD_" not in before and "GLIBC_TUNABLES" not in before:
        mallopt(_M_MMAP_THRESHOLD, MAPPED_IN_SMALL_PAGES)
