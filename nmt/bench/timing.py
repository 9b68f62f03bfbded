"""Timing by wall clock and CPU time, and the peak of the machine as its reference.

Functions are timed in turns, a b c a b c, so that other load on the machine affects all alike.
Figures report the median wall time. Ratios within a process compare CPU time, which other load
hardly changes.
"""

import os
import platform
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from nmt.bench.figures import Figure
from nmt.training.precision import bf16_gain

SHAPES = ((512, 512, 512), (1024, 128, 512), (1024, 512, 2048), (64, 512, 2048))
"""Rows, inputs and outputs of products as LSTM layers have them; the fastest is the peak."""
CPU = torch.device("cpu")
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}
MIN_BF16_GAIN = 0.1
"""Least speed of bf16 products over fp32 from which bf16 is measured; 0.02 without bf16 units."""

Work = Callable[[], object]
Ratio = tuple[float, str]
"""Value relative to a baseline, and the description of the baseline."""


@dataclass(frozen=True)
class Timing:
    """Repeats of one function."""

    walls_s: tuple[float, ...]
    cpus_s: tuple[float, ...]
    """CPU time of all threads of this process."""

    @property
    def wall_s(self) -> float:
        """Median wall time."""
        return statistics.median(self.walls_s)

    @property
    def cpu_s(self) -> float:
        """Median CPU time, above 0 even with a coarse clock."""
        return max(statistics.median(self.cpus_s), 1e-9)

    @property
    def spread(self) -> float:
        """Interquartile range of the wall times over their median."""
        return relative_iqr(self.walls_s)

    @property
    def busy(self) -> float:
        """CPU seconds over wall seconds; below the number of threads if cores were shared."""
        return sum(self.cpus_s) / max(sum(self.walls_s), 1e-9)


def take_turns(
    works: Mapping[str, Work], seconds: float, min_rounds: int = 3, device: torch.device = CPU
) -> dict[str, Timing]:
    """Time functions in turns, after one warm-up call each.

    Args:
        works: functions by name.
        seconds: wall time after which no new round starts.
        min_rounds: rounds that are run even if they take longer.
        device: device that runs them; on a GPU kernels are asynchronous and are waited for.
    """
    # Warm-up: allocation, compilation of kernels and caches are not part of the figures.
    for work in works.values():
        _run(work, device)
    repeats: dict[str, list[tuple[float, float]]] = {name: [] for name in works}
    start_s, num_rounds = time.perf_counter(), 0
    while num_rounds < min_rounds or time.perf_counter() - start_s < seconds:
        for name, work in works.items():
            wall_s, cpu_s = time.perf_counter(), time.process_time()
            _run(work, device)
            repeats[name].append((time.perf_counter() - wall_s, time.process_time() - cpu_s))
        num_rounds += 1
    return {
        name: Timing(tuple(wall for wall, _ in times), tuple(cpu for _, cpu in times))
        for name, times in repeats.items()
    }


def _run(work: Work, device: torch.device) -> None:
    work()
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def relative_iqr(values: Sequence[float]) -> float:
    """Return the interquartile range over the median; 0 for a single value."""
    if len(values) < 2:
        return 0.0
    low, middle, high = statistics.quantiles(values, n=4, method="inclusive")
    return (high - low) / middle if middle else 0.0


def rate_figure(
    name: str, amount: float, timing: Timing, unit: str, counts: str, ratio: Ratio | None = None
) -> Figure:
    """Return a figure of `amount` per second."""
    value, (share, baseline) = amount / timing.wall_s, ratio or (None, "")
    repeats, busy = len(timing.walls_s), timing.busy
    return Figure(name, value, unit, counts, True, timing.spread, repeats, busy, share, baseline)


def time_figure(name: str, timing: Timing, counts: str, ratio: Ratio | None = None) -> Figure:
    """Return a figure in milliseconds."""
    figure = rate_figure(name, 0, timing, "ms", counts, ratio)
    return replace(figure, value=timing.wall_s * 1e3, is_better_high=False)


class MatrixProduct:
    """A matrix product that is repeated in each call."""

    def __init__(self, x: Tensor, weight: Tensor, times: int) -> None:
        self._x, self._weight, self._times = x, weight, times
        self.flops = 2.0 * times * len(x) * weight.numel()
        """Floating-point operations of one call."""

    def __call__(self) -> None:
        for _ in range(self._times):
            functional.linear(self._x, self._weight)


def machine_facts() -> dict[str, Any]:
    """Return the properties of the machine that figures depend on."""
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return {
        "processor": _processor_name(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "memory_gib": round(memory / 2**30, 1),
        "torch": torch.__version__,
        "python": platform.python_version(),
        "load": round(os.getloadavg()[0], 1),
    }


def measure_peaks(seconds: float) -> tuple[list[Figure], dict[str, MatrixProduct]]:
    """Measure matrix products of each precision.

    bf16 is left out where the CPU has no units for it: a part of the benchmark would take hours.

    Returns:
        Figures, and the fastest product of each precision.
    """
    figures, products = [], {}
    for precision, dtype in DTYPES.items():
        if precision == "bf16" and bf16_gain() < MIN_BF16_GAIN:
            continue
        figure, products[precision] = _measure_product(precision, dtype, seconds / 2)
        figures.append(figure)
    return figures, products


def _measure_product(
    precision: str, dtype: torch.dtype, seconds: float
) -> tuple[Figure, MatrixProduct]:
    works = {}
    for rows, inputs, outputs in SHAPES:
        x, weight = torch.randn(rows, inputs).to(dtype), torch.randn(outputs, inputs).to(dtype)
        # At least 1 GFLOP per call, far above the resolution of the clock.
        times = max(1, 2**30 // (2 * rows * inputs * outputs))
        works[f"{rows} x {inputs} x {outputs}"] = MatrixProduct(x, weight, times)
    timings = take_turns(works, seconds, min_rounds=5)
    best = max(timings, key=lambda name: works[name].flops / timings[name].cpu_s)
    counts = f"matrix product {best}, the fastest of {len(SHAPES)} shapes of LSTM layers"
    name, gflops = f"machine/product/{precision}", works[best].flops / 1e9
    return rate_figure(name, gflops, timings[best], "GFLOP/s", counts), works[best]


def _processor_name() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()
