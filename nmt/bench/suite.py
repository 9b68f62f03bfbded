"""The parts of the benchmark in their order, and how they are run."""

import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

import torch

from nmt.bench import (
    cases,
    checkpoints,
    decoding,
    feeding,
    gpu,
    kernels,
    machine,
    memory,
    peer,
    precision,
    startup,
    training,
    update,
    workers,
)
from nmt.bench.bench import Bench
from nmt.bench.figures import BenchReport, Figure
from nmt.errors import ConfigError
from nmt.training.malloc import configure_malloc

Part = Callable[[Bench], Iterator[Figure]]

PARTS: Mapping[str, Part] = {
    "lstm": kernels.measure,
    "batching": feeding.measure,
    "update": update.measure,
    "train": training.measure,
    "peer": peer.measure,
    "memory": memory.measure,
    "decode": decoding.measure,
    "precision": precision.measure,
    "checkpoint": checkpoints.measure,
    "workers": workers.measure,
    "gpu": gpu.measure,
    "startup": startup.measure,
}
"""Each can be asked for by name; the peaks of the machine are measured before, always."""


def check_names(names: Sequence[str]) -> None:
    """Raise ConfigError for a part that there is not, or not on this machine."""
    for name in names:
        if name not in PARTS:
            known = ", ".join(PARTS)
            raise ConfigError.from_message(
                f"{name!r} is not a part of the benchmark; known: {known}"
            )
    if "gpu" in names and not torch.cuda.is_available():
        raise ConfigError.from_message("torch finds no GPU here: leave out the part gpu")


def run(
    names: Sequence[str],
    seconds: float,
    show: Callable[[str], object],
    take: Callable[[Figure], object],
) -> BenchReport:
    """Measure parts, all if none is named, each worker on one thread.

    Args:
        seconds: what one comparison may take; each takes three rounds at least.
        show: told the machine, then each part that begins.
        take: gets each figure as it comes.
    """
    check_names(names)
    cases.check()
    configure_malloc()
    torch.set_num_threads(1)
    figures: list[Figure] = []

    def add(figure: Figure) -> None:
        figures.append(figure)
        take(figure)

    with tempfile.TemporaryDirectory(prefix="nmt-bench-") as scratch:
        folder = Path(scratch)
        facts = machine.facts()
        show(machine.describe(facts))
        found, products = machine.measure(seconds)
        for figure in found:
            add(figure)
        bench = Bench(folder, seconds, products)
        for name in names or PARTS:
            show(f"{name}: {(PARTS[name].__doc__ or '').splitlines()[0]}")
            for figure in PARTS[name](bench):
                add(figure)
    return BenchReport(facts, figures)
