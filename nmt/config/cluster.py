"""The cluster file: where to train. A key is set on the command line as `cluster.key=value`."""

from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, model_serializer

from nmt.config.settings import (
    Name,
    NaturalInt,
    PositiveFloat,
    PositiveInt,
    Settings,
    check_address,
)
from nmt.errors import ConfigError


class Workers(Settings):
    """How many workers a run has; a plain number is both the fewest and the most."""

    min: PositiveInt = 1
    """Fewest with which training goes on; with less room it waits."""
    max: PositiveInt = 1
    """Most; reached as hosts join the cluster."""

    @property
    def is_elastic(self) -> bool:
        """Whether the number follows the cluster."""
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
        raise ValueError("it must be a whole number, or {min: 1, max: 8}")
    if value < 1:
        raise ValueError("it must be 1 or more")
    return {"min": value, "max": value}


class Cluster(Settings):
    """Where to train: workers, what each has, where runs are stored. Never ranks or ports."""

    name: Name = "local"
    """What logs call it."""
    workers: Annotated[Workers, BeforeValidator(_workers)] = Workers()
    """Worker processes, each with its share of every update: a number, or {min: 1, max: 8}."""
    gpus_per_worker: Annotated[int, Field(ge=0, le=1, strict=True)] = 0
    """1: each worker trains on a GPU of its own (NCCL); 0: on CPU cores (gloo)."""
    cpus_per_worker: PositiveInt = 1
    """CPU cores, and so compute threads, of each worker."""
    gradients: Literal["fp32", "bf16"] = "fp32"
    """Numbers in which workers send gradients; bf16: half the bytes, rounded to 8 binary digits."""
    storage: str = "runs"
    """Folder that every host sees, or s3://BUCKET/FOLDER; a run is in <storage>/<its name>."""
    scratch: str = "~/.cache/nmt"
    """Folder of each host's own that holds copies of runs that are in an object store."""
    validation: Literal["shared", "task"] = "shared"
    """Who scores the dev set: the workers, while training waits; or a task on cores beside them."""
    validation_cpus: PositiveInt = 1
    """CPU cores of such a task."""
    validations_behind: PositiveInt = 2
    """Validations that training may be ahead of the scores of tasks; then it waits for them."""
    max_failures: NaturalInt = 3
    """Times that lost workers are replaced; hosts taken away after a notice do not count."""
    max_lost_updates: NaturalInt = 0
    """Most updates that a failure may cost: how often checkpoints are taken; 0: no limit."""
    hang_timeout_s: PositiveFloat = 900.0
    """Seconds without progress after which workers tell where they are, and are replaced."""
    address: str = ""
    """Dashboard of the Ray cluster that cluster/submit.py sends jobs to; empty: RAY_ADDRESS."""
    env: dict[str, str] = {}
    """Environment variables of the workers."""

    def check(self) -> None:
        check_address("cluster.storage", self.storage)
