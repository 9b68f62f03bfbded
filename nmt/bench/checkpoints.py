"""Checkpoints against writing as many bytes without any care, and what training pays for them.

What goes on beside training wants a core of its own: one worker on one thread leaves it where the
machine has two cores or more and nothing else runs.
"""

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

from nmt.bench.bench import Bench, Updates, time
from nmt.bench.figures import Figure
from nmt.bench.timing import take_turns
from nmt.checkpoint.async_writer import AsyncCheckpointWriter
from nmt.checkpoint.load import load_training_state
from nmt.checkpoint.run_directory import list_checkpoints
from nmt.checkpoint.write import save_checkpoint

EVERY = 20
"""Updates between two checkpoints."""


def measure(bench: Bench) -> Iterator[Figure]:
    """A checkpoint by itself, and beside training."""
    yield from _alone(bench)
    yield from _beside(bench)


def _alone(bench: Bench) -> Iterator[Figure]:
    """A checkpoint of the wide model with its optimizer: what training waits for."""
    updates = Updates(bench.wide, "fp32", 1)
    updates()
    state = updates.learner.state(1, {})
    run_dir = bench.scratch / "checkpoints"
    tokenizer = bench.wide.subword.to_json()
    save_checkpoint(run_dir, updates.experiment, tokenizer, state)
    folder = list_checkpoints(run_dir)[0]
    num_bytes = sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())
    data = bytes(num_bytes)
    timings = take_turns(
        {
            "save": lambda: save_checkpoint(run_dir, updates.experiment, tokenizer, state),
            "load": lambda: load_training_state(folder),
            "plain": lambda: _write(bench.scratch / "plain", data),
        },
        bench.seconds / 2,
    )
    what = f"{num_bytes / 1e6:,.0f} MB: weights, average, optimizer; digests"
    plain = timings["plain"].wall_s
    for name, meaning in (("save", f"{what}; on disk when done"), ("load", what)):
        ratio = (timings[name].wall_s / plain, "the time of writing the bytes alone")
        yield time(f"checkpoint/{bench.wide.name}/{name}", timings[name], meaning, ratio)


def _beside(bench: Bench) -> Iterator[Figure]:
    """Training with a checkpoint and with a validation task, against training alone."""
    updates = Updates(bench.small, bench.small.precision, 4)
    run_dir, tokenizer = bench.scratch / "beside", bench.small.subword.to_json()
    writer = AsyncCheckpointWriter(run_dir, updates.experiment, tokenizer)
    folder = save_checkpoint(run_dir, updates.experiment, tokenizer, updates.learner.state(1, {}))
    lines = run_dir / "lines"
    lines.write_text("A man in a red shirt stands beside a small house.\n" * 1000)
    command = [sys.executable, "-m", "nmt", "translate", str(folder), "--beam", "1", "--threads"]
    command += ["1", "-i", str(lines), "-o", os.devnull]

    def train() -> None:
        for _ in range(EVERY // len(updates.updates)):
            updates()

    def with_checkpoint() -> None:
        writer.write(updates.learner.state(2, {}))
        train()
        writer.wait()

    def with_task() -> None:
        with subprocess.Popen(command, stderr=subprocess.DEVNULL) as task:
            train()
            task.kill()

    works = {"checkpoint": with_checkpoint, "validation": with_task, "alone": train}
    timings = take_turns(works, bench.seconds)
    alone = timings["alone"].wall_s
    beside = {
        "checkpoint": "one checkpoint is written",
        "validation": "another process translates with beam 1",
    }
    for name, meaning in beside.items():
        what = f"{EVERY} updates while {meaning}; one worker, {os.cpu_count()} cores"
        ratio = (timings[name].wall_s / alone, "the time of the updates alone")
        yield time(f"beside/{bench.small.name}/{name}", timings[name], what, ratio)


def _write(path: Path, data: bytes) -> None:
    with path.open("wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
