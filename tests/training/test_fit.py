from nmt.training.state import OverfittingMonitor


def test_a_gap_that_opens_is_told_once() -> None:
    fit = OverfittingMonitor()
    told = []
    for update, train, dev in [(1, 3.0, 3.0), (2, 2.0, 2.0), (3, 1.5, 2.01), (4, 1.0, 2.1)]:
        fit.note(train)
        told.append(fit.judge(update, dev, fit.train_nll))
    assert told[:3] == ["", "", ""]
    assert told[3] == (
        "warning: over-fitting since update 2: dev loss rose from 2.000 to 2.100 nats/token while "
        "training loss fell from 2.000 to 1.000; more model.dropout, training.subword_dropout or "
        "stages with rdrop hold against it, training.patience stops"
    )
    assert fit.judge(5, 2.2, fit.train_nll) == ""


def test_a_gap_that_closed_may_open_again() -> None:
    fit = OverfittingMonitor()
    found = []
    for update, dev in enumerate([2.0, 2.1, 1.9, 2.0]):
        fit.note(1.0 - update / 10)
        found.append(bool(fit.judge(update, dev, fit.train_nll)))
    assert found == [False, True, False, True]


def test_a_dev_loss_that_rises_with_the_training_loss_is_not_over_fitting() -> None:
    fit = OverfittingMonitor()
    fit.note(2.0)
    fit.judge(1, 2.0, fit.train_nll)
    fit.note(2.5)
    assert fit.judge(2, 3.0, fit.train_nll) == ""


def test_both_losses_stand_side_by_side() -> None:
    fit = OverfittingMonitor()
    assert fit.describe(1.5) == "dev loss 1.500 nats/token"
    fit.note(1.25)
    fit.note(None)
    assert fit.describe(1.5) == "train loss 1.250, dev loss 1.500 nats/token"
