"""Translation of large files on Ray: workers keep the model, chunks are written in input order.

A chunk is a window of the translator, so that the output is byte for byte that of one process, in
any precision. The driver reads the input, at most CHUNKS_AHEAD chunks per worker ahead of the
output, and is the only writer: memory does not grow with the file. A lost worker is replaced and
its chunks are translated again; a killed command loses only the chunks that were not yet written.
"""

import sys
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict
from itertools import islice
from typing import Any, TypeVar

import ray
import torch

from nmt.config.cluster import Cluster
from nmt.decoding.onnx_engine import OnnxEngine
from nmt.decoding.output_formats import FORMATS_WITH_ATTENTION, OutputCounts, format_translation
from nmt.decoding.requests import Request
from nmt.decoding.resumable_output import ResumableOutput
from nmt.decoding.torch_engine import TorchEngine
from nmt.decoding.translator import Translator
from nmt.jobs.ray_session import fit_workers, resolve_auto
from nmt.jobs.tasks import catch_error, get_result, task_device
from nmt.model.mkl import set_strict_mode
from nmt.training.memory import worker_environment

CHUNKS_AHEAD = 4
"""Chunks per worker that run, or wait for an earlier chunk."""

ItemT = TypeVar("ItemT")
Output = tuple[str, dict[str, int]]
"""Text of a chunk and its counts."""
FormatChunk = Callable[[Translator, Sequence[ItemT], int], Output]
"""Translates the items of a chunk; the number is that of its first item, from 0."""


def translate_on_ray(
    translator: Translator, chunks: Iterable[Sequence[ItemT]], format_items: FormatChunk[ItemT],
    unfinished: ResumableOutput, cluster: Cluster, progress: Callable[[int], object],
) -> None:  # fmt: skip
    """Translate the rest of an unfinished output on the connected Ray cluster.

    Args:
        translator: on the CPU; each worker gets a copy.
        chunks: all of the input, including finished lines.
        format_items: makes the output of a chunk; sent to the workers.
        unfinished: finished chunks; the others are appended.
        cluster: number of workers and their resources.
        progress: receives the number of lines done after each chunk.

    Raises:
        NmtError: the cluster cannot hold the workers, a worker was lost too often, or an error in
            a chunk.
    """
    cluster = resolve_auto(cluster, sys.maxsize)
    num_workers = fit_workers(cluster, cluster.workers.min)
    pool = _Pool(translator, format_items, cluster, num_workers)
    # Finished lines are read again, not translated.
    rest = enumerate(unfinished.rest(chunks), start=unfinished.num_chunks)
    sizes: dict[int, int] = {}
    first = unfinished.num_lines
    next_out = unfinished.num_chunks
    done: dict[int, Output] = {}
    while True:
        # `sizes` has the chunks that run and those that wait for an earlier one.
        for number, chunk in islice(rest, CHUNKS_AHEAD * num_workers - len(sizes)):
            pool.submit(number, chunk, first)
            sizes[number] = len(chunk)
            first += len(chunk)
        if not sizes:
            return
        number, output = pool.wait()
        # Written in input order; chunks that finish early wait in `done`.
        done[number] = output
        while next_out in done:
            text, counts = done.pop(next_out)
            unfinished.add(text, sizes.pop(next_out), counts)
            next_out += 1
            progress(unfinished.num_lines)


def format_chunk(
    form: str, num_best: int, translator: Translator, requests: Sequence[Request], first: int
) -> Output:
    """Translate requests to a format of `nmt.decoding.output_formats`."""
    with_attention = form in FORMATS_WITH_ATTENTION
    translations = translator.stream(requests, num_best=num_best, with_attention=with_attention)
    texts, counts = [], OutputCounts()
    pairs = zip(requests, translations, strict=True)
    for number, (request, translation) in enumerate(pairs, start=first):
        texts.append(format_translation(form, request, translation, number, num_best))
        counts.add(translation)
    return "".join(texts), asdict(counts)


class _Pool:
    """Workers and the chunks submitted to them."""

    def __init__(
        self, translator: Translator, format_items: FormatChunk[Any], cluster: Cluster,
        num_workers: int,
    ) -> None:  # fmt: skip
        actor = _Worker.options(  # type: ignore[attr-defined]
            num_cpus=cluster.cpus_per_worker,
            num_gpus=cluster.num_gpus,
            max_restarts=cluster.max_failures,
            max_task_retries=cluster.max_failures,
            runtime_env={"env_vars": worker_environment(cluster)},
        )
        # One copy in the object store, instead of one in the arguments of each worker. It is kept,
        # because a worker that is restarted reads it again.
        self._shared = ray.put((translator, format_items))
        self._workers = [
            actor.remote(self._shared, cluster.cpus_per_worker) for _ in range(num_workers)
        ]
        self._load = [0] * num_workers
        self._running: dict[Any, tuple[int, int]] = {}

    def submit(self, number: int, chunk: Sequence[Any], first: int) -> None:
        """Send a chunk to the worker with the fewest chunks."""
        index = self._load.index(min(self._load))
        self._load[index] += 1
        self._running[self._workers[index].run.remote(chunk, first)] = number, index

    def wait(self) -> tuple[int, Output]:
        """Wait for a chunk; return its number and its output."""
        [task], _ = ray.wait(list(self._running), num_returns=1)
        number, index = self._running.pop(task)
        self._load[index] -= 1
        return number, get_result(task)


@ray.remote
class _Worker:
    """Actor that keeps the model."""

    def __init__(self, shared: tuple[Translator, FormatChunk[Any]], num_threads: int) -> None:
        set_strict_mode()
        torch.set_num_threads(num_threads)
        self._translator, self._format_items = shared
        engine = self._translator.engine
        # The model is sent on the CPU; only the worker knows whether it has a GPU.
        if task_device() == "cuda":
            assert isinstance(engine, TorchEngine)
            engine.to("cuda")
        elif isinstance(engine, OnnxEngine):
            engine.set_threads(num_threads)

    def run(self, chunk: Sequence[Any], first: int) -> tuple[Output | None, str]:
        """Translate a chunk; return the output, or None and an error."""
        return catch_error(self._format_items, self._translator, chunk, first)
