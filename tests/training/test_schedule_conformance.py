"""Conformance of every learning-rate schedule of the config."""

import itertools
import typing

import pytest

from nmt.config.experiment import TrainingConfig
from nmt.training.optimizer import learning_rate

SCHEDULES = typing.get_args(TrainingConfig.model_fields["schedule"].annotation)
UPDATES, WARMUP, PEAK, FLOOR = 200, 20, 0.01, 0.05


def config_of(schedule: str, warmup: int = WARMUP) -> TrainingConfig:
    return TrainingConfig.model_validate({
        "schedule": schedule, "updates": UPDATES, "warmup_updates": warmup,
        "learning_rate": PEAK, "learning_rate_floor": FLOOR,
    })  # fmt: skip


def rates(schedule: str, warmup: int = WARMUP) -> list[float]:
    config = config_of(schedule, warmup)
    return [learning_rate(update, config) for update in range(2 * UPDATES)]


def test_all_schedules_of_the_config_are_tested() -> None:
    assert {"cosine", "inverse_sqrt", "plateau"} <= set(SCHEDULES)


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_warmup_is_linear_and_reaches_the_peak(schedule: str) -> None:
    expected = [PEAK * done / WARMUP for done in range(1, WARMUP + 1)]
    assert rates(schedule)[:WARMUP] == pytest.approx(expected)
    assert max(rates(schedule)) == pytest.approx(PEAK)


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_no_warmup_starts_at_the_peak(schedule: str) -> None:
    assert rates(schedule, warmup=0)[0] == pytest.approx(PEAK, rel=1e-3)


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_rate_never_increases_after_the_peak(schedule: str) -> None:
    after = rates(schedule)[WARMUP - 1 :]
    assert all(later <= earlier for earlier, later in itertools.pairwise(after))


@pytest.mark.parametrize("schedule", SCHEDULES)
@pytest.mark.parametrize("halvings", [0, 3, 60])
def test_rate_stays_positive_and_above_the_floor(schedule: str, halvings: int) -> None:
    config = config_of(schedule)
    values = [learning_rate(update, config, halvings) for update in range(2 * UPDATES)]
    assert min(values) > 0
    assert min(values[WARMUP:]) >= PEAK * FLOOR


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_rate_is_a_pure_function_of_the_update(schedule: str) -> None:
    """Exact resume (nmt/README.md, Guarantees): no state, any order of calls."""
    config, expected = config_of(schedule), rates(schedule)
    for update in (150, 3, 399, 20, 19, 150):
        assert learning_rate(update, config) == expected[update]


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_rate_scales_with_the_peak(schedule: str) -> None:
    config = config_of(schedule)
    double = config.model_copy(update={"learning_rate": 2 * PEAK})
    for update in (0, 19, 20, 100, 250):
        assert learning_rate(update, double) == pytest.approx(2 * learning_rate(update, config))


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_only_plateau_depends_on_halvings(schedule: str) -> None:
    config = config_of(schedule)
    halved, plain = learning_rate(50, config, 1), learning_rate(50, config)
    assert halved == pytest.approx(plain / 2 if schedule == "plateau" else plain)
