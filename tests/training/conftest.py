"""Toy experiment, and the runs of it that several tests read."""

import shutil
from pathlib import Path

import pytest
import torch
from toy_runs import INGREDIENTS, GlooRuns, Run, go, go_on_gloo, write_toy

from nmt.config.experiment import Experiment
from nmt.config.files import load_experiment

# Its assertions show what differs, as those of a test file do.
pytest.register_assert_rewrite("toy_results")

NO_DROPOUT = [
    "model.dropout=0",
    "model.embedding_dropout=0",
    "model.attention_dropout=0",
    "model.word_dropout=0",
]
SIX = [*NO_DROPOUT, "training.updates=6"]
FP16 = [*SIX, "training.precision=fp16"]
FULL = ["training.checkpoint_every=3", "training.validate_every=20"]
BF16 = torch.bfloat16
RUNS = [
    Run("two", num_workers=2),
    Run("two-again", num_workers=2),
    Run("three", num_workers=3),
    Run("two-stopped", num_workers=2, stop_after=7),
    Run("two-stopped", num_workers=2),
    Run("one-then-two", num_workers=2),
    Run("three-stopped", num_workers=3, stop_after=7),
    Run("three-stopped", num_workers=3),
    Run("two-all", num_workers=2, overrides=INGREDIENTS),
    Run("two-async", num_workers=2, overrides=["training.validate_every=5"], scorer="reversed"),
]
"""Runs that compare with those of other numbers of workers."""
FAULTY_RUNS = [
    Run("whole", num_workers=2, overrides=SIX),
    Run("split", 2, SIX, max_pairs=2),
    Run("bf16-gradients", 2, SIX, gradient_dtype=BF16),
    Run("bf16-gradients-again", 2, SIX, gradient_dtype=BF16),
    Run("no-pair-fits", num_workers=2, max_pairs=0),
    Run("full", num_workers=2, overrides=["training.checkpoint_every=3"], full=[3, 6, 12]),
    Run("full-for-good", 2, FULL, full=[6, 9, 12]),
    Run("skips", num_workers=2, overrides=["training.updates=6"], poisoned=[2]),
    Run("fails", num_workers=2, overrides=["training.max_skipped=2"], poisoned=[1, 2]),
    Run("fp16", 2, FP16),
    Run("overflows", 2, FP16, max_scale=2.0**14),
]
"""Runs with little memory, a full disk, or gradients that are not finite."""


@pytest.fixture(scope="session")
def toy_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Experiment file of a prepared toy corpus; runs go into its directory."""
    return write_toy(tmp_path_factory.mktemp("toy"))


@pytest.fixture(scope="session")
def toy(toy_file: Path) -> Experiment:
    return load_experiment(toy_file)


@pytest.fixture(scope="session")
def one(toy_file: Path) -> Path:
    """Run of one worker."""
    go(toy_file, Run("one"))
    return toy_file.parent / "one"


@pytest.fixture(scope="session")
def stopped(toy_file: Path) -> Path:
    """Run of one worker that was stopped after 7 updates."""
    go(toy_file, Run("one-stopped", stop_after=7))
    return toy_file.parent / "one-stopped"


@pytest.fixture(scope="session")
def one_of_all(toy_file: Path) -> Path:
    """Run of one worker with all settings that are off by default."""
    go(toy_file, Run("one-of-all", overrides=INGREDIENTS))
    return toy_file.parent / "one-of-all"


@pytest.fixture(scope="session")
def gloo(toy_file: Path, stopped: Path) -> GlooRuns:
    """Runs of several workers."""
    shutil.copytree(stopped, toy_file.parent / "one-then-two")
    return go_on_gloo(toy_file, RUNS, num_processes=3)


@pytest.fixture(scope="session")
def faulty(toy_file: Path) -> GlooRuns:
    """Runs of two workers with injected failures."""
    return go_on_gloo(toy_file, FAULTY_RUNS, num_processes=2)
