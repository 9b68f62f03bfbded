"""Drills: what is planned and told; and a quick one on a real cluster of three hosts."""

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
import faults
import hosts
import pytest
from drill import Ending, Run, broken_limits, plan, table, told
from faults import KEEPS_WORKERS, LOSES_HOST, Outcome, Stage, inject
from hosts import Hosts

ROOT = Path(__file__).resolve().parents[2]


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


@pytest.mark.parametrize(
    ("workers", "is_same", "distance", "is_good"),
    [
        ("2", True, 0.0, True),
        ("2", False, 1e-9, False),
        ("{min: 1, max: 2}", False, 1e-6, True),
        ("{min: 1, max: 2}", False, 1e-4, False),
    ],
)
def test_parameters_must_be_near_or_the_same_where_workers_stayed(
    workers: str, is_same: bool, distance: float, is_good: bool
) -> None:
    """P3, P4."""
    run = Run("some", workers, ["worker killed"])
    ending = Ending(run, 1200, is_same, distance, 1e-7, True, True)
    assert ending.is_good == is_good
    assert told(ending).endswith(": as promised" if is_good else ": NOT as promised")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (
            ["no.yaml"],
            "drill: no.yaml: there is no such file; configs/ holds the ones that come with nmt",
        ),
        (
            ["--faults", "many"],
            "Error: Invalid value for '--faults': 'many' is not a valid integer.",
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
    assert (done.returncode, done.stderr.splitlines()[-1]) == (2, message)


def test_settings_may_stand_without_an_experiment() -> None:
    if reason := hosts.lacking():
        pytest.skip(reason)
    done = subprocess.run(
        [sys.executable, "cluster/drill.py", "model.wdith=8"],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert (done.returncode, done.stderr.splitlines()[-1]) == (
        2,
        "drill: command line: model.wdith is not a setting; did you mean model.width?",
    )


def test_without_namespaces_a_drill_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """P9."""
    monkeypatch.setattr(drill, "lacking", lambda: "hosts in network namespaces need root")
    with pytest.raises(drill.NmtError) as error:
        drill.main([], standalone_mode=False)
    assert str(error.value) == "no drill: hosts in network namespaces need root"


@pytest.mark.ray
@pytest.mark.slow
def test_a_worker_and_a_host_are_lost_and_the_host_comes_back() -> None:
    """P3, P4: the quick drill: one worker killed, one host killed, one resize."""
    if reason := hosts.lacking():
        pytest.skip(reason)
    with tempfile.TemporaryDirectory(prefix="nmtd", dir="/tmp", ignore_cleanup_errors=True) as own:
        place = Path(own)
        small = ["model.width=32", "model.encoder_layers=1", "model.decoder_layers=1"]
        experiment = drill.load(str(ROOT / "configs/demo.yaml"), small, place)
        runs = [Run("quick", "{min: 1, max: 2}", ["worker killed", "host killed"])]
        with Hosts(place / "hosts") as some:
            stage = Stage(some, place)
            stage.up()
            found = list(drill.drill(stage, experiment, runs, place / "storage", gap=30, seed=1))
    *outcomes, ending = found
    assert [each.fault for each in outcomes if isinstance(each, Outcome)] == [
        "worker killed", "host killed", "host is back",
    ]  # fmt: skip
    assert [each.workers for each in outcomes if isinstance(each, Outcome)] == [
        "2 -> 2", "2 -> 1", "1 -> 2",
    ]  # fmt: skip
    assert broken_limits([each for each in outcomes if isinstance(each, Outcome)]) == []
    assert isinstance(ending, Ending)
    assert ending.is_good, told(ending)


# What is seen of a fault, on a stage that only pretends.


class Pretence(Stage):
    """A run that loses 3 updates with each fault and never waits."""

    def __init__(self, folder: Path) -> None:
        self.folder = self.run_dir = folder
        self.hosts: Any = SimpleNamespace(
            kill=self.lose, cut=self.lose, freeze=self.lose, thaw=id, heal=id
        )
        self.done: list[str] = []
        self.workers = 2
        self.losses: list[dict[str, Any]] = []

    @property
    def updates(self) -> int:
        return 100

    def restarts(self) -> list[Any]:
        return self.losses

    def until(self, is_so: Callable[[], bool], what: str) -> None:
        assert is_so(), what

    def lose(self, name: str) -> None:
        self.go_on(1)

    def back(self, name: str) -> None:
        self.done.append(f"{name} back")
        self.go_on(2)

    def drain(self, name: str) -> None:
        self.done.append(f"{name} drained")

    def go_on(self, workers: int) -> None:
        if workers != self.workers:
            before, self.workers = self.workers, workers
            record = {"workers_before": before, "workers": workers, "updates_lost": 3}
            self.losses.append(record | {"time": time.time() + 8})


@pytest.mark.parametrize("fault", LOSES_HOST)
def test_a_lost_host_costs_twice_and_comes_back(
    fault: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(faults, "DEADLINE_S", 0)
    stage = Pretence(tmp_path)
    lost, back = inject(stage, fault, random.Random(1))
    assert (lost.fault, lost.update, lost.workers, lost.updates_lost) == (fault, 100, "2 -> 1", 3)
    assert 7 < lost.seconds < 9
    assert (back.fault, back.workers, back.updates_lost) == ("host is back", "1 -> 2", 3)
    assert stage.done[-1].endswith(" back")
    assert ("drained" in stage.done[0]) == (fault == "host preempted")


def test_records_are_read_up_to_a_line_that_is_half_there(tmp_path: Path) -> None:
    stage = Stage.__new__(Stage)
    stage.run_dir = tmp_path
    assert stage.restarts() == []
    (tmp_path / "metrics.jsonl").write_text(
        '{"kind": "train", "update": 1}\n{"kind": "restart", "update": 2}\n{"kind": "restart", "up'
    )
    assert stage.restarts() == [{"kind": "restart", "update": 2}]
