"""Standard streams that are closed or full, and paths that the file system refuses."""

import subprocess
import sys
from pathlib import Path

import pytest

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
