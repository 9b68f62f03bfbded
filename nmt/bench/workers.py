"""Two workers against one: the training loop itself, in two processes that talk over gloo.

Weak scaling: two workers share updates of two micro-batches, one worker makes updates of one. In
turns, so that other load falls on all alike: one alone, two beside each other that do not talk, and
two that train one model.
"""

import json
import multiprocessing
import os
import statistics
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

import torch
import torch.distributed as dist

from nmt.bench.bench import Bench
from nmt.bench.cases import Case
from nmt.bench.figures import Figure
from nmt.bench.timing import middle_half
from nmt.config.experiment import Experiment
from nmt.training.loop import Corpus, train
from nmt.training.world import World

ROUNDS = 3
LOG_EVERY = 8
UPDATES = 5 * LOG_EVERY
"""Updates of each of the three ways in one round, of which the first ones are not timed."""
TIMEOUT_S = 600


def measure(bench: Bench) -> Iterator[Figure]:
    """Two workers of the small case."""
    case = bench.small
    folder = bench.scratch / "workers"
    folder.mkdir()
    (folder / "job.json").write_text(case.to_json(), encoding="utf-8")
    context = multiprocessing.get_context("spawn")
    processes = [context.Process(target=_process, args=(rank, folder)) for rank in range(2)]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    workers = [_read(folder / f"{rank}.json") for rank in range(2)]
    yield from _figures(case.name, workers)


def _read(path: Path) -> dict[str, list["Pace"]]:
    found = json.loads(path.read_text(encoding="utf-8"))
    return {how: [Pace(**pace) for pace in paces] for how, paces in found.items()}


@dataclass(frozen=True)
class Pace:
    """What one worker did in one stretch."""

    tgt_tokens_per_s: float
    """Of all workers of its run."""
    waiting: float
    """Share of its time in which the training thread did not run: for data, for others, for a
    core."""
    data: float
    """Share of its time that it waited for data."""


def _figures(name: str, workers: Sequence[dict[str, list[Pace]]]) -> Iterator[Figure]:
    first = workers[0]
    one, two = (tuple(p.tgt_tokens_per_s for p in first[how]) for how in ("one", "two"))
    beside = tuple(
        a.tgt_tokens_per_s + b.tgt_tokens_per_s
        for a, b in zip(*(worker["beside"] for worker in workers), strict=True)
    )
    best = 2 * statistics.median(one)
    for how, paces, counts in (
        ("one", one, "one worker, the other core idle"),
        ("beside", beside, "two that train a model each"),
        ("two", two, "two workers that train one model"),
    ):
        ratio = None if how == "one" else statistics.median(paces) / best
        yield Figure(
            f"workers/{name}/{how}",
            statistics.median(paces),
            "tgt tokens/s",
            counts,
            spread=middle_half(paces),
            repeats=len(paces),
            ratio=ratio,
            ratio_to="twice one worker" if ratio else "",
        )
    yield Figure(
        f"workers/{name}/two to beside",
        statistics.median(two) / statistics.median(beside),
        "times",
        "what talking to each other leaves of two that do not",
        spread=middle_half(two) + middle_half(beside),
    )
    for share, counts in (("data", "for data"), ("waiting", "for data, each other, or a core")):
        values = tuple(100 * getattr(pace, share) for pace in first["two"])
        yield Figure(
            f"workers/{name}/{share} wait",
            statistics.median(values),
            "% of the time",
            f"the first of two waits {counts}",
            is_better_high=False,
            repeats=len(values),
        )


def _process(rank: int, folder: Path) -> None:
    """All rounds of one of the two processes."""
    os.environ["GLOO_SOCKET_IFNAME"] = "lo"
    torch.set_num_threads(1)
    case = Case.from_json((folder / "job.json").read_text(encoding="utf-8"))
    corpus = Corpus(case.shards, case.subword, ([], []))
    dist.init_process_group(
        "gloo",
        init_method=f"file://{folder / 'store'}",
        rank=rank,
        world_size=2,
        timeout=timedelta(seconds=TIMEOUT_S),
    )
    both = World.of_process_group(torch.device("cpu"), TIMEOUT_S)
    found: dict[str, list[dict[str, float]]] = {"one": [], "beside": [], "two": []}
    for number in range(ROUNDS):
        for how in found:
            world = both if how == "two" else World()
            dist.barrier()
            if how != "one" or rank == 0:
                run_dir = folder / f"{how}-{number}-{0 if how == 'two' else rank}"
                pace = _stretch(case.experiment, corpus, world, run_dir)
                found[how] += [vars(pace)] if pace else []
    (folder / f"{rank}.json").write_text(json.dumps(found))
    dist.barrier()
    dist.destroy_process_group()


def _stretch(experiment: Experiment, corpus: Corpus, world: World, run_dir: Path) -> Pace | None:
    """Train for some updates as a run does, and stop; None: not the first worker."""
    never = 10**6
    often = {"updates": never, "log_every": LOG_EVERY, "validate_every": never}
    training = experiment.training.model_copy(update=often | {"checkpoint_every": never})
    batching = experiment.batching.model_copy(update={"micro_batches": world.size})
    experiment = experiment.model_copy(update={"batching": batching, "training": training})
    watch = _Watch()
    train(experiment, corpus, world, run_dir, at_update=watch)
    if not world.is_first:
        return None
    lines = (run_dir / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    records = [json.loads(line) for line in lines][1:]  # the first one is warming up
    return Pace(
        statistics.fmean(record["tgt_tokens_per_s"] for record in records),
        watch.waiting(),
        statistics.fmean(record["data_wait_percent"] for record in records) / 100,
    )


class _Watch:
    """Told each update of the first worker: notes when it was done, and stops the run."""

    def __init__(self) -> None:
        self._began = (0.0, 0.0)

    def __call__(self, done: int) -> bool:
        self._now = (time.perf_counter(), time.thread_time())
        if done == LOG_EVERY:
            self._began = self._now
        return done == UPDATES

    def waiting(self) -> float:
        """Share of the time, from the first log line on, in which this thread did not run."""
        wall_s, cpu_s = (now - began for now, began in zip(self._now, self._began, strict=True))
        return max(0.0, 1 - cpu_s / wall_s)
