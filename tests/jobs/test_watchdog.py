import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest

from nmt.batching.schedule import Update
from nmt.jobs import watchdog
from nmt.jobs.watchdog import Watchdog

UPDATE = Update(41, 0, (np.array([7, 3]), np.array([5])), 12)
HOLDS_THE_LOCK = """
import ctypes, sys
from pathlib import Path
from nmt.jobs import watchdog
watchdog.GRACE_S, watchdog.START_S = 0.1, 0
watchdog.Watchdog(0.3, Path(sys.argv[1]), 0, print)
ctypes.PyDLL(None).sleep(60)
"""


@pytest.fixture
def ended(monkeypatch: pytest.MonkeyPatch) -> threading.Event:
    """Event that replaces the exit of the process."""
    event = threading.Event()
    monkeypatch.setattr(watchdog, "GRACE_S", 0.01)
    monkeypatch.setattr(watchdog, "START_S", 0)
    monkeypatch.setattr(watchdog.os, "_exit", lambda status: event.set() or time.sleep(0.2))
    return event


def test_worker_that_hangs_writes_stacks_and_pairs(tmp_path: Path, ended: threading.Event) -> None:
    reasons: list[str] = []
    dog = Watchdog(0.2, tmp_path / "hangs", 1, reasons.append)
    dog.begin_update(UPDATE)
    assert ended.wait(5)
    dog.close()
    assert reasons[0] == (
        f"no progress for 0.2 s in update 42; stacks and pairs in {tmp_path}/hangs"
    )
    text = (tmp_path / "hangs" / "update-00000042-worker-1.txt").read_text()
    first, second, _, *stacks = text.splitlines()
    assert first == "rank 1: no progress for 0.2 s in update 42"
    assert second == "pairs: [3, 5, 7]"
    assert any("test_worker_that_hangs_writes_stacks_and_pairs" in line for line in stacks)


def test_worker_with_heartbeats_keeps_running(tmp_path: Path, ended: threading.Event) -> None:
    dog = Watchdog(0.4, tmp_path, 0, lambda reason: None)
    for _ in range(8):
        time.sleep(0.1)
        dog.begin_activity("validation")
    dog.close()
    time.sleep(0.6)
    assert not ended.is_set()


def test_start_and_first_update_have_a_longer_timeout(
    tmp_path: Path, ended: threading.Event, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(watchdog, "START_S", 600)
    dog = Watchdog(0.1, tmp_path, 0, lambda reason: None)
    dog.begin_update(UPDATE)
    assert not ended.wait(0.5)
    dog.begin_update(UPDATE)
    assert ended.wait(5)
    dog.close()


def test_worker_that_holds_the_interpreter_lock_ends(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", HOLDS_THE_LOCK, str(tmp_path)],
        capture_output=True,
        text=True,
        timeout=50,
    )
    assert done.returncode == 1
    assert "most recent call first" in done.stderr
