import os
import signal
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from nmt.config.experiment import Experiment
from nmt.console import Console
from nmt.errors import TrainingError
from nmt.jobs import driver
from nmt.jobs.driver import (
    Interrupt,
    RunResult,
    TrainerThread,
    describe_failures,
    follow_run,
)
from nmt.jobs.mailbox import Mailbox

RESULT = RunResult("finished", 30, 12.5, 20)


@pytest.mark.parametrize(
    ("failures", "expected"),
    [
        (
            {1: RuntimeError("x\n  Connection closed by peer \n")},
            "worker 1: Connection closed by peer",
        ),
        (
            {0: RuntimeError("reset"), 1: RuntimeError("The actor died.\nEnd of file")},
            "worker 1 died",
        ),
        (
            {
                1: RuntimeError("The actor died because its node has died."),
                2: RuntimeError("its node has died"),
            },
            "workers 1, 2 died with the host",
        ),
        ({3: RuntimeError("")}, "worker 3: no error message"),
    ],
)
def test_failures_are_described_in_one_line(
    failures: dict[int, BaseException], expected: str
) -> None:
    assert describe_failures(failures) == expected


class LocalActor:
    """Mailbox in this process with the interface of its actor."""

    def __init__(self, box: Mailbox) -> None:
        self._box = box

    def __getattr__(self, name: str) -> Any:
        class Method:
            remote = staticmethod(getattr(self._box, name))

        return Method


class Fit:
    """Training thread that is over after its messages were sent."""

    def is_alive(self) -> bool:
        return False


@pytest.fixture
def follow(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, make_corpus: Callable[..., Experiment]
) -> Callable[..., RunResult | None]:
    experiment = make_corpus({"a": [("A dog runs.", "Ein Hund rennt.")]})
    monkeypatch.setattr(driver.ray, "get", lambda answer: answer)

    def call(*messages: tuple[str, Any]) -> RunResult | None:
        box = Mailbox()
        for message in messages:
            box.send(message)
        with Console() as console, Interrupt() as interrupt:
            return follow_run(
                LocalActor(box), Fit(), interrupt, experiment, tmp_path, console  # type: ignore[arg-type]
            )  # fmt: skip

    return call


def test_messages_are_logged_until_the_run_ends(
    follow: Callable[..., RunResult | None], capfd: pytest.CaptureFixture[str]
) -> None:
    result = follow(
        ("log", "update 5 | loss 0.3"),
        ("lost", "worker 1 died"),
        ("out_of_memory", ("rank 1 ran out of memory in update 812 with split 2", 2)),
        ("ended", RESULT),
    )
    assert result == RESULT
    assert [line[len("17:34:05 ") :] for line in capfd.readouterr().err.splitlines()] == [
        "update 5 | loss 0.3",
        "lost workers: worker 1 died",
        "rank 1 ran out of memory in update 812 with split 2 | restart 1 with split factor 4",
    ]


def test_error_of_a_worker_ends_the_run(follow: Callable[..., RunResult | None]) -> None:
    """Actionable errors (nmt/README.md, Guarantees)."""
    with pytest.raises(TrainingError, match=r"^checkpoint is corrupt$"):
        follow(("error", "checkpoint is corrupt"))


def test_run_without_a_result_has_failed(follow: Callable[..., RunResult | None]) -> None:
    assert follow(("lost", "worker 1 died")) is None


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_first_signal_requests_a_stop(number: signal.Signals) -> None:
    # The tests themselves may run under nohup, where HUP is ignored.
    previous = signal.signal(signal.SIGHUP, signal.SIG_DFL)
    with Interrupt() as interrupt:
        os.kill(os.getpid(), number)
        assert interrupt.is_requested
        # A second TERM or HUP belongs to the same request; a second Ctrl-C ends the command.
        os.kill(os.getpid(), signal.SIGTERM)
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)
    signal.signal(signal.SIGHUP, previous)


def test_ignored_hangup_does_not_stop_a_run() -> None:
    previous = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with Interrupt() as interrupt:
            os.kill(os.getpid(), signal.SIGHUP)
            assert not interrupt.is_requested
    finally:
        signal.signal(signal.SIGHUP, previous)


def test_an_error_of_ray_is_described_in_one_line() -> None:
    def fail() -> None:
        raise ValueError("\nno host\n")

    fit = TrainerThread(SimpleNamespace(fit=fail))  # type: ignore[arg-type]
    fit.run()
    assert fit.describe_error(3) == "training failed: ValueError: no host"


def test_job_logs_the_time_to_its_first_update(
    follow: Callable[..., RunResult | None],
    capfd: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv(driver.SUBMITTED, "100")
    monkeypatch.setattr(driver.time, "time", lambda: 122.0)
    follow(("update", 1), ("update", 9), ("ended", RESULT))
    (line,) = capfd.readouterr().err.splitlines()
    assert line.endswith(" first update 22 s after the job was submitted")
