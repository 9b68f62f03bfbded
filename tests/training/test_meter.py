import json
import math
from collections.abc import Iterator
from types import SimpleNamespace

import pytest
import torch

from nmt.training import meter as meter_module
from nmt.training.distributed import World
from nmt.training.loss import LossSums
from nmt.training.meter import Meter, MeterTotals, UpdateStats, perplexity


def sums(smoothed: float, nll: float) -> LossSums:
    return LossSums(torch.tensor(smoothed), torch.tensor(nll))


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Iterator[SimpleNamespace]:
    """Time that passes when a test sets it."""
    fake = SimpleNamespace(now=100.0)
    monkeypatch.setattr(
        meter_module, "time", SimpleNamespace(perf_counter=lambda: fake.now, time=lambda: 1.5)
    )
    return fake


def count(meter: Meter, losses: list[LossSums], gnorm: float) -> None:
    """Count an update of 6 source and 5 target tokens in 14 positions for each loss."""
    n = len(losses)
    is_skipped = not math.isfinite(gnorm)
    meter.add(UpdateStats(1, losses, gnorm, 6 * n, 5 * n, 14 * n, [], is_skipped))


def test_means_are_over_tokens_updates_and_seconds(clock: SimpleNamespace) -> None:
    """Honest numbers (nmt/README.md, Guarantees)."""
    meter = Meter()
    count(meter, [sums(12.5, 10.0)], gnorm=1.0)
    count(meter, [sums(7.5, 5.0)], gnorm=3.0)
    clock.now += 2.0
    meter.wait_s = 0.5
    assert meter.totals(World()).summary() == {
        "smoothed_loss": 2.0,
        "loss": 1.5,
        "ppl": pytest.approx(math.exp(1.5)),
        "gnorm": 2.0,
        "src_tokens_per_s": 6.0,
        "tgt_tokens_per_s": 5.0,
        "data_wait_percent": 25.0,
        "padding_percent": pytest.approx(100 * 3 / 14),
    }


def test_an_update_may_have_several_micro_batches() -> None:
    meter = Meter()
    count(meter, [sums(10.0, 10.0), sums(20.0, 20.0)], gnorm=1.0)
    totals = meter.totals(World())
    assert (totals.smoothed, totals.tokens, totals.updates) == (30.0, 10.0, 1.0)


def test_pauses_are_not_in_the_speed(clock: SimpleNamespace) -> None:
    meter = Meter()
    clock.now += 1.0
    with meter.paused():
        clock.now += 50.0
    assert meter.totals(World()).elapsed_s == 1.0


@pytest.mark.parametrize("gnorm", [math.nan, math.inf])
def test_a_skipped_update_counts_for_speed_only(gnorm: float) -> None:
    meter = Meter()
    count(meter, [sums(10.0, 10.0)], gnorm=1.0)
    count(meter, [sums(math.nan, math.nan)], gnorm=gnorm)
    totals = meter.totals(World())
    assert (totals.src_tokens, totals.tgt_tokens, totals.tokens) == (12.0, 10.0, 5.0)
    assert totals.summary()["smoothed_loss"] == 2.0
    assert totals.summary()["gnorm"] == 1.0


def test_skipped_updates_alone_have_no_means() -> None:
    meter = Meter()
    count(meter, [sums(math.nan, math.nan)], gnorm=math.nan)
    found = meter.totals(World()).summary()
    assert [found[name] for name in ("loss", "smoothed_loss", "ppl", "gnorm")] == [None] * 4


def test_counts_resume_bit_for_bit(clock: SimpleNamespace) -> None:
    """Exact resume (nmt/README.md, Guarantees)."""
    losses = [sums(0.1 * n, 0.7 / n) for n in (3, 7, 9, 11)]
    whole = Meter()
    for loss in losses:
        count(whole, [loss], gnorm=float(loss.nll))
    clock.now += 4.0
    before = Meter()
    for loss in losses[:2]:
        count(before, [loss], gnorm=float(loss.nll))
    clock.now += 1.0
    kept = json.loads(json.dumps(before.totals(World()).__dict__))
    clock.now += 1000.0
    after = Meter(MeterTotals(**kept))
    for loss in losses[2:]:
        count(after, [loss], gnorm=float(loss.nll))
    clock.now += 3.0
    expected = MeterTotals(**{**whole.totals(World()).__dict__, "elapsed_s": 4.0})
    assert after.totals(World()) == expected


@pytest.mark.parametrize(
    ("loss", "expected"), [(0.0, 1.0), (2.0, math.exp(2.0)), (800.0, math.exp(50.0))]
)
def test_perplexity_is_finite(loss: float, expected: float) -> None:
    assert perplexity(loss) == expected


def test_the_perplexity_of_nan_is_nan() -> None:
    assert math.isnan(perplexity(math.nan))
