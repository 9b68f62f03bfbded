"""What the parts of the benchmark are given, and the updates that they time."""

import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import torch

from nmt.batching.loader import Loader, MicroBatch
from nmt.batching.schedule import Update
from nmt.bench import cases
from nmt.bench.cases import Case
from nmt.bench.figures import Figure
from nmt.bench.machine import Product
from nmt.bench.timing import Timing, Work, take_turns
from nmt.config.experiment import ModelConfig
from nmt.training.distributed import World
from nmt.training.learner import Learner
from nmt.training.memory import seed_of
from nmt.training.precision import with_precision

Ratio = tuple[float, str]
"""A share or a multiple, and of what."""


@dataclass(frozen=True)
class Bench:
    """One run of the benchmark; a corpus is made when a part first asks for it."""

    scratch: Path
    """A folder that is removed at the end."""
    seconds: float
    """What one comparison may take; each takes three rounds at least."""
    products: Mapping[str, Product]
    """The matrix product that is fastest here, by precision."""

    @cached_property
    def small(self) -> Case:
        """`configs/multi30k_en_de.yaml`."""
        return cases.multi30k(self.scratch)

    @cached_property
    def wide(self) -> Case:
        """Two layers of width 512."""
        return cases.wide(self.scratch)

    @cached_property
    def large(self) -> Case:
        """The shape of GNMT v2."""
        return cases.gnmt(self.scratch)

    def take_turns(self, works: Mapping[str, Work], share: float = 1.0) -> "Turns":
        """Time works in turns with the products, so that what limits one limits all."""
        products = {_product(name): product for name, product in self.products.items()}
        timings = take_turns({**works, **products}, share * self.seconds)
        peaks = {
            name: product.flops / timings.pop(_product(name)).cpu_s
            for name, product in self.products.items()
        }
        return Turns(timings, peaks)


@dataclass(frozen=True)
class Turns:
    """What came of timing in turns."""

    timings: Mapping[str, Timing]
    peaks: Mapping[str, float]
    """FLOP for each processor second of the products, by precision."""

    def __getitem__(self, name: str) -> Timing:
        return self.timings[name]

    def of_peak(self, flops: float, name: str, precision: str) -> Ratio:
        """Useful work of what is timed as a share of what the product does."""
        return flops / self.timings[name].cpu_s / self.peaks[precision], f"the {precision} product"


def rate(
    name: str, amount: float, timing: Timing, unit: str, counts: str, ratio: Ratio | None = None
) -> Figure:
    """So much of something a second."""
    return Figure(
        name,
        amount / timing.wall_s,
        unit,
        counts,
        spread=timing.spread,
        repeats=len(timing.walls),
        busy=timing.busy,
        ratio=ratio[0] if ratio else None,
        ratio_to=ratio[1] if ratio else "",
    )


def time(name: str, timing: Timing, counts: str, ratio: Ratio | None = None) -> Figure:
    """Milliseconds that something takes."""
    figure = rate(name, 0, timing, "ms", counts, ratio)
    return replace(figure, value=timing.wall_s * 1e3, is_better_high=False)


def _product(precision: str) -> str:
    return f"product {precision}"


def start(module: str, *arguments: str) -> "subprocess.Popen[bytes]":
    """Run a module of the benchmark in a process of its own."""
    # Not multiprocessing: it runs the script that called us again, in each process.
    return subprocess.Popen([sys.executable, "-m", module, *arguments])


class Updates:
    """The first updates of a case, made again and again by one worker: what a timing repeats."""

    def __init__(
        self, case: Case, precision: str, num_updates: int, device: str | torch.device = "cpu"
    ) -> None:
        self.experiment = with_precision(case.experiment, precision)
        world = World(device=torch.device(device))
        self.learner = Learner(self.experiment, case.subword.num_pieces, world)
        is_pinned = world.device.type == "cuda"
        loader = Loader(case.shards, case.schedule, range(num_updates), pin=is_pinned)
        self.updates: list[tuple[Update, list[MicroBatch]]] = list(loader)
        self.batches = [part.batch for _, parts in self.updates for part in parts]
        self.num_tgt_tokens = sum(update.num_tgt_tokens for update, _ in self.updates)
        self.flops = sum(
            self.learner.model.flops().update(batch.src_lengths, batch.tgt_lengths)
            for batch in self.batches
        )

    def __call__(self) -> None:
        for update, parts in self.updates:
            self.make(update, parts)

    def make(self, update: Update, parts: list[MicroBatch]) -> None:
        """Make an update."""
        for part in parts:
            torch.manual_seed(seed_of(self.experiment.seed, update.number, part.index))
            self.learner.backward(part.batch, update.num_tgt_tokens, part is parts[-1])
        self.learner.step(update.number)


def without_dropout(model: ModelConfig) -> ModelConfig:
    """The model as it translates."""
    names = ("dropout", "embedding_dropout", "attention_dropout", "word_dropout")
    return model.model_copy(update=dict.fromkeys(names, 0.0))
