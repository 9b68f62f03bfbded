"""Standard streams that are closed or full, and paths that the file system refuses."""

import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from nmt.cli.main import main
from nmt.errors import one_line

HINT = "check the path, its permissions and the free space"


@pytest.mark.parametrize(
    ("shell", "status", "expected"),
    [
        ("config explain model >/dev/full", 2, f"standard output: No space left on device; {HINT}"),
        ("--help >/dev/full", 2, f"standard output: No space left on device; {HINT}"),
        ("config explain decoding >&-", 2, f"standard output: Bad file descriptor; {HINT}"),
        ("config show nosuch.yaml 2>&-", 2, ""),
        ("config show nosuch.yaml 2>/dev/full", 2, ""),
        ("config explain decoding >/dev/null 2>&-", 0, ""),
        ("config show loop", 2, "loop: cannot be read: Too many levels of symbolic links"),
    ],
)  # fmt: skip
def test_unusable_streams_give_one_line(
    shell: str, status: int, expected: str, tmp_path: Path
) -> None:
    (tmp_path / "loop").symlink_to("loop")
    command = f"{sys.executable} -m nmt {shell}"
    done = subprocess.run(
        ["bash", "-c", command], cwd=tmp_path, capture_output=True, text=True, timeout=60
    )
    assert (done.returncode, done.stderr) == (status, f"nmt: {expected}\n" if expected else "")


def test_messages_are_one_short_line_without_controls() -> None:
    assert one_line("a\x1b[31mb\nc\u202ed") == r"a\x1b[31mb\nc\u202ed"
    assert one_line(f"x {'y' * 5000} z") == f"x {'y' * 197}... z"


def test_term_while_arguments_are_parsed_gives_one_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def interrupted(*_: object, **__: object) -> None:
        raise KeyboardInterrupt(signal.SIGTERM)

    monkeypatch.setattr("click.Group.make_context", interrupted)
    with pytest.raises(SystemExit) as ended:
        main(["config"])
    assert (ended.value.code, capsys.readouterr().err) == (143, "nmt: interrupted\n")


def test_a_link_loop_as_output_gives_one_line(here: Path, nmt: Callable[..., Any]) -> None:
    Path("loop").symlink_to("loop")
    loop = f"{here}/loop: Too many levels of symbolic links; {HINT}"
    taken = "loop: not writable: choose another folder for the results"
    for command, problem in (
        ("report runs/tiny -o loop --examples 0", loop),
        ("evaluate runs/tiny --test news -o loop", taken),
    ):
        answer = nmt(command)
        assert (answer.status, answer.err) == (2, f"nmt: {problem}\n")
