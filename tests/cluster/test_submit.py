"""Command line of submit.py; the last test runs a real cluster on this machine."""

import contextlib
import os
import random
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[2]
Call = Callable[..., tuple[int, str, str]]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (
            ["train", "tiny.yaml", "here.yaml", "cluster.address="],
            "no cluster address: set cluster.address or RAY_ADDRESS to the address of the "
            "dashboard, http://HEAD:8265",
        ),
        (
            ["train", "tiny.yaml", "here.yaml", "cluster.address=ray://head:10001"],
            "cluster.address is 'ray://head:10001', but it must be the address of a dashboard, "
            "http://HEAD:8265",
        ),
        (
            ["status", "--address", "auto"],
            "--address is 'auto', but it must be the address of a dashboard, http://HEAD:8265",
        ),
        (
            ["tiny.yaml", "here.yaml", "cluster.workers=3"],
            "3 workers cannot share updates of 2 micro-batches: use at most 2 workers, or set "
            "batching.micro_batches=3 or more (a larger update)",
        ),
        (
            ["prepare", "tiny.yaml", "here.yaml", "corpus.dev.src=no.en"],
            "{files}/raw/no.en: there is no such file; check corpus.root and the names in the "
            "experiment",
        ),
        (
            ["train", "tiny.yaml", "here.yaml", "corpus.dev.tgt=dev.fr"],
            "{files}/raw/dev.fr: there is no such file; check corpus.root and the names in the "
            "experiment",
        ),
        (
            ["translate", "tiny.yaml", "here.yaml", "-i", "in.en"],
            "a job has no standard input or output: set -i FILE and -o FILE to files on a disk "
            "that all hosts share",
        ),
        (
            ["evaluate", "tiny.yaml", "here.yaml", "decoding.beam=2"],
            "decoding.beam=2: `nmt evaluate` accepts only name= and cluster.* settings, as a model "
            "keeps those it was trained with; options: `submit.py evaluate --help`",
        ),
        (["stpo", "tiny"], "'stpo' is not a command; did you mean stop? See `submit.py --help`."),
    ],
)  # fmt: skip
def test_user_errors_are_found_before_connecting(
    client: Any, files: Path, call: Call, words: list[str], message: str
) -> None:
    """Actionable errors (nmt/README.md, Guarantees)."""
    client.list_jobs = lambda: pytest.fail("the cluster was touched")
    status, out, err = call(*words)
    assert (status, out) == (2, "")
    assert err.splitlines()[-1] == "nmt: " + message.format(files=files)


def test_run_with_other_settings_is_not_submitted(client: Any, files: Path, call: Call) -> None:
    """Actionable errors (nmt/README.md, Guarantees)."""
    shutil.copytree(ROOT / "tests/golden/run-of-format-1", files / "runs" / "toy")
    words = ["name=toy", "corpus.train.0.name=toy", "seed=5"]
    status, _, err = call("tiny.yaml", "here.yaml", *words)
    assert status == 2
    assert err == (
        f"nmt: seed=5, but the run in {files}/runs/toy was started with seed=1: set it back to "
        "resume, or give the experiment another name\n"
    )


def test_status_shows_the_reason_of_a_failure(client: Any, call: Call) -> None:
    client.add("nmt-train-tiny", "FAILED", "/runs/tiny", message="failed:\nnmt: the disk is full\n")
    client.add("nmt-train-other", "RUNNING", "/runs/other", name="other")
    assert call("status", "tiny", "--address", client.address)[1] == (
        "nmt-train-tiny: FAILED after 12 s, started 1970-01-01 00:16:40, target /runs/tiny: "
        "nmt: the disk is full\n"
    )


def test_unknown_job_name_is_reported(client: Any, call: Call) -> None:
    client.add("nmt-train-tiny", "RUNNING", "/runs/tiny")
    status, _, err = call("logs", "tinny", "--address", client.address)
    expected = "nmt: no job of tinny on the cluster; newest jobs: nmt-train-tiny\n"
    assert (status, err) == (2, expected)


def test_logs_shows_the_newest_job(client: Any, call: Call) -> None:
    client.add("nmt-train-tiny", "FAILED", "/runs/tiny")
    client.add("nmt-train-tiny-2", "RUNNING", "/runs/tiny")
    assert call("logs", "tiny", "--address", client.address)[1] == "log of nmt-train-tiny-2\n"


@pytest.mark.parametrize(("state", "status"), [("SUCCEEDED", 0), ("FAILED", 1), ("STOPPED", 1)])
def test_follow_exits_with_the_status_of_the_job(
    client: Any, call: Call, state: str, status: int
) -> None:
    client.add("nmt-train-tiny", state, "/runs/tiny")
    ended, out, err = call("logs", "tiny", "--follow", "--address", client.address)
    assert (ended, out) == (status, "line 1\nline 2\n")
    assert err.startswith(f"nmt-train-tiny: {state} after 12 s")


def test_stop_waits_for_the_end(client: Any, call: Call) -> None:
    client.add("nmt-train-tiny", "RUNNING", "/runs/tiny")
    status, _, err = call("stop", "tiny", "--address", client.address)
    assert (status, client.jobs[0].status) == (0, "STOPPED")
    assert (
        err.splitlines()[0] == "stopping nmt-train-tiny; a training run writes a checkpoint first"
    )
    assert err.splitlines()[1].startswith("nmt-train-tiny: STOPPED after 12 s")


def test_stop_of_an_ended_job_does_nothing(client: Any, call: Call) -> None:
    client.add("nmt-train-tiny", "SUCCEEDED", "/runs/tiny")
    status, _, err = call("stop", "tiny", "--address", client.address)
    assert (status, client.jobs[0].status) == (0, "SUCCEEDED")
    assert err.startswith("nothing to stop: nmt-train-tiny: SUCCEEDED after 12 s")


def test_stop_of_an_ambiguous_name_is_refused(client: Any, call: Call) -> None:
    client.add("nmt-train-tiny", "RUNNING", "/runs/tiny")
    client.add("nmt-translate-tiny", "RUNNING", "/out.de")
    status, _, err = call("stop", "tiny", "--address", client.address)
    expected = "nmt: 2 jobs of tiny are running: stop one of nmt-train-tiny, nmt-translate-tiny\n"
    assert (status, err) == (2, expected)


def free_ports(number: int) -> list[int]:
    """Return free ports outside the ranges used for outgoing connections and Ray workers.

    Those are 32,768 and up, and 10,002 to 19,999.
    """
    ports: list[int] = []
    for port in random.sample(range(20_000, 32_768), 20 * number):
        with socket.socket() as one, contextlib.suppress(OSError):
            one.bind(("127.0.0.1", port))
            ports.append(port)
    return ports[:number]


@pytest.fixture
def head(tmp_path: Path) -> Iterator[SimpleNamespace]:
    """Head of a cluster with a token, on free ports."""
    token = tmp_path / "token"
    token.write_text("a" * 64)
    token.chmod(0o600)
    tools = Path(sys.executable).parent
    env = {key: value for key, value in os.environ.items() if not key.startswith("RAY_")} | {
        "RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN_PATH": str(token), "HOME": str(tmp_path),
        "PATH": f"{tools}:{os.environ['PATH']}", "no_proxy": "127.0.0.1,localhost",
    }  # fmt: skip
    names = ("", "dashboard-", "ray-client-server-", "dashboard-agent-listen-")
    ports = dict(zip(names, free_ports(len(names)), strict=True))
    # Ray's sockets are in this folder, and the path of a socket has at most 107 bytes.
    with tempfile.TemporaryDirectory(
        prefix="nmt", dir="/tmp", ignore_cleanup_errors=True
    ) as folder:
        process = subprocess.Popen(
            [str(tools / "ray"), "start", "--head", "--block", "--num-cpus=2",
             f"--temp-dir={folder}", "--disable-usage-stats",
             *(f"--{name}port={port}" for name, port in ports.items())],
            env=env, stdout=(tmp_path / "head.log").open("w"), stderr=subprocess.STDOUT,
            start_new_session=True,
        )  # fmt: skip
        try:
            address = f"http://127.0.0.1:{ports['dashboard-']}"
            wait_for(ports["dashboard-agent-listen-"], process)
            yield SimpleNamespace(address=address, env=env)
        finally:
            # By session: workers have their own process groups.
            for number in filter(str.isdigit, os.listdir("/proc")):
                try:
                    if os.getsid(int(number)) == process.pid:
                        os.kill(int(number), signal.SIGKILL)
                except ProcessLookupError:
                    pass
            process.wait()


def wait_for(port: int, process: subprocess.Popen[bytes], timeout_s: float = 180) -> None:
    until = time.monotonic() + timeout_s
    while time.monotonic() < until:
        assert process.poll() is None, "the head ended"
        with socket.socket() as one:
            if one.connect_ex(("127.0.0.1", port)) == 0:
                return
        time.sleep(0.2)
    pytest.fail(f"the head did not listen on {port} in {timeout_s} s")


@pytest.mark.ray
def test_real_cluster_runs_this_code(
    head: SimpleNamespace, tmp_path: Path, write_files: Callable[[str], None]
) -> None:
    """Actionable errors, safe by default (nmt/README.md, Guarantees)."""
    for folder in ("nmt", "cluster"):
        shutil.copytree(
            ROOT / folder, tmp_path / folder, ignore=shutil.ignore_patterns("__pycache__")
        )
    main = tmp_path / "nmt/__main__.py"
    main.write_text('print("code of this checkout")\n' + main.read_text())
    write_files(head.address)

    def run(*words: str, **env: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "cluster/submit.py", *words], cwd=tmp_path, env=head.env | env,
            capture_output=True, text=True, check=False, timeout=80,
        )  # fmt: skip

    (tmp_path / "wrong").write_text("b" * 64)
    refused = run("prepare", "tiny.yaml", "here.yaml", RAY_AUTH_TOKEN_PATH=str(tmp_path / "wrong"))
    assert (refused.returncode, refused.stdout, refused.stderr.splitlines()[-1]) == (
        2, "",
        f"nmt: the cluster at {head.address} rejected the token in {tmp_path}/wrong: use the token "
        "that its head was started with",
    )  # fmt: skip
    prepared = run("prepare", "tiny.yaml", "here.yaml", "--follow")
    assert prepared.returncode == 0, prepared.stderr
    assert prepared.stdout.splitlines()[0] == "nmt-prepare-tiny"
    assert "code of this checkout" in prepared.stdout
    assert "train: 50 pairs read = 50 kept + 0 dropped" in prepared.stdout
    assert (tmp_path / "prepared/tiny/manifest.json").is_file()
    shown = run("status", "tiny", RAY_ADDRESS=head.address)
    assert shown.stdout.startswith("nmt-prepare-tiny: SUCCEEDED after ")
