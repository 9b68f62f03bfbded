"""Context of a benchmark run: workloads, time limit, and the peak that figures refer to."""

import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from nmt.bench import workloads
from nmt.bench.timing import MatrixProduct, Ratio, Timing, Work, take_turns
from nmt.bench.workloads import Workload
from nmt.errors import NmtError


@dataclass(frozen=True)
class Bench:
    """One run of the benchmark. Corpora are written when a part first needs them."""

    scratch: Path
    """Temporary folder."""
    seconds: float
    """Time limit of one comparison, which takes three rounds at least."""
    products: Mapping[str, MatrixProduct]
    """Fastest matrix product of this machine, by precision."""

    @cached_property
    def small(self) -> Workload:
        """`configs/multi30k_en_de.yaml`."""
        return workloads.multi30k(self.scratch)

    @cached_property
    def wide(self) -> Workload:
        """Two layers of width 512."""
        return workloads.wide(self.scratch)

    @cached_property
    def large(self) -> Workload:
        """Shape of GNMT v2."""
        return workloads.gnmt(self.scratch)

    def take_turns(self, works: Mapping[str, Work], share: float = 1.0) -> "Turns":
        """Time functions in turns with the matrix products; `share` scales the time limit."""
        products = {f"product {name}": product for name, product in self.products.items()}
        timings = take_turns({**works, **products}, share * self.seconds)
        peaks = {
            name: product.flops / timings.pop(f"product {name}").cpu_s
            for name, product in self.products.items()
        }
        return Turns(timings, peaks)


@dataclass(frozen=True)
class Turns:
    """Timings of functions and of the matrix products beside them."""

    timings: Mapping[str, Timing]
    peaks: Mapping[str, float]
    """Floating-point operations per CPU second of the products, by precision."""

    def __getitem__(self, name: str) -> Timing:
        return self.timings[name]

    def of_peak(self, flops: float, name: str, precision: str) -> Ratio:
        """Return the FLOP rate of a function as a share of that of the product."""
        return flops / self.timings[name].cpu_s / self.peaks[precision], f"the {precision} product"


def start_module(module: str, *arguments: str) -> "subprocess.Popen[bytes]":
    """Start a module of the benchmark in another process."""
    # Not multiprocessing: its children import the main script of the caller again.
    return subprocess.Popen([sys.executable, "-m", module, *arguments])


def worker_error(status: int) -> NmtError:
    """Return the error of a process of `start_module` that failed; its own message is printed."""
    return NmtError(f"a benchmark process ended with status {status}; see its output above")
