"""Counters of a checkpoint, loss scale, and overfitting."""

from pathlib import Path

import torch

from nmt.checkpoint.load import load_checkpoint, load_training_state
from nmt.config.experiment import Experiment
from nmt.training.distributed import World
from nmt.training.state import Learner, LossScale, OverfittingMonitor, TrainState

GOLDEN = Path(__file__).parents[1] / "golden" / "run-of-format-1"


def test_overfitting_is_reported_once() -> None:
    fit = OverfittingMonitor()
    warnings = []
    for update, train, dev in [(1, 3.0, 3.0), (2, 2.0, 2.0), (3, 1.5, 2.01), (4, 1.0, 2.1)]:
        fit.note(train)
        warnings.append(fit.judge(update, dev, fit.train_nll))
    assert warnings[:3] == ["", "", ""]
    assert warnings[3] == (
        "warning: overfitting since update 2 | dev loss 2.000 -> 2.100 | loss 2.000 -> 1.000 | "
        "remedies: model.dropout, training.subword_dropout, stages with rdrop, training.patience"
    )
    assert fit.judge(5, 2.2, fit.train_nll) == ""


def test_overfitting_after_a_new_minimum_is_reported_again() -> None:
    fit = OverfittingMonitor()
    found = []
    for update, dev in enumerate([2.0, 2.1, 1.9, 2.0]):
        fit.note(1.0 - update / 10)
        found.append(bool(fit.judge(update, dev, fit.train_nll)))
    assert found == [False, True, False, True]


def test_two_rising_losses_are_not_overfitting() -> None:
    fit = OverfittingMonitor()
    fit.note(2.0)
    fit.judge(1, 2.0, fit.train_nll)
    fit.note(2.5)
    assert fit.judge(2, 3.0, fit.train_nll) == ""


def test_old_counters_are_read() -> None:
    """Self-contained checkpoints (nmt/README.md, Guarantees): of a version without split factor."""
    counters = {
        "update": 7,
        "num_split": 3,
        "scale": {"value": 4096.0, "good_updates": 12},
        "since_log": {"tokens": 5.0},
        "fit": {"train_nll": 2.0},
        "awaited": [[5, 2.0], [6, None]],
    }
    state = TrainState.of(counters)
    assert (state.update, state.split, state.num_overflows) == (7, 1, 0)
    assert state.scale == LossScale(4096.0, 12)
    assert (state.since_log.tokens, state.fit.train_nll) == (5.0, 2.0)
    assert state.awaited == [(5, 2.0), (6, None)]


def test_a_golden_checkpoint_resumes() -> None:
    """Self-contained checkpoints (nmt/README.md, Guarantees)."""
    checkpoint, state = load_checkpoint(GOLDEN), load_training_state(GOLDEN)
    learner = Learner(checkpoint.experiment, checkpoint.subword.num_pieces, World())
    learner.load(state, GOLDEN)
    assert all(
        torch.equal(each, state.weights[name]) for name, each in learner.model.state_dict().items()
    )
    assert TrainState.of(state.counters).best_bleu == 31.25


def test_an_old_loss_scale_is_read_into_the_scaler(toy: Experiment) -> None:
    fp16 = toy.with_settings("training", precision="fp16")
    learner = Learner(fp16, 12, World())
    assert learner.loss_scale == LossScale(2.0**16, 0)
    learner.set_loss_scale(TrainState.of({"scale": {"value": 4096.0, "good_updates": 12}}).scale)
    assert learner.loss_scale == LossScale(4096.0, 12)
    assert learner.scaler.get_scale() == 4096
    assert learner.scaler.get_growth_interval() == 2000


def test_another_dev_set_restarts_all_counters() -> None:
    fit = OverfittingMonitor(1.5, 1.0, 5, 2.0, is_open=True)
    state = TrainState(
        9, best_bleu=30.0, best_update=5, best_loss=1.0, validations_without_gain=2, halvings=1,
        validations_of_plateau=1, awaited=[(5, None)], fit=fit,
    )  # fmt: skip
    state.forget_scores()
    assert state == TrainState(9, halvings=1, fit=OverfittingMonitor(train_nll=1.5))
