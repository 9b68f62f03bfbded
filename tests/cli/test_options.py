"""Checks and messages that several commands share."""

import os
from pathlib import Path

import pytest

from nmt.cli.options import check_output, next_command, resumable
from nmt.console import Console
from nmt.errors import ConfigError

TOOLS = Path(__file__).resolve().parents[2] / "tools"


def test_output_needs_a_writable_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Errors before hours are spent (nmt/README.md, Guarantees)."""
    closed = tmp_path / "closed"
    closed.mkdir()
    (closed / "old.html").write_text("old")
    (tmp_path / "link.html").symlink_to(closed / "old.html")
    monkeypatch.setattr(os, "access", lambda path, mode: Path(path) != closed)
    for name in ("closed/new.html", "closed/old.html", "link.html"):
        with pytest.raises(ConfigError) as error:
            check_output(str(tmp_path / name))
        assert str(error.value) == (
            f"--output is {tmp_path / name}, but directory {closed} is not writable: use another "
            "one"
        )
    os.mkfifo(closed / "pipe")
    for name in ("new.html", "closed/pipe", "/dev/null"):
        check_output(str(tmp_path / name))


@pytest.mark.parametrize(
    ("script", "command"),
    [
        ("/opt/nmt/bin/nmt", "/opt/nmt/bin/nmt evaluate"),
        ("/opt/nmt/__main__.py", "python -m nmt evaluate"),
        (str(TOOLS / "train.py"), str(TOOLS / "evaluate.py")),
        ("/my scripts/train.py", "'/my scripts/train.py' evaluate"),
    ],
)
def test_next_command_starts_as_this_one(
    script: str, command: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.argv", [script])
    assert next_command("evaluate") == command


@pytest.mark.parametrize(
    ("is_job", "hint"),
    [(False, "/opt/nmt/bin/nmt train 'my file.yaml'"), (True, "submit the job again")],
)
def test_interrupted_command_says_how_to_resume(
    is_job: bool, hint: str, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """The command line of a job names paths of the cluster."""
    monkeypatch.delenv("RAY_JOB_CONFIG_JSON_ENV_VAR", raising=False)
    if is_job:
        monkeypatch.setenv("RAY_JOB_CONFIG_JSON_ENV_VAR", "{}")
    monkeypatch.setattr("sys.argv", ["/opt/nmt/bin/nmt", "train", "my file.yaml"])
    with (
        Console() as console,
        pytest.raises(KeyboardInterrupt),
        resumable(console, lambda: " after line 5"),
    ):
        raise KeyboardInterrupt
    assert capfd.readouterr().err == f"interrupted after line 5; to resume: {hint}\n"
