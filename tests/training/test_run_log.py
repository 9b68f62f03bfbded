"""Files of a run: log, metrics, heartbeat, TensorBoard, dev translations."""

import json
import math
import re
import resource
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from toy_results import assert_same, records_of
from toy_runs import LostError, Run, corpus_of, go

from nmt.checkpoint.run_directory import list_checkpoints
from nmt.config.files import load_experiment
from nmt.training import run_log
from nmt.training.distributed import World
from nmt.training.loop import train
from nmt.training.run_log import (
    LastUpdate,
    RunLogger,
    format_train_line,
    read_heartbeat,
    read_records,
)
from nmt.training.stop_control import RunHooks


def make_logger(folder: Path, update: int = 0, num_workers: int = 1) -> RunLogger:
    return RunLogger(folder, update, num_workers, lambda line: None)


def raw_records(folder: Path) -> list[dict[str, Any]]:
    text = (folder / "metrics.jsonl").read_text(encoding="utf-8")
    return [json.loads(line, parse_constant=pytest.fail) for line in text.splitlines()]


# metrics.jsonl.


def test_records_are_json_lines(tmp_path: Path) -> None:
    logger = make_logger(tmp_path)
    logger.write("train", 5, {"loss": 1.5, "signature": "ä"})
    logger.close()
    (record,) = raw_records(tmp_path)
    assert isinstance(record.pop("time"), float)
    assert record == {"kind": "train", "update": 5, "loss": 1.5, "signature": "ä"}


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_a_number_that_is_not_finite_is_null(value: float, tmp_path: Path) -> None:
    logger = make_logger(tmp_path)
    logger.write("train", 5, {"loss": value})
    logger.close()
    assert raw_records(tmp_path)[0]["loss"] is None


def test_records_of_repeated_updates_are_removed(tmp_path: Path) -> None:
    """Exact resume (nmt/README.md, Guarantees)."""
    logger = make_logger(tmp_path)
    for update in (4, 8, 12):
        logger.write("train", update, {"loss": 1.0})
    logger.close()
    make_logger(tmp_path, update=8).close()
    assert [record["update"] for record in raw_records(tmp_path)] == [4, 8]


def test_a_torn_line_is_removed(tmp_path: Path) -> None:
    (tmp_path / "metrics.jsonl").write_text('{"kind": "train", "update": 4}\n{"kind": "tra')
    records, unreadable = read_records(tmp_path)
    assert ([record["update"] for record in records], unreadable) == ([4], [])
    make_logger(tmp_path, update=8).close()
    assert [record["update"] for record in raw_records(tmp_path)] == [4]


def test_damaged_lines_stay_and_are_not_read(tmp_path: Path) -> None:
    lines = [
        b'{"kind": "train", "update": 4}',
        b'{"kind": "train"}',
        b'{"kind": 1, "update": 1}',
        b'{"kind": "train", "update": "4"}',
        b"\xff{}",
        b"{{}}",
        b'{"kind": "a", "update": 5}',
    ]
    (tmp_path / "metrics.jsonl").write_bytes(b"\n".join(lines) + b"\n")
    records, unreadable = read_records(tmp_path)
    assert ([record["update"] for record in records], unreadable) == ([4, 5], [2, 3, 4, 5, 6])
    make_logger(tmp_path, update=4).close()
    # A report counts them; later updates are removed.
    assert (tmp_path / "metrics.jsonl").read_bytes().split(b"\n") == [*lines[:-1], b""]


def test_records_of_restarts_stay_though_updates_repeat(tmp_path: Path) -> None:
    """Honest numbers (nmt/README.md, Guarantees)."""
    logger = make_logger(tmp_path)
    logger.write("restart", 12, {"updates_lost": 3})
    logger.write("train", 12, {"loss": 1.0})
    logger.close()
    make_logger(tmp_path, update=8).close()
    assert [record["kind"] for record in raw_records(tmp_path)] == ["restart"]


def test_records_that_a_full_disk_refuses_come_later(tmp_path: Path) -> None:
    logger = make_logger(tmp_path)
    logger.write("train", 1, {"loss": 1.0})
    # Files may grow by 20 bytes more: part of a record.
    limit = (tmp_path / "metrics.jsonl").stat().st_size + 20
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, before[1]))
    try:
        logger.write("train", 2, {"loss": 2.0})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert [record["update"] for record in raw_records(tmp_path)] == [1]
    logger.write("train", 3, {"loss": 3.0})
    logger.close()
    assert [record["update"] for record in raw_records(tmp_path)] == [1, 2, 3]


OLD_RECORDS = [
    {"kind": "train", "update": 4, "loss": 2.5, "nll": 2.0, "perplexity": 7.4, "grad_norm": 0.5,
     "learning_rate": 1e-3, "epoch": 0.5, "tgt_tokens_per_s": 9.0},
    {"kind": "validation", "update": 4, "bleu": 30.0, "nll": 1.5, "perplexity": 4.5,
     "train_nll": 2.0, "best_bleu": 31.0, "best_update": 2},
    {"kind": "skipped", "update": 5, "grad_norm": "inf", "pairs": [1]},
    {"kind": "restart", "update": 6, "updates_lost": 2},
]  # fmt: skip
CURRENT_RECORDS = [
    {"kind": "train", "update": 4, "smoothed_loss": 2.5, "loss": 2.0, "ppl": 7.4, "gnorm": 0.5,
     "lr": 1e-3, "ep": 0.5, "tgt_tokens_per_s": 9.0},
    {"kind": "validation", "update": 4, "dev_bleu": 30.0, "dev_loss": 1.5, "dev_ppl": 4.5,
     "loss": 2.0, "best_dev_bleu": 31.0, "best_update": 2},
    {"kind": "skipped", "update": 5, "gnorm": "inf", "pairs": [1]},
    {"kind": "restart", "update": 6, "updates_lost": 2},
]  # fmt: skip


@pytest.mark.parametrize("records", [OLD_RECORDS, CURRENT_RECORDS])
def test_records_of_any_version_are_read(tmp_path: Path, records: list[dict[str, Any]]) -> None:
    text = "".join(f"{json.dumps(record)}\n" for record in records)
    (tmp_path / "metrics.jsonl").write_text(text)
    assert read_records(tmp_path) == (CURRENT_RECORDS, [])


DAMAGED = [
    "{", "[]", "[1]", '"train"', "null", "", "\0\0\0", '{"kind": "train"}',
    '{"update": 1}', '{"kind": ["train"], "update": 1}', '{"kind": "train", "update": "1"}',
    '{"kind": "train", "update": 1.5}', '{"kind": "train", "update": -1}',
    '{"kind": "train", "update": true}', '{"kind": "train", "update": 1, "loss": "2"}',
    '{"kind": "train", "update": 1, "loss": Infinity}',
    '{"kind": "train", "update": 1, "lr": NaN}', '{"kind": "train", "update": 1, "lr": 1e999}',
    '{"kind": "train", "update": 1, "time": 1e300}',
    '{"kind": "train", "update": 1, "train_s": null}',
    '{"kind": "validation", "update": 1, "dev_loss": 1.0}',
    '{"kind": "validation", "update": 1, "dev_bleu": null, "dev_loss": 1.0}',
    '{"kind": "restart", "update": 1' + "0" * 5000 + "}",
    '{"kind": "restart", "update": 1, "why": ' + "[" * 5000 + "]" * 5000 + "}",
    '{"kind": "restart", "update": 1, "why": "\\ud83d"}', "\u2028", "\xff",
]  # fmt: skip


@pytest.mark.parametrize("line", DAMAGED, ids=range(len(DAMAGED)))
def test_an_unreadable_record_is_kept_and_counted(line: str, tmp_path: Path) -> None:
    good = b'{"kind": "train", "update": 2, "loss": null}\n'
    (tmp_path / "metrics.jsonl").write_bytes(line.encode("latin-1", "replace") + b"\n" + good)
    make_logger(tmp_path, update=8).close()
    records, unreadable = read_records(tmp_path)
    assert ([record["update"] for record in records], unreadable) == ([2], [1])


# Other files.


def test_log_lines_go_to_the_log_and_to_the_callback(tmp_path: Path) -> None:
    lines: list[str] = []
    logger = RunLogger(tmp_path, 0, 1, lines.append)
    logger.log("update 1 | loss 1.0")
    logger.close()
    assert lines == ["update 1 | loss 1.0"]
    log = (tmp_path / "train.log").read_text(encoding="utf-8")
    assert re.fullmatch(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d update 1 \| loss 1\.0\n", log)


def test_the_bleu_signature_is_logged_once(tmp_path: Path) -> None:
    lines: list[str] = []
    logger = RunLogger(tmp_path, 0, 1, lines.append)
    for update in (1, 2):
        logger.log_dev_score(f"update {update}", "BLEU|nrefs:1", 5)
    logger.close()
    assert lines == ["dev BLEU signature BLEU|nrefs:1 | beam 5", "update 1", "update 2"]


def test_dev_translations_are_written(tmp_path: Path) -> None:
    logger = make_logger(tmp_path)
    logger.write_hyps(500, "de", ["ein Hund", "", "ä\u2028b"])
    logger.close()
    file = tmp_path / "dev" / "update-00000500.de"
    assert file.read_bytes() == "ein Hund\n\nä\u2028b\n".encode()


def test_tensorboard_has_events(tmp_path: Path) -> None:
    logger = make_logger(tmp_path)
    logger.write("train", 5, {"loss": 1.5})
    logger.close()
    (events,) = (tmp_path / "tensorboard").iterdir()
    assert b"train/loss" in events.read_bytes()


# Log line of updates.

VALUES = {
    "ep": 3.854, "loss": 0.3221, "ppl": 1.38, "lr": 0.0025, "gnorm": 0.333,
    "src_tokens_per_s": 25612.3, "tgt_tokens_per_s": 25412.3, "data_wait_percent": 1.96,
    "padding_percent": 9.44, "eta_s": 45.6, "skipped": 0, "overflows": 0,
}  # fmt: skip
LINE = "update 600 | ep 3.85 | loss 0.322 | ppl 1.38 | lr 2.5e-03 | gnorm 0.33 | 25.6k/25.4k tok/s"


def test_a_log_line_has_the_values_of_the_record() -> None:
    assert format_train_line(600, VALUES) == f"{LINE} | ETA 0:45"


@pytest.mark.parametrize(
    ("change", "end"),
    [
        ({"eta_s": 620.0}, "ETA 10:20"),
        ({"eta_s": 3725.0}, "ETA 1:02:05"),
        ({"data_wait_percent": 2.3}, "ETA 0:45 | data wait 2.3 %"),
        ({"padding_percent": 12.0}, "ETA 0:45 | padding 12.0 %"),
        ({"skipped": 3, "overflows": 1}, "ETA 0:45 | 3 skipped | 1 overflows"),
    ],
)
def test_a_log_line_mentions_what_is_unusual(change: dict[str, float], end: str) -> None:
    assert format_train_line(600, VALUES | change) == f"{LINE} | {end}"


def test_a_log_line_shows_unknown_values_as_a_dash() -> None:
    unknown: dict[str, float | None] = {"loss": None, "ppl": None, "gnorm": None}
    line = format_train_line(600, VALUES | unknown)
    assert "| loss - | ppl - | lr 2.5e-03 | gnorm - |" in line


# Heartbeat and restarts.


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        run_log, "time", SimpleNamespace(time=lambda: 1000.0, strftime=lambda form: "now")
    )


@pytest.mark.parametrize(
    "text",
    ['{"update": 7, "time": 1.5, "workers": "2"}', '{"update": -1, "time": 1.5, "workers": 2}',
     '{"update": 7, "time": NaN, "workers": 2}', '{"update": 7}', "[]", "\udcff", ""],
)  # fmt: skip
def test_a_damaged_heartbeat_is_none(text: str, tmp_path: Path) -> None:
    (tmp_path / "pulse.json").write_bytes(text.encode(errors="surrogateescape"))
    assert read_heartbeat(tmp_path) is None


def test_lost_workers_leave_a_heartbeat(tmp_path: Path) -> None:
    first = make_logger(tmp_path, num_workers=2)
    first.heartbeat(1_000_000)
    first.heartbeat(7)
    first.close()
    found = read_heartbeat(tmp_path)
    assert found is not None
    assert (found.update, found.workers) == (7, 2)
    second = make_logger(tmp_path, num_workers=1)
    second.end("finished")
    second.close()
    assert read_heartbeat(tmp_path) is None


@pytest.mark.parametrize(
    ("before", "reason", "reported", "corrupt", "line", "lost"),
    [
        (
            LastUpdate(92, 989.0, 2),
            "worker 1 died with its host",
            LastUpdate(95, 990.0, 1),
            [],
            "restarted: worker 1 died with its host; from 2 to 1 workers | resumed from update 80 "
            "| lost 15 updates, 10.0 s",
            (15, 10.0, 2),
        ),
        (
            LastUpdate(80, 989.0, 1),
            "",
            None,
            ["x is corrupt"],
            "restarted: the run ended without a last checkpoint; x is corrupt | resumed from "
            "update 80 | lost 0 updates, 11.0 s",
            (0, 11.0, 1),
        ),
    ],
)
def test_a_restart_logs_its_cost_after_the_next_update(
    tmp_path: Path,
    clock: None,
    before: LastUpdate,
    reason: str,
    reported: LastUpdate | None,
    corrupt: list[str],
    line: str,
    lost: tuple[int, float, int],
) -> None:
    """Honest numbers (nmt/README.md, Guarantees)."""
    (tmp_path / "pulse.json").write_text(json.dumps(before.__dict__))
    lines: list[str] = []
    logger = RunLogger(tmp_path, 80, 1, lines.append)
    logger.expect_restart(reason, reported, corrupt)
    assert lines == []
    logger.heartbeat(81)
    logger.heartbeat(82)
    logger.close()
    assert lines == [line]
    (record,) = raw_records(tmp_path)
    assert (record["kind"], record["update"]) == ("restart", 81)
    assert (record["updates_lost"], record["s_lost"], record["workers_before"]) == lost


def test_the_cost_of_a_lost_worker_is_recorded(toy_file: Path, one: Path) -> None:
    """Honest numbers (nmt/README.md, Guarantees)."""
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
        r" restarted: a worker died \| resumed from update 12 \| lost 3 updates, \d+\.\d s\n", log
    )
    assert_same(one, run)


def test_the_cost_is_known_without_the_heartbeat_file(toy_file: Path) -> None:
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


def test_a_stopped_run_leaves_no_heartbeat(toy_file: Path, stopped: Path) -> None:
    assert read_heartbeat(stopped) is None
