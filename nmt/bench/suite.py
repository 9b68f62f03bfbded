"""Parts of the benchmark in their order."""

import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

import torch

from nmt.bench import decode_speed, gpu, startup, train_speed, workers
from nmt.bench.figures import BenchReport, Figure
from nmt.bench.timing import machine_facts, measure_peaks
from nmt.bench.workloads import Bench, check_experiments
from nmt.errors import ConfigError
from nmt.training.memory import configure_memory

Part = Callable[[Bench], Iterator[Figure]]

PARTS: Mapping[str, Part] = {
    "update": train_speed.measure_update,
    "train": train_speed.measure_training,
    "peer": train_speed.measure_peer,
    "sustained": workers.measure_sustained,
    "memory": workers.measure_memory,
    "decode": decode_speed.measure_search,
    "workers": workers.measure_scaling,
    "gpu": gpu.measure_gpu,
    "startup": startup.measure_startup,
}
"""Functions by name. The first line of their docstring is shown when they start."""


def run_bench(
    names: Sequence[str],
    seconds: float,
    log: Callable[[str], object],
    report: Callable[[Figure], object],
    save: Callable[[BenchReport], object] = lambda report: None,
) -> BenchReport:
    """Measure the peaks of the machine, then parts, each worker on one thread.

    Args:
        names: parts; all if empty.
        seconds: time limit of one comparison, which takes three rounds at least.
        log: called with the machine, then with each part that starts.
        report: called with each figure.
        save: called after each part with all figures so far: a later part can fail.

    Raises:
        ConfigError: a part or an experiment file does not exist, or there is no GPU for `gpu`.
    """
    _check_names(names)
    check_experiments()
    # As training workers are set up.
    configure_memory()
    torch.set_num_threads(1)
    facts = machine_facts()
    log(
        f"{facts['cores']} cores of {facts['processor']}, {facts['memory_gib']} GiB, torch "
        f"{facts['torch']}, {facts['threads']} thread per process, load {facts['load']}"
    )
    figures, products = measure_peaks(seconds)
    for figure in figures:
        report(figure)
    if "bf16" not in products:
        log("bf16 is left out: this CPU has no units for it")
    with tempfile.TemporaryDirectory(prefix="nmt-bench-") as scratch:
        bench = Bench(Path(scratch), seconds, products)
        for name in dict.fromkeys(names) or PARTS:
            log(f"{name}: {(PARTS[name].__doc__ or '').splitlines()[0]}")
            for figure in PARTS[name](bench):
                figures.append(figure)
                report(figure)
            save(BenchReport(facts, figures))
    return BenchReport(facts, figures)


def _check_names(names: Sequence[str]) -> None:
    for name in names:
        if name not in PARTS:
            raise ConfigError.from_message(
                f"unknown benchmark part {name!r}; choose from {', '.join(PARTS)}"
            )
    if "gpu" in names and not torch.cuda.is_available():
        raise ConfigError.from_message("part gpu needs a GPU, and torch finds none: leave it out")
