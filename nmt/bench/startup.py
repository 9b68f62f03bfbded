"""Start-up time of commands."""

import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import torch

from nmt.bench.figures import Figure
from nmt.bench.timing import relative_iqr
from nmt.bench.workloads import Bench
from nmt.checkpoint.write import save_checkpoint
from nmt.config.experiment import Experiment
from nmt.config.files import dump, load_experiment
from nmt.corpus.builtin import generator
from nmt.corpus.prepare import prepare
from nmt.corpus.prepared import open_prepared
from nmt.errors import NmtError
from nmt.training.distributed import World
from nmt.training.precision import resolve_precision
from nmt.training.state import Learner

REPEATS = 3
RAY_REPEATS = 2
"""Fewer repeats of commands with Ray: each takes a quarter of a minute."""
TIMEOUT_S = 300


def measure_startup(bench: Bench) -> Iterator[Figure]:
    """Commands in a process of their own: help, one translation, Ray alone, first update."""
    nmt = [sys.executable, "-m", "nmt"]
    folder = bench.scratch / "startup"
    experiment, model = _prepare(folder)
    line, file = folder / "line", folder / "startup.yaml"
    line.write_text("The old neighbour buys a red house.\n", encoding="utf-8")
    file.write_text(dump(experiment), encoding="utf-8")

    def seconds_of(*command: str) -> float:
        start_s = time.time()
        _run([*nmt, *command])
        return time.time() - start_s

    def show_help() -> float:
        return seconds_of("--help")

    def translate() -> float:
        return seconds_of("translate", str(model), "-i", str(line), "-o", f"{line}.out")

    def ray_worker() -> float:
        start_s = time.time()
        return float(_run([sys.executable, "-m", "nmt.jobs.noop_run"]).split()[-1]) - start_s

    def first_update() -> float:
        start_s = time.time()
        storage = folder / f"runs-{start_s}"
        _run([*nmt, "train", str(file), f"cluster.storage={storage}"])
        metrics = (storage / experiment.name / "metrics.jsonl").read_text(encoding="utf-8")
        records = map(json.loads, metrics.splitlines())
        first = next(record for record in records if record["kind"] == "train")
        return float(first["time"] - start_s)

    ray_s = 0.0
    for name, counts, measure, repeats in (
        ("help", "until `nmt --help` has printed", show_help, REPEATS),
        ("translate", "until `nmt translate` has translated one line", translate, REPEATS),
        ("ray", "until a local Ray has started one idle worker", ray_worker, RAY_REPEATS),
        ("first update", "`nmt train` with a local Ray to update 1", first_update, RAY_REPEATS),
    ):
        seconds = [measure() for _ in range(repeats)]
        value, spread = statistics.median(seconds), relative_iqr(seconds)
        figure = Figure(f"startup/{name}", value, "s", counts, False, spread, repeats)
        if name == "first update":
            figure = replace(figure, ratio=value / ray_s, ratio_to="Ray alone")
        ray_s = value
        yield figure


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


def _prepare(folder: Path) -> tuple[Experiment, Path]:
    """Prepare the demo with few pairs and updates, and save a checkpoint with random weights.

    Translations of random weights reach the length limit.
    """
    settings = {
        "corpus.root": folder, "corpus.prepared": folder / "prepared", "name": "startup",
        "corpus.subword.vocab_size": 1000, "training.updates": 2, "training.warmup_updates": 1,
        "training.log_every": 1,
    }  # fmt: skip
    changes = [f"{key}={value}" for key, value in settings.items()]
    experiment = load_experiment("configs/demo.yaml", changes)
    generator.write(folder, num_train=3000, num_dev=20, num_test=20)
    prepare(experiment)
    _, subword = open_prepared(experiment)
    resolved = resolve_precision(experiment, World())
    state = Learner(resolved, subword.num_pieces, World()).state(1, {})
    return experiment, save_checkpoint(folder / "model", resolved, subword.to_json(), state)
