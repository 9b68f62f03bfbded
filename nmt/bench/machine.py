"""The machine, and the most that it can do: what the other figures are shares of."""

import os
import platform
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from nmt.bench.figures import Figure
from nmt.bench.timing import take_turns

SHAPES = ((512, 512, 512), (1024, 128, 512), (1024, 512, 2048), (64, 512, 2048))
"""Rows, inputs and outputs of products as LSTM layers make them; the best one is the peak."""
COPY_BYTES = 1 << 28
"""Far more than the caches hold."""
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}


class Product:
    """A matrix product, a few times over."""

    def __init__(self, x: Tensor, weight: Tensor, times: int) -> None:
        self._x, self._weight, self._times = x, weight, times
        self.flops = 2.0 * times * len(x) * weight.numel()
        """Multiplications and additions of one call."""

    def __call__(self) -> None:
        for _ in range(self._times):
            functional.linear(self._x, self._weight)


def facts() -> dict[str, Any]:
    """What must be known of the machine to compare figures."""
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return {
        "processor": _processor(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "memory_gib": round(memory / 2**30, 1),
        "torch": torch.__version__,
        "python": platform.python_version(),
        "load": round(os.getloadavg()[0], 1),
    }


def describe(machine: dict[str, Any]) -> str:
    """The facts in one line."""
    return (
        f"{machine['cores']} cores of {machine['processor']}, {machine['memory_gib']} GiB, torch "
        f"{machine['torch']}, {machine['threads']} thread a process, load {machine['load']}"
    )


def measure(seconds: float) -> tuple[list[Figure], dict[str, Product]]:
    """Measure the peaks; also the fastest product, by precision."""
    figures, products = [], {}
    for precision, dtype in DTYPES.items():
        figure, products[precision] = _product(precision, dtype, seconds / 3)
        figures.append(figure)
    figures.append(_copy(seconds / 3))
    return figures, products


def _product(precision: str, dtype: torch.dtype, seconds: float) -> tuple[Figure, Product]:
    works = {}
    for rows, inputs, outputs in SHAPES:
        x, weight = torch.randn(rows, inputs).to(dtype), torch.randn(outputs, inputs).to(dtype)
        times = max(1, 2**30 // (2 * rows * inputs * outputs))
        works[f"{rows} x {inputs} x {outputs}"] = Product(x, weight, times)
    timings = take_turns(works, seconds, at_least=5)
    best = max(timings, key=lambda name: works[name].flops / timings[name].cpu_s)
    timing = timings[best]
    figure = Figure(
        f"machine/product/{precision}",
        works[best].flops / timing.wall_s / 1e9,
        "GFLOP/s",
        f"matrix product {best}, the best of {len(SHAPES)} shapes of LSTM layers",
        spread=timing.spread,
        repeats=len(timing.walls),
        busy=timing.busy,
    )
    return figure, works[best]


def _copy(seconds: float) -> Figure:
    source = torch.ones(COPY_BYTES // 4)
    target = torch.empty_like(source)
    timing = take_turns({"copy": lambda: target.copy_(source)}, seconds, at_least=5)["copy"]
    return Figure(
        "machine/copy",
        2 * COPY_BYTES / timing.wall_s / 1e9,
        "GB/s",
        f"read and written, {COPY_BYTES >> 20} MiB copied",
        spread=timing.spread,
        repeats=len(timing.walls),
        busy=timing.busy,
    )


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()
