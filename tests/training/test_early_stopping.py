"""Early stopping, model selection and schedule plateau in toy runs."""

from pathlib import Path

import pytest
from toy_results import assert_same, records_of
from toy_runs import Run, go

from nmt.checkpoint.run_directory import best_checkpoint
from nmt.config.experiment import Experiment, StageConfig
from nmt.training.distributed import World
from nmt.training.early_stopping import DevScore, EarlyStopping
from nmt.training.state import TrainingClock, TrainState

PLATEAU = [
    "training.schedule=plateau",
    "training.plateau_patience=1",
    "training.validate_every=2",
    "training.checkpoint_every=4",
    "training.warmup_updates=1",
    "training.learning_rate=1.0e-13",
]


def test_training_stops_when_patience_ends(toy_file: Path) -> None:
    # The weights hardly move, so that the second validation is the first one again.
    overrides = ["training.learning_rate=1e-12", "training.patience=1", "training.validate_every=2"]
    run = Run("early", overrides=[*overrides, "training.checkpoint_every=4"])
    reason, state = go(toy_file, run)
    assert (reason, state.update) == ("stopped early", 4)
    assert (state.best_update, state.validations_without_gain) == (2, 1)
    found = best_checkpoint(toy_file.parent / "early")
    assert found is not None
    assert found.name == "update-00000002"


def test_a_run_that_stopped_early_does_not_resume(toy_file: Path) -> None:
    overrides = ["training.learning_rate=1e-12", "training.patience=1", "training.validate_every=2"]
    run = Run("early-twice", overrides=[*overrides, "training.checkpoint_every=4"])
    go(toy_file, run)
    reason, state = go(toy_file, run)
    assert (reason, state.update) == ("stopped early", 4)


def test_a_plateau_halves_the_rate_and_survives_a_stop(toy_file: Path) -> None:
    """Exact resume (nmt/README.md, Guarantees)."""
    # The weights do not move in fp32: no validation after the first is better.
    go(toy_file, Run("plateau", overrides=PLATEAU))
    rates = [r["lr"] for r in records_of(toy_file.parent / "plateau") if r["kind"] == "train"]
    assert rates == pytest.approx([1e-13, 2.5e-14, 6.25e-15, 1.5625e-15, 1e-15], abs=0)
    log = (toy_file.parent / "plateau/train.log").read_text()
    assert (
        " | learning rate halved: no better dev BLEU in training.plateau_patience=1 validations\n"
    ) in log
    for stop in (3, 10, None):
        go(toy_file, Run("plateau-stopped", overrides=PLATEAU, stop_after=stop))
    assert_same(toy_file.parent / "plateau-stopped", toy_file.parent / "plateau")


def test_early_stopping_logs_its_reason(toy_file: Path) -> None:
    overrides = [*PLATEAU, "training.patience=2", "training.schedule=cosine"]
    go(toy_file, Run("early-reason", overrides=overrides))
    last = (toy_file.parent / "early-reason/train.log").read_text().splitlines()[-1]
    assert last.endswith(" | 2 validations without a better dev BLEU (training.patience=2)")


def use_scores(toy: Experiment, scores: list[tuple[float, float]]) -> tuple[TrainState, list[str]]:
    """Use dev BLEU and dev loss of validations after updates 10, 20, ..."""
    state = TrainState()
    stopping = EarlyStopping(toy, state, TrainingClock(state), World(), None, None)
    warnings = [
        stopping._use(update, DevScore(bleu, "BLEU|tok:13a", loss, None), update)
        for update, (bleu, loss) in enumerate(scores, start=1)
    ]
    return state, warnings


@pytest.mark.parametrize(
    ("scores", "best", "without_gain"),
    [
        ([(0.0, 3.0), (0.0, 2.0), (0.0, 2.5)], 2, 1),
        ([(5.0, 2.0), (5.0, 2.0), (4.0, 1.0)], 1, 2),
        ([(5.0, 2.0), (5.1, 3.0), (5.1, 2.9)], 3, 0),
    ],
)
def test_of_equal_dev_bleu_the_lower_loss_is_better(
    scores: list[tuple[float, float]], best: int, without_gain: int, toy: Experiment
) -> None:
    state, _ = use_scores(toy, scores)
    assert (state.best_update, state.validations_without_gain) == (best, without_gain)


def test_dev_bleu_0_is_warned_of_once(toy: Experiment) -> None:
    _, warnings = use_scores(toy, [(0.0, 3.0), (0.0, 2.0), (0.0, 1.0)])
    assert warnings == [
        "",
        "warning: dev BLEU is still 0 in the second validation | check the translations in dev/, "
        "and that corpus.tgt=de is their language | BLEU|tok:13a",
        "",
    ]
    assert not any(use_scores(toy, [(0.0, 3.0), (0.1, 2.0), (0.0, 1.0)])[1])


@pytest.mark.parametrize(("risk_from", "is_reported"), [(1, False), (9, True)])
def test_minimum_risk_training_may_raise_the_dev_loss(
    risk_from: int, is_reported: bool, toy: Experiment
) -> None:
    stage = StageConfig.model_validate({"from_update": risk_from, "risk": 1.0})
    staged = toy.model_copy(update={"stages": [stage]})
    state = TrainState()
    stopping = EarlyStopping(staged, state, TrainingClock(state), World(), None, None)
    scores = [DevScore(30.0, "BLEU|tok:13a", loss, 3 - loss) for loss in (1.0, 1.5)]
    found = [
        stopping._use(update, score, update) for update, score in zip((2, 4), scores, strict=True)
    ]
    assert ["overfitting" in each for each in found] == [False, is_reported]
