"""How long a person waits before something happens: help, one line translated, the first update.

Each command runs as a person would run it, in a process of its own.
"""

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

from nmt.bench.bench import Bench
from nmt.bench.figures import Figure
from nmt.bench.timing import middle_half
from nmt.checkpoint.run_directory import list_checkpoints
from nmt.checkpoint.write import save_checkpoint
from nmt.config.experiment import Experiment
from nmt.config.files import dump, load_experiment
from nmt.corpus.builtin import generate
from nmt.corpus.prepare import prepare
from nmt.corpus.prepared import open_prepared
from nmt.errors import NmtError
from nmt.training.distributed import World
from nmt.training.learner import Learner
from nmt.training.precision import resolve_precision

REPEATS = 3
REPEATS_OF_RAY = 2
"""It takes a quarter of a minute to start and to end."""
TIMEOUT_S = 300


def measure(bench: Bench) -> Iterator[Figure]:
    """`nmt --help`, `nmt translate`, Ray by itself, `nmt train`."""
    nmt = [sys.executable, "-m", "nmt"]
    folder = bench.scratch / "startup"
    experiment = _experiment(folder)
    model, line = _model(experiment, folder), folder / "line.en"
    line.write_text("The old neighbour buys a red house.\n", encoding="utf-8")
    translate = [*nmt, "translate", str(model), "-i", str(line), "-o", str(folder / "line.de")]
    for name, command, counts in (
        ("help", [*nmt, "--help"], "until `nmt --help` has printed"),
        ("translate", translate, "until `nmt translate` has translated one line"),
    ):
        yield _figure(name, counts, [_seconds_of(command) for _ in range(REPEATS)])
    ray = _figure(
        "ray",
        "until a Ray of its own has started one worker that does nothing",
        [_ray_alone() for _ in range(REPEATS_OF_RAY)],
    )
    yield ray
    yield _first_update(nmt, experiment, folder, ray)


def _figure(name: str, counts: str, seconds: Sequence[float]) -> Figure:
    return Figure(
        f"startup/{name}",
        statistics.median(seconds),
        "s",
        counts,
        is_better_high=False,
        spread=middle_half(tuple(seconds)),
        repeats=len(seconds),
    )


def _seconds_of(command: Sequence[str]) -> float:
    began = time.perf_counter()
    _run(command)
    return time.perf_counter() - began


def _ray_alone() -> float:
    began = time.time()
    return float(_run([sys.executable, "-m", "nmt.jobs.noop_run"]).split()[-1]) - began


def _run(command: Sequence[str]) -> str:
    """What a command prints."""
    called = " ".join(command[1:4])
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=TIMEOUT_S, env=_environment()
        )
    except subprocess.TimeoutExpired:
        raise NmtError(f"{called} was not done after {TIMEOUT_S} s; free the machine") from None
    if done.returncode:
        reason = done.stderr.strip().splitlines()[-1:] or ["it said nothing"]
        raise NmtError(f"{called} ended with status {done.returncode}: {reason[0]}")
    return done.stdout


def _first_update(nmt: Sequence[str], experiment: Experiment, folder: Path, ray: Figure) -> Figure:
    file = folder / "startup.yaml"
    file.write_text(dump(experiment), encoding="utf-8")
    seconds = []
    for number in range(REPEATS_OF_RAY):
        storage = folder / f"runs-{number}"
        metrics = storage / experiment.name / "metrics.jsonl"
        began = time.time()
        _run([*nmt, "train", str(file), f"cluster.storage={storage}"])
        records = map(json.loads, metrics.read_text(encoding="utf-8").splitlines())
        first = next(record for record in records if record["kind"] == "train")
        seconds.append(first["time"] - began)
    what = "from `nmt train` of a prepared corpus, on a Ray of its own, to the end of update 1"
    figure = _figure("first update", what, seconds)
    return replace(figure, ratio=figure.value / ray.value, ratio_to="Ray alone")


def _experiment(folder: Path) -> Experiment:
    """The demo with few pairs and few updates, prepared."""
    changes = [f"corpus.root={folder}", f"corpus.prepared={folder / 'prepared'}", "name=startup"]
    changes += ["training.updates=2", "training.warmup_updates=1", "training.log_every=1"]
    changes += ["corpus.subword.vocab_size=1000"]
    experiment = load_experiment("configs/demo.yaml", changes)
    generate.write(folder, num_train=3000, num_dev=20, num_test=20)
    prepare(experiment)
    return experiment


def _model(experiment: Experiment, folder: Path) -> Path:
    """A bundle with fresh weights; it speaks nonsense, up to the longest length allowed."""
    _, subword = open_prepared(experiment)
    experiment = resolve_precision(experiment, World())
    learner = Learner(experiment, subword.num_pieces, World())
    save_checkpoint(folder / "model", experiment, subword.to_json(), learner.state(1, {}))
    return list_checkpoints(folder / "model")[0]


def _environment() -> dict[str, str]:
    threads = {"OMP_NUM_THREADS": str(torch.get_num_threads())}
    return {name: value for name, value in (os.environ | threads).items() if name != "RAY_ADDRESS"}
