from collections.abc import Callable
from typing import Any, ClassVar

import pytest

from nmt.training import stop_control
from nmt.training.distributed import World
from nmt.training.stop_control import RunHooks, StopControl, StopDecision


class Clock:
    """Time that passes when a test sets it."""

    def __init__(self) -> None:
        self.now = 1000.0

    def time(self) -> float:
        return self.now


class ListLogger:
    """Logger that keeps lines and records."""

    def __init__(self) -> None:
        self.records: list[tuple[str, int, Any]] = []
        self.lines: list[str] = []

    def write(self, kind: str, update: int, values: Any) -> None:
        self.records.append((kind, update, values))

    def log(self, line: str) -> None:
        self.lines.append(line)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    fake = Clock()
    monkeypatch.setattr(stop_control, "time", fake)
    return fake


def make_control(hooks: RunHooks, logger: Any = None, stop_at: int = -1) -> StopControl:
    return StopControl(World(), hooks, lambda done: done == stop_at, logger, None)


def saves_of(control: StopControl, clock: Clock) -> list[float]:
    """Return the seconds at which a checkpoint is saved, in 50 updates of 1.1 s."""
    saved = []
    for update in range(50):
        clock.now += 1.1
        if control.decide(update).save:
            saved.append(round(clock.now - 1000, 1))
    return saved


def test_without_hooks_a_run_only_stops_on_request() -> None:
    control = make_control(RunHooks(), stop_at=2)
    assert control.decide(1) == StopDecision(False, False, False, False)
    assert control.decide(2) == StopDecision(True, False, False, False)


def test_checkpoints_are_as_frequent_as_max_lost_updates() -> None:
    control = make_control(RunHooks(max_lost_updates=5))
    assert [done for done in range(1, 8) if control.decide(done).save] == [3, 6]


def test_a_preemption_notice_saves_now_and_just_before(clock: Clock) -> None:
    deadline: list[float | None] = [None]
    logger = ListLogger()
    control = make_control(RunHooks(deadline=lambda: deadline[0]), logger)
    saved = []
    for second in range(30):
        clock.now += 1.1
        deadline[0] = 1020.0 if second >= 5 else None
        if control.decide(second).save:
            saved.append((second, round(clock.now - 1000, 1)))
    assert saved == [(5, 6.6), (15, 17.6)]
    assert logger.lines == [
        "update 5 | hosts of this run will be preempted in 13 s | saving a checkpoint now and one "
        "just before"
    ]
    assert logger.records == [("notice", 5, {"left_s": 13.4})]


def test_slow_checkpoints_start_earlier_before_a_preemption(clock: Clock) -> None:
    control = make_control(RunHooks(deadline=lambda: 1020.0))
    control.save_s = 5.0
    saved = []
    for second in range(20):
        clock.now += 1.1
        if control.decide(second).save:
            saved.append(round(clock.now - 1000, 1))
    assert saved == [1.1, 11.0]


def test_a_second_notice_saves_again(clock: Clock) -> None:
    control = make_control(RunHooks(deadline=lambda: 1100.0 if clock.now < 1010 else 1050.0))
    assert saves_of(control, clock) == [1.1, 11.0, 47.3]


def test_notices_are_polled_once_a_second(clock: Clock) -> None:
    polls = []
    hooks = RunHooks(deadline=lambda: polls.append(clock.now))  # type: ignore[func-returns-value,arg-type]
    control = make_control(hooks)
    for done in range(100):
        clock.now += 0.25
        control.decide(done)
    assert len(polls) == 20


class TwoRanks(World):
    """Rank 0 of two; the collectives of both are recorded."""

    events: ClassVar[list[str]] = []

    def start_all_reduce(self, values: list[float]) -> Callable[[], list[float]]:
        number = sum(event.startswith("start") for event in self.events)
        self.events.append(f"start {number}")

        def wait() -> list[float]:
            self.events.append(f"wait {number}")
            return values

        return wait


@pytest.fixture
def two_ranks(monkeypatch: pytest.MonkeyPatch) -> TwoRanks:
    monkeypatch.setattr(TwoRanks, "events", [])
    return TwoRanks(size=2)


def test_flags_of_several_ranks_travel_during_an_update(two_ranks: TwoRanks) -> None:
    control = StopControl(two_ranks, RunHooks(), lambda done: done == 2, None, None)
    assert [control.decide(done).stop for done in (1, 2, 3)] == [False, False, True]
    control.close()
    assert two_ranks.events == [
        "start 0", "start 1", "wait 0", "start 2", "wait 1", "wait 2",
    ]  # fmt: skip


def test_several_ranks_save_once_before_a_preemption(two_ranks: TwoRanks, clock: Clock) -> None:
    hooks = RunHooks(deadline=lambda: 1020.0)
    control = StopControl(two_ranks, hooks, lambda done: False, None, None)
    saved = []
    for second in range(20):
        clock.now += 1.1
        if control.decide(second).save:
            saved.append(second)
    assert saved == [1, 16]


def test_a_notice_after_the_last_save_has_its_own(clock: Clock) -> None:
    control = make_control(RunHooks(deadline=lambda: 1010.0 if clock.now < 1020 else 1050.0))
    assert saves_of(control, clock) == [1.1, 7.7, 20.9, 47.3]
