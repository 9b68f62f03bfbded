import os
import socket
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import ray
from ray_clusters import RayCluster

from nmt.config.cluster import Cluster
from nmt.console import Console
from nmt.errors import NmtError, TrainingError
from nmt.jobs import ray_internals, ray_session
from nmt.jobs.ray_session import (
    LOCK,
    WATCHER_VARIABLE,
    HeadMonitor,
    _check_token,
    check_workers_fit,
    connect,
    fit_workers,
    lock_run_directory,
)

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
            "when it is less busy; Ray and torch output: {output}",
        ),
        (
            "10.0.0.1:6379",
            ConnectionError("connection refused."),
            "cannot connect to Ray at RAY_ADDRESS (10.0.0.1:6379): connection refused; start the "
            "cluster, or unset RAY_ADDRESS; Ray and torch output: {output}",
        ),
        (
            "10.0.0.1:6379",
            RuntimeError(
                "Version mismatch: The cluster was started with:\n    Ray: 2.9.3\n    Python: "
                "3.10.1\nThis process on 10.0.0.2 was started with:\n    Ray: 2.60.0\n    Python: "
                "3.11.15\n"
            ),
            "cannot connect to Ray at RAY_ADDRESS (10.0.0.1:6379): it has Ray 2.9.3 with Python "
            "3.10.1, this process Ray 2.60.0 with Python 3.11.15; install the same versions on "
            "both sides; Ray and torch output: {output}",
        ),
        (
            "10.0.0.1:6379",
            RuntimeError("Unauthenticated: RPC error: InvalidAuthToken: missing or incorrect"),
            "cannot connect to Ray at RAY_ADDRESS (10.0.0.1:6379): it rejects the connection "
            "without a token; set RAY_AUTH_MODE=token, with the token of its head in "
            "RAY_AUTH_TOKEN, the file RAY_AUTH_TOKEN_PATH or ~/.ray/auth_token; Ray and torch "
            "output: {output}",
        ),
        (
            "",
            OSError("validate_socket_filename failed: AF_UNIX path length cannot exceed 107 bytes"),
            "cannot start Ray on this machine: the path of the temporary folder is too long for "
            "sockets: /a/long/folder; set RAY_TMPDIR to a short one, such as /tmp; Ray and torch "
            "output: {output}",
        ),
        (
            "",
            RuntimeError(),
            "cannot start Ray on this machine: RuntimeError(); try when it is less busy; Ray "
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
    monkeypatch.setattr(ray_session, "is_reachable", lambda *_: True)
    monkeypatch.delenv("RAY_AUTH_MODE", raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("RAY_ADDRESS", address)
    monkeypatch.setenv("RAY_TMPDIR", "/a/long/folder")
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
    monkeypatch.setattr(ray_session, "is_reachable", lambda *_: True)
    monkeypatch.setenv("RAY_ADDRESS", address)
    monkeypatch.setenv("RAY_AUTH_TOKEN", "token")
    monkeypatch.setenv(WATCHER_VARIABLE, "")
    with pytest.raises(NmtError), connect(1, tmp_path / "ray.log"):
        pass
    assert values == [value]


@pytest.mark.parametrize(
    ("address", "problem"),
    [
        ("http://10.0.0.1:8265", "RAY_ADDRESS is 'http://10.0.0.1:8265': expected HEAD:PORT"),
        ("ray://10.0.0.1:10001", "RAY_ADDRESS is 'ray://10.0.0.1:10001': expected HEAD:PORT"),
        ("10.0.0.1", "RAY_ADDRESS is '10.0.0.1': expected HEAD:PORT"),
        ("127.0.0.1:1", r"cannot connect to Ray at RAY_ADDRESS \(127.0.0.1:1\): nothing accepts"),
    ],
)
def test_ray_address_is_checked_before_ray_starts(
    address: str, problem: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Actionable errors (nmt/README.md, Guarantees)."""
    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    monkeypatch.setattr(ray, "init", lambda **_: pytest.fail("started Ray"))
    monkeypatch.setenv("RAY_ADDRESS", address)
    with pytest.raises(NmtError, match=f"^{problem}"), connect(1, tmp_path / "ray.log"):
        pass


CLIENT = """
from pathlib import Path
from nmt.errors import NmtError
from nmt.jobs.ray_session import connect
try:
    with connect(1, Path("ray.log")):
        raise SystemExit("connected")
except NmtError as error:
    raise SystemExit(str(error))
"""


@pytest.mark.ray
def test_client_without_the_token_is_refused(ray_cluster: RayCluster, tmp_path: Path) -> None:
    """Safe by default (nmt/README.md, Guarantees)."""
    with ray_cluster.connect():
        pass
    env = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
    env |= {"RAY_ADDRESS": ray_cluster.address, "HOME": str(tmp_path)}
    env["PYTHONPATH"] = str(Path(ray_session.__file__).parents[2])
    wrong = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": "another-token-of-a-client"}
    command = [sys.executable, "-c", CLIENT]
    # Side by side: Ray gives up after 20 s.
    clients = {
        problem: subprocess.Popen(
            command, cwd=tmp_path, env=env | token, stderr=subprocess.PIPE, text=True
        )
        for token, problem in (({}, "connection without a token"), (wrong, "token"))
    }
    for problem, client in clients.items():
        _, err = client.communicate(timeout=300)
        assert err.splitlines()[-1] == (
            f"cannot connect to Ray at RAY_ADDRESS ({ray_cluster.address}): it rejects the "
            f"{problem}; set RAY_AUTH_MODE=token, with the token of its head in RAY_AUTH_TOKEN, "
            "the file RAY_AUTH_TOKEN_PATH or ~/.ray/auth_token; Ray and torch output: ray.log"
        )


@pytest.mark.parametrize("variable", ["HOME", "RAY_AUTH_TOKEN_PATH"])
def test_local_token_is_private(
    variable: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Safe by default (nmt/README.md, Guarantees)."""
    for name in ("RAY_AUTH_MODE", "RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH"):
        monkeypatch.delenv(name, raising=False)
    token = tmp_path / ".ray/auth_token"
    monkeypatch.setenv(variable, str(tmp_path if variable == "HOME" else token))
    for _ in range(2):
        _check_token(is_local=True)
    assert (token.stat().st_mode & 0o777, len(token.read_text())) == (0o600, 64)
    assert os.listdir(token.parent) == ["auth_token"]
    token.chmod(0o640)
    with pytest.raises(NmtError) as error:
        _check_token(is_local=True)
    assert str(error.value) == f"other users can read {token}, the token of Ray: chmod 600 {token}"


def test_missing_token_of_a_cluster_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Actionable errors (nmt/README.md, Guarantees)."""
    monkeypatch.delenv("RAY_AUTH_TOKEN", raising=False)
    monkeypatch.setenv("RAY_AUTH_MODE", "token")
    monkeypatch.setenv("RAY_AUTH_TOKEN_PATH", str(tmp_path / "token"))
    with pytest.raises(NmtError) as error:
        _check_token(is_local=False)
    assert str(error.value) == (
        f"{tmp_path / 'token'}: no token for Ray: No such file or directory; set "
        "RAY_AUTH_TOKEN_PATH to the file with the token of the cluster"
    )


@pytest.fixture
def placements(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> list[bool]:
    """Fake cluster of two hosts with 3 CPUs each; answers of `PlacementGroup.wait`."""
    answers: list[bool] = []
    group = SimpleNamespace(wait=lambda _: answers.pop(0))
    hosts = [{"Alive": alive, "Resources": {"CPU": 3.0}} for alive in (True, True, False)]
    monkeypatch.setattr(ray, "nodes", lambda: hosts)
    monkeypatch.setattr(ray, "available_resources", lambda: {"CPU": 5.0})
    monkeypatch.setattr(ray, "cluster_resources", lambda: {"CPU": 6.0})
    monkeypatch.setattr(ray_session, "placement_group", lambda _: group)
    monkeypatch.setattr(ray_session, "remove_placement_group", lambda _: None)
    monkeypatch.setattr(ray_session, "WAIT_INTERVALS_S", (-1.0, 60.0))
    monkeypatch.setattr(ray_internals, "is_autoscaling", lambda: False)
    return answers


def test_missing_resources_are_reported(
    placements: list[bool], capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    placements += [False, False, True]
    with Console() as console:
        monkeypatch.setattr(ray_session, "_consoles", [console])
        monkeypatch.setattr(ray, "available_resources", lambda: {"CPU": 3.0})
        assert fit_workers(Cluster(name="a", workers=4, cpus_per_worker=2), 2) == 2
    (line,) = capfd.readouterr().err.splitlines()
    assert line[9:] == "waiting for 2 workers with 2 CPUs each: 3 of 6 CPUs free"


def test_workers_that_start_slowly_are_reported(
    placements: list[bool], capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    placements += [False, True]
    with Console() as console:
        monkeypatch.setattr(ray_session, "_consoles", [console])
        fit_workers(Cluster(name="a", workers=2, cpus_per_worker=2), 2)
    (line,) = capfd.readouterr().err.splitlines()
    assert line[9:] == "waiting for 2 workers with 2 CPUs each to start: 5 of 6 CPUs free"


def test_workers_that_no_host_holds_are_refused(
    placements: list[bool], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Actionable errors (nmt/README.md, Guarantees)."""
    cluster = Cluster(name="a", workers=3, cpus_per_worker=2)
    with pytest.raises(TrainingError) as error:
        fit_workers(cluster, 3)
    assert str(error.value) == (
        "3 workers with 2 CPUs each do not fit: 2 hosts have room for 2, and a worker does not "
        "span hosts: lower cluster.workers (--workers), or add hosts"
    )
    monkeypatch.setattr(ray_internals, "is_autoscaling", lambda: True)
    placements += [True]
    assert fit_workers(cluster, 3) == 3


@pytest.mark.parametrize("free", [0.0, 6.0])
def test_workers_are_fitted_before_preparation(
    free: float, placements: list[bool], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Busy hosts have room too, later."""
    monkeypatch.setattr(ray, "available_resources", lambda: {"CPU": free})
    check_workers_fit(Cluster(name="a", workers=2, cpus_per_worker=2), 2)
    with pytest.raises(TrainingError, match=r"^3 workers with 2 CPUs each do not fit: 2 hosts "):
        check_workers_fit(Cluster(name="a", workers=3, cpus_per_worker=2), 3)


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
