"""Ray Train run of one worker that does nothing: Ray's own share of the start of a training run.

`python -m nmt.jobs.noop_run` prints the time at which the worker starts, in seconds since 1970.
`nmt bench` measures it from the start of a new process, which is why this is a module of its own.
"""

import tempfile
import time
from pathlib import Path

import ray.train
from ray.train.torch import TorchConfig, TorchTrainer

from nmt.jobs.ray_session import connect


def run(folder: Path) -> float:
    """Start Ray and one worker, stop Ray, and return the time at which the worker started."""
    file = folder / "started"
    with connect(1, folder / "ray.log"):
        TorchTrainer(
            _write_time,
            train_loop_config={"file": str(file)},
            torch_config=TorchConfig(backend="gloo"),
            scaling_config=ray.train.ScalingConfig(num_workers=1),
            run_config=ray.train.RunConfig(name="noop", storage_path=str(folder)),
        ).fit()
    return float(file.read_text())


def _write_time(config: dict[str, str]) -> None:
    Path(config["file"]).write_text(str(time.time()))


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as scratch:
        print(run(Path(scratch)))
