import subprocess
import sys

import pytest

from nmt.jobs import mailbox
from nmt.jobs.mailbox import Mailbox


def test_letters_are_taken_once() -> None:
    box = Mailbox()
    box.put(("line", "hello"))
    assert box.take() == [("line", "hello")]
    assert box.take() == []


def test_who_leaves_a_letter_learns_that_a_stop_is_wanted() -> None:
    box = Mailbox()
    assert not box.put(("update", 1))
    box.ask_to_stop()
    assert box.put(("update", 2))


def test_new_workers_learn_why_those_before_were_lost(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mailbox.time, "time", lambda: 50.0)
    box = Mailbox()
    assert box.enter() == ("", None)
    box.put(("update", 7))
    for reason in ("worker 1 died", "worker 1 died", "worker 0: connection closed"):
        box.put(("lost", reason))
    assert box.enter() == ("worker 1 died; worker 0: connection closed", (7, 50.0))
    assert [kind for kind, _ in box.take()] == ["update", "lost", "lost"]


def test_reasons_are_forgotten_with_the_next_update() -> None:
    box = Mailbox()
    box.put(("update", 7))
    box.put(("lost", "worker 1 died"))
    box.put(("update", 8))
    assert box.enter()[0] == "the workers were replaced"


def test_a_notice_explains_a_loss_only_once_its_time_has_come(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    box = Mailbox()
    monkeypatch.setattr(mailbox.time, "time", lambda: 50.0)
    box.put(("notice", ("a host was taken away", 100.0)))
    box.put(("update", 8))
    assert box.enter()[0] == "the workers were replaced"
    monkeypatch.setattr(mailbox.time, "time", lambda: 99.0)
    assert box.enter()[0] == "a host was taken away"
    assert box.enter()[0] == "the workers were replaced"


def test_the_mailbox_needs_nothing_of_ray_train() -> None:
    """What its actor imports is imported before the first worker is asked for."""
    ask = "import sys, nmt.jobs.mailbox; print('ray.train' in sys.modules, 'torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", ask], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["False", "False"]
