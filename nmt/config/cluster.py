"""Cluster file: workers, resources and storage.

Any key can be set on the command line as `cluster.key=value`.
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
    check_address,
)
from nmt.errors import ConfigError


class Workers(Settings):
    """Number of workers; a plain number sets both limits."""

    min: Annotated[PositiveInt, Field(le=10_000)] = 1
    """Minimum number of workers; with fewer, training waits for resources."""
    max: Annotated[PositiveInt, Field(le=10_000)] = 1
    """Maximum number of workers, used when the cluster has room."""

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
    def _plain(self) -> int | dict[str, int]:
        return {"min": self.min, "max": self.max} if self.is_elastic else self.max


def _workers(value: Any) -> Any:
    if isinstance(value, Workers | dict):
        return value
    if not isinstance(value, int) or isinstance(value, bool):
        raise ValueError("it must be an integer or {min: 1, max: 8}")
    if value < 1:
        raise ValueError("it must be 1 or more")
    return {"min": value, "max": value}


class Cluster(Settings):
    """Cluster: workers, their resources and storage; no ranks, ports or addresses."""

    name: Name = "local"
    """Name of the cluster in logs."""
    workers: Annotated[Workers, BeforeValidator(_workers)] = Workers()
    """Number of worker processes, or a range {min: 1, max: 8} for elastic training."""
    gpus_per_worker: Annotated[int, Field(ge=0, le=1, strict=True)] = 0
    """GPUs per worker: 1 (NCCL), or 0 to train on CPU cores (gloo)."""
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
