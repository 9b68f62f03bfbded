import subprocess
import sys

import pytest

from nmt.jobs import mailbox
from nmt.jobs.mailbox import Mailbox, PreviousGroup


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Time of the mailbox; tests set its only element."""
    now = [50.0]
    monkeypatch.setattr(mailbox.time, "time", lambda: now[0])
    return now


def test_messages_are_received_once() -> None:
    box = Mailbox()
    box.send(("log", "hello"))
    assert box.receive() == [("log", "hello")]
    assert box.receive() == []


def test_senders_learn_of_a_stop_request() -> None:
    box = Mailbox()
    assert not box.send(("update", 1))
    box.request_stop()
    assert box.send(("update", 2))


def test_new_group_gets_the_reasons_of_the_loss(clock: list[float]) -> None:
    box = Mailbox()
    assert box.start_group() == PreviousGroup("", None, 1)
    box.send(("update", 7))
    for reason in ("worker 1 died", "worker 1 died", "worker 0: connection closed"):
        box.send(("lost", reason))
    assert box.start_group() == ("worker 1 died; worker 0: connection closed", (7, 50.0), 1)
    assert [kind for kind, _ in box.receive()] == ["update", "lost", "lost"]


def test_reasons_are_dropped_at_the_next_update() -> None:
    box = Mailbox()
    box.send(("update", 7))
    box.send(("lost", "worker 1 died"))
    box.start_group()
    box.send(("update", 8))
    assert box.start_group().loss_reason == "the workers were replaced"


def test_update_that_arrives_late_keeps_the_reason() -> None:
    box = Mailbox()
    box.start_group()
    box.send(("out_of_memory", ("rank 1 ran out of memory in update 8", 1)))
    box.send(("update", 7))
    assert box.start_group().loss_reason == "rank 1 ran out of memory in update 8"


def test_out_of_memory_doubles_the_split_of_all_later_groups() -> None:
    box = Mailbox()
    for split in (1, 2, 2):
        box.send(("out_of_memory", (f"out of memory with split {split}", split)))
    assert box.start_group().min_split == 4
    box.send(("update", 9))
    assert box.start_group().min_split == 4


def test_notice_explains_a_loss_only_near_its_deadline(clock: list[float]) -> None:
    box = Mailbox()
    box.send(("notice", ("a host was preempted", 100.0)))
    box.send(("update", 8))
    assert box.start_group().loss_reason == "the workers were replaced"
    clock[0] = 99.0
    assert box.start_group().loss_reason == "a host was preempted"
    assert box.start_group().loss_reason == "the workers were replaced"
    assert [kind for kind, _ in box.receive()] == ["update"]


def test_mailbox_imports_neither_ray_train_nor_torch() -> None:
    """The actor's imports come before the first worker is requested."""
    code = "import sys, nmt.jobs.mailbox; print('ray.train' in sys.modules, 'torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["False", "False"]
