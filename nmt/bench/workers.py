"""Worker processes: peak memory and sustained speed of one, and scaling to several over gloo.

Scaling is weak: W workers share updates of W micro-batches. The modes take turns, so that other
load affects all alike. Ratios are of positions per second, padding included, because updates of W
micro-batches contain other pairs and other amounts of padding.
"""

import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.distributed as dist

from nmt.batching.loader import Loader
from nmt.bench.baselines import PlainLearner, random_batches
from nmt.bench.figures import Figure
from nmt.bench.timing import relative_iqr
from nmt.bench.workloads import Bench, Updates, Workload
from nmt.config.cluster import Cluster
from nmt.errors import NmtError
from nmt.planning.memory_estimate import (
    SUSTAINED_UPDATES,
    count_parameters,
    gradient_bytes,
    updates_with_new_shapes,
)
from nmt.planning.probe import run_probe
from nmt.planning.scaling import ON_CPUS, Hosts, predict_scaling, sample_positions
from nmt.training.data import TrainingData
from nmt.training.distributed import World
from nmt.training.loop import train
from nmt.training.memory import configure_memory

MEMORY_UPDATES = 8
"""Updates of the part `memory`."""
NUM_SAMPLED = 24
"""Updates that are timed for the sustained speed."""
MODES = {"one": (1, True), "beside": (2, False), "two": (2, True), "four": (4, True)}
"""Number of processes, and True if they train one model together."""
PROCESSES = 4
ROUNDS = 3
LOG_EVERY = 8
UPDATES = 4 * LOG_EVERY
"""Updates per mode and round; the first LOG_EVERY are not timed."""
TIMEOUT_S = 600
PROBE_S = 10.0


class Speed(NamedTuple):
    """Measurements of one round on rank 0, sums over all ranks."""

    tgt_tokens_per_s: float
    positions_per_s: float  # of both sides, padding included


SpeedsByMode = dict[str, list[Speed]]
"""Speeds of the rounds of each mode."""


def measure_sustained(bench: Bench) -> Iterator[Figure]:
    """Speed and memory of a worker after the shapes of 2,000 updates."""
    workload, precision = bench.small, bench.small.precision
    folder = bench.scratch / f"sustained-{workload.name}"
    [measured] = run_processes(workload, folder, [f"sustained {precision}"])
    name = f"sustained/{workload.name}/{precision}"
    counts = f"{measured['shapes']} shapes of micro-batches, those of {SUSTAINED_UPDATES:,} updates"
    yield Figure(
        name, measured["tokens_per_cpu_s"], "tgt tokens per CPU second", counts,
        ratio=measured["of_repeated"], ratio_to="the same updates repeated at once",
    )  # fmt: skip
    counts = "peak resident memory of one worker by then, torch included"
    yield Figure(f"{name} memory", measured["mib"], "MiB", counts, is_better_high=False)


def _measure_sustained(workload: Workload, precision: str) -> dict[str, float]:
    """Train on all shapes of the first updates, then time a sample of these updates.

    The memory of a worker depends on the shapes of micro-batches that it has processed, so updates
    without a new shape are left out.
    """
    shards, schedule = workload.shards, workload.schedule
    numbers, num_shapes = updates_with_new_shapes(shards, schedule)
    updates = Updates(workload, precision, 1)
    for number in numbers:
        for update, parts in Loader(shards, schedule, range(number, number + 1)):
            updates.run(update, parts)
    num_tokens, once_s, again_s = 0, 0.0, 0.0
    for number in np.linspace(0, SUSTAINED_UPDATES - 1, NUM_SAMPLED).astype(int).tolist():
        for update, parts in Loader(shards, schedule, range(number, number + 1)):
            num_tokens += update.num_tgt_tokens
            times = []
            for _ in range(2):
                start = time.thread_time()
                updates.run(update, parts)
                times.append(time.thread_time() - start)
            once_s, again_s = once_s + times[0], again_s + times[1]
    return {
        "shapes": num_shapes, "mib": _peak_of_process_mib(),
        "tokens_per_cpu_s": num_tokens / once_s, "of_repeated": again_s / once_s,
    }  # fmt: skip


def measure_memory(bench: Bench) -> Iterator[Figure]:
    """Peak memory of training, relative to the plain version."""
    for workload in (bench.small, bench.wide):
        folder = bench.scratch / f"memory-{workload.name}"
        [ours] = run_processes(workload, folder / "ours", [workload.precision])
        [plain] = run_processes(workload, folder / "plain", ["plain"])
        counts = f"peak resident memory of {MEMORY_UPDATES} updates of one worker, torch included"
        name = f"memory/{workload.name}/{workload.precision}"
        figure = Figure(name, ours, "MiB", counts, is_better_high=False)
        yield replace(figure, ratio=ours / plain, ratio_to="the plain version")


def _peak_mib(workload: Workload, kind: str) -> float:
    """Train in this process and return its peak memory."""
    if kind == "plain":
        model = Updates(workload, "fp32", 1).learner.model
        learner = PlainLearner(model, workload.experiment.training.label_smoothing)
        for batch in random_batches(workload, MEMORY_UPDATES):
            learner.backward(batch)
            learner.step()
    else:
        updates = Updates(workload, kind, 1)
        for update, parts in Loader(workload.shards, workload.schedule, range(MEMORY_UPDATES)):
            updates.run(update, parts)
    return _peak_of_process_mib()


def _peak_of_process_mib() -> float:
    # Not getrusage: on Linux the peak of a process starts at that of its parent.
    status = Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
    kib = next(line.split()[1] for line in status if line.startswith("VmHWM:"))
    return int(kib) / 1024


def measure_scaling(bench: Bench) -> Iterator[Figure]:
    """Two and four workers relative to one, and to the prediction of `nmt plan`."""
    workload = bench.small
    results = run_processes(workload, bench.scratch / "workers", ["scaling"] * PROCESSES)
    speeds = [{mode: [Speed(*each) for each in one[mode]] for mode in MODES} for one in results]
    yield from scaling_figures(workload.name, speeds)
    counts = "prediction of `nmt plan` from a probe of one worker"
    for num_workers, (tokens_per_s, positions_per_s) in _predict(workload).items():
        mode = {1: "one", 2: "two", 4: "four"}[num_workers]
        measured = statistics.median(speed.positions_per_s for speed in speeds[0][mode])
        ratio, name = positions_per_s / measured, f"workers/{workload.name}/{mode} planned"
        yield Figure(name, tokens_per_s, "tgt tokens/s", counts, ratio=ratio, ratio_to="measured")


def scaling_figures(name: str, by_process: Sequence[SpeedsByMode]) -> Iterator[Figure]:
    """Combine the measurements of all processes."""
    tokens = _totals(by_process, "tgt_tokens_per_s")
    positions = _totals(by_process, "positions_per_s")
    median = {mode: statistics.median(values) for mode, values in positions.items()}
    for mode, counts in (
        ("one", "one worker alone"),
        ("beside", "two workers that train separate models"),
        ("two", "two workers that train one model"),
        ("four", f"four workers that train one model on {os.cpu_count()} cores"),
    ):
        size, value = MODES[mode][0], statistics.median(tokens[mode])
        ratio, baseline = median[mode] / size / median["one"], f"{size} times one worker"
        yield Figure(
            f"workers/{name}/{mode}", value, "tgt tokens/s", counts,
            spread=relative_iqr(tokens[mode]), repeats=ROUNDS,
            ratio=ratio if size > 1 else None, ratio_to=baseline if size > 1 else "",
        )  # fmt: skip
    yield Figure(
        f"workers/{name}/two to beside", median["two"] / median["beside"], "times",
        "speed of two workers of one model relative to two of separate models",
        spread=relative_iqr(positions["two"]) + relative_iqr(positions["beside"]),
    )  # fmt: skip


def _totals(by_process: Sequence[SpeedsByMode], field: str) -> dict[str, list[float]]:
    """Return the sum over all workers of each mode, by round."""
    totals = {mode: [getattr(speed, field) for speed in by_process[0][mode]] for mode in MODES}
    # Separate models: each process has measured its own share.
    second = [getattr(speed, field) for speed in by_process[1]["beside"]]
    totals["beside"] = [one + two for one, two in zip(totals["beside"], second, strict=True)]
    return totals


def _predict(workload: Workload) -> dict[int, tuple[float, float]]:
    """Predict target tokens and positions per second of 1, 2 and 4 workers as `nmt plan` does."""
    predicted = {}
    shards, num_pieces = workload.shards, workload.subword.num_pieces
    measured = run_probe(workload.experiment, shards, workload.schedule, num_pieces, PROBE_S)
    for num_workers in (1, 2, 4):
        sized = workload.with_settings("batching", micro_batches=num_workers)
        hosts = Hosts(num_workers, 1, os.cpu_count() or 0, has_gpus=False)
        parameters = count_parameters(sized.experiment, num_pieces)
        num_bytes = gradient_bytes(Cluster(), parameters)
        sizes = sample_positions((shards.src_lengths, shards.tgt_lengths), sized.schedule)
        [row] = predict_scaling(
            sized.experiment, num_bytes, sizes, measured, ON_CPUS, hosts, nodes=[1]
        )
        positions_per_s = float(sizes[0].sum(axis=1).mean()) / row.update_s
        predicted[num_workers] = (row.tgt_tokens_per_s, positions_per_s)
    return predicted


def _run_rounds(workload: Workload, rank: int, folder: Path) -> SpeedsByMode:
    """Run all rounds of one process."""
    os.environ["GLOO_SOCKET_IFNAME"] = "lo"
    store = dist.FileStore(str(folder / "store"), PROCESSES)  # type: ignore[attr-defined]
    speeds: SpeedsByMode = {mode: [] for mode in MODES}
    for number in range(ROUNDS):
        for mode, (size, is_one_model) in MODES.items():
            name = f"{mode}-{number}"
            # Barrier: processes without work in this mode must leave the cores to the others.
            if store.add(name, 1) == PROCESSES:
                store.set(f"{name} starts", "")
            store.wait([f"{name} starts"], timedelta(seconds=TIMEOUT_S))
            if rank >= size:
                continue
            is_shared = is_one_model and size > 1
            world = _join_group(folder / name, rank, size) if is_shared else World()
            speed = _run_round(workload, world, folder / f"run-{name}-{0 if is_shared else rank}")
            speeds[mode] += [speed] if speed else []
            if is_shared:
                dist.destroy_process_group()
    return speeds


def _join_group(store: Path, rank: int, size: int) -> World:
    limit, method = timedelta(seconds=TIMEOUT_S), f"file://{store}"
    dist.init_process_group("gloo", method, limit, world_size=size, rank=rank)
    return World.from_process_group(torch.device("cpu"), TIMEOUT_S)


def _run_round(workload: Workload, world: World, run_dir: Path) -> Speed | None:
    """Train for some updates; return None on ranks other than 0."""
    never = 10**6
    often = {"updates": never, "validate_every": never, "checkpoint_every": never}
    workload = workload.with_settings("batching", micro_batches=world.size)
    workload = workload.with_settings("training", log_every=LOG_EVERY, **often)
    corpus = TrainingData(workload.shards, workload.subword, (["a"], ["a"]))
    train(workload.experiment, corpus, world, run_dir, should_stop=lambda done: done == UPDATES)
    if not world.is_main:
        return None
    lines = (run_dir / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    records = [record for record in map(json.loads, lines) if record["kind"] == "train"]
    speeds = []
    for record in records[1:]:  # the first one is warm-up
        real_per_s = record["src_tokens_per_s"] + record["tgt_tokens_per_s"]
        positions_per_s = real_per_s / (1 - record["padding_percent"] / 100)
        speeds.append((record["tgt_tokens_per_s"], positions_per_s))
    return Speed(*map(statistics.fmean, zip(*speeds, strict=True)))


def run_processes(workload: Workload, folder: Path, kinds: Sequence[str]) -> list[Any]:
    """Run `main` in one process per kind and return their results.

    Raises:
        NmtError: a process failed; its own message is printed.
    """
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "workload.json").write_text(workload.to_json(), encoding="utf-8")
    # Not multiprocessing: its children import the main script of the caller again.
    command = [sys.executable, "-m", __spec__.name, str(folder)]
    processes = [
        subprocess.Popen([*command, str(number), kind]) for number, kind in enumerate(kinds)
    ]
    while any(process.poll() is None for process in processes):
        if any(process.poll() for process in processes):
            for process in processes:
                process.kill()  # the others would wait for the one that failed
        time.sleep(0.2)
    if failed := [process.returncode for process in processes if process.returncode]:
        raise NmtError(f"a benchmark process ended with status {failed[0]}; see its output above")
    files = (folder / f"{number}.json" for number in range(len(kinds)))
    return [json.loads(file.read_text(encoding="utf-8")) for file in files]


def main(folder: Path, number: int, kind: str) -> None:
    """Run one process of `run_processes`.

    Args:
        kind: scaling; sustained and a precision; or memory of a precision or of `plain`.
    """
    configure_memory()
    torch.set_num_threads(1)
    workload = Workload.from_json((folder / "workload.json").read_text(encoding="utf-8"))
    result: Any
    if kind == "scaling":
        result = _run_rounds(workload, number, folder)
    elif kind.startswith("sustained "):
        result = _measure_sustained(workload, kind.split()[1])
    else:
        result = _peak_mib(workload, kind)
    (folder / f"{number}.json").write_text(json.dumps(result), encoding="utf-8")


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]), sys.argv[3])
