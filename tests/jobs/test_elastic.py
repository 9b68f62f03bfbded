"""A run whose hosts come and go, on a real cluster of two hosts that share this machine."""

import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import ray
from ray_clusters import (
    RAY,
    RayCluster,
    count_updates,
    kill_host,
    make_experiment,
    read_kind,
    start_cluster,
    wait_for,
)

from nmt.checkpoint.load import load_training_state
from nmt.config.experiment import Experiment
from nmt.config.files import dump
from nmt.corpus.prepare import prepare
from nmt.corpus.prepared import open_prepared, read_dev
from nmt.training import ledger
from nmt.training.data import TrainingData
from nmt.training.distributed import World
from nmt.training.loop import train

NOTICE_S = 6


@pytest.fixture
def cluster() -> Iterator[RayCluster]:
    """A head with one core."""
    with start_cluster(num_cpus=1) as cluster:
        yield cluster


def find_second_host(cluster: RayCluster) -> str:
    """Wait for the host that is not the head, and return its node id."""
    head, deadline = "node:__internal_head__", time.monotonic() + 100
    with cluster.connect():
        while time.monotonic() < deadline:
            for node in ray.nodes():
                if node["Alive"] and head not in node["Resources"]:
                    return str(node["NodeID"])
            time.sleep(0.2)
    raise AssertionError("the second host did not join")


def announce_preemption(cluster: RayCluster, node_id: str) -> None:
    command = [
        RAY, "drain-node", "--node-id", node_id, "--reason", "DRAIN_NODE_REASON_PREEMPTION",
        "--reason-message", "spot", "--deadline-remaining-seconds", str(NOTICE_S),
        "--address", cluster.address,
    ]  # fmt: skip
    subprocess.run(command, env=cluster.env, check=True, capture_output=True)


def train_undisturbed(experiment: Experiment, run_dir: Path, updates: int) -> None:
    shards, subword = open_prepared(experiment)
    data = TrainingData(shards, subword, read_dev(experiment.prepared))
    # Fewer validations, which change only the duration.
    settings = experiment.training.model_copy(update={"validate_every": 5000})
    experiment = experiment.model_copy(update={"training": settings})
    train(experiment, data, World(), run_dir, should_stop=lambda done: done == updates)


@pytest.mark.ray
@pytest.mark.slow
def test_hosts_that_come_and_go_do_not_change_the_model(
    tmp_path: Path, cluster: RayCluster
) -> None:
    """World-size independence, exact resume (nmt/README.md, Guarantees).

    Workers: 2, then 1 after a preemption notice, which is not a failure, then 2.
    """
    second = cluster.add_host()
    # A validation per update slows the run to the pace of the hosts. The learning rate is small
    # because the difference by another order of sums grows with each step.
    experiment = make_experiment(
        tmp_path, updates=5000, validate_every=1, checkpoint_every=5000, learning_rate=1e-4
    )
    prepare(experiment)
    (tmp_path / "tiny.yaml").write_text(dump(experiment))
    run_dir = tmp_path / experiment.name
    node_id = find_second_host(cluster)
    settings = ["storage=" + str(tmp_path), "workers.max=2", "max_failures=0", "max_lost_updates=5"]
    command = [sys.executable, "-m", "nmt", "train", str(tmp_path / "tiny.yaml")]
    command += [f"cluster.{setting}" for setting in settings]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=cluster.env)
    wait_for(lambda: count_updates(run_dir) >= 10, process)
    announce_preemption(cluster, node_id)
    wait_for(lambda: "1 worker on cpu" in (run_dir / "train.log").read_text(), process)
    kill_host(second)
    cluster.add_host()
    wait_for(lambda: len(read_kind(run_dir, "restart")) == 2, process)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=120)
    assert process.returncode == 130, err
    actual = load_training_state(run_dir)
    train_undisturbed(experiment, tmp_path / "undisturbed", actual.update)
    entries, expected_entries = (
        list(ledger.read_ledger(folder)) for folder in (run_dir, tmp_path / "undisturbed")
    )
    assert [entry.chain for entry in entries] == [entry.chain for entry in expected_entries]
    assert re.sub(r"(.)\1+", r"\1", "".join(str(entry.workers) for entry in entries)) == "212"
    expected = load_training_state(tmp_path / "undisturbed")
    for name, tensor in actual.weights.items():
        assert (tensor - expected.weights[name]).abs().max() <= 1e-5, name
    assert len(read_kind(run_dir, "notice")) == 1
    taken, grown = read_kind(run_dir, "restart")
    assert re.fullmatch(r"the host of workers [01] was preempted; .*2 to 1 workers", taken["why"])
    assert grown["why"] == "the workers were replaced; from 1 to 2 workers"
    assert max(taken["updates_lost"], grown["updates_lost"]) <= 5
