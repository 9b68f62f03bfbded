"""The cluster file: where to train. A key is set on the command line as `cluster.key=value`."""

from typing import Annotated

from pydantic import Field

from nmt.config.settings import Name, NaturalInt, PositiveInt, Settings, check_folder


class Cluster(Settings):
    """Where to train: workers, what each has, where runs are stored. Never ranks or ports."""

    name: Name = "local"
    """What logs call it."""
    workers: PositiveInt = 1
    """Worker processes; each takes its share of every update."""
    gpus_per_worker: Annotated[int, Field(ge=0, le=1, strict=True)] = 0
    """1: each worker trains on a GPU of its own (NCCL); 0: on CPU cores (gloo)."""
    cpus_per_worker: PositiveInt = 1
    """CPU cores, and so compute threads, of each worker."""
    storage: str = "runs"
    """Folder that every host sees; a run is stored in <storage>/<name of the experiment>."""
    max_failures: NaturalInt = 3
    """Times that lost workers are replaced before the run gives up."""
    address: str = ""
    """Dashboard of the Ray cluster that cluster/submit.py sends jobs to; empty: RAY_ADDRESS."""
    env: dict[str, str] = {}
    """Environment variables of the workers."""

    def check(self) -> None:
        check_folder("cluster.storage", self.storage)
