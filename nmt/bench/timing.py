"""Timing by the wall clock and by the processor's.

Works are timed in turns, a b c a b c, so that other load on the machine falls on all alike. What a
person gets is the median by the wall clock. Ratios between works of one process compare processor
seconds: on a quiet machine they are the same, and on a busy one they hardly change.
"""

import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

Work = Callable[[], object]


@dataclass(frozen=True)
class Timing:
    """Repeats of one work, in seconds."""

    walls: tuple[float, ...]
    """By the wall clock."""
    cpus: tuple[float, ...]
    """Of the processor, all threads of this process."""

    @property
    def wall_s(self) -> float:
        """Median by the wall clock."""
        return statistics.median(self.walls)

    @property
    def cpu_s(self) -> float:
        """Median of the processor's seconds; never 0, however coarse its clock."""
        return max(statistics.median(self.cpus), 1e-9)

    @property
    def spread(self) -> float:
        """Of the wall clock: the middle half of the repeats over the median."""
        return middle_half(self.walls)

    @property
    def busy(self) -> float:
        """Processor seconds over wall seconds: well under the threads asked for, others had it."""
        return sum(self.cpus) / max(sum(self.walls), 1e-9)


def take_turns(works: Mapping[str, Work], seconds: float, at_least: int = 3) -> dict[str, Timing]:
    """Time works in turns, each once unmeasured before.

    Args:
        seconds: after which no new round begins, by the wall clock.
        at_least: rounds, however long they take.
    """
    for work in works.values():
        work()
    repeats: dict[str, list[tuple[float, float]]] = {name: [] for name in works}
    began, rounds = time.perf_counter(), 0
    while rounds < at_least or time.perf_counter() - began < seconds:
        for name, work in works.items():
            wall, cpu = time.perf_counter(), time.process_time()
            work()
            repeats[name].append((time.perf_counter() - wall, time.process_time() - cpu))
        rounds += 1
    return {
        name: Timing(tuple(wall for wall, _ in found), tuple(cpu for _, cpu in found))
        for name, found in repeats.items()
    }


def middle_half(values: tuple[float, ...]) -> float:
    """How far apart the quartiles are, as a share of the median; 0 of a single value."""
    if len(values) < 2:
        return 0.0
    low, middle, high = statistics.quantiles(values, n=4, method="inclusive")
    return (high - low) / middle if middle else 0.0
