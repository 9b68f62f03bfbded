"""Ray by itself: a local cluster, one Ray Train worker that does nothing, and the end.

`python -m nmt.jobs.idle` is what `nmt bench` takes for Ray's own share of a start.
"""

import tempfile
from pathlib import Path

import ray.train
from ray.train.torch import TorchConfig, TorchTrainer

from nmt.jobs.session import connect


def idle(folder: Path) -> None:
    """Start Ray, have one worker do nothing, end Ray."""
    with connect(1, folder / "ray.log"):
        TorchTrainer(
            _nothing,
            train_loop_config={},
            torch_config=TorchConfig(backend="gloo"),
            scaling_config=ray.train.ScalingConfig(num_workers=1),
            run_config=ray.train.RunConfig(name="idle", storage_path=str(folder)),
        ).fit()


def _nothing(config: dict[str, object]) -> None:
    pass


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as scratch:
        idle(Path(scratch))
