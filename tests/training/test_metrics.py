import json
import math
import resource
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from nmt.batching.batch import Batch, make_batch
from nmt.training import metrics
from nmt.training.distributed import World
from nmt.training.loss import LossSums
from nmt.training.metrics import Journal, Meter, MeterTotals, describe, perplexity

BATCH = make_batch([([5, 6, 7], [8]), ([9], [10, 11])])  # 6 src and 5 tgt tokens in 14 positions


def sums(smoothed: float, nll: float) -> LossSums:
    return LossSums(torch.tensor(smoothed), torch.tensor(nll))


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Iterator[SimpleNamespace]:
    """Time that passes when a test says so."""
    fake = SimpleNamespace(now=100.0)
    monkeypatch.setattr(
        metrics, "time", SimpleNamespace(perf_counter=lambda: fake.now, time=lambda: 1.5)
    )
    return fake


def count(meter: Meter, batch: Batch, loss: LossSums, grad_norm: float) -> None:
    meter.count(batch, loss)
    meter.end_update(grad_norm)


def test_means_are_over_tokens_updates_and_seconds(clock: SimpleNamespace) -> None:
    """P11."""
    meter = Meter()
    count(meter, BATCH, sums(12.5, 10.0), grad_norm=1.0)
    count(meter, BATCH, sums(7.5, 5.0), grad_norm=3.0)
    clock.now += 2.0
    meter.wait_s = 0.5
    found = meter.totals(World()).summarise()
    assert found == {
        "loss": 2.0,
        "nll": 1.5,
        "perplexity": pytest.approx(math.exp(1.5)),
        "grad_norm": 2.0,
        "src_tokens_per_s": 6.0,
        "tgt_tokens_per_s": 5.0,
        "data_wait_percent": 25.0,
        "padding_percent": pytest.approx(100 * 3 / 14),
    }


def test_an_update_may_have_several_micro_batches() -> None:
    meter = Meter()
    meter.count(BATCH, sums(10.0, 10.0))
    count(meter, BATCH, sums(20.0, 20.0), grad_norm=1.0)
    found = meter.totals(World())
    assert (found.smoothed, found.tokens, found.updates) == (30.0, 10.0, 1.0)


def test_what_is_done_in_a_pause_is_not_in_the_speed(clock: SimpleNamespace) -> None:
    """P11."""
    meter = Meter()
    clock.now += 1.0
    with meter.paused():
        clock.now += 50.0
    assert meter.totals(World()).elapsed_s == 1.0


@pytest.mark.parametrize("norm", [math.nan, math.inf])
def test_a_skipped_update_is_in_the_speed_and_not_in_the_means(norm: float) -> None:
    meter = Meter()
    count(meter, BATCH, sums(10.0, 10.0), grad_norm=1.0)
    count(meter, BATCH, sums(math.nan, math.nan), grad_norm=norm)
    totals = meter.totals(World())
    assert (totals.src_tokens, totals.tgt_tokens, totals.tokens) == (12.0, 10.0, 5.0)
    assert totals.summarise()["loss"] == 2.0
    assert totals.summarise()["grad_norm"] == 1.0


def test_nothing_but_skipped_updates_has_no_means() -> None:
    meter = Meter()
    count(meter, BATCH, sums(math.nan, math.nan), grad_norm=math.nan)
    found = meter.totals(World()).summarise()
    assert [found[name] for name in ("loss", "nll", "perplexity", "grad_norm")] == [None] * 4


def test_counting_goes_on_after_a_stop_bit_for_bit(clock: SimpleNamespace) -> None:
    """P4."""
    losses = [sums(0.1 * n, 0.7 / n) for n in (3, 7, 9, 11)]
    whole = Meter()
    for loss in losses:
        count(whole, BATCH, loss, grad_norm=float(loss.nll))
    clock.now += 4.0
    before = Meter()
    for loss in losses[:2]:
        count(before, BATCH, loss, grad_norm=float(loss.nll))
    clock.now += 1.0
    kept = json.loads(json.dumps(before.totals(World()).__dict__))
    clock.now += 1000.0
    after = Meter(MeterTotals(**kept))
    for loss in losses[2:]:
        count(after, BATCH, loss, grad_norm=float(loss.nll))
    clock.now += 3.0
    expected = MeterTotals(**{**whole.totals(World()).__dict__, "elapsed_s": 4.0})
    assert after.totals(World()) == expected


@pytest.mark.parametrize(
    ("nll", "expected"), [(0.0, 1.0), (2.0, math.exp(2.0)), (800.0, math.exp(50.0))]
)
def test_perplexity_is_finite(nll: float, expected: float) -> None:
    assert perplexity(nll) == expected


def test_no_number_has_no_perplexity() -> None:
    assert math.isnan(perplexity(math.nan))


# The journal.


def records_of(folder: Path) -> list[dict[str, Any]]:
    text = (folder / "metrics.jsonl").read_text(encoding="utf-8")
    return [json.loads(line, parse_constant=pytest.fail) for line in text.splitlines()]


def journal(folder: Path, update: int = 0) -> Journal:
    return Journal(folder, update, lambda line: None)


def test_records_are_json_lines(tmp_path: Path) -> None:
    written = journal(tmp_path)
    written.write("train", 5, {"loss": 1.5, "signature": "ä"})
    written.close()
    (record,) = records_of(tmp_path)
    assert isinstance(record.pop("time"), float)
    assert record == {"kind": "train", "update": 5, "loss": 1.5, "signature": "ä"}


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_a_number_that_is_not_finite_is_null(value: float, tmp_path: Path) -> None:
    """P11."""
    written = journal(tmp_path)
    written.write("train", 5, {"loss": value})
    written.close()
    assert records_of(tmp_path)[0]["loss"] is None


def test_records_of_updates_that_are_trained_again_go(tmp_path: Path) -> None:
    """P4."""
    written = journal(tmp_path)
    for update in (4, 8, 12):
        written.write("train", update, {"loss": 1.0})
    written.close()
    journal(tmp_path, update=8).close()
    assert [record["update"] for record in records_of(tmp_path)] == [4, 8]


def test_a_torn_line_goes(tmp_path: Path) -> None:
    """P4."""
    (tmp_path / "metrics.jsonl").write_text('{"kind": "train", "update": 4}\n{"kind": "tra')
    journal(tmp_path, update=8).close()
    assert [record["update"] for record in records_of(tmp_path)] == [4]


def test_lines_for_people_go_to_the_log_and_to_who_listens(tmp_path: Path) -> None:
    heard: list[str] = []
    written = Journal(tmp_path, 0, heard.append)
    written.say("update 1: fine")
    written.close()
    assert heard == ["update 1: fine"]
    assert (tmp_path / "train.log").read_text(encoding="utf-8").endswith(" update 1: fine\n")


def test_records_of_losses_stay_though_updates_are_trained_again(tmp_path: Path) -> None:
    """P11."""
    written = journal(tmp_path)
    written.write("restart", 12, {"updates_lost": 3})
    written.write("train", 12, {"loss": 1.0})
    written.close()
    journal(tmp_path, update=8).close()
    assert [record["kind"] for record in records_of(tmp_path)] == ["restart"]


def test_lines_that_a_full_disk_does_not_take_are_written_later(tmp_path: Path) -> None:
    """P4: a full disk neither stops a run nor tears its records."""
    written = journal(tmp_path)
    written.write("train", 1, {"loss": 1.0})
    # Files may grow by 20 bytes more: part of a record.
    limit = (tmp_path / "metrics.jsonl").stat().st_size + 20
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, before[1]))
    try:
        written.write("train", 2, {"loss": 2.0})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert [record["update"] for record in records_of(tmp_path)] == [1]
    written.write("train", 3, {"loss": 3.0})
    written.close()
    assert [record["update"] for record in records_of(tmp_path)] == [1, 2, 3]


def test_translations_of_the_dev_set_are_kept(tmp_path: Path) -> None:
    written = journal(tmp_path)
    written.keep_hyps(500, "de", ["ein Hund", "", "ä\u2028b"])
    written.close()
    file = tmp_path / "dev" / "update-00000500.de"
    assert file.read_bytes() == "ein Hund\n\nä\u2028b\n".encode()


def test_tensorboard_has_events(tmp_path: Path) -> None:
    written = journal(tmp_path)
    written.write("train", 5, {"loss": 1.5})
    written.close()
    (events,) = (tmp_path / "tensorboard").iterdir()
    assert b"train/loss" in events.read_bytes()


# The line of an update.

VALUES = {
    "epoch": 1.254,
    "loss": 2.3456,
    "perplexity": 8.765,
    "learning_rate": 0.0012,
    "grad_norm": 0.987,
    "src_tokens_per_s": 12345.6,
    "tgt_tokens_per_s": 2345.6,
    "data_wait_percent": 0.26,
    "padding_percent": 5.44,
    "eta_s": 3725.0,
    "skipped": 0,
    "split": 0,
}


def test_every_number_of_a_log_line_has_its_unit() -> None:
    """P11."""
    assert describe(1500, VALUES) == (
        "update 1,500 (epoch 1.25): loss 2.346 nats/token, perplexity 8.77, lr 1.20e-03, "
        "gradient norm 0.99, 12,346 src + 2,346 tgt tokens/s, data wait 0.3 %, padding 5.4 %, "
        "ETA 1:02:05"
    )


def test_a_log_line_tells_of_skipped_updates_and_of_what_is_not_known() -> None:
    none = {"loss": None, "perplexity": None, "grad_norm": None}
    assert describe(3, VALUES | none | {"skipped": 3, "split": 1}) == (
        "update 3 (epoch 1.25): loss - nats/token, perplexity -, lr 1.20e-03, "
        "gradient norm -, 12,346 src + 2,346 tgt tokens/s, data wait 0.3 %, padding 5.4 %, "
        "ETA 1:02:05, 3 updates skipped, 1 micro-batches split"
    )
