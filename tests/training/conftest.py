"""The toy experiment, and the runs of it that take several processes: all done once."""

import shutil
from pathlib import Path

import pytest
import torch
from toy_runs import INGREDIENTS, Run, go, go_on_gloo, write_toy

from nmt.config.experiment import Experiment
from nmt.config.files import load_experiment

# Its assertions tell what differs, as those of a test file do.
pytest.register_assert_rewrite("toy_ends")

NO_DROPOUT = [
    "model.dropout=0",
    "model.embedding_dropout=0",
    "model.attention_dropout=0",
    "model.word_dropout=0",
]
SIX = [*NO_DROPOUT, "training.updates=6"]
BF16 = torch.bfloat16
ON_GLOO = [
    Run("two", num_workers=2),
    Run("two-again", num_workers=2),
    Run("three", num_workers=3),
    Run("two-stopped", num_workers=2, stop_after=7),
    Run("two-stopped", num_workers=2),
    Run("one-then-two", num_workers=2),
    Run("three-stopped", num_workers=3, stop_after=7),
    Run("three-stopped", num_workers=3),
    Run("full", num_workers=2, overrides=["training.checkpoint_every=3"], full=[3, 6, 12]),
    Run("full-for-good", num_workers=2, overrides=["training.checkpoint_every=2"], full=[4, 6, 8]),
    Run("roomy", num_workers=2, overrides=SIX),
    Run("short", 2, SIX, short=[2, 5], fits=1),
    Run("rough", 2, SIX, wire=BF16),
    Run("rough-again", 2, SIX, wire=BF16),
    Run("rough-short", 2, SIX, short=[2, 5], fits=1, wire=BF16),
    Run("too-short", num_workers=2, short=[1]),
    Run("two-of-all", num_workers=2, overrides=INGREDIENTS),
    Run("skips", num_workers=2, overrides=["training.updates=6"], poisoned=[2]),
    Run("fails", num_workers=2, overrides=["training.max_skipped=2"], poisoned=[1, 2]),
    Run("half", 2, [*SIX, "training.precision=fp16"], bears=2.0**12),
    Run("half-broken", 2, [*SIX, "training.precision=fp16"], broken=[2]),
    Run("two-late", num_workers=2, overrides=["training.validate_every=5"], desk="reversed"),
]


@pytest.fixture(scope="session")
def toy_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The experiment file of a prepared toy corpus; runs go into the folder that it is in."""
    return write_toy(tmp_path_factory.mktemp("toy"))


@pytest.fixture(scope="session")
def toy(toy_file: Path) -> Experiment:
    return load_experiment(toy_file)


@pytest.fixture(scope="session")
def one(toy_file: Path) -> Path:
    """A run of one worker."""
    go(toy_file, Run("one"))
    return toy_file.parent / "one"


@pytest.fixture(scope="session")
def stopped(toy_file: Path) -> Path:
    """A run of one worker that was stopped after 7 updates."""
    go(toy_file, Run("one-stopped", stop_after=7))
    return toy_file.parent / "one-stopped"


@pytest.fixture(scope="session")
def one_of_all(toy_file: Path) -> Path:
    """A run of one worker with all ingredients."""
    go(toy_file, Run("one-of-all", overrides=INGREDIENTS))
    return toy_file.parent / "one-of-all"


@pytest.fixture(scope="session")
def gloo(toy_file: Path, stopped: Path) -> Path:
    """The folder in which the runs of ON_GLOO are."""
    shutil.copytree(stopped, toy_file.parent / "one-then-two")
    go_on_gloo(toy_file, ON_GLOO, num_processes=3)
    return toy_file.parent
