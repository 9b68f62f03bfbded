"""Splitting of micro-batches that exceed memory."""

import os
import pickle
import re
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from toy_results import assert_near, assert_same, counters_of, records_of
from toy_runs import GlooRuns, Run, corpus_of, go

from nmt.config.cluster import Cluster
from nmt.config.experiment import Experiment, StageConfig
from nmt.errors import TrainingError
from nmt.training import memory
from nmt.training.data import make_schedule
from nmt.training.distributed import World
from nmt.training.memory import (
    MEMORY_ENVIRONMENT,
    UpdateOutOfMemoryError,
    configure_memory,
    find_split,
    is_out_of_memory,
    wait_for_gpu_memory,
    worker_environment,
)
from nmt.training.state import Learner

NO_DROPOUT = ["model.dropout=0", "model.embedding_dropout=0", "model.attention_dropout=0",
              "model.word_dropout=0"]  # fmt: skip


def splits_of(run: Path) -> list[tuple[int, int]]:
    """Return updates done and split factor of each change."""
    records = records_of(run)
    return [(each["update"], each["split"]) for each in records if each["kind"] == "split"]


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB."), True),
        (RuntimeError("[enforce fail at alloc_cpu.cpp] can't allocate memory: you tried"), True),
        (RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling cublasCreate"), True),
        (RuntimeError("CUDA error: CUBLAS_STATUS_NOT_INITIALIZED when calling cublasCreate"), True),
        (
            RuntimeError("cuDNN error: CUDNN_STATUS_INTERNAL_ERROR_DEVICE_ALLOCATION_FAILED"),
            True,
        ),
        (
            RuntimeError("NCCL error: unhandled cuda error. Last error: Failed to CUDA calloc"),
            True,
        ),
        (RuntimeError("cuDNN error: CUDNN_STATUS_INTERNAL_ERROR"), False),
        (UpdateOutOfMemoryError(7, 1, 2), True),
        (RuntimeError("mat1 and mat2 shapes cannot be multiplied"), False),
        (MemoryError("out of memory"), False),
    ],
)
def test_errors_of_memory_are_recognised(error: Exception, expected: bool) -> None:
    assert is_out_of_memory(error) == expected


def test_the_error_of_an_update_crosses_processes() -> None:
    error = pickle.loads(pickle.dumps(UpdateOutOfMemoryError(7, 1, 2)))
    assert (error.update, error.rank, error.split) == (7, 1, 2)
    assert str(error) == "rank 1 ran out of memory in update 7 with split factor 2"


# Trial before update 1.


@pytest.fixture
def max_pairs(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """[pairs that fit in memory together]."""
    limit = [10**9]
    real = memory.compute_loss

    def compute_loss(forward: object, model: object, batch: object, config: object, *of: object):  # type: ignore[no-untyped-def]
        if len(batch.src) * (1 + bool(config.rdrop or config.cutoff or config.risk)) > limit[0]:  # type: ignore[attr-defined]
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")
        return real(forward, model, batch, config, *of)  # type: ignore[arg-type]

    monkeypatch.setattr(memory, "compute_loss", compute_loss)
    return limit


def split_of(experiment: Experiment, min_split: int = 1, first_update: int = 0) -> int:
    corpus = corpus_of(experiment)
    schedule = make_schedule(experiment, corpus)[1]
    assert schedule.largest[0] == 3
    learner = Learner(experiment, corpus.subword.num_pieces, World())
    return find_split(learner, experiment, schedule, World(), first_update, min_split)


@pytest.mark.parametrize(
    ("fits", "min_split", "split"), [(3, 1, 1), (2, 1, 2), (1, 1, 4), (3, 2, 2), (1, 2, 4)]
)
def test_the_trial_finds_the_least_split_factor(
    toy: Experiment, max_pairs: list[int], fits: int, min_split: int, split: int
) -> None:
    max_pairs[0] = fits
    assert split_of(toy, min_split) == split


def test_the_trial_fails_if_no_pair_fits(toy: Experiment, max_pairs: list[int]) -> None:
    """Actionable errors (nmt/README.md, Guarantees)."""
    max_pairs[0] = 0
    with pytest.raises(TrainingError) as error:
        split_of(toy)
    assert re.fullmatch(
        r"rank 0 ran out of memory with a single pair of \d+ tokens per side; lower "
        "batching.max_length or the size of the model, or give each worker more memory",
        str(error.value),
    )


@pytest.mark.parametrize("setting", ["rdrop", "cutoff", "risk"])
def test_the_trial_covers_later_stages(toy: Experiment, max_pairs: list[int], setting: str) -> None:
    stage = StageConfig.model_validate({"from_update": 9, setting: 0.5})
    staged = toy.model_copy(update={"stages": [stage]})
    max_pairs[0] = 4
    assert split_of(staged) == 2
    assert split_of(staged, first_update=12) == 2
    assert split_of(toy) == 1


@pytest.mark.parametrize(("max_length", "longest"), [(64, 15), (12, 12)])
def test_the_trial_covers_noise(
    toy: Experiment, monkeypatch: pytest.MonkeyPatch, max_length: int, longest: int
) -> None:
    tried = []
    real = memory.make_batch
    monkeypatch.setattr(memory, "make_batch", lambda pairs: tried.append(pairs[0]) or real(pairs))
    batching = toy.batching.model_copy(update={"max_length": max_length})
    noisy = toy.training.model_copy(update={"robust": True})
    learner = Learner(toy, corpus_of(toy).subword.num_pieces, World())
    schedule = type("Largest", (), {"largest": (2, 10)})()
    for training in (toy.training, noisy):
        experiment = toy.model_copy(update={"batching": batching, "training": training})
        find_split(learner, experiment, schedule, World(), 0, 1)
    lengths = [[len(side) + 1 for side in pair] for pair in tried]
    assert lengths == [[10, 10], [longest, 10]]


def test_the_trial_changes_neither_weights_nor_gradients(toy: Experiment) -> None:
    corpus = corpus_of(toy)
    learner = Learner(toy, corpus.subword.num_pieces, World())
    before = {name: tensor.clone() for name, tensor in learner.model.state_dict().items()}
    find_split(learner, toy, make_schedule(toy, corpus)[1], World(), 0, 1)
    after = learner.model.state_dict()
    assert all(torch.equal(tensor, after[name]) for name, tensor in before.items())
    assert all(parameter.grad is None for parameter in learner.model.parameters())


def test_other_errors_of_the_trial_are_raised(
    toy: Experiment, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise RuntimeError("cuDNN error: CUDNN_STATUS_INTERNAL_ERROR")

    monkeypatch.setattr(memory, "compute_loss", fail)
    with pytest.raises(RuntimeError, match=r"^cuDNN error"):
        split_of(toy)


# Runs.


def test_all_ranks_use_the_split_factor_of_the_smallest(faulty: GlooRuns) -> None:
    """World-size independence (nmt/README.md, Guarantees): equal up to summation order."""
    assert_near(faulty / "whole", faulty / "split")
    assert splits_of(faulty / "split") == [(0, 2)]
    assert counters_of(faulty / "split")["split"] == 2
    log = (faulty / "split" / "train.log").read_text(encoding="utf-8")
    assert re.search(
        r" split factor 2 \| the largest micro-batch, 3 pairs x \d+ tokens, exceeds memory\n",
        log,
    )


def test_a_split_micro_batch_is_counted_once(faulty: GlooRuns) -> None:
    """Honest numbers (nmt/README.md, Guarantees)."""
    whole, split = (
        [each for each in records_of(faulty / run) if each["kind"] == "train"][-1]
        for run in ("whole", "split")
    )
    assert split["loss"] == pytest.approx(whole["loss"], rel=1e-4)
    assert split["padding_percent"] == whole["padding_percent"]


def test_a_pair_that_does_not_fit_ends_all_ranks(faulty: GlooRuns) -> None:
    for rank in (0, 1):
        message = (faulty / "no-pair-fits" / f"error-{rank}.txt").read_text()
        assert message.startswith("rank 1 ran out of memory with a single pair of ")


def test_out_of_memory_resumes_with_the_next_factor(toy_file: Path) -> None:
    run, every = toy_file.parent / "out-of-memory", ["training.checkpoint_every=5", *NO_DROPOUT]
    with pytest.raises(UpdateOutOfMemoryError) as error:
        go(toy_file, Run(run.name, overrides=every, short=[12]))
    assert str(error.value) == "rank 0 ran out of memory in update 13 with split factor 1"
    go(toy_file, Run(run.name, overrides=every, min_split=2, stop_after=15))
    assert splits_of(run) == [(10, 2)]
    # The checkpoint has the factor: it does not fall, and is not logged again.
    go(toy_file, Run(run.name, overrides=every))
    assert splits_of(run) == [(10, 2)]
    assert counters_of(run)["split"] == 2
    go(toy_file, Run("enough-memory", overrides=every))
    assert_near(run, toy_file.parent / "enough-memory")


def test_a_split_run_resumes_bit_for_bit(toy_file: Path) -> None:
    """Exact resume (nmt/README.md, Guarantees)."""
    go(toy_file, Run("split-whole", max_pairs=2))
    go(toy_file, Run("split-stopped", max_pairs=2, stop_after=7))
    go(toy_file, Run("split-stopped"))
    assert_same(toy_file.parent / "split-stopped", toy_file.parent / "split-whole")


def test_out_of_memory_with_single_pairs_is_an_error(
    toy_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("toy_runs.Faults.allocate", fail_in_update_two)
    with pytest.raises(TrainingError) as error:
        go(toy_file, Run("single-pairs", min_split=4))
    assert re.fullmatch(
        r"update 3: rank 0 ran out of memory with a single pair of \d+ tokens per side; lower "
        "batching.max_length or the size of the model, or give each worker more memory",
        str(error.value),
    )


def fail_in_update_two(faults: object, batch: object, max_pairs: int) -> None:
    if faults.update == 2:  # type: ignore[attr-defined]
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")


# Memory of a GPU.


@pytest.mark.parametrize(
    ("free_gib", "seconds", "line"),
    [
        ([79.0], 0.0, ""),
        # The memory of a killed worker, freed in two steps.
        ([10.0, 10.0, 40.0, 79.0], 0.6, ""),
        ([10.0] * 99, 3.0, "other processes use the GPU: 10.0 of 80.0 GiB of its memory are free"),
    ],
)
def test_workers_wait_for_the_memory_of_killed_ones(
    monkeypatch: pytest.MonkeyPatch, free_gib: list[float], seconds: float, line: str
) -> None:
    now, lines, left = [0.0], list[str](), iter(free_gib)
    clock = SimpleNamespace(
        monotonic=lambda: now[0],
        sleep=lambda seconds: now.__setitem__(0, now[0] + seconds),
    )
    monkeypatch.setattr(memory, "time", clock)
    monkeypatch.setattr(
        torch.cuda, "mem_get_info", lambda device: (int(next(left) * 2**30), 80 * 2**30)
    )
    wait_for_gpu_memory(torch.device("cuda:0"), lines.append)
    assert now[0] == pytest.approx(seconds)
    assert lines == [line] * bool(line)


@pytest.mark.parametrize(
    ("env", "expected"),
    [
        ({}, {"PYTORCH_ALLOC_CONF": "expandable_segments:True"}),
        ({"PYTORCH_CUDA_ALLOC_CONF": "garbage_collection_threshold:0.8"}, {}),
    ],
)
def test_workers_have_expandable_gpu_segments(
    monkeypatch: pytest.MonkeyPatch, env: dict[str, str], expected: dict[str, str]
) -> None:
    for name in ("PYTORCH_ALLOC_CONF", "PYTORCH_CUDA_ALLOC_CONF"):
        monkeypatch.delenv(name, raising=False)
    variables = worker_environment(Cluster(cpus_per_worker=3, env=env))
    assert variables == {"OMP_NUM_THREADS": "3", **MEMORY_ENVIRONMENT, **env, **expected}


# Settings of glibc.


def test_malloc_settings_keep_what_the_user_has_set(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "environ", {"MALLOC_TRIM_THRESHOLD_": "500000000"})
    configure_memory()
    assert os.environ == {**MEMORY_ENVIRONMENT, "MALLOC_TRIM_THRESHOLD_": "500000000"}
