"""Memory that runs out over a micro-batch."""

import re
from pathlib import Path

import pytest
import torch
from toy_ends import assert_near, counters_of, records_of, rows_of
from toy_runs import corpus_of

from nmt.batching.batch import Batch
from nmt.config.experiment import Experiment, StageConfig
from nmt.errors import TrainingError
from nmt.training.data import make_schedule
from nmt.training.distributed import World
from nmt.training.learner import Learner
from nmt.training.loop import train
from nmt.training.memory import rehearse


def test_an_update_that_did_not_fit_is_made_again_in_halves(gloo: Path) -> None:
    """P3: the same gradient up to the order of sums, at all workers."""
    assert_near(gloo / "roomy", gloo / "short")
    splits = [record for record in records_of(gloo / "short") if record["kind"] == "split"]
    assert {(split["update"], split["worker"]) for split in splits} == {(3, 1), (6, 1)}
    # Workers take every second of three micro-batches: the last one has the middle one alone.
    rows = next(len(rows) for index, rows in rows_of(gloo / "short")["2"] if index == 1)
    assert rows == 3
    first = [(split["micro_batch"], split["num_pairs"]) for split in splits[:2]]
    assert first == [(1, 3), (1, 2)]
    assert counters_of(gloo / "short")["num_split"] == len(splits)
    log = (gloo / "short" / "train.log").read_text(encoding="utf-8")
    assert re.search(
        r"update 3: worker 1 ran out of memory over micro-batch 1, 3 pairs in \d+ positions; "
        "the update is made again with it in two halves\n",
        log,
    )
    assert f", {len(splits)} micro-batches split\n" in log


def test_what_did_not_fit_is_counted_once(gloo: Path) -> None:
    """P11."""
    last = {}
    for run in ("roomy", "short"):
        last[run] = [r for r in records_of(gloo / run) if r["kind"] == "train"][-1]
    assert last["short"]["nll"] == pytest.approx(last["roomy"]["nll"], rel=1e-4)


def test_a_pair_that_does_not_fit_ends_the_run(gloo: Path) -> None:
    """P9."""
    for rank in (0, 1):
        assert re.fullmatch(
            r"update 2: worker 1 ran out of memory over one pair \(\d+ tokens of both sides\); "
            "lower batching.max_length or the size of the model, or give each worker more memory",
            (gloo / "too-short" / f"error-{rank}.txt").read_text(),
        )


# The largest micro-batch is tried before the first update.


@pytest.fixture
def only_fits(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """[pairs that fit into memory together]."""
    fits = [10**9]
    real = Learner._loss

    def loss(learner: Learner, batch: Batch) -> object:
        if len(batch.src) * (1 + bool(learner.settings.rdrop)) > fits[0]:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")
        return real(learner, batch)

    monkeypatch.setattr(Learner, "_loss", loss)
    return fits


@pytest.mark.parametrize(("fits", "found"), [(3, 3), (2, 1), (1, 1), (0, 0)])
def test_what_fits_of_the_largest_micro_batch(
    toy: Experiment, only_fits: list[int], fits: int, found: int
) -> None:
    corpus = corpus_of(toy)
    schedule = make_schedule(toy, corpus)[1]
    learner = Learner(toy, corpus.subword.num_pieces, World())
    assert schedule.largest[0] == 3
    only_fits[0] = fits
    assert rehearse(learner, toy, schedule, 0) == found


def test_a_stage_to_come_is_tried_too(toy: Experiment, only_fits: list[int]) -> None:
    staged = toy.model_copy(update={"stages": [StageConfig(from_update=9, rdrop=1.0)]})
    corpus = corpus_of(toy)
    schedule = make_schedule(staged, corpus)[1]
    learner = Learner(staged, corpus.subword.num_pieces, World())
    only_fits[0] = 3
    assert rehearse(learner, staged, schedule, 0) == 1
    assert rehearse(learner, toy, schedule, 0) == 3


def test_a_rehearsal_leaves_no_trace(toy: Experiment) -> None:
    """P3."""
    corpus = corpus_of(toy)
    learner = Learner(toy, corpus.subword.num_pieces, World())
    before = {name: tensor.clone() for name, tensor in learner.model.state_dict().items()}
    rehearse(learner, toy, make_schedule(toy, corpus)[1], 0)
    after = learner.model.state_dict()
    assert all(torch.equal(tensor, after[name]) for name, tensor in before.items())
    assert all(parameter.grad is None for parameter in learner.model.parameters())


def test_a_micro_batch_that_is_too_large_is_told_before_the_first_update(
    toy: Experiment, only_fits: list[int], tmp_path: Path
) -> None:
    """P9."""
    only_fits[0] = 1
    lines: list[str] = []
    train(toy, corpus_of(toy), World(), tmp_path, lines.append, lambda update: True)
    assert re.fullmatch(
        r"the largest micro-batch that can come, 3 pairs of (\d+) tokens a side, does not fit into "
        r"a worker's memory: such ones are made in halves, which takes longer; "
        r"batching.max_tokens=\1 would fit",
        lines[1],
    )


def test_that_no_pair_fits_is_told_before_the_first_update(
    toy: Experiment, only_fits: list[int], tmp_path: Path
) -> None:
    """P9."""
    only_fits[0] = 0
    lines: list[str] = []
    with pytest.raises(TrainingError, match=r"^update 1: worker 0 ran out of memory over one pair"):
        train(toy, corpus_of(toy), World(), tmp_path, lines.append)
    advice = "; nor does one pair: lower batching.max_length or the size of the model"
    assert lines[1].endswith(advice)
