"""Counters of a checkpoint, loss scale, and overfitting."""

import pytest
import torch

from nmt.training.state import LossScale, OverfittingMonitor, TrainState


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


def test_counters_of_an_unknown_version_are_refused() -> None:
    with pytest.raises(TypeError, match="unexpected keyword argument"):
        TrainState.of({"update": 7, "of_tomorrow": 1})


def test_an_old_loss_scale_is_read_into_the_scaler() -> None:
    scaler = torch.amp.GradScaler("cpu")
    assert scaler.get_scale() == LossScale().value
    assert scaler.get_growth_interval() == 2000
