"""Workers that are lost, and what that has cost."""

import re
import time
from pathlib import Path

import pytest
from toy_ends import assert_same, records_of
from toy_runs import LostError, Run, corpus_of, go

from nmt.checkpoint.run_directory import list_checkpoints
from nmt.config.files import load_experiment
from nmt.training.distributed import World
from nmt.training.loop import train
from nmt.training.run_log import LastUpdate, read
from nmt.training.stop_control import RunHooks


def test_what_a_loss_has_cost_is_recorded(toy_file: Path, one: Path) -> None:
    """P4, P11."""
    run = toy_file.parent / "lost"
    with pytest.raises(LostError):
        go(toy_file, Run(run.name, lost_after=15, max_lost_updates=7))
    assert [path.name for path in list_checkpoints(run)] == ["update-00000010", "update-00000012"]
    go(toy_file, Run(run.name, max_lost_updates=7))
    (record,) = [record for record in records_of(run) if record["kind"] == "restart"]
    assert 0 < record.pop("s_lost") < 60
    assert record == {
        "kind": "restart",
        "update": 13,
        "why": "a worker died",
        "from_update": 12,
        "updates_lost": 3,
        "workers_before": 1,
        "workers": 1,
    }
    log = (run / "train.log").read_text(encoding="utf-8")
    assert re.search(
        r"restarted \(a worker died\): went on after update 12; 3 updates and \d+\.\d s lost\n", log
    )
    assert_same(one, run)


def test_a_loss_is_recorded_though_the_lost_host_had_the_file(toy_file: Path) -> None:
    """P11."""
    run = toy_file.parent / "lost-host"
    with pytest.raises(LostError):
        go(toy_file, Run(run.name, lost_after=12))
    (run / "pulse.json").unlink()
    experiment = load_experiment(toy_file)
    last = LastUpdate(12, time.time() - 5, 1)
    hooks = RunHooks(loss_reason="worker 0 died with the host", last_update=last)
    train(experiment, corpus_of(experiment), World(), run, hooks=hooks)
    (record,) = [record for record in records_of(run) if record["kind"] == "restart"]
    assert (record["why"], record["updates_lost"]) == ("worker 0 died with the host", 2)
    assert record["s_lost"] >= 5


def test_a_run_that_was_stopped_has_lost_nothing(toy_file: Path, stopped: Path) -> None:
    assert read(stopped) is None
