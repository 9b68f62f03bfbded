"""Drills: plan, results and messages; and a short one on a real cluster of three hosts."""

import random
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import drill
import namespace_hosts
import pytest
from drill_cluster import ROOT, DrillCluster, Outcome, read_records
from drill_results import (
    Comparison,
    compare,
    curve_table,
    exceeded_limits,
    fault_table,
    summary,
)
from faults import KEEPS_WORKERS, LOSES_HOST, inject
from namespace_hosts import NamespaceHosts

from nmt.config.experiment import Experiment
from nmt.corpus.prepared import open_prepared, read_dev
from nmt.training.audit import WorkerSpan
from nmt.training.data import TrainingData
from nmt.training.distributed import World
from nmt.training.loop import train


def test_plan_covers_all_faults_and_depends_on_the_seed() -> None:
    runs = drill.plan(30, seed=1)
    assert [(run.name, run.workers) for run in runs] == [
        ("fixed", "2"), ("elastic", "{min: 1, max: 2}"),
    ]  # fmt: skip
    assert set(runs[0].faults) == set(KEEPS_WORKERS)
    assert set(runs[1].faults) == set(LOSES_HOST)
    assert sum(len(run.faults) for run in runs) == 30
    assert drill.plan(30, seed=1) == runs
    assert drill.plan(30, seed=2) != runs


def test_table_lists_faults_then_median_and_maximum() -> None:
    """Honest numbers (nmt/README.md, Guarantees)."""
    outcomes = [
        Outcome("worker killed", 1040, 12.34, 7, "2 -> 2"),
        Outcome("worker killed", 1100, 20.0, 3, "2 -> 2"),
        Outcome("host killed", 1200, 31.0, 9, "2 -> 1"),
    ]
    lines = list(fault_table(outcomes))
    assert lines[1].split("  ")[0] == "worker killed"
    assert lines[1].endswith("  1,040           12.3             7  2 -> 2")
    assert lines[-3:] == [
        "worker killed                            2      16.2     20.0                  7",
        "host killed                              1      31.0     31.0                  9",
        "all                                      3      20.0     31.0                  9",
    ]


def test_faults_that_lose_too_many_updates_are_listed() -> None:
    damaged = "checkpoint damaged, worker killed"
    outcomes = [
        Outcome("host killed", 1200, 31.0, 20, "2 -> 1"),
        Outcome("host killed", 1300, 31.0, 21, "2 -> 1"),
        Outcome(damaged, 1400, 31.0, 40, "2 -> 2"),
        Outcome(damaged, 1500, 31.0, 41, "2 -> 2"),
    ]
    assert exceeded_limits(outcomes) == [
        "'host killed' at update 1,300 lost 21 updates",
        f"'{damaged}' at update 1,500 lost 41 updates",
    ]


CONSTANT = [WorkerSpan(1, 20, 2)]
SHRUNK = [WorkerSpan(1, 9, 2), WorkerSpan(10, 20, 1)]


@pytest.mark.parametrize(
    ("workers", "is_identical", "distance", "is_good"),
    [(CONSTANT, True, 0.0, True), (CONSTANT, False, 1e-9, False), (SHRUNK, False, 1e-6, True),
     (SHRUNK, False, 1e-4, False)],
)  # fmt: skip
def test_constant_workers_require_identical_parameters(
    workers: list[WorkerSpan], is_identical: bool, distance: float, is_good: bool
) -> None:
    """World-size independence, exact resume (nmt/README.md, Guarantees)."""
    result = Comparison("some", 20, is_identical, distance, ({}, {}), True, True, workers)
    assert result.is_good == is_good
    assert summary(result).endswith(": passed" if is_good else ": FAILED")


@pytest.mark.parametrize(("gap", "is_good"), [(5e-4, True), (2e-3, False)])
def test_three_workers_require_a_similar_loss(gap: float, is_good: bool) -> None:
    """World-size independence (nmt/README.md, Guarantees)."""
    grown = [*SHRUNK, WorkerSpan(21, 30, 3)]
    curves = {10: 5.0}, {10: 5.0 + gap}
    assert Comparison("some", 30, False, 1e-2, curves, True, True, grown).is_good == is_good


def test_curve_table_shows_both_losses() -> None:
    """Honest numbers (nmt/README.md, Guarantees)."""
    curves = {10: 5.0, 20: 4.5}, {10: 5.0, 20: 4.25}
    result = Comparison("resized", 20, False, 1e-6, curves, True, True, SHRUNK)
    assert list(curve_table(result)) == [
        " update  workers  nats/token  undisturbed      gap",
        "     10        1    5.000000     5.000000    0e+00",
        "     20        1    4.250000     4.500000    2e-01",
    ]
    assert "; loss within 2.5e-01 nats/token; " in summary(result)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (
            ["no.yaml"],
            "drill: no.yaml: file not found; the files that come with nmt are in configs/",
        ),
        (
            ["--faults", "many"],
            "drill: Invalid value for '--faults': 'many' is not a valid integer range.",
        ),
        (
            ["model.wdith=8"],
            "drill: command line: model.wdith is not a setting; did you mean model.width?",
        ),
        (
            ["configs/multi30k_en_de.yaml", "corpus.prepared=configs"],
            f"drill: {ROOT}/configs: no prepared corpus here (manifest.json is missing); run `nmt "
            "prepare` with this experiment first",
        ),
    ],
)
def test_user_errors_are_one_line(
    words: list[str],
    message: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Actionable errors (nmt/README.md, Guarantees)."""
    monkeypatch.setattr(drill, "missing_requirement", lambda: "")
    monkeypatch.setenv(drill.IS_PRIVATE, "1")
    monkeypatch.chdir(ROOT)
    assert drill.run_command(words) == 2
    assert capsys.readouterr().err.splitlines() == [message]


def test_drill_requires_namespaces(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Actionable errors (nmt/README.md, Guarantees)."""
    reason = "hosts in network namespaces need root"
    monkeypatch.setattr(drill, "missing_requirement", lambda: reason)
    assert drill.run_command([]) == 2
    assert capsys.readouterr().err == f"drill: no drill: {reason}\n"


@pytest.mark.ray
@pytest.mark.slow
def test_run_survives_a_lost_worker_and_a_lost_host() -> None:
    """Pure schedule, world-size independence, exact resume (nmt/README.md, Guarantees)."""
    if reason := namespace_hosts.missing_requirement():
        pytest.skip(reason)
    # Not in tmp_path: names of Ray's sockets may have 107 characters.
    with tempfile.TemporaryDirectory(prefix="nmtd", dir="/tmp", ignore_cleanup_errors=True) as tmp:
        base, outcomes = Path(tmp), []
        small = ["model.width=32", "model.encoder_layers=1", "model.decoder_layers=1"]
        # The difference by another order of sums grows with each update, and a fast machine makes
        # hundreds while a host is lost: the learning rate keeps it small.
        settings = [*small, "training.learning_rate=1e-4"]
        experiment = drill.load_prepared(drill.DEMO, settings, base)
        with NamespaceHosts(base / "hosts") as hosts:
            cluster = DrillCluster(hosts, base)
            cluster.start()
            run = ("rough", "{min: 1, max: 2}", drill.ENDLESS, base / "storage")
            rough = drill.start_run(cluster, experiment, *run)
            for fault in ("worker killed", "host preempted"):
                cluster.wait_for_updates(15)
                outcomes += inject(cluster, fault, random.Random(1))
            cluster.wait_for_updates(5)
            updates = cluster.stop()
        num_notices = len(read_records(rough, "notice"))
        result = compare(train_undisturbed(experiment, base / "calm", updates), rough)
    assert [(each.fault, each.workers) for each in outcomes] == [
        ("worker killed", "2 -> 2"), ("host preempted", "2 -> 1"), ("host is back", "1 -> 2"),
    ]  # fmt: skip
    assert exceeded_limits(outcomes) == []
    assert [stretch.workers for stretch in result.workers] == [2, 1, 2]
    assert result.is_good, summary(result)
    assert num_notices == 1


def train_undisturbed(experiment: Experiment, run_dir: Path, updates: int) -> Path:
    """Train in this process with one worker."""
    shards, subword = open_prepared(experiment)
    corpus = TrainingData(shards, subword, read_dev(experiment.prepared))
    settings = experiment.training.model_copy(update={"updates": drill.ENDLESS})
    calm = experiment.model_copy(update={"training": settings})
    train(calm, corpus, World(), run_dir, should_stop=lambda done: done == updates)
    return run_dir


# Measured outcomes, on a fake cluster.


class FakeCluster(DrillCluster):
    """Run that loses 3 updates per change of its hosts and never waits."""

    def __init__(self, folder: Path) -> None:
        self.folder = self.run_dir = folder
        self.hosts: Any = SimpleNamespace(
            kill=self.lose, disconnect=self.lose, freeze=self.lose, thaw=id, reconnect=id
        )
        self.events: list[str] = []
        self.online = {"h1", "h2"}
        self.records: list[dict[str, Any]] = []

    @property
    def updates(self) -> int:
        return 100

    def restarts(self) -> list[Any]:
        return self.records

    def wait_until(self, condition: Callable[[], bool], description: str) -> None:
        assert condition(), description

    def wait_for_updates(self, num_updates: int) -> None:
        pass

    def lose(self, name: str) -> None:
        self.change(self.online - {name})

    def add_hosts(self, *names: str) -> None:
        self.events += [f"{name} joined" for name in names]
        self.change(self.online | set(names))

    def preempt(self, name: str) -> None:
        self.events.append(f"{name} preempted")
        self.lose(name)

    def change(self, online: set[str]) -> None:
        if online != self.online:
            counts = {"workers_before": len(self.online), "workers": len(online)}
            self.records.append(counts | {"updates_lost": 3, "time": time.time() + 8})
            self.online = online


@pytest.mark.parametrize("fault", LOSES_HOST)
def test_lost_host_costs_twice_and_returns(fault: str, tmp_path: Path) -> None:
    cluster = FakeCluster(tmp_path)
    lost, back = inject(cluster, fault, random.Random(1))
    assert (lost.fault, lost.update, lost.workers, lost.updates_lost) == (fault, 100, "2 -> 1", 3)
    assert 7 < lost.seconds < 9
    assert (back.fault, back.workers, back.updates_lost) == ("host is back", "1 -> 2", 3)
    assert cluster.events[-1].endswith(" joined")
    assert cluster.events[0].endswith(" preempted") == (fault == "host preempted")


def test_resize_trains_with_two_one_three_two_workers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(drill, "start_run", lambda *_: tmp_path)
    monkeypatch.setattr(drill, "_finish", lambda *_: "comparison")
    cluster: Any = FakeCluster(tmp_path)
    *changes, last = drill.resize(cluster, cluster, tmp_path, 40)
    assert [each.workers for each in changes] == ["2 -> 1", "1 -> 3", "3 -> 2"]
    assert last == "comparison"


def test_incomplete_last_record_is_ignored(tmp_path: Path) -> None:
    cluster = DrillCluster.__new__(DrillCluster)
    cluster.run_dir = tmp_path
    assert cluster.restarts() == []
    (tmp_path / "metrics.jsonl").write_text(
        '{"kind": "train", "update": 1}\n{"kind": "restart", "update": 2}\n{"kind": "restart", "up'
    )
    assert cluster.restarts() == [{"kind": "restart", "update": 2}]
