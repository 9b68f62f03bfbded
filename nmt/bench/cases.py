"""What is trained in the benchmark: the experiments that come with nmt, and a wide one.

Where the corpus of an experiment is prepared, its pairs are used; otherwise pairs of random tokens
whose lengths are distributed like its own: log-normal, a target as long as its source but for a
log-normal factor.
"""

import json
import math
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np

from nmt.batching.schedule import Schedule
from nmt.config.corpus import SubwordConfig
from nmt.config.experiment import Experiment
from nmt.config.files import load_experiment
from nmt.corpus.manifest import FORMAT, MANIFEST, CorpusInfo, Manifest
from nmt.corpus.prepared import is_prepared, open_prepared
from nmt.corpus.shards import Shards, ShardWriter
from nmt.corpus.subword import NUM_RESERVED, Subword
from nmt.training.distributed import World
from nmt.training.precision import resolve_precision

NUM_PAIRS = 30_000
"""Pairs of a random corpus."""


@dataclass(frozen=True)
class Lengths:
    """How long the pairs of a corpus are, in tokens with EOS."""

    mean: float
    """Of sources."""
    sigma: float
    """Standard deviation of the logarithm of a source's length."""
    factor: float
    """Mean target length over mean source length."""
    factor_sigma: float
    """Standard deviation of the logarithm of that factor, pair by pair."""


MULTI30K = Lengths(mean=15.8, sigma=0.30, factor=1.05, factor_sigma=0.17)
"""As counted in the prepared corpus: 28,995 pairs, 6,000 pieces."""
WMT16 = Lengths(mean=28.1, sigma=0.60, factor=1.0, factor_sigma=0.20)
"""The mean is NVIDIA's: 223 M tokens of both sides in 3.97 M pairs (MLPerf training v0.7)."""


@dataclass(frozen=True)
class Case:
    """One experiment with a corpus."""

    name: str
    experiment: Experiment
    shards: Shards
    subword: Subword
    lengths: str
    """Whether they are real or synthetic."""

    @property
    def precision(self) -> str:
        """The numbers that it is trained in on this machine."""
        return self.experiment.training.precision

    @cached_property
    def schedule(self) -> Schedule:
        """Its updates."""
        return self.schedule_of(self.experiment)

    def schedule_of(self, experiment: Experiment) -> Schedule:
        """The updates of an experiment over its pairs."""
        src, tgt = self.shards.src_lengths, self.shards.tgt_lengths
        return Schedule(src, tgt, experiment.batching, experiment.seed)

    def to_json(self) -> str:
        """For another process of this benchmark."""
        return json.dumps(
            {
                "name": self.name,
                "experiment": self.experiment.model_dump(mode="json"),
                "shards": str(self.shards.folder),
                "subword": self.subword.to_json(),
                "lengths": self.lengths,
            }
        )

    @classmethod
    def from_json(cls, text: str) -> "Case":
        """What `to_json` gave."""
        tree = json.loads(text)
        return cls(
            tree["name"],
            Experiment.model_validate(tree["experiment"]),
            Shards.open(tree["shards"]),
            Subword.from_json(tree["subword"]),
            tree["lengths"],
        )


def check() -> None:
    """Raise ConfigError where the experiments are not there: before anything is measured."""
    for name in ("multi30k_en_de", "gnmt_wmt16_en_de", "demo"):
        load_experiment(f"configs/{name}.yaml")


def multi30k(scratch: Path) -> Case:
    """`configs/multi30k_en_de.yaml` as it is."""
    return _case("multi30k_en_de", [], MULTI30K, scratch)


def wide(scratch: Path) -> Case:
    """Two layers of width 512 on the same pairs."""
    changes = [
        "model.width=512",
        "model.heads=8",
        "model.ffn_width=1024",
        "model.encoder_layers=2",
        "model.decoder_layers=2",
    ]
    return _case("multi30k_en_de", changes, MULTI30K, scratch, "wide")


def gnmt(scratch: Path) -> Case:
    """`configs/gnmt_wmt16_en_de.yaml` in updates of one micro-batch that a CPU core can make."""
    changes = ["batching.max_tokens=1024", "batching.micro_batches=1"]
    return _case("gnmt_wmt16_en_de", changes, WMT16, scratch)


def _case(
    name: str, changes: list[str], lengths: Lengths, scratch: Path, as_name: str = ""
) -> Case:
    experiment = resolve_precision(load_experiment(f"configs/{name}.yaml", changes), World())
    if is_prepared(experiment):
        shards, subword = open_prepared(experiment)
        return Case(as_name or name, experiment, shards, subword, "real")
    vocab_size = experiment.corpus.subword.vocab_size
    folder = scratch / name
    if not folder.exists():
        write_random(folder, lengths, vocab_size, experiment)
    subword = made_up_pieces(vocab_size)
    return Case(as_name or name, experiment, Shards.open(folder), subword, "synthetic")


def write_random(
    folder: Path,
    lengths: Lengths,
    vocab_size: int,
    experiment: Experiment,
    num_pairs: int = NUM_PAIRS,
) -> None:
    """Write shards of random pairs, the same ones each time."""
    random = np.random.default_rng(1)
    longest = experiment.batching.max_length
    log_mean = math.log(lengths.mean) - lengths.sigma**2 / 2
    srcs = random.lognormal(log_mean, lengths.sigma, num_pairs)
    factor_mean = math.log(lengths.factor) - lengths.factor_sigma**2 / 2
    tgts = srcs * random.lognormal(factor_mean, lengths.factor_sigma, num_pairs)
    sides = []
    for side in (srcs, tgts):
        counts = side.round().astype(int).clip(2, longest) - 1  # EOS is not in a shard
        sides.append(
            [random.integers(NUM_RESERVED, vocab_size, count).tolist() for count in counts]
        )
    folder.joinpath("shards").mkdir(parents=True)
    writer = ShardWriter(vocab_size, "random")
    writer.add(sides[0], sides[1], range(1, num_pairs + 1))
    shard = writer.write(folder / "shards/00000.arrow", "shards/00000.arrow")
    corpus = CorpusInfo(
        "random", [], num_pairs, num_pairs, {}, {}, shard.src_tokens, shard.tgt_tokens, leaked=0
    )
    manifest = Manifest(
        format=FORMAT,
        src=experiment.corpus.src,
        tgt=experiment.corpus.tgt,
        settings={},
        cleaning_fingerprint="",
        tokenizer_fingerprint="",
        num_pieces=vocab_size,
        pairs=shard.pairs,
        src_tokens=shard.src_tokens,
        tgt_tokens=shard.tgt_tokens,
        longest=shard.longest,
        corpora=[corpus],
        shards=[shard],
        files=[],
    )
    (folder / MANIFEST).write_text(manifest.to_json(), encoding="utf-8")


def made_up_pieces(num_pieces: int) -> Subword:
    """A vocabulary of that size, whose learnt pieces are numbers."""
    learnt = Subword.train(["a b"], SubwordConfig(vocab_size=300))
    tree = json.loads(learnt.to_json())
    vocab = tree["model"]["vocab"]
    for number in range(len(vocab), num_pieces):
        vocab[f" x{number}"] = number
    return Subword.from_json(json.dumps(tree))
