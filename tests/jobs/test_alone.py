"""Two commands for one run: the second is told who trains it."""

import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from nmt.errors import TrainingError
from nmt.jobs.ray_session import LOCK, lock_run_directory

HOLDER = """
import sys
from pathlib import Path
from nmt.jobs.ray_session import lock_run_directory
with lock_run_directory(Path(sys.argv[1])):
    print("mine", flush=True)
    sys.stdin.read()
"""


def test_a_run_is_trained_by_one_command_and_free_once_that_is_killed(tmp_path: Path) -> None:
    run_dir = tmp_path / "runs/a"
    command = [sys.executable, "-c", HOLDER, str(run_dir)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as holder:
        assert holder.stdout
        assert holder.stdout.readline() == b"mine\n"
        with pytest.raises(TrainingError) as error, lock_run_directory(run_dir):
            pass
        holder.kill()
    assert str(error.value) == (
        f"{run_dir}: another command trains there (process {holder.pid} on "
        f"{socket.gethostname()}); wait for it, or give the experiment another name"
    )
    with lock_run_directory(run_dir):
        assert (run_dir / LOCK).read_text() == f"process {os.getpid()} on {socket.gethostname()}\n"


def test_a_storage_that_is_a_file_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "runs").write_text("no folder")
    with pytest.raises(TrainingError) as error, lock_run_directory(tmp_path / "runs/a"):
        pass
    assert str(error.value) == (
        f"{tmp_path / 'runs/a'}: cannot be written: Not a directory; set `storage` in the cluster "
        "file to a folder that can be"
    )
