"""Several workers train the model of one; collectives; seeds."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from toy_results import assert_near, assert_same, end_of, records_of, rows_of, tensors_of
from toy_runs import GlooRuns, corpus_of

from nmt.config.experiment import Experiment
from nmt.errors import TrainingError
from nmt.training.data import check_workers
from nmt.training.distributed import World, derive_seed
from nmt.training.loop import train


@pytest.mark.parametrize("folder", ["two", "three"])
def test_several_workers_train_the_model_of_one(one: Path, gloo: GlooRuns, folder: str) -> None:
    """World-size independence (nmt/README.md, Guarantees)."""
    assert end_of(one).update == 20
    assert_near(one, gloo / folder)


@pytest.mark.parametrize("folder", ["two", "three"])
def test_an_update_has_the_same_pairs_for_several_workers(
    one: Path, gloo: GlooRuns, folder: str
) -> None:
    """Pure schedule (nmt/README.md, Guarantees)."""
    assert len(rows_of(one)) == 20
    assert rows_of(gloo / folder) == rows_of(one)


def test_equal_numbers_of_workers_train_bit_for_bit(gloo: GlooRuns) -> None:
    """World-size independence (nmt/README.md, Guarantees)."""
    assert_same(gloo / "two", gloo / "two-again")


def test_several_workers_log_what_one_logs(one: Path, gloo: GlooRuns) -> None:
    for ours, theirs in zip(records_of(one), records_of(gloo / "three"), strict=True):
        assert ours.keys() == theirs.keys()
        for name, value in ours.items():
            expected = pytest.approx(value, rel=1e-4) if isinstance(value, float) else value
            assert theirs[name] == expected, name


def test_with_all_settings_two_workers_train_the_model_of_one(
    one: Path, one_of_all: Path, gloo: GlooRuns
) -> None:
    assert_near(one_of_all, gloo / "two-all")
    assert rows_of(gloo / "two-all") == rows_of(one_of_all)
    weights, plain = tensors_of(one_of_all), tensors_of(one)
    assert any(not torch.equal(weights[name], plain[name]) for name in plain)


def test_bf16_gradients_equal_fp32_up_to_rounding(faulty: GlooRuns) -> None:
    rough, whole = (
        next(each for each in reversed(records_of(faulty / run)) if each["kind"] == "train")
        for run in ("bf16-gradients", "whole")
    )
    assert rough["loss"] == pytest.approx(whole["loss"], rel=1e-3)
    assert rough["gnorm"] == pytest.approx(whole["gnorm"], rel=1e-2)
    ours, theirs = tensors_of(faulty / "bf16-gradients"), tensors_of(faulty / "whole")
    assert any(not torch.equal(ours[name], theirs[name]) for name in ours)


def test_bf16_gradients_are_reproducible(faulty: GlooRuns) -> None:
    assert_same(faulty / "bf16-gradients", faulty / "bf16-gradients-again")


# Seeds of dropout depend on the micro-batch, not on the rank.


def test_each_micro_batch_has_its_own_seed(one: Path) -> None:
    seeds = json.loads((one / "seen-0.json").read_text())["seeds"]
    assert seeds == [derive_seed(3, update, index) for update in range(20) for index in range(3)]


def test_seeds_depend_on_all_three_numbers() -> None:
    # The first value is part of the format: an old run resumes with the dropout it had.
    assert derive_seed(1, 2, 3) == 1540937338477698060
    numbers = [(1, 2, 3), (1, 3, 2), (2, 1, 3), (12, 3, 3), (1, 23, 3)]
    assert len({derive_seed(*of) for of in numbers}) == 5
    assert all(0 <= derive_seed(*of) < 2**63 for of in numbers)


# Checks before the start.


def test_more_workers_than_micro_batches_are_an_error(toy: Experiment, tmp_path: Path) -> None:
    """Actionable errors (nmt/README.md, Guarantees)."""
    expected = (
        "4 workers cannot share updates of 3 micro-batches: use at most 3 workers, or set "
        "batching.micro_batches=4 or more (a larger update)"
    )
    with pytest.raises(TrainingError) as error:
        check_workers(toy, 4)
    assert str(error.value) == expected
    with pytest.raises(TrainingError) as error:
        train(toy, corpus_of(toy), World(rank=3, size=4), tmp_path)
    assert str(error.value) == expected


def test_one_worker_per_micro_batch_is_enough(toy: Experiment) -> None:
    check_workers(toy, 3)


# Collectives.


def test_a_single_process_needs_no_group() -> None:
    world = World()
    assert world.is_main
    assert world.all_reduce([1.0, 2.0]) == [1.0, 2.0]
    assert world.all_gather("mine") == ["mine"]


@pytest.fixture
def views(gloo: GlooRuns) -> list[dict[str, Any]]:
    """World as seen by each of three ranks."""
    return [json.loads((gloo / f"world-3-{rank}.json").read_text()) for rank in range(3)]


def test_rank_0_is_main(views: list[dict[str, Any]]) -> None:
    assert [view["is_main"] for view in views] == [True, False, False]


def test_all_reduce_sums_on_every_rank(views: list[dict[str, Any]]) -> None:
    assert [view["sum"] for view in views] == [[3.0, 3.0]] * 3


def test_all_gather_returns_the_values_of_every_rank(views: list[dict[str, Any]]) -> None:
    """Safe by default (nmt/README.md, Guarantees): values are sent as JSON, not pickled."""
    everything = [["ä" * rank, None, {"rank": rank}] for rank in range(3)]
    assert [view["gather"] for view in views] == [everything] * 3
