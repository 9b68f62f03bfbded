"""Writing and reading a checkpoint, against writing as many bytes without any care."""

import os
from collections.abc import Iterator
from pathlib import Path

from nmt.bench.bench import Bench, Updates, time
from nmt.bench.figures import Figure
from nmt.bench.timing import take_turns
from nmt.checkpoint.loading import load_training_state
from nmt.checkpoint.run import bundles
from nmt.checkpoint.writing import save


def measure(bench: Bench) -> Iterator[Figure]:
    """A checkpoint of the wide model with its optimizer: what training waits for."""
    updates = Updates(bench.wide, "fp32", 1)
    updates()
    state = updates.learner.state(1, {})
    run_dir = bench.scratch / "checkpoints"
    tokenizer = bench.wide.subword.to_json()
    save(run_dir, updates.experiment, tokenizer, state)
    folder = bundles(run_dir)[0]
    num_bytes = sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())
    data = bytes(num_bytes)
    timings = take_turns(
        {
            "save": lambda: save(run_dir, updates.experiment, tokenizer, state),
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


def _write(path: Path, data: bytes) -> None:
    with path.open("wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
