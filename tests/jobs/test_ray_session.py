import os
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import ray

from nmt.console import Console
from nmt.errors import NmtError, TrainingError
from nmt.jobs import ray_session
from nmt.jobs.ray_session import LOCK, WATCHER_VARIABLE, HeadMonitor, connect, lock_run_directory

LOCK_HOLDER = """
import sys
from pathlib import Path
from nmt.jobs.ray_session import lock_run_directory
with lock_run_directory(Path(sys.argv[1])):
    print("locked", flush=True)
    sys.stdin.read()
"""


@pytest.mark.parametrize(
    ("address", "error", "expected"),
    [
        (
            "",
            Exception("The current node timed out during startup. This could happen because"),
            "cannot start Ray on this machine: The current node timed out during startup; try "
            "again when it is less busy; Ray and torch output: {output}",
        ),
        (
            "10.0.0.1:6379",
            ConnectionError("connection refused."),
            "cannot connect to Ray at RAY_ADDRESS (10.0.0.1:6379): connection refused; start the "
            "cluster, or unset RAY_ADDRESS; Ray and torch output: {output}",
        ),
        (
            "",
            RuntimeError(),
            "cannot start Ray on this machine: RuntimeError(); try again when it is less busy; Ray "
            "and torch output: {output}",
        ),
    ],
)
def test_failure_to_start_ray_is_one_line(
    address: str, error: Exception, expected: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Actionable errors (nmt/README.md, Guarantees)."""

    def init(**_: Any) -> None:
        raise error

    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    monkeypatch.setattr(ray, "init", init)
    monkeypatch.setenv("RAY_ADDRESS", address)
    output = tmp_path / "ray.log"
    with pytest.raises(NmtError) as raised, connect(1, output):
        pass
    assert str(raised.value) == expected.format(output=output)


@pytest.mark.parametrize(("address", "value"), [("", "0"), ("10.0.0.1:6379", "1")])
def test_preemption_watcher_runs_on_shared_clusters_only(
    address: str, value: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    values: list[str] = []

    def init(**_: Any) -> None:
        values.append(os.environ[WATCHER_VARIABLE])
        raise ConnectionError("connection refused")

    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    monkeypatch.setattr(ray, "init", init)
    monkeypatch.setenv("RAY_ADDRESS", address)
    monkeypatch.setenv(WATCHER_VARIABLE, "")
    with pytest.raises(NmtError), connect(1, tmp_path / "ray.log"):
        pass
    assert values == [value]


@pytest.fixture
def short_timeouts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ray_session, "HEAD_POLL_S", 0.02)
    monkeypatch.setattr(ray_session, "HEAD_TIMEOUT_S", 0.2)


def wait_for_end(ends: list[int], timeout_s: float) -> list[int]:
    deadline = time.monotonic() + timeout_s
    while not ends and time.monotonic() < deadline:
        time.sleep(0.01)
    return ends


def test_loss_of_the_head_ends_the_process_with_an_error(
    short_timeouts: None, capfd: pytest.CaptureFixture[str]
) -> None:
    """Actionable errors (nmt/README.md, Guarantees)."""
    ends: list[int] = []
    server = socket.create_server(("127.0.0.1", 0))
    address = "{}:{}".format(*server.getsockname())
    with Console() as console, HeadMonitor(address, Path("ray.log"), console, ends.append):
        assert wait_for_end(ends, 0.5) == []
        server.close()
        assert wait_for_end(ends, 30) == [2]
    assert capfd.readouterr().err == (
        f"nmt: lost connection to the Ray head at {address}; run the same command again to resume; "
        "Ray and torch output: ray.log\n"
    )


def test_closed_monitor_does_not_end_the_process(
    short_timeouts: None, capfd: pytest.CaptureFixture[str]
) -> None:
    ends: list[int] = []
    with Console() as console, HeadMonitor("127.0.0.1:1", Path("ray.log"), console, ends.append):
        pass
    assert wait_for_end(ends, 0.5) == []
    assert capfd.readouterr().err == ""


def test_lock_excludes_other_processes_until_its_holder_ends(tmp_path: Path) -> None:
    run_dir = tmp_path / "runs/a"
    command = [sys.executable, "-c", LOCK_HOLDER, str(run_dir)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as holder:
        assert holder.stdout
        assert holder.stdout.readline() == b"locked\n"
        with pytest.raises(TrainingError) as error, lock_run_directory(run_dir):
            pass
        holder.kill()
    assert str(error.value) == (
        f"{run_dir}: lock file held by another process (process {holder.pid} on "
        f"{socket.gethostname()}); wait for it to end, or give the experiment another name"
    )
    with lock_run_directory(run_dir):
        assert (run_dir / LOCK).read_text() == f"process {os.getpid()} on {socket.gethostname()}\n"


def test_storage_that_is_a_file_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "runs").touch()
    with pytest.raises(TrainingError) as error, lock_run_directory(tmp_path / "runs/a"):
        pass
    assert str(error.value) == (
        f"{tmp_path / 'runs/a'}: cannot be written: Not a directory; set `storage` in the cluster "
        "file to a writable folder"
    )
