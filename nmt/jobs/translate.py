"""Translating big files on Ray: workers that keep the model, chunks that come back in order.

A chunk is what one process would read at once, a window of the translator: a chunk is translated
the same wherever and whenever that is done, and so the file is, byte for byte, in any precision.
The driver reads the input and alone writes the output, a bounded number of chunks ahead of what is
written, so that memory does not grow with the file. A worker that is lost is replaced, and its
chunks are done again; what stops everything, a kill too, costs the chunks that were under way.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict
from itertools import islice
from typing import Any, TypeVar

import ray
import torch

from nmt.config.cluster import Cluster
from nmt.decoding.output_formats import ALIGNED, OutputCounts, formatted
from nmt.decoding.requests import Request
from nmt.decoding.resumable_output import Unfinished
from nmt.decoding.translator import WINDOW_BATCHES, Translator, num_chars_of, windows
from nmt.errors import NmtError
from nmt.jobs.tasks import attempt, result_of
from nmt.model.mkl import set_strict_mode
from nmt.training.malloc import MALLOC_ENVIRONMENT

CHUNKS_AHEAD = 4
"""Chunks under way, or done before one that comes earlier, for each worker."""

ItemT = TypeVar("ItemT")
Output = tuple[str, dict[str, int]]
"""Text, and what was counted in it."""
Render = Callable[[Translator, Sequence[ItemT], int], Output]
"""The output for items of the input, the first of which has this number, from 0."""


def translate_on_ray(
    translator: Translator,
    chunks: Iterable[Sequence[ItemT]],
    render: Render[ItemT],
    unfinished: Unfinished,
    cluster: Cluster,
    progress: Callable[[int], object],
) -> None:
    """Translate what is not done yet, on the cluster that `ray.init` has joined or started.

    Args:
        translator: on the CPU; each worker gets a copy.
        chunks: all of the input, what is done already too.
        render: makes the output of a chunk; goes to the workers.
        unfinished: what is done already, and where the rest is added.
        cluster: how many workers, and what each has.
        progress: is told after each chunk how many lines are done.

    Raises:
        NmtError: the cluster cannot hold the workers, one was lost too often, or one of them says
            what is wrong with its chunk.
    """
    num_workers = _num_workers(cluster)
    pool = _Pool(translator, render, cluster, num_workers)
    rest = enumerate(chunks)
    for _ in islice(rest, unfinished.num_chunks):
        pass
    sizes: dict[int, int] = {}
    first = unfinished.num_lines
    next_out = unfinished.num_chunks
    done: dict[int, Output] = {}
    while True:
        for number, chunk in islice(rest, CHUNKS_AHEAD * num_workers - len(sizes)):
            pool.give(number, chunk, first)
            sizes[number] = len(chunk)
            first += len(chunk)
        if not sizes:
            return
        number, output = pool.take()
        done[number] = output
        while next_out in done:
            text, counts = done.pop(next_out)
            unfinished.add(text, sizes.pop(next_out), counts)
            next_out += 1
            progress(unfinished.num_lines)


def chunks_of(translator: Translator, requests: Iterable[Request]) -> Iterator[list[Request]]:
    """What a translator would read at once, time after time."""
    most = WINDOW_BATCHES * translator.decoding.batch_sentences
    return windows(requests, most, num_chars_of)


def render(
    form: str, num_best: int, translator: Translator, requests: Sequence[Request], first: int
) -> Output:
    """The output for lines of a file in a format of `output_formats`, and its counts."""
    found = translator.translate(requests, num_best=num_best, with_attention=form in ALIGNED)
    texts, tally = [], OutputCounts()
    for number, (request, translation) in enumerate(zip(requests, found, strict=True), first):
        texts.append(formatted(form, request, translation, number))
        tally.add(translation)
    return "".join(texts), asdict(tally)


class _Pool:
    """Workers, and the chunks that are with them."""

    def __init__(
        self, translator: Translator, render: Render[Any], cluster: Cluster, num_workers: int
    ) -> None:
        env = {"OMP_NUM_THREADS": str(cluster.cpus_per_worker), **MALLOC_ENVIRONMENT, **cluster.env}
        options = {
            "num_cpus": cluster.cpus_per_worker,
            "num_gpus": cluster.gpus_per_worker,
            "max_restarts": cluster.max_failures,
            "max_task_retries": cluster.max_failures,
            "runtime_env": {"env_vars": env},
        }
        shared = ray.put((translator, render))
        self._workers = [
            _Worker.options(**options).remote(shared, cluster.cpus_per_worker)  # type: ignore[attr-defined]
            for _ in range(num_workers)
        ]
        self._load = [0] * num_workers
        self._under_way: dict[Any, tuple[int, int]] = {}

    def give(self, number: int, chunk: Sequence[Any], first: int) -> None:
        """Send a chunk to the worker that has the fewest."""
        index = self._load.index(min(self._load))
        self._load[index] += 1
        self._under_way[self._workers[index].do.remote(chunk, first)] = (number, index)

    def take(self) -> tuple[int, Output]:
        """Wait for any chunk: its number and its output."""
        [task], _ = ray.wait(list(self._under_way), num_returns=1)
        number, index = self._under_way.pop(task)
        self._load[index] -= 1
        return number, result_of(task)


@ray.remote
class _Worker:
    """Keeps the model."""

    def __init__(self, shared: tuple[Translator, Render[Any]], threads: int) -> None:
        set_strict_mode()
        torch.set_num_threads(threads)
        self._translator, self._render = shared
        if ray.get_gpu_ids():
            self._translator.model.to("cuda")
            self._translator.device = "cuda"

    def do(self, chunk: Sequence[Any], first: int) -> tuple[Output | None, str]:
        """The output of a chunk, or what is wrong."""
        return attempt(self._render, self._translator, chunk, first)


def _num_workers(cluster: Cluster) -> int:
    """How many workers there are: as many as there is room for now, of an elastic cluster.

    Raises:
        NmtError: the fewest do not fit: Ray would wait for ever.
    """
    have = ray.cluster_resources()
    workers = cluster.workers
    found = workers.max
    for kind, each in (("CPU", cluster.cpus_per_worker), ("GPU", cluster.gpus_per_worker)):
        if workers.min * each > have.get(kind, 0):
            raise NmtError(
                f"{workers.min} workers with {each} {kind} each need {workers.min * each}, but the "
                f"cluster has {have.get(kind, 0):.0f}: ask for fewer with --workers, or add hosts"
            )
        found = min(found, int(have[kind]) // each) if each else found
    return found
