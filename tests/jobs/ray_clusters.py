"""Ray clusters and a small experiment for the tests of jobs."""

import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest

from nmt.config.corpus import CleaningConfig, CorpusConfig, ParallelText, SubwordConfig
from nmt.config.experiment import BatchingConfig, Experiment, ModelConfig, TrainingConfig
from nmt.config.settings import add_legacy_values
from nmt.training import run_log

TOKEN = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": "token-of-the-tests-long-enough-for-ray"}
assert "ray" not in sys.modules
with pytest.MonkeyPatch.context() as _patch:
    # Ray reads them when it is imported and when it connects.
    for _name, _value in TOKEN.items():
        _patch.setenv(_name, _value)
    import ray

RAY = Path(sys.executable).with_name("ray")
WORDS = {"one": "eins", "two": "zwei", "red": "rot", "green": "grün", "house": "Haus"}


class RayCluster:
    """A Ray cluster whose hosts share this machine."""

    def __init__(self, folder: Path, num_cpus: int, *options: str) -> None:
        with socket.create_server(("127.0.0.1", 0)) as server:
            port = server.getsockname()[1]
        self.address = f"127.0.0.1:{port}"
        self.tag = uuid.uuid4().hex
        """In the environment of all processes of the cluster."""
        self.env = os.environ | TOKEN | {"RAY_ADDRESS": self.address, "NMT_TEST": self.tag}
        self._processes: list[subprocess.Popen[bytes]] = []
        head = ("--head", f"--port={port}", "--include-dashboard=false", f"--temp-dir={folder}")
        self.add_host(*head, *options, "--disable-usage-stats", num_cpus=num_cpus)

    def add_host(self, *options: str, num_cpus: int = 1) -> "subprocess.Popen[bytes]":
        """Start another host."""
        options = options or (f"--address={self.address}",)
        process = subprocess.Popen(
            [
                RAY, "start", *options, "--node-ip-address=127.0.0.1", f"--num-cpus={num_cpus}",
                "--block",
            ],
            env=self.env, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
            start_new_session=True,
        )  # fmt: skip
        self._processes.append(process)
        return process

    @contextmanager
    def connect(self) -> Iterator[None]:
        """Connect this process; waits until the head answers."""
        deadline = time.monotonic() + 100
        with pytest.MonkeyPatch.context() as patch:
            for name, value in TOKEN.items():
                patch.setenv(name, value)
            while not ray.is_initialized():
                try:
                    ray.init(address=self.address, log_to_driver=False)
                except ConnectionError:
                    assert time.monotonic() < deadline
                    time.sleep(0.2)
            try:
                yield
            finally:
                ray.shutdown()

    def close(self) -> None:
        """Kill all hosts."""
        for process in self._processes:
            kill_host(process)


def find_processes(variable: str) -> list[int]:
    """Return the processes that have NAME=VALUE in their environment."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        # A process may have ended, or belong to another user.
        with suppress(OSError):
            if variable.encode() in (process / "environ").read_bytes().split(b"\0"):
                found.append(int(process.name))
    return found


def kill_host(process: "subprocess.Popen[bytes]") -> None:
    """Kill `ray start` and all processes that it started."""
    if process.poll() is None:
        os.killpg(process.pid, signal.SIGKILL)
    process.wait(timeout=60)


@contextmanager
def start_cluster(num_cpus: int, *options: str) -> Iterator[RayCluster]:
    """Start a cluster; `options` are those of `ray start` for its head."""
    # Not in tmp_path: the paths of Ray's sockets are limited to 107 characters.
    with tempfile.TemporaryDirectory(prefix="nmt", dir="/tmp", ignore_cleanup_errors=True) as name:
        cluster = RayCluster(Path(name), num_cpus, *options)
        try:
            yield cluster
        finally:
            cluster.close()


RULES = add_legacy_values(CleaningConfig, {"max_dropped": 1.0})
"""The rules of the first version: toy sentences repeat each other."""


def make_experiment(folder: Path, **training: object) -> Experiment:
    """Write a corpus of 125 pairs and return an experiment of 30 updates."""
    srcs = [f"{a} {b} {c}" for a in WORDS for b in WORDS for c in WORDS]
    for name, lines in (("train", srcs), ("dev", srcs[::9])):
        tgts = [" ".join(WORDS[word] for word in line.split()) for line in lines]
        (folder / f"{name}.en").write_text("".join(f"{line}\n" for line in lines))
        (folder / f"{name}.de").write_text("".join(f"{line}\n" for line in tgts))
    settings: dict[str, object] = {
        "updates": 30,
        "warmup_updates": 5,
        "log_every": 5,
        "validate_every": 15,
        "checkpoint_every": 5,
    }
    return Experiment(
        name="tiny",
        corpus=CorpusConfig(
            src="en",
            tgt="de",
            root=str(folder),
            train=[ParallelText(name="a", src="train.en", tgt="train.de")],
            dev=ParallelText(name="dev", src="dev.en", tgt="dev.de"),
            prepared=str(folder / "prepared"),
            cleaning=CleaningConfig.model_validate(RULES),
            subword=SubwordConfig(vocab_size=300),
        ),
        batching=BatchingConfig(max_tokens=64, micro_batches=3, max_length=32),
        model=ModelConfig(width=16, encoder_layers=1, decoder_layers=1, ffn_width=16, heads=2),
        training=TrainingConfig(**(settings | training)),  # type: ignore[arg-type]
    )


def read_kind(run_dir: Path, kind: str) -> list[dict[str, Any]]:
    """Return the records of a kind in metrics.jsonl."""
    return [record for record in run_log.read_records(run_dir)[0] if record["kind"] == kind]


def count_updates(run_dir: Path) -> int:
    """Return the updates done by a run in progress."""
    last = run_log.read_heartbeat(run_dir)
    return last.update if last is not None else 0


def wait_for(
    condition: Callable[[], Any], process: "subprocess.Popen[str]", timeout_s: float = 300
) -> None:
    """Wait until a condition holds while a process runs."""
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert process.poll() is None, process.communicate()[1]
        assert time.monotonic() < deadline
        time.sleep(0.05)
