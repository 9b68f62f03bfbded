"""Tiny cases, so that every part of the benchmark runs in a second or two."""

from pathlib import Path

import pytest

from nmt.bench import machine
from nmt.bench.bench import Bench
from nmt.bench.cases import MULTI30K, Case, made_up_pieces, write_random
from nmt.config.experiment import Experiment
from nmt.corpus.shards import Shards

EXPERIMENT = {
    "name": "tiny",
    "corpus": {
        "train": [{"name": "a", "src": "a.en", "tgt": "a.de"}],
        "dev": {"name": "dev", "src": "dev.en", "tgt": "dev.de"},
    },
    "batching": {"max_tokens": 256, "max_length": 64},
    "model": {"width": 16, "encoder_layers": 1, "decoder_layers": 1, "heads": 2, "ffn_width": 16},
    "training": {"precision": "bf16"},
    "decoding": {"batch_sentences": 16},
}


@pytest.fixture(scope="session")
def tiny_case(tmp_path_factory: pytest.TempPathFactory) -> Case:
    experiment = Experiment.model_validate(EXPERIMENT)
    folder = tmp_path_factory.mktemp("case") / "shards-and-manifest"
    write_random(folder, MULTI30K, 300, experiment, num_pairs=400)
    return Case("tiny", experiment, Shards.open(folder), made_up_pieces(300), "synthetic")


@pytest.fixture(scope="session")
def products() -> dict[str, machine.Product]:
    return machine.measure(seconds=0)[1]


@pytest.fixture
def tiny_bench(tiny_case: Case, products: dict[str, machine.Product], tmp_path: Path) -> Bench:
    """All cases are the tiny one."""
    bench = Bench(tmp_path, 0.0, products)
    for name in ("small", "wide", "large"):
        bench.__dict__[name] = tiny_case
    return bench
