"""Drills: what is planned and told; and the quick one, on a real cluster of three hosts."""

import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import drill
import hosts
import pytest
from drill import plan
from faults import KEEPS_WORKERS, LOSES_HOST, inject
from hosts import Hosts
from results import Ending, broken_limits, compare, laid_over, table, told
from stage import ROOT, Outcome, Stage

from nmt.config.experiment import Experiment
from nmt.corpus.prepared import open_prepared, read_dev
from nmt.training.audit import WorkerSpan
from nmt.training.data import TrainingData
from nmt.training.distributed import World
from nmt.training.loop import train


def test_thirty_faults_are_of_all_kinds_and_drawn_from_the_seed() -> None:
    runs = plan(30, seed=1)
    assert [(run.name, run.workers) for run in runs] == [
        ("fixed", "2"), ("elastic", "{min: 1, max: 2}"),
    ]  # fmt: skip
    assert set(runs[0].faults) == set(KEEPS_WORKERS)
    assert set(runs[1].faults) == set(LOSES_HOST)
    assert sum(len(run.faults) for run in runs) == 30
    assert plan(30, seed=1) == runs
    assert plan(30, seed=2) != runs


def test_a_table_tells_each_fault_then_medians_and_the_worst() -> None:
    """P11."""
    outcomes = [
        Outcome("worker killed", 1040, 12.34, 7, "2 -> 2"),
        Outcome("worker killed", 1100, 20.0, 3, "2 -> 2"),
        Outcome("host killed", 1200, 31.0, 9, "2 -> 1"),
    ]
    lines = list(table(outcomes))
    assert lines[1].split("  ")[0] == "worker killed"
    assert lines[1].endswith("  1,040           12.3             7  2 -> 2")
    assert lines[-3:] == [
        "worker killed                            2      16.2     20.0                  7",
        "host killed                              1      31.0     31.0                  9",
        "all                                      3      20.0     31.0                  9",
    ]


def test_what_cost_too_much_is_told() -> None:
    damaged = "checkpoint damaged, worker killed"
    outcomes = [
        Outcome("host killed", 1200, 31.0, 20, "2 -> 1"),
        Outcome("host killed", 1300, 31.0, 21, "2 -> 1"),
        Outcome(damaged, 1400, 31.0, 40, "2 -> 2"),
        Outcome(damaged, 1500, 31.0, 41, "2 -> 2"),
    ]
    assert broken_limits(outcomes) == [
        "'host killed' at update 1,300 cost 21 updates",
        f"'{damaged}' at update 1,500 cost 41 updates",
    ]


STAYED = [WorkerSpan(1, 20, 2)]
WENT = [WorkerSpan(1, 9, 2), WorkerSpan(10, 20, 1)]


@pytest.mark.parametrize(
    ("workers", "is_same", "distance", "is_good"),
    [(STAYED, True, 0.0, True), (STAYED, False, 1e-9, False), (WENT, False, 1e-6, True),
     (WENT, False, 1e-4, False)],
)  # fmt: skip
def test_parameters_must_be_near_or_the_same_where_workers_stayed(
    workers: list[WorkerSpan], is_same: bool, distance: float, is_good: bool
) -> None:
    """P3, P4."""
    ending = Ending("some", 20, is_same, distance, ({}, {}), True, True, workers)
    assert ending.is_good == is_good
    assert told(ending).endswith(": as promised" if is_good else ": NOT as promised")


@pytest.mark.parametrize(("apart", "is_good"), [(5e-4, True), (2e-3, False)])
def test_the_loss_must_be_near_where_there_were_three_workers(apart: float, is_good: bool) -> None:
    """P3."""
    grew = [*WENT, WorkerSpan(21, 30, 3)]
    ending = Ending("some", 30, False, 1e-2, ({10: 5.0}, {10: 5.0 + apart}), True, True, grew)
    assert ending.is_good == is_good


def test_two_loss_curves_are_laid_over_each_other() -> None:
    """P11."""
    curves = {10: 5.0, 20: 4.5}, {10: 5.0, 20: 4.25}
    ending = Ending("resized", 20, False, 1e-6, curves, True, True, WENT)
    assert list(laid_over(ending)) == [
        " update  workers  nats/token  undisturbed    apart",
        "     10        1    5.000000     5.000000    0e+00",
        "     20        1    4.250000     4.500000    2e-01",
    ]
    assert "; loss curve within 2.5e-01 nats/token; " in told(ending)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (
            ["no.yaml"],
            "drill: no.yaml: there is no such file; configs/ holds the ones that come with nmt",
        ),
        (
            ["--faults", "many"],
            "drill: --faults is many, but it must be a whole number, 1 or more",
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
def test_what_a_drill_cannot_do_is_one_line(words: list[str], message: str) -> None:
    """P9."""
    if reason := hosts.lacking():
        pytest.skip(reason)
    done = subprocess.run(
        [sys.executable, "cluster/drill.py", *words], cwd=ROOT, capture_output=True, text=True
    )
    assert (done.returncode, done.stderr.splitlines()) == (2, [message])


def test_without_namespaces_a_drill_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """P9."""
    monkeypatch.setattr(drill, "lacking", lambda: "hosts in network namespaces need root")
    with pytest.raises(drill.NmtError) as error:
        drill.main([], standalone_mode=False)
    assert str(error.value) == "no drill: hosts in network namespaces need root"


@pytest.mark.ray
def test_a_worker_and_a_host_are_lost_and_the_host_comes_back() -> None:
    """P2, P3, P4: the quick drill: one worker killed, one host killed, one resize."""
    if reason := hosts.lacking():
        pytest.skip(reason)
    # Not in tmp_path: names of Ray's sockets may have 107 characters.
    with tempfile.TemporaryDirectory(prefix="nmtd", dir="/tmp", ignore_cleanup_errors=True) as own:
        place, outcomes = Path(own), []
        small = ["model.width=32", "model.encoder_layers=1", "model.decoder_layers=1"]
        experiment = drill.load(drill.DEMO, small, place)
        with Hosts(place / "hosts") as some:
            stage = Stage(some, place)
            stage.up()
            run = ("rough", "{min: 1, max: 2}", drill.ENDLESS, place / "storage")
            rough = drill.begin(stage, experiment, *run)
            for fault in ("worker killed", "host killed"):
                stage.go_on(15)
                outcomes += inject(stage, fault, random.Random(1))
            stage.go_on(5)
            updates = stage.stop()
        ending = compare(undisturbed(experiment, place / "calm", updates), rough)
    assert [(each.fault, each.workers) for each in outcomes] == [
        ("worker killed", "2 -> 2"), ("host killed", "2 -> 1"), ("host is back", "1 -> 2"),
    ]  # fmt: skip
    assert broken_limits(outcomes) == []
    assert [each.workers for each in ending.workers] == [2, 1, 2]
    assert ending.is_good, told(ending)


def undisturbed(experiment: Experiment, run_dir: Path, updates: int) -> Path:
    """One worker makes so many updates, in this process."""
    shards, subword = open_prepared(experiment)
    corpus = TrainingData(shards, subword, read_dev(experiment.prepared))
    settings = experiment.training.model_copy(update={"updates": drill.ENDLESS})
    calm = experiment.model_copy(update={"training": settings})
    train(calm, corpus, World(), run_dir, should_stop=lambda done: done == updates)
    return run_dir


# What is seen of a fault, on a stage that only pretends.


class Pretence(Stage):
    """A run that loses 3 updates with each fault and never waits."""

    def __init__(self, folder: Path) -> None:
        self.folder = self.run_dir = folder
        self.hosts: Any = SimpleNamespace(
            kill=self.lose, cut=self.lose, freeze=self.lose, thaw=id, heal=id
        )
        self.done: list[str] = []
        self.on = {"h1", "h2"}
        self.losses: list[dict[str, Any]] = []

    @property
    def updates(self) -> int:
        return 100

    def restarts(self) -> list[Any]:
        return self.losses

    def until(self, is_so: Callable[[], bool], what: str) -> None:
        assert is_so(), what

    def go_on(self, updates: int) -> None:
        pass

    def lose(self, name: str) -> None:
        self.change(self.on - {name})

    def add(self, *names: str) -> None:
        self.done += [f"{name} back" for name in names]
        self.change(self.on | set(names))

    def take_away(self, name: str) -> None:
        self.done.append(f"{name} taken away")
        self.lose(name)

    def change(self, on: set[str]) -> None:
        if on != self.on:
            record = {"workers_before": len(self.on), "workers": len(on), "updates_lost": 3}
            self.losses.append(record | {"time": time.time() + 8})
            self.on = on


@pytest.mark.parametrize("fault", LOSES_HOST)
def test_a_lost_host_costs_twice_and_comes_back(fault: str, tmp_path: Path) -> None:
    stage = Pretence(tmp_path)
    lost, back = inject(stage, fault, random.Random(1))
    assert (lost.fault, lost.update, lost.workers, lost.updates_lost) == (fault, 100, "2 -> 1", 3)
    assert 7 < lost.seconds < 9
    assert (back.fault, back.workers, back.updates_lost) == ("host is back", "1 -> 2", 3)
    assert stage.done[-1].endswith(" back")
    assert stage.done[0].endswith(" taken away") == (fault == "host preempted")


def test_two_then_one_then_three_then_two_workers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(drill, "begin", lambda *_: tmp_path)
    monkeypatch.setattr(drill, "_end", lambda *_: "the end")
    stage: Any = Pretence(tmp_path)
    *changes, end = drill.resize(stage, stage, tmp_path, 40)
    assert [each.workers for each in changes] == ["2 -> 1", "1 -> 3", "3 -> 2"]
    assert end == "the end"


def test_records_are_read_up_to_a_line_that_is_half_there(tmp_path: Path) -> None:
    stage = Stage.__new__(Stage)
    stage.run_dir = tmp_path
    assert stage.restarts() == []
    (tmp_path / "metrics.jsonl").write_text(
        '{"kind": "train", "update": 1}\n{"kind": "restart", "update": 2}\n{"kind": "restart", "up'
    )
    assert stage.restarts() == [{"kind": "restart", "update": 2}]
