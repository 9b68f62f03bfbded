"""Context of a benchmark run: experiments, corpora, updates to time, and the peak as reference.

An experiment whose corpus is prepared is measured on its pairs. Otherwise pairs are random tokens
with the length distribution of that corpus: source lengths are log-normal, target lengths are
source lengths times a log-normal factor.
"""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch

from nmt.batching.loader import Loader, MicroBatch
from nmt.batching.schedule import Schedule, Update
from nmt.bench.timing import MatrixProduct, Ratio, Timing, Work, take_turns
from nmt.config.corpus import SubwordConfig
from nmt.config.experiment import Experiment, ModelConfig
from nmt.config.files import load_experiment
from nmt.corpus.manifest import FORMAT, MANIFEST, CorpusInfo, Manifest
from nmt.corpus.prepared import is_prepared, open_prepared
from nmt.corpus.shards import Shards, ShardWriter
from nmt.corpus.subword import EOS, NUM_RESERVED, Subword
from nmt.model.seq2seq import Seq2Seq
from nmt.training.distributed import World
from nmt.training.loop import make_update
from nmt.training.precision import resolve_precision
from nmt.training.state import Learner, TrainState

NUM_PAIRS = 30_000
"""Pairs of a random corpus."""


class LengthDistribution(NamedTuple):
    """Log-normal lengths in tokens, EOS included; sigma is that of logarithms."""

    mean: float  # source length
    sigma: float  # source length
    factor: float  # mean target length over mean source length
    factor_sigma: float  # target length over source length, over pairs


MULTI30K = LengthDistribution(mean=15.8, sigma=0.30, factor=1.05, factor_sigma=0.17)
"""Counted in the prepared corpus: 28,995 pairs, 6,000 pieces."""
WMT16 = LengthDistribution(mean=28.1, sigma=0.60, factor=1.0, factor_sigma=0.20)
"""The mean is NVIDIA's: 223 M tokens of both sides in 3.97 M pairs (MLPerf training v0.7)."""


@dataclass(frozen=True)
class Workload:
    """An experiment and its corpus."""

    name: str
    experiment: Experiment
    shards: Shards
    subword: Subword
    lengths: str
    """Origin of the lengths: real or synthetic."""

    @property
    def precision(self) -> str:
        """Precision in which it is trained on this machine."""
        return self.experiment.training.precision

    @cached_property
    def schedule(self) -> Schedule:
        """Updates of the experiment."""
        src, tgt = self.shards.src_lengths, self.shards.tgt_lengths
        return Schedule(src, tgt, self.experiment.batching, self.experiment.seed)

    def with_settings(self, section: str, **settings: Any) -> "Workload":
        """Return the workload with other settings of one section of its experiment."""
        return replace(self, experiment=self.experiment.with_settings(section, **settings))

    def first_sources(self, at_most: int) -> list[list[int]]:
        """Return token ids, EOS included, of the first sources of the corpus."""
        pairs = self.shards.pairs(range(min(at_most, len(self.shards))))
        return [[*src.tolist(), EOS] for src, _ in pairs]

    def untrained_model(self) -> Seq2Seq:
        """Return a model for translation with fixed random weights."""
        torch.manual_seed(1)
        model = without_dropout(self.experiment.model)
        return Seq2Seq(model, self.subword.num_pieces).eval()

    def to_json(self) -> str:
        """Serialise for another process of the benchmark."""
        tree = {"name": self.name, "lengths": self.lengths, "shards": str(self.shards.folder)}
        experiment = self.experiment.model_dump(mode="json")
        return json.dumps({**tree, "experiment": experiment, "subword": self.subword.to_json()})

    @classmethod
    def from_json(cls, text: str) -> "Workload":
        """Read the result of `to_json`."""
        tree = json.loads(text)
        experiment = Experiment.model_validate(tree["experiment"])
        shards, subword = Shards.open(tree["shards"]), Subword.from_json(tree["subword"])
        return cls(tree["name"], experiment, shards, subword, tree["lengths"])


def check_experiments() -> None:
    """Raise ConfigError if an experiment file is missing, before anything is measured."""
    for name in ("multi30k_en_de", "gnmt_wmt16_en_de", "demo"):
        load_experiment(f"configs/{name}.yaml")


def _load(
    name: str, changes: Sequence[str], lengths: LengthDistribution, scratch: Path
) -> Workload:
    experiment = resolve_precision(load_experiment(f"configs/{name}.yaml", changes), World())
    # Real pairs where there are some: random ones differ in how well lengths fit together.
    if is_prepared(experiment):
        shards, subword = open_prepared(experiment)
        return Workload(name, experiment, shards, subword, "real")
    vocab_size, folder = experiment.corpus.subword.vocab_size, scratch / name
    if not folder.exists():
        write_random_corpus(folder, lengths, vocab_size, experiment)
    subword = synthetic_subword(vocab_size)
    return Workload(name, experiment, Shards.open(folder), subword, "synthetic")


def write_random_corpus(
    folder: Path,
    lengths: LengthDistribution,
    vocab_size: int,
    experiment: Experiment,
    num_pairs: int = NUM_PAIRS,
) -> None:
    """Write a prepared corpus of random pairs with a fixed seed."""
    random = np.random.default_rng(1)
    log_mean = math.log(lengths.mean) - lengths.sigma**2 / 2
    src_lengths = random.lognormal(log_mean, lengths.sigma, num_pairs)
    factor_mean = math.log(lengths.factor) - lengths.factor_sigma**2 / 2
    tgt_lengths = src_lengths * random.lognormal(factor_mean, lengths.factor_sigma, num_pairs)
    sides = []
    for side in (src_lengths, tgt_lengths):
        # EOS is not stored in shards.
        counts = side.round().astype(int).clip(2, experiment.batching.max_length) - 1
        sides.append([random.integers(NUM_RESERVED, vocab_size, n).tolist() for n in counts])
    folder.joinpath("shards").mkdir(parents=True)
    writer = ShardWriter(vocab_size, "random")
    writer.add(sides[0], sides[1], range(1, num_pairs + 1))
    shard = writer.write(folder / "shards/00000.arrow", "shards/00000.arrow")
    corpus = CorpusInfo(
        "random", [], num_pairs, num_pairs, {}, {}, shard.src_tokens, shard.tgt_tokens, leaked=0
    )
    manifest = Manifest(
        format=FORMAT, src=experiment.corpus.src, tgt=experiment.corpus.tgt, settings={},
        cleaning_fingerprint="", tokenizer_fingerprint="", num_pieces=vocab_size,
        pairs=shard.pairs, src_tokens=shard.src_tokens, tgt_tokens=shard.tgt_tokens,
        longest=shard.longest, corpora=[corpus], shards=[shard], files=[],
    )  # fmt: skip
    (folder / MANIFEST).write_text(manifest.to_json(), encoding="utf-8")


def synthetic_subword(num_pieces: int) -> Subword:
    """Return a vocabulary of that size whose learnt pieces are numbers."""
    learnt = Subword.train(["a b"], SubwordConfig(vocab_size=300))
    tree = json.loads(learnt.to_json())
    vocab = tree["model"]["vocab"]
    for number in range(len(vocab), num_pieces):
        vocab[f" x{number}"] = number
    return Subword.from_json(json.dumps(tree))


def without_dropout(model: ModelConfig) -> ModelConfig:
    """Return the model with all dropout rates 0."""
    names = ("dropout", "embedding_dropout", "attention_dropout", "word_dropout", "weight_dropout")
    return model.model_copy(update=dict.fromkeys(names, 0.0))


class Updates:
    """The first updates of a workload on one worker; each call makes them again."""

    def __init__(
        self,
        workload: Workload,
        precision: str,
        num_updates: int,
        device: str | torch.device = "cpu",
    ) -> None:
        self.experiment = workload.experiment.with_settings("training", precision=precision)
        world = World(device=torch.device(device))
        self.learner = Learner(self.experiment, workload.subword.num_pieces, world)
        is_pinned = world.device.type == "cuda"
        loader = Loader(workload.shards, workload.schedule, range(num_updates), pin=is_pinned)
        self.updates: list[tuple[Update, list[MicroBatch]]] = list(loader)
        self.batches = [part.batch for _, parts in self.updates for part in parts]
        self.num_tgt_tokens = sum(update.num_tgt_tokens for update, _ in self.updates)
        flops = self.learner.model.flops()
        self.flops = sum(flops.update(b.src_lengths, b.tgt_lengths) for b in self.batches)

    def __call__(self) -> None:
        for update, parts in self.updates:
            self.run(update, parts)

    def run(self, update: Update, parts: list[MicroBatch]) -> None:
        """Make one update."""
        make_update(self.learner, TrainState(), update, parts, update.num_tgt_tokens)


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
        return _load("multi30k_en_de", [], MULTI30K, self.scratch)

    @cached_property
    def wide(self) -> Workload:
        """Two layers of width 512 on the same pairs."""
        sizes = "width=512 heads=8 ffn_width=1024 encoder_layers=2 decoder_layers=2"
        changes = [f"model.{size}" for size in sizes.split()]
        return replace(_load("multi30k_en_de", changes, MULTI30K, self.scratch), name="wide")

    @cached_property
    def large(self) -> Workload:
        """`configs/gnmt_wmt16_en_de.yaml` in updates of one small micro-batch."""
        changes = ["batching.max_tokens=1024", "batching.micro_batches=1"]
        return _load("gnmt_wmt16_en_de", changes, WMT16, self.scratch)

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
