"""Result lines, log lines, progress bars and redirected output."""

import contextlib
import fcntl
import os
import re
import struct
import subprocess
import sys
import termios
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from nmt import console as console_module
from nmt.console import Console, redirect_output
from nmt.errors import NmtError

STAMP = len("17:34:05 ")


@contextlib.contextmanager
def terminal() -> Iterator[Callable[[], list[str]]]:
    """Make standard error a terminal of 60 columns; yields a function that reads its screen."""
    screen_end, program_end = os.openpty()
    fcntl.ioctl(program_end, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 60, 0, 0))
    saved = os.dup(2)
    os.dup2(program_end, 2)

    def screen() -> list[str]:
        os.write(program_end, b"\0")
        text = b""
        while not text.endswith(b"\0"):
            text += os.read(screen_end, 4096)
        return [shown(line) for line in text[:-1].decode().split("\n")]

    try:
        yield screen
    finally:
        os.dup2(saved, 2)
        for number in (saved, screen_end, program_end):
            os.close(number)


def shown(line: str) -> str:
    """Return the visible text of a line with carriage returns."""
    cells: list[str] = []
    for part in line.split("\r"):
        cells[: len(part)] = part
    return "".join(cells).rstrip()


def test_lines_are_printed_above_the_bar() -> None:
    with terminal() as screen, Console() as console:
        console.print("begin")
        console.progress("training", 1, 4, "updates")
        console.print("update 1")
        console.progress("training", 2, 4, "updates")
        console.print("update 2")
        *lines, bar = screen()
    assert lines == ["begin", "update 1", "update 2"]
    assert re.match(r"training:  \d\d%\|.*\| \d/4 \[.* updates/s]", bar)


def test_log_lines_have_a_time_stamp_and_results_do_not(
    capfd: pytest.CaptureFixture[str],
) -> None:
    with Console() as console:
        console.log("update 600 | loss 0.322")
        console.print("wrote out.de")
    logged, printed = capfd.readouterr().err.splitlines()
    assert re.fullmatch(r"\d\d:\d\d:\d\d update 600 \| loss 0\.322", logged)
    assert printed == "wrote out.de"


def test_full_or_replaced_bar_is_removed() -> None:
    with terminal() as screen, Console() as console:
        console.progress("reading", 1, 3)
        console.progress("cleaning", 2, 2)
        console.print("done")
        assert screen() == ["done", ""]


def test_failure_clears_the_bar() -> None:
    def fail() -> None:
        with Console() as console:
            console.progress("translating", 3, 9, "lines")
            raise NmtError("no")

    with terminal() as screen:
        with pytest.raises(NmtError):
            fail()
        os.write(2, b"nmt: no\n")
        assert screen() == ["nmt: no", ""]


def test_bar_without_total_counts() -> None:
    with terminal() as screen, Console() as console:
        console.progress("translating", 3, 0, "lines")
        assert screen()[-1].startswith("translating: 3.00 lines [")


def test_without_terminal_progress_is_logged_at_intervals(
    capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(console_module, "PROGRESS_INTERVAL_S", 0)
    clock = iter([0.0, 0.0, 30.0, 60.0, 90.0, 100.0, 110.0])
    monkeypatch.setattr("time.monotonic", lambda: next(clock))
    with Console() as console:
        for done in (600, 600, 1200, 2400):
            console.progress("translating", done, 2400, "lines")
        for done in (0, 1200):
            console.progress("translating news", done, 0, "lines")
    assert [line[STAMP:] for line in capfd.readouterr().err.splitlines()] == [
        "translating: 600/2,400 lines | ETA unknown",
        "translating: 1,200/2,400 lines | ETA 0:02:00",
        "translating news: 1,200 lines",
    ]


def test_short_activity_logs_no_progress(capfd: pytest.CaptureFixture[str]) -> None:
    with Console() as console:
        for done in range(4):
            console.progress("cleaning", done, 3)
    assert capfd.readouterr().err == ""


def test_output_of_process_and_children_goes_to_file(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    with Console() as console, redirect_output(tmp_path / "new/output.log"):
        os.write(1, b"parent\n")
        subprocess.run([sys.executable, "-c", "print('child')"], check=True)
        console.print("for the user")
    os.write(1, b"after\n")
    assert capfd.readouterr() == ("after\n", "for the user\n")
    lines = (tmp_path / "new/output.log").read_text().splitlines()
    assert sorted(lines) == ["child", "parent"]


def test_failure_ends_the_redirection(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(NmtError), redirect_output(tmp_path / "output.log"):
        raise NmtError("no")
    os.write(2, b"after\n")
    assert capfd.readouterr().err == "after\n"


def test_unwritable_log_file_is_an_error(tmp_path: Path) -> None:
    """Actionable errors (nmt/README.md, Guarantees)."""
    (tmp_path / "file").touch()
    with pytest.raises(NmtError) as caught, redirect_output(tmp_path / "file/run/ray.log"):
        pass
    assert str(caught.value) == (
        f"{tmp_path}/file/run/ray.log: cannot be written: Not a directory; set another folder"
    )
