"""Start-up time of commands."""

import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import torch

from nmt.bench.figures import Figure
from nmt.bench.harness import Bench
from nmt.bench.timing import relative_iqr
from nmt.checkpoint.run_directory import list_checkpoints
from nmt.checkpoint.write import save_checkpoint
from nmt.config.experiment import Experiment
from nmt.config.files import dump, load_experiment
from nmt.corpus.builtin import generator
from nmt.corpus.prepare import prepare
from nmt.corpus.prepared import open_prepared
from nmt.errors import NmtError
from nmt.training.distributed import World
from nmt.training.learner import Learner
from nmt.training.precision import resolve_precision

REPEATS = 3
RAY_REPEATS = 2
"""Fewer repeats of commands with Ray: each takes a quarter of a minute."""
TIMEOUT_S = 300


def measure_startup(bench: Bench) -> Iterator[Figure]:
    """Commands in a process of their own: help, one translation, Ray alone, first update."""
    nmt = [sys.executable, "-m", "nmt"]
    folder = bench.scratch / "startup"
    experiment = _prepare_demo(folder)
    model, line = _save_untrained(experiment, folder), folder / "line.en"
    line.write_text("The old neighbour buys a red house.\n", encoding="utf-8")
    translate = [*nmt, "translate", str(model), "-i", str(line), "-o", str(folder / "line.de")]
    counts = "until `nmt --help` has printed"
    yield _seconds_figure("help", counts, lambda: _seconds_of([*nmt, "--help"]), REPEATS)
    counts = "until `nmt translate` has translated one line"
    yield _seconds_figure("translate", counts, lambda: _seconds_of(translate), REPEATS)
    counts = "until a local Ray has started one worker that does nothing"
    ray = _seconds_figure("ray", counts, _seconds_to_ray_worker, RAY_REPEATS)
    yield ray
    file = folder / "startup.yaml"
    file.write_text(dump(experiment), encoding="utf-8")
    counts = "from `nmt train` on a prepared corpus with a local Ray to the end of update 1"

    def first_update() -> float:
        return _seconds_to_first_update([*nmt, "train", str(file)], experiment.name, folder)

    figure = _seconds_figure("first update", counts, first_update, RAY_REPEATS)
    yield replace(figure, ratio=figure.value / ray.value, ratio_to="Ray alone")


def _seconds_figure(name: str, counts: str, measure: Callable[[], float], repeats: int) -> Figure:
    seconds = [measure() for _ in range(repeats)]
    spread, value = relative_iqr(seconds), statistics.median(seconds)
    return Figure(f"startup/{name}", value, "s", counts, False, spread, repeats)


def _seconds_of(command: Sequence[str]) -> float:
    start_s = time.perf_counter()
    _run(command)
    return time.perf_counter() - start_s


def _seconds_to_ray_worker() -> float:
    start_s = time.time()
    return float(_run([sys.executable, "-m", "nmt.jobs.noop_run"]).split()[-1]) - start_s


def _seconds_to_first_update(train: Sequence[str], name: str, folder: Path) -> float:
    storage, start_s = folder / f"runs-{time.time_ns()}", time.time()
    _run([*train, f"cluster.storage={storage}"])
    metrics = (storage / name / "metrics.jsonl").read_text(encoding="utf-8")
    records = map(json.loads, metrics.splitlines())
    return float(next(record for record in records if record["kind"] == "train")["time"] - start_s)


def _run(command: Sequence[str]) -> str:
    """Return the output of a command."""
    shown = " ".join(command[1:4])
    threads = {"OMP_NUM_THREADS": str(torch.get_num_threads())}
    env = {key: value for key, value in (os.environ | threads).items() if key != "RAY_ADDRESS"}
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=TIMEOUT_S, env=env)
    except subprocess.TimeoutExpired:
        raise NmtError(
            f"{shown} did not finish within {TIMEOUT_S} s; stop other work on this machine"
        ) from None
    if done.returncode:
        reason = done.stderr.strip().splitlines()[-1:] or ["no output"]
        raise NmtError(f"{shown} ended with status {done.returncode}: {reason[0]}")
    return done.stdout


def _prepare_demo(folder: Path) -> Experiment:
    """Prepare the demo with few pairs and updates."""
    settings = {
        "corpus.root": folder, "corpus.prepared": folder / "prepared", "name": "startup",
        "corpus.subword.vocab_size": 1000, "training.updates": 2, "training.warmup_updates": 1,
        "training.log_every": 1,
    }  # fmt: skip
    changes = [f"{key}={value}" for key, value in settings.items()]
    experiment = load_experiment("configs/demo.yaml", changes)
    generator.write(folder, num_train=3000, num_dev=20, num_test=20)
    prepare(experiment)
    return experiment


def _save_untrained(experiment: Experiment, folder: Path) -> Path:
    """Save a checkpoint with random weights; its translations reach the length limit."""
    _, subword = open_prepared(experiment)
    experiment = resolve_precision(experiment, World())
    learner = Learner(experiment, subword.num_pieces, World())
    save_checkpoint(folder / "model", experiment, subword.to_json(), learner.state(1, {}))
    return list_checkpoints(folder / "model")[0]
