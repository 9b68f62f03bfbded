"""Validation as Ray tasks: each checkpoint is scored beside training, on resources of its own.

A task has CPU cores, and a GPU if the workers of a GPU cluster leave one.

The validation of Ray Train is not used: it ends the run when the process of a validation dies. A
lost task is run again. A task loads the checkpoint by its path, as any reader does.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import ray
import torch
from ray.exceptions import RayError, RayTaskError

from nmt.checkpoint.load import load_checkpoint
from nmt.checkpoint.remote import RemoteRun
from nmt.config.cluster import Cluster
from nmt.jobs.tasks import task_device
from nmt.model.gpu_precision import set_product_precision
from nmt.model.mkl import set_strict_mode
from nmt.storage import ObjectStore
from nmt.training.distributed import World
from nmt.training.validation import Validation, validate

Lines = tuple[Sequence[str], Sequence[str]]
"""Source and reference lines."""
MAX_RETRIES = 3
"""Times that a task is run again after its process or host was lost."""


class ValidationTasks:
    """Pending validations; implements `nmt.training.validation.CheckpointScorer`."""

    def __init__(self, dev: Lines, run_dir: Path, address: str, cluster: Cluster) -> None:
        """Prepare tasks for the checkpoints of a run.

        Args:
            dev: source and reference lines.
            run_dir: directory of the run.
            address: address of the run in an object store; empty if all hosts see run_dir.
            cluster: cores of a task, and validations that training may be ahead of the scores.
        """
        self.behind = cluster.validations_behind
        self._num_cpus = cluster.validation_cpus
        self._num_gpus = 0
        if cluster.num_gpus:
            self._num_gpus = int(ray.cluster_resources().get("GPU", 0) > cluster.workers.max)
        self._arguments = (dev, run_dir, address, self._num_cpus)
        self._pending: dict[Any, int] = {}

    def ask(self, update: int, folder: Path) -> None:
        """Start to score a complete checkpoint; thread-safe."""
        task = _score_checkpoint.options(
            num_cpus=self._num_cpus,
            num_gpus=self._num_gpus,
            max_retries=MAX_RETRIES,
            # Beside the placement group of the workers, not inside it.
            scheduling_strategy="DEFAULT",
            runtime_env={"env_vars": {"OMP_NUM_THREADS": str(self._num_cpus)}},
        )
        self._pending[task.remote(folder.name, *self._arguments)] = update

    def arrived(self) -> list[tuple[int, Validation | str]]:
        """Return scores, or errors, that are new since the last call; does not wait."""
        pending = list(self._pending)
        if not pending:
            return []
        ready, _ = ray.wait(pending, num_returns=len(pending), timeout=0)
        return [(self._pending.pop(task), _get_score(task)) for task in ready]

    def wait(self) -> None:
        """Wait until one more score has arrived."""
        ray.wait(list(self._pending), num_returns=1)


@ray.remote  # type: ignore[untyped-decorator]
def _score_checkpoint(
    name: str, dev: Lines, run_dir: Path, address: str, num_threads: int
) -> dict[str, Any]:
    set_strict_mode()
    torch.set_num_threads(num_threads)
    with _local_folder(name, run_dir, address) as folder:
        checkpoint = load_checkpoint(folder)
        # The settings with which the workers would validate it.
        experiment, world = checkpoint.experiment, World(device=torch.device(task_device()))
        set_product_precision(experiment.training.precision, world.device)
        return asdict(validate(checkpoint.model(), checkpoint.subword, experiment, dev, world))


@contextmanager
def _local_folder(name: str, run_dir: Path, address: str) -> Iterator[Path]:
    """Yield the directory of a checkpoint on this host, downloaded if need be."""
    folder = run_dir / "checkpoints" / name
    if not address:
        yield folder
    elif folder.exists():
        yield RemoteRun(ObjectStore(address), run_dir).pull(name)
    else:
        # Only the host of rank 0 prunes its run directory: elsewhere each copy would stay.
        run_dir.mkdir(parents=True, exist_ok=True)
        with TemporaryDirectory(prefix=".validation-", dir=run_dir) as temporary:
            yield RemoteRun(ObjectStore(address), Path(temporary)).pull(name)


def _get_score(task: Any) -> Validation | str:
    try:
        return Validation(**ray.get(task))
    # Errors are returned: the caller scores the checkpoint itself, and training continues.
    except RayTaskError as error:
        return str(error.cause)
    except RayError as error:
        return type(error).__name__
