"""Several workers train the model that one would have trained."""

import json
from pathlib import Path

import pytest
import torch
from toy_ends import assert_near, assert_same, end_of, records_of, rows_of, tensors_of
from toy_runs import corpus_of

from nmt.config.experiment import Experiment
from nmt.errors import TrainingError
from nmt.training.data import check_workers
from nmt.training.distributed import World
from nmt.training.loop import train
from nmt.training.memory import seed_of


@pytest.mark.parametrize("folder", ["two", "three"])
def test_several_workers_train_the_model_of_one(one: Path, gloo: Path, folder: str) -> None:
    """P3."""
    assert end_of(one).update == 20
    assert_near(one, gloo / folder)


@pytest.mark.parametrize("folder", ["two", "three"])
def test_an_update_has_the_same_pairs_for_several_workers(
    one: Path, gloo: Path, folder: str
) -> None:
    """P2, P3."""
    assert len(rows_of(one)) == 20
    assert rows_of(gloo / folder) == rows_of(one)


def test_the_same_number_of_workers_trains_bit_for_bit(gloo: Path) -> None:
    """P3."""
    assert_same(gloo / "two", gloo / "two-again")


def test_several_workers_log_what_one_logs(one: Path, gloo: Path) -> None:
    """P3."""
    for ours, theirs in zip(records_of(one), records_of(gloo / "three"), strict=True):
        assert ours.keys() == theirs.keys()
        for name, value in ours.items():
            expected = pytest.approx(value, rel=1e-4) if isinstance(value, float) else value
            assert theirs[name] == expected, name


def test_with_all_ingredients_several_workers_train_the_model_of_one(
    one: Path, one_of_all: Path, gloo: Path
) -> None:
    """P3: subwords cut anew, stages, R-Drop, locked and weight dropout, weights of corpora."""
    assert_near(one_of_all, gloo / "two-of-all")
    assert rows_of(gloo / "two-of-all") == rows_of(one_of_all)
    weights, plain = tensors_of(one_of_all), tensors_of(one)
    assert any(not torch.equal(weights[name], plain[name]) for name in plain)


@pytest.mark.parametrize("folder", ["rough", "rough-short"])
def test_gradients_sent_in_bf16_are_the_same_but_for_their_rounding(
    gloo: Path, folder: str
) -> None:
    """Where a worker runs out of memory while they are sent, too."""
    rough, roomy = (
        next(each for each in reversed(records_of(gloo / run)) if each["kind"] == "train")
        for run in (folder, "roomy")
    )
    assert rough["nll"] == pytest.approx(roomy["nll"], rel=1e-3)
    assert rough["grad_norm"] == pytest.approx(roomy["grad_norm"], rel=1e-2)
    assert end_of(gloo / folder).update == 6
    ours, theirs = tensors_of(gloo / folder), tensors_of(gloo / "roomy")
    assert any(not torch.equal(ours[name], theirs[name]) for name in ours)


def test_gradients_sent_in_bf16_are_the_same_each_time(gloo: Path) -> None:
    """P3."""
    assert_same(gloo / "rough", gloo / "rough-again")


# What is dropped depends on the micro-batch alone, not on who has it.


def test_each_micro_batch_has_a_seed_of_its_own(one: Path) -> None:
    """P3."""
    seeds = json.loads((one / "seen-0.json").read_text())["seeds"]
    assert seeds == [seed_of(3, update, index) for update in range(20) for index in range(3)]


def test_seeds_depend_on_all_three_numbers_and_on_nothing_else() -> None:
    """P3, P4: an old run goes on with the dropout it began with."""
    assert seed_of(1, 2, 3) == 1540937338477698060
    numbers = [(1, 2, 3), (1, 3, 2), (2, 1, 3), (12, 3, 3), (1, 23, 3)]
    assert len({seed_of(*of) for of in numbers}) == 5
    assert all(0 <= seed_of(*of) < 2**63 for of in numbers)


# What is refused before the start.


def test_too_many_workers_are_refused(toy: Experiment, tmp_path: Path) -> None:
    """P9."""
    expected = (
        "4 workers cannot share updates of 3 micro-batches: ask for at most 3 workers, or set "
        "batching.micro_batches=4 or more (a larger update)"
    )
    with pytest.raises(TrainingError) as error:
        check_workers(toy, 4)
    assert str(error.value) == expected
    with pytest.raises(TrainingError) as error:
        train(toy, corpus_of(toy), World(rank=3, size=4), tmp_path)
    assert str(error.value) == expected


def test_as_many_workers_as_micro_batches_are_fine(toy: Experiment) -> None:
    check_workers(toy, 3)
