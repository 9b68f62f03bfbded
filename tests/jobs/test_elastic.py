"""A run whose hosts come and go, on a real cluster of two hosts that share this machine."""

import json
import os
import re
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from test_train import make_experiment

from nmt.checkpoint.load import load_training_state
from nmt.config.experiment import Experiment
from nmt.config.files import dump
from nmt.corpus.prepare import prepare
from nmt.corpus.prepared import open_prepared, read_dev
from nmt.training import ledger, run_log
from nmt.training.data import TrainingData
from nmt.training.distributed import World
from nmt.training.loop import train

NOTICE_S = 8
RAY = Path(sys.executable).with_name("ray")


class Hosts:
    """A Ray cluster whose hosts share this machine, each with room for one worker."""

    def __init__(self, folder: Path) -> None:
        with socket.create_server(("127.0.0.1", 0)) as free:
            self.address = f"127.0.0.1:{free.getsockname()[1]}"
        self.env = os.environ | {
            "RAY_AUTH_MODE": "token",
            "RAY_AUTH_TOKEN": "of-this-test-alone-and-long-enough",
            "RAY_ADDRESS": self.address,
        }
        port = self.address.partition(":")[2]
        self._started = [
            self._start(
                "--head", f"--port={port}", "--include-dashboard=false", f"--temp-dir={folder}"
            )
        ]

    def add(self) -> "subprocess.Popen[bytes]":
        """Another host joins."""
        return self._start(f"--address={self.address}")

    def id_of_second(self) -> str:
        """The id of the host that is not the head; waits until it is there."""
        code = (
            "import ray, time; ray.init(log_to_driver=False); ids = []\n"
            "while not ids:\n"
            "  ids = [node['NodeID'] for node in ray.nodes() if node['Alive']"
            " and 'node:__internal_head__' not in node['Resources']]; time.sleep(0.2)\n"
            "print(ids[0])"
        )
        command = [sys.executable, "-c", code]
        told = subprocess.run(command, env=self.env, check=True, capture_output=True, text=True)
        return told.stdout.split()[-1]

    def take_away(self, node_id: str) -> None:
        """Give notice that a host will be taken away."""
        command = [
            RAY, "drain-node", "--node-id", node_id, "--reason", "DRAIN_NODE_REASON_PREEMPTION",
            "--reason-message", "spot", "--deadline-remaining-seconds", str(NOTICE_S),
            "--address", self.address,
        ]  # fmt: skip
        subprocess.run(command, env=self.env, check=True, capture_output=True)

    def close(self) -> None:
        """End all hosts."""
        for process in reversed(self._started):
            process.terminate()
        for process in self._started:
            process.wait(timeout=60)

    def _start(self, *words: str) -> "subprocess.Popen[bytes]":
        command = [RAY, "start", *words, "--node-ip-address=127.0.0.1", "--num-cpus=1", "--block"]
        process = subprocess.Popen(
            [*command, "--disable-usage-stats"] if "--head" in words else command,
            env=self.env,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        if "--head" not in words:
            self._started.append(process)
        return process


@pytest.fixture
def hosts() -> Iterator[Hosts]:
    # Not in tmp_path: names of Ray's sockets may have 107 characters.
    with tempfile.TemporaryDirectory(
        prefix="nmt", dir="/tmp", ignore_cleanup_errors=True
    ) as folder:
        made = Hosts(Path(folder))
        try:
            yield made
        finally:
            made.close()


@pytest.mark.ray
def test_workers_that_come_and_go_train_the_model_of_one(tmp_path: Path, hosts: Hosts) -> None:
    """P2, P3, P4: 2, then 1, then 2 workers; a host taken away after a notice is no failure."""
    # Validated at each update: that takes the time in which hosts come and go. Small steps: how
    # many updates that time has is open, and what another order of sums changes grows with each.
    experiment = make_experiment(
        tmp_path, updates=5000, validate_every=1, checkpoint_every=5000, learning_rate=1e-4
    )
    prepare(experiment)
    (tmp_path / "tiny.yaml").write_text(dump(experiment))
    run_dir = tmp_path / experiment.name
    second = hosts.add()
    node_id = hosts.id_of_second()
    settings = ["storage=" + str(tmp_path), "workers.max=2", "max_failures=0", "max_lost_updates=5"]
    command = [sys.executable, "-m", "nmt", "train", str(tmp_path / "tiny.yaml")]
    command += [f"cluster.{setting}" for setting in settings]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=hosts.env)
    _wait_for(lambda: _updates(run_dir) >= 10, process)
    hosts.take_away(node_id)
    _wait_for(lambda: "1 worker on cpu" in (run_dir / "train.log").read_text(), process)
    second.terminate()
    hosts.add()
    _wait_for(lambda: len(records_of(run_dir, "restart")) == 2, process)
    process.send_signal(signal.SIGINT)
    _, said = process.communicate(timeout=120)
    assert process.returncode == 130, said
    updates = load_training_state(run_dir).update
    calm = undisturbed(experiment, tmp_path / "calm", updates)
    entries, expected = list(ledger.read_ledger(run_dir)), list(ledger.read_ledger(calm))
    assert [entry.chain for entry in entries] == [entry.chain for entry in expected]
    assert re.sub(r"(.)\1+", r"\1", "".join(str(entry.workers) for entry in entries)) == "212"
    ours, theirs = load_training_state(run_dir), load_training_state(calm)
    for name, tensor in ours.weights.items():
        assert (tensor - theirs.weights[name]).abs().max() <= 1e-5, name
    assert len(records_of(run_dir, "notice")) == 1
    taken, grown = records_of(run_dir, "restart")
    assert re.fullmatch(r"the host of workers [01] was taken away; .*2 to 1 workers", taken["why"])
    assert grown["why"] == "the workers were replaced; from 1 to 2 workers"
    assert max(taken["updates_lost"], grown["updates_lost"]) <= 5


def records_of(run_dir: Path, kind: str) -> list[dict[str, Any]]:
    """Of metrics.jsonl, those of a kind."""
    lines = (run_dir / "metrics.jsonl").read_text().splitlines()
    return [record for record in map(json.loads, lines) if record["kind"] == kind]


def _updates(run_dir: Path) -> int:
    beat = run_log.read_heartbeat(run_dir)
    return beat.update if beat is not None else 0


def _wait_for(condition: Callable[[], Any], process: "subprocess.Popen[str]") -> None:
    until = time.monotonic() + 200
    while not condition():
        assert process.poll() is None, process.communicate()[1]
        assert time.monotonic() < until
        time.sleep(0.1)


def undisturbed(experiment: Experiment, run_dir: Path, updates: int) -> Path:
    shards, subword = open_prepared(experiment)
    corpus = TrainingData(shards, subword, read_dev(experiment.prepared))
    # The same without validations, which change nothing but the time.
    seldom = experiment.training.model_copy(update={"validate_every": 5000})
    calm = experiment.model_copy(update={"training": seldom})
    train(calm, corpus, World(), run_dir, should_stop=lambda done: done == updates)
    return run_dir
