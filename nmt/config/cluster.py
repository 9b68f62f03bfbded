"""Cluster file: workers, resources and storage.

Any key can be set on the command line as `cluster.key=value`. `auto` depends on the GPUs found when
a command starts: `Cluster.resolve` replaces it.
"""

from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, model_serializer

from nmt.config.settings import (
    HostPathText,
    Name,
    NaturalInt,
    PathText,
    PositiveFloat,
    PositiveInt,
    Settings,
    Text,
    added_setting,
    check_address,
)
from nmt.errors import ConfigError

CPU_WORKERS = 2
"""Workers of `workers: auto` on a machine without a GPU."""


class Workers(Settings):
    """Number of workers; a plain number sets both limits, `auto` counts the GPUs."""

    min: Annotated[PositiveInt, Field(le=10_000)] = 1
    """Minimum number of workers; with fewer, training waits for resources."""
    max: Annotated[PositiveInt, Field(le=10_000)] = 1
    """Maximum number of workers, used when the cluster has room."""
    auto: bool = added_setting(False, before=False)
    """True: one worker per GPU; min and max hold where there is none."""

    @property
    def is_elastic(self) -> bool:
        """True if the number of workers may change during a run."""
        return self.min < self.max

    def check(self) -> None:
        if self.min > self.max:
            rule = f"it must be cluster.workers.max ({self.max}) or less"
            raise ConfigError("cluster.workers.min", self.min, rule)

    def __str__(self) -> str:
        return f"{self.min} to {self.max}" if self.is_elastic else str(self.max)

    @model_serializer
    def _plain(self) -> str | int | dict[str, int]:
        if self.auto:
            is_default = self.min == self.max == CPU_WORKERS
            return "auto" if is_default else {"min": self.min, "max": self.max, "auto": True}
        return {"min": self.min, "max": self.max} if self.is_elastic else self.max


def _workers(value: Any) -> Any:
    if isinstance(value, Workers | dict):
        return value
    if value == "auto":
        return {"min": CPU_WORKERS, "max": CPU_WORKERS, "auto": True}
    if not isinstance(value, int) or isinstance(value, bool):
        raise ValueError("it must be an integer, auto, or {min: 1, max: 8}")
    if value < 1:
        raise ValueError("it must be 1 or more")
    return {"min": value, "max": value}


def _gpus(value: Any) -> Any:
    if value not in (0, 1, "auto") or isinstance(value, bool | float):
        raise ValueError("it must be 0, 1 or auto")
    return value


class Cluster(Settings):
    """Cluster: workers, their resources and storage; no ranks, ports or addresses."""

    name: Name = "local"
    """Name of the cluster in logs."""
    workers: Annotated[Workers, BeforeValidator(_workers)] = Workers()
    """Number of worker processes, auto, or a range {min: 1, max: 8} for elastic training."""
    gpus_per_worker: Annotated[Literal[0, 1, "auto"], BeforeValidator(_gpus)] = 0
    """GPUs per worker: 1 (NCCL), 0 to train on CPU cores (gloo), or auto: 1 if enough are found."""
    cpus_per_worker: Annotated[PositiveInt, Field(le=4096)] = 1
    """CPU cores, and compute threads, per worker."""
    gradients: Literal["fp32", "bf16"] = "fp32"
    """Dtype of the gradient all-reduce; bf16 halves the traffic and keeps 8 significant bits."""
    storage: PathText = "runs"
    """Directory shared by all hosts, or s3://BUCKET/PATH; a run is stored in <storage>/<name>."""
    scratch: HostPathText = "~/.cache/nmt"
    """Local directory of each host for copies of runs in an object store."""
    validation: Literal["shared", "task"] = "shared"
    """Validation: shared (by the workers, training waits) or task (asynchronous, other cores)."""
    validation_cpus: Annotated[PositiveInt, Field(le=4096)] = 1
    """CPU cores of a validation task."""
    validations_behind: PositiveInt = 2
    """Maximum number of pending validation tasks before training waits."""
    max_failures: NaturalInt = 3
    """Maximum number of worker failures; announced host preemptions do not count."""
    max_lost_updates: NaturalInt = 0
    """Maximum number of updates lost by a failure, which sets a checkpoint interval; 0: off."""
    hang_timeout_s: Annotated[PositiveFloat, Field(le=10**9)] = 900.0
    """Seconds without progress before workers log their stacks and are restarted."""
    address: Text = ""
    """Ray dashboard address used by cluster/submit.py; empty: RAY_ADDRESS."""
    env: dict[Text, Text] = {}
    """Environment variables of the workers."""

    def check(self) -> None:
        check_address("cluster.storage", self.storage)

    def resolve(self, num_gpus: int, max_workers: int) -> "Cluster":
        """Replace auto.

        Args:
            num_gpus: GPUs of this machine or of the Ray cluster.
            max_workers: most workers that have something to do.
        """
        workers, per_worker = self.workers, self.gpus_per_worker
        if per_worker == "auto":
            # With fewer GPUs than workers Ray would wait for more of them.
            per_worker = 1 if num_gpus >= (1 if workers.auto else workers.min) else 0
        if workers.auto:
            available = num_gpus if per_worker else workers.max
            number = max(1, min(available, max_workers))
            workers = Workers(min=number, max=number)
        return self.model_copy(update={"workers": workers, "gpus_per_worker": per_worker})

    @property
    def num_gpus(self) -> int:
        """GPUs per worker, after `resolve`."""
        assert self.gpus_per_worker != "auto"
        return self.gpus_per_worker
