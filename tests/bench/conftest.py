"""A tiny workload, so that every part of the benchmark runs in a second or two."""

from pathlib import Path

import pytest
import torch

from nmt.bench.timing import DTYPES, MatrixProduct
from nmt.bench.workloads import MULTI30K, Bench, Workload, synthetic_subword, write_random_corpus
from nmt.config.experiment import Experiment
from nmt.corpus.shards import Shards

EXPERIMENT = {
    "name": "tiny",
    "corpus": {
        "src": "en",
        "tgt": "de",
        "train": [{"name": "a", "src": "a.en", "tgt": "a.de"}],
        "dev": {"name": "dev", "src": "dev.en", "tgt": "dev.de"},
    },
    "batching": {"max_tokens": 256, "max_length": 64},
    "model": {"width": 16, "encoder_layers": 1, "decoder_layers": 1, "heads": 2, "ffn_width": 16},
    "training": {"precision": "fp32"},
    "decoding": {"batch_sentences": 16},
}


@pytest.fixture(scope="session")
def tiny_workload(tmp_path_factory: pytest.TempPathFactory) -> Workload:
    experiment = Experiment.model_validate(EXPERIMENT)
    folder = tmp_path_factory.mktemp("workload") / "prepared"
    write_random_corpus(folder, MULTI30K, 300, experiment, num_pairs=400)
    return Workload("tiny", experiment, Shards.open(folder), synthetic_subword(300), "synthetic")


@pytest.fixture(scope="session")
def products() -> dict[str, MatrixProduct]:
    """Small products: those of bf16 take seconds on a CPU without units for it."""
    pairs = [(name, torch.ones(16, 16, dtype=dtype)) for name, dtype in DTYPES.items()]
    return {name: MatrixProduct(matrix, matrix, 1) for name, matrix in pairs}


@pytest.fixture
def tiny_bench(
    tiny_workload: Workload, products: dict[str, MatrixProduct], tmp_path: Path
) -> Bench:
    """A benchmark in which all workloads are the tiny one."""
    bench = Bench(tmp_path, 0.0, products)
    for name in ("small", "wide", "large"):
        bench.__dict__[name] = tiny_workload
    return bench
