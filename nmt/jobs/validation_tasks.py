"""Validation beside training: each checkpoint is scored by a Ray task, on cores of its own.

The task is ours, not Ray Train's, whose validation of a checkpoint ends the run when its process
dies; Ray runs a lost one again. It loads the bundle by its path, as any reader does.
"""

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import ray
import torch
from ray.exceptions import RayError, RayTaskError

from nmt.checkpoint.load import load_checkpoint
from nmt.checkpoint.remote import RemoteRun
from nmt.config.experiment import Experiment
from nmt.model.mkl import set_strict_mode
from nmt.storage import ObjectStore
from nmt.training.distributed import World
from nmt.training.validation import Validation, validate

MAX_RETRIES = 3
"""Times that a task is run again whose process or host was lost."""


class ValidationTasks:
    """Checkpoints that are being scored; see `nmt.training.validation.Scorer`."""

    def __init__(
        self,
        experiment: Experiment,
        dev: tuple[Sequence[str], Sequence[str]],
        run_dir: Path,
        address: str,
        num_cpus: int,
        behind: int,
    ) -> None:
        """Args: address: of the run's folder in an object store; empty: all hosts see run_dir."""
        self.behind = behind
        self._settings = experiment.model_dump_json()
        self._dev = dev
        self._place = (str(run_dir), address)
        self._num_cpus = num_cpus
        self._asked: dict[Any, int] = {}

    def ask(self, update: int, folder: Path) -> None:
        """As `Scorer.ask`."""
        task = _score.options(
            num_cpus=self._num_cpus,
            max_retries=MAX_RETRIES,
            # Beside the placement group of the workers, not in it.
            scheduling_strategy="DEFAULT",
            runtime_env={"env_vars": {"OMP_NUM_THREADS": str(self._num_cpus)}},
        )
        asked = task.remote(*self._place, folder.name, self._settings, self._dev, self._num_cpus)
        self._asked[asked] = update

    def arrived(self) -> list[tuple[int, Validation | str]]:
        """As `Scorer.arrived`."""
        asked = list(self._asked)
        if not asked:
            return []
        ready, _ = ray.wait(asked, num_returns=len(asked), timeout=0)
        return [(self._asked.pop(each), _result(each)) for each in ready]

    def wait(self) -> None:
        """As `Scorer.wait`."""
        ray.wait(list(self._asked), num_returns=1)


@ray.remote  # type: ignore[untyped-decorator]
def _score(
    run_dir: str,
    address: str,
    name: str,
    settings: str,
    dev: tuple[Sequence[str], Sequence[str]],
    num_threads: int,
) -> dict[str, Any]:
    set_strict_mode()
    torch.set_num_threads(num_threads)
    folder = Path(run_dir) / "checkpoints" / name
    if address:
        folder = RemoteRun(ObjectStore(address), Path(run_dir)).pull(name)
    bundle = load_checkpoint(folder)
    experiment = Experiment.model_validate_json(settings)
    return asdict(validate(bundle.model(), bundle.subword, experiment, dev, World()))


def _result(ready: Any) -> Validation | str:
    try:
        return Validation(**ray.get(ready))
    except RayTaskError as error:
        return str(error.cause)
    except RayError as error:
        return type(error).__name__
