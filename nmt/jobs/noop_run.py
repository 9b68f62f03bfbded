"""Ray by itself: a local cluster, one Ray Train worker that does nothing, and the end.

`python -m nmt.jobs.noop_run` prints the time at which the worker began, in seconds since 1970;
`nmt bench` reports it as the share of Ray in a start.
"""

import tempfile
import time
from pathlib import Path

import ray.train
from ray.train.torch import TorchConfig, TorchTrainer

from nmt.jobs.ray_session import connect


def idle(folder: Path) -> float:
    """Start Ray, have one worker say when it begins, end Ray; gives that time."""
    began = folder / "began"
    with connect(1, folder / "ray.log"):
        TorchTrainer(
            _begin,
            train_loop_config={"file": str(began)},
            torch_config=TorchConfig(backend="gloo"),
            scaling_config=ray.train.ScalingConfig(num_workers=1),
            run_config=ray.train.RunConfig(name="idle", storage_path=str(folder)),
        ).fit()
    return float(began.read_text())


def _begin(config: dict[str, str]) -> None:
    Path(config["file"]).write_text(str(time.time()))


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as scratch:
        print(idle(Path(scratch)))
