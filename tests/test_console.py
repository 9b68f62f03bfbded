"""Lines, progress bars, and where the chatter of others goes."""

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
from nmt.console import Console, quiet
from nmt.errors import NmtError


@contextlib.contextmanager
def terminal() -> Iterator[Callable[[], list[str]]]:
    """Inside, standard error is a terminal of 60 columns; yields what tells its screen."""
    ours, theirs = os.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 60, 0, 0))
    saved = os.dup(2)
    os.dup2(theirs, 2)

    def screen() -> list[str]:
        os.write(theirs, b"\0")
        text = b""
        while not text.endswith(b"\0"):
            text += os.read(ours, 4096)
        return [shown(line) for line in text[:-1].decode().split("\n")]

    try:
        yield screen
    finally:
        os.dup2(saved, 2)
        for number in (saved, ours, theirs):
            os.close(number)


def shown(line: str) -> str:
    """What a terminal shows of a line in which the cursor goes back to the start."""
    cells: list[str] = []
    for part in line.split("\r"):
        cells[: len(part)] = part
    return "".join(cells).rstrip()


def test_lines_stand_above_the_bar_in_one_piece() -> None:
    with terminal() as screen, Console() as console:
        console.say("begin")
        console.progress("training", 1, 4, "updates")
        console.say("update 1")
        console.progress("training", 2, 4, "updates")
        console.say("update 2")
        *lines, bar = screen()
    assert lines == ["begin", "update 1", "update 2"]
    assert re.match(r"training:  \d\d%\|.*\| \d/4 \[.* updates/s]", bar)


def test_a_full_bar_goes_and_so_does_one_that_another_follows() -> None:
    with terminal() as screen, Console() as console:
        console.progress("reading", 1, 3)
        console.progress("cleaning", 2, 2)
        console.say("done")
        assert screen() == ["done", ""]


def test_what_comes_after_a_failure_has_a_line_of_its_own() -> None:
    def fail() -> None:
        with Console() as console:
            console.progress("translating", 3, 9, "lines")
            raise NmtError("no")

    with terminal() as screen:
        with pytest.raises(NmtError):
            fail()
        os.write(2, b"nmt: no\n")
        assert screen() == ["nmt: no", ""]


def test_progress_to_nobody_knows_where_counts() -> None:
    with terminal() as screen, Console() as console:
        console.progress("translating", 3, 0, "lines")
        assert screen()[-1].startswith("translating: 3.00 lines [")


def test_a_log_has_plain_lines_now_and_then(
    capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(console_module, "LOG_EVERY_S", 0)
    clock = iter([0.0, 0.0, 30.0, 60.0, 90.0, 100.0, 110.0])
    monkeypatch.setattr("time.monotonic", lambda: next(clock))
    with Console() as console:
        for done in (600, 600, 1200, 2400):
            console.progress("translating", done, 2400, "lines")
        for done in (0, 1200):
            console.progress("translating news", done, 0, "lines")
    assert capfd.readouterr().err == (
        "translating: 600 of 2,400 lines, ETA not known yet\n"
        "translating: 1,200 of 2,400 lines, ETA 0:02:00\n"
        "translating news: 1,200 lines\n"
    )


def test_a_quick_thing_leaves_no_lines_in_a_log(capfd: pytest.CaptureFixture[str]) -> None:
    with Console() as console:
        for done in range(4):
            console.progress("cleaning", done, 3)
    assert capfd.readouterr().err == ""


def test_chatter_of_this_process_and_its_children_goes_to_a_file(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    with Console() as console, quiet(tmp_path / "new/chatter.log"):
        os.write(1, b"mine\n")
        subprocess.run([sys.executable, "-c", "print('theirs')"], check=True)
        console.say("for the person")
    os.write(1, b"after\n")
    assert capfd.readouterr() == ("after\n", "for the person\n")
    lines = (tmp_path / "new/chatter.log").read_text().splitlines()
    assert sorted(lines) == ["mine", "theirs"]


def test_after_a_failure_nothing_is_sent_to_the_file_any_more(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(NmtError), quiet(tmp_path / "chatter.log"):
        raise NmtError("no")
    os.write(2, b"after\n")
    assert capfd.readouterr().err == "after\n"


def test_a_place_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    """P9."""
    (tmp_path / "file").touch()
    with pytest.raises(NmtError) as caught, quiet(tmp_path / "file/run/ray.log"):
        pass
    assert str(caught.value) == (
        f"{tmp_path}/file/run/ray.log: cannot be written: Not a directory; set another folder"
    )
