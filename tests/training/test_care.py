from pathlib import Path
from typing import Any

import pytest

from nmt.training import run_log, stop_control
from nmt.training.distributed import World
from nmt.training.run_log import LastUpdate, NoRecords, Restart
from nmt.training.stop_control import Orders, RunHooks, StopControl


class Clock:
    """Time that passes when a test says so."""

    def __init__(self) -> None:
        self.now = 1000.0

    def time(self) -> float:
        return self.now


class Notes:
    """Records that remember."""

    has_failed = False

    def __init__(self) -> None:
        self.records: list[tuple[str, int, Any]] = []
        self.lines: list[str] = []

    def write(self, kind: str, update: int, values: Any) -> None:
        self.records.append((kind, update, values))

    def say(self, line: str) -> None:
        self.lines.append(line)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    fake = Clock()
    monkeypatch.setattr(stop_control, "time", fake)
    monkeypatch.setattr(run_log, "time", fake)
    return fake


def lookout(given: RunHooks, notes: Notes | None = None, stop_at: int = -1) -> StopControl:
    records = notes or NoRecords()
    return StopControl(World(), given, lambda done: done == stop_at, records)  # type: ignore[arg-type]


def test_without_care_a_run_is_only_asked_whether_to_stop() -> None:
    asked = lookout(RunHooks(), stop_at=2)
    assert asked.ask(1) == Orders(stop=False, save=False, hurry=False, unwritten=False)
    assert asked.ask(2) == Orders(stop=True, save=False, hurry=False, unwritten=False)


def test_checkpoints_are_as_often_as_losses_may_be_large() -> None:
    asked = lookout(RunHooks(max_lost_updates=5))
    assert [done for done in range(1, 8) if asked.ask(done).save] == [3, 6]


def test_a_notice_is_answered_by_a_checkpoint_now_and_one_just_before(clock: Clock) -> None:
    told: list[float | None] = [None]
    notes = Notes()
    asked = lookout(RunHooks(deadline=lambda: told[0]), notes)
    saved = []
    for second in range(30):
        clock.now += 1.1
        told[0] = 1020.0 if second >= 5 else None
        if asked.ask(second).save:
            saved.append((second, round(clock.now - 1000, 1)))
    assert saved == [(5, 6.6), (15, 17.6)]
    assert notes.lines == [
        "update 5: hosts of this run will be taken away in 13 s; a checkpoint now, and one more "
        "just before"
    ]
    assert notes.records == [("notice", 5, {"left_s": 13.4})]


def test_the_last_checkpoint_is_earlier_where_checkpoints_take_long(clock: Clock) -> None:
    asked = lookout(RunHooks(deadline=lambda: 1020.0))
    asked.save_s = 5.0
    saved = []
    for second in range(20):
        clock.now += 1.1
        if asked.ask(second).save:
            saved.append(round(clock.now - 1000, 1))
    assert saved == [1.1, 11.0]


def test_two_notices_are_two_answers(clock: Clock) -> None:
    asked = lookout(RunHooks(deadline=lambda: 1100.0 if clock.now < 1010 else 1050.0))
    saved = []
    for second in range(50):
        clock.now += 1.1
        if asked.ask(second).save:
            saved.append(round(clock.now - 1000, 1))
    assert saved == [1.1, 11.0, 47.3]


def test_a_notice_is_looked_for_once_a_second(clock: Clock) -> None:
    looks = []
    asked = lookout(RunHooks(deadline=lambda: looks.append(clock.now)))  # type: ignore[func-returns-value,arg-type]
    for done in range(100):
        clock.now += 0.25
        asked.ask(done)
    assert len(looks) == 20


def test_a_restart_tells_what_was_heard_last(clock: Clock) -> None:
    """P11: the file of a lost host may be behind what was heard over the network."""
    notes = Notes()
    file, heard = LastUpdate(92, 989.0, 2), LastUpdate(95, 990.0, 1)
    restart = Restart("worker 1 died with its host", file, heard, 80, 1, "")
    restart.tell(notes, 81)  # type: ignore[arg-type]
    assert notes.lines == [
        "restarted (worker 1 died with its host; from 2 to 1 workers): went on after update 80; "
        "15 updates and 10.0 s lost"
    ]
    (record,) = notes.records
    assert record[:2] == ("restart", 81)
    assert record[2]["updates_lost"] == 15
    assert record[2]["s_lost"] == 10.0
    assert (record[2]["workers_before"], record[2]["workers"]) == (2, 1)


def test_a_loss_that_nobody_explains_is_told_too(clock: Clock) -> None:
    notes = Notes()
    restart = Restart("", LastUpdate(92, 989.0, 1), None, 92, 1, "x is damaged")
    restart.tell(notes, 93)  # type: ignore[arg-type]
    assert notes.lines == [
        "restarted (the run ended without a last checkpoint; x is damaged): went on after update "
        "92; 0 updates and 11.0 s lost"
    ]


def test_a_pulse_is_left_by_workers_that_are_lost(tmp_path: Path) -> None:
    from nmt.training.run_log import Heartbeat, read

    first = Heartbeat(tmp_path, 2)
    assert first.before is None
    assert read(tmp_path) is None
    first.beat(1_000_000)
    first.beat(7)
    first.close(has_ended=False)
    second = Heartbeat(tmp_path, 1)
    assert second.before is not None
    assert (second.before.update, second.before.workers) == (7, 2)
    second.close(has_ended=True)
    assert read(tmp_path) is None
