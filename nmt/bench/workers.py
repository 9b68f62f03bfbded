"""Workers that train one model against one worker: the training loop itself, over gloo.

Weak scaling: W workers share updates of W micro-batches, one worker makes updates of one. In turns,
so that other load falls on all alike: one alone, two beside each other that do not talk, two that
train one model, and four, who have to share the cores of a small machine. Ratios are of positions a
second, padding counted: the updates of W micro-batches are other ones, and some are fuller.
"""

import json
import os
import statistics
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

import torch
import torch.distributed as dist

from nmt.bench.bench import Bench, start
from nmt.bench.cases import Case
from nmt.bench.figures import Figure
from nmt.bench.timing import middle_half
from nmt.config.experiment import Experiment
from nmt.errors import NmtError
from nmt.planning.probe import probe
from nmt.planning.scaling import ON_CPUS, Hosts, positions_of, rows_of
from nmt.planning.size import count_parameters
from nmt.training.data import TrainingData
from nmt.training.distributed import World
from nmt.training.loop import train
from nmt.training.malloc import configure_malloc

WAYS: Mapping[str, tuple[int, bool]] = {
    "one": (1, True),
    "beside": (2, False),
    "two": (2, True),
    "four": (4, True),
}
"""How many processes, and whether they train one model."""
PROCESSES = 4
ROUNDS = 3
LOG_EVERY = 8
UPDATES = 4 * LOG_EVERY
"""Updates of each way in one round, of which the first ones are not timed."""
TIMEOUT_S = 600
PROBE_S = 10.0

Paces = dict[str, list["Pace"]]
"""By way, one for each round."""


@dataclass(frozen=True)
class Pace:
    """What a run did in one round, as its first worker saw it."""

    tgt_tokens_per_s: float
    """Of all its workers."""
    positions_per_s: float
    """Of both sides, padding counted."""
    waiting: float
    """Share of the time in which the training thread did not run: it waited for data, for the
    other workers, or for a core."""
    data: float
    """Share of the time that it waited for data."""


def measure(bench: Bench) -> Iterator[Figure]:
    """Two and four workers against one, and against what `nmt plan` says of them."""
    case = bench.small
    found = _all_rounds(case, bench.scratch / "workers")
    yield from figures_of(case.name, found)
    for workers, (tokens_per_s, positions_per_s) in _planned(case).items():
        how = {1: "one", 2: "two", 4: "four"}[workers]
        seen = statistics.median(pace.positions_per_s for pace in found[0][how])
        yield Figure(
            f"workers/{case.name}/{how} planned",
            tokens_per_s,
            "tgt tokens/s",
            "as `nmt plan` predicts it from a probe of one worker",
            ratio=positions_per_s / seen,
            ratio_to="what they did",
        )


def figures_of(name: str, workers: Sequence[Paces]) -> Iterator[Figure]:
    """What all processes found, put together."""
    first = workers[0]
    tokens, positions = (_totals(workers, of) for of in ("tgt_tokens_per_s", "positions_per_s"))
    median = {how: statistics.median(found) for how, found in positions.items()}
    for how, counts in (
        ("one", "one worker by itself"),
        ("beside", "two that train a model each"),
        ("two", "two workers that train one model"),
        ("four", f"four workers that train one model on {os.cpu_count()} cores"),
    ):
        size = WAYS[how][0]
        yield Figure(
            f"workers/{name}/{how}",
            statistics.median(tokens[how]),
            "tgt tokens/s",
            counts,
            spread=middle_half(tokens[how]),
            repeats=ROUNDS,
            ratio=None if size == 1 else median[how] / size / median["one"],
            ratio_to="" if size == 1 else f"{size} times one worker",
        )
    yield Figure(
        f"workers/{name}/two to beside",
        median["two"] / median["beside"],
        "times",
        "what talking to each other leaves of two that do not",
        spread=middle_half(positions["two"]) + middle_half(positions["beside"]),
    )
    for share, counts in (("data", "data"), ("waiting", "data, the other, or a core")):
        values = tuple(100 * getattr(pace, share) for pace in first["two"])
        yield Figure(
            f"workers/{name}/waits for {share}".replace("for waiting", "in all"),
            statistics.median(values),
            "% of the time",
            f"the first of two workers waits for {counts}",
            is_better_high=False,
            repeats=ROUNDS,
        )


def _totals(workers: Sequence[Paces], of: str) -> dict[str, tuple[float, ...]]:
    """What all of each way made a second, round by round."""
    totals = {how: tuple(getattr(pace, of) for pace in workers[0][how]) for how in WAYS}
    totals["beside"] = tuple(
        sum(getattr(pace, of) for pace in paces)
        for paces in zip(*(worker["beside"] for worker in workers[:2]), strict=True)
    )
    return totals


def _planned(case: Case) -> dict[int, tuple[float, float]]:
    """Target tokens and positions a second that `nmt plan` predicts of 1, 2 and 4 workers here."""
    predicted = {}
    shards, pieces = case.shards, case.subword.num_pieces
    measured = probe(case.experiment, shards, case.schedule, pieces, PROBE_S)
    for workers in (1, 2, 4):
        sized = with_micro_batches(case.experiment, workers)
        schedule = case.schedule_of(sized)
        hosts = Hosts(workers, 1, os.cpu_count() or 0, has_gpus=False)
        parameters, sizes = count_parameters(sized, pieces), positions_of(shards, schedule)
        [row] = rows_of(sized, parameters, sizes, measured, ON_CPUS, hosts, nodes=[1])
        positions_per_s = float(sizes[0].sum(axis=1).mean()) / row.update_s
        predicted[workers] = (row.tgt_tokens_per_s, positions_per_s)
    return predicted


def _all_rounds(case: Case, folder: Path) -> list[Paces]:
    folder.mkdir()
    (folder / "job.json").write_text(case.to_json(), encoding="utf-8")
    processes = [start("nmt.bench.workers", str(rank), str(folder)) for rank in range(PROCESSES)]
    while any(process.poll() is None for process in processes):
        if any(process.poll() for process in processes):
            for process in processes:
                process.kill()  # it would wait for the one that failed
        time.sleep(0.2)
    if any(process.poll() for process in processes):
        raise NmtError("a worker of the benchmark failed; its own words stand above")
    return [_read(folder / f"{rank}.json") for rank in range(PROCESSES)]


def _read(file: Path) -> Paces:
    found = json.loads(file.read_text(encoding="utf-8"))
    return {how: [Pace(**pace) for pace in paces] for how, paces in found.items()}


def work(rank: int, folder: Path) -> None:
    """All rounds of one of the processes."""
    os.environ["GLOO_SOCKET_IFNAME"] = "lo"
    configure_malloc()
    torch.set_num_threads(1)
    case = Case.from_json((folder / "job.json").read_text(encoding="utf-8"))
    corpus = TrainingData(case.shards, case.subword, ([], []))
    lobby = dist.FileStore(str(folder / "lobby"), PROCESSES)  # type: ignore[attr-defined]
    found: dict[str, list[dict[str, float]]] = {how: [] for how in WAYS}
    for number in range(ROUNDS):
        for how, (size, is_one_model) in WAYS.items():
            name = f"{how}-{number}"
            if lobby.add(name, 1) == PROCESSES:
                lobby.set(f"{name} begins", "")
            lobby.wait([f"{name} begins"], timedelta(seconds=TIMEOUT_S))
            if rank >= size:
                continue
            shares = is_one_model and size > 1
            world = _meet(folder / name, rank, size) if shares else World()
            run_dir = folder / f"run-{name}-{0 if shares else rank}"
            pace = _round(case.experiment, corpus, world, run_dir)
            found[how] += [vars(pace)] if pace else []
            if shares:
                dist.destroy_process_group()
    (folder / f"{rank}.json").write_text(json.dumps(found))


def _meet(store: Path, rank: int, size: int) -> World:
    limit = timedelta(seconds=TIMEOUT_S)
    method = f"file://{store}"
    dist.init_process_group("gloo", init_method=method, rank=rank, world_size=size, timeout=limit)
    return World.from_process_group(torch.device("cpu"), TIMEOUT_S)


def _round(
    experiment: Experiment, corpus: TrainingData, world: World, run_dir: Path
) -> Pace | None:
    """Train for some updates as a run does, and stop; None: not the first worker."""
    never = 10**6
    often = {"updates": never, "log_every": LOG_EVERY, "validate_every": never}
    training = experiment.training.model_copy(update=often | {"checkpoint_every": never})
    experiment = with_micro_batches(experiment, world.size)
    experiment = experiment.model_copy(update={"training": training})
    watch = _Watch()
    train(experiment, corpus, world, run_dir, should_stop=watch)
    if not world.is_main:
        return None
    lines = (run_dir / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    records = [record for record in map(json.loads, lines) if record["kind"] == "train"]
    records = records[1:]  # the first one is warming up
    return Pace(
        statistics.fmean(record["tgt_tokens_per_s"] for record in records),
        statistics.fmean(_positions_per_s(record) for record in records),
        watch.waiting(),
        statistics.fmean(record["data_wait_percent"] for record in records) / 100,
    )


def _positions_per_s(record: Mapping[str, float]) -> float:
    real_per_s = record["src_tokens_per_s"] + record["tgt_tokens_per_s"]
    return real_per_s / (1 - record["padding_percent"] / 100)


def with_micro_batches(experiment: Experiment, number: int) -> Experiment:
    """The experiment with updates of so many micro-batches."""
    batching = experiment.batching.model_copy(update={"micro_batches": number})
    return experiment.model_copy(update={"batching": batching})


class _Watch:
    """Told each update of the first worker: notes when it was done, and stops the run."""

    def __init__(self) -> None:
        self._began = self._now = (0.0, 0.0)

    def __call__(self, done: int) -> bool:
        self._now = (time.perf_counter(), time.thread_time())
        if done == LOG_EVERY:
            self._began = self._now
        return done == UPDATES

    def waiting(self) -> float:
        """Share of the time, from the first log line on, in which this thread did not run."""
        wall_s, cpu_s = (now - began for now, began in zip(self._now, self._began, strict=True))
        return max(0.0, 1 - cpu_s / wall_s)


if __name__ == "__main__":
    work(int(sys.argv[1]), Path(sys.argv[2]))
