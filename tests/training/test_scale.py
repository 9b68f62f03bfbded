"""Training in fp16: what the loss counts, and gradients that overflow."""

from pathlib import Path

import pytest
import torch
from toy_ends import assert_same, counters_of, end_of, records_of, rows_of, tensors_of
from toy_runs import Run, go

from nmt.training.state import FIRST, GOOD_UPDATES, LossScale

FP16 = "training.precision=fp16"


def test_a_scale_is_halved_by_an_overflow_and_doubled_by_many_updates_without() -> None:
    scale = LossScale()
    for _ in range(GOOD_UPDATES - 1):
        scale.end_update()
    assert scale.value == FIRST
    scale.end_update()
    assert scale == LossScale(2 * FIRST, 0)
    scale.end_update()
    scale.lower()
    assert scale == LossScale(FIRST, 0)


def test_an_update_that_overflows_is_made_again_and_no_pair_is_skipped(gloo: Path) -> None:
    """P2 and P3: at one of two workers, whose scales stay equal."""
    run = gloo / "half"
    lowered = [record for record in records_of(run) if record["kind"] == "scale"]
    assert lowered == [
        {"kind": "scale", "update": 1, "loss_scale": 2.0**power} for power in (15, 14, 13, 12)
    ]
    assert counters_of(run)["num_skipped"] == 0
    assert counters_of(run)["scale"] == {"value": 2.0**12, "good_updates": 6}
    assert rows_of(run) == rows_of(gloo / "roomy")


def test_fp16_learns_what_fp32_learns(gloo: Path) -> None:
    half, whole = end_of(gloo / "half").weights, end_of(gloo / "roomy").weights
    for name, tensor in whole.items():
        assert half[name].dtype == torch.float32
        assert torch.allclose(half[name], tensor, atol=2e-3), name


def test_an_overflow_is_told(gloo: Path) -> None:
    """P11."""
    log = (gloo / "half" / "train.log").read_text(encoding="utf-8")
    assert (
        "update 1: a gradient overflowed fp16; the update is made again with a loss scale of "
        "32,768\n"
    ) in log


def test_a_loss_that_is_no_number_is_not_the_fault_of_the_scale(gloo: Path) -> None:
    run = gloo / "half-broken"
    assert [r["kind"] for r in records_of(run) if r["kind"] in ("scale", "skipped")] == ["skipped"]
    assert counters_of(run)["scale"] == {"value": FIRST, "good_updates": 5}


def test_a_gradient_that_is_infinite_at_any_scale_is_skipped(toy_file: Path) -> None:
    go(toy_file, Run("half-poisoned", overrides=[FP16, "training.updates=6"], poisoned=[1]))
    run = toy_file.parent / "half-poisoned"
    kinds = [r["kind"] for r in records_of(run) if r["kind"] in ("scale", "skipped")]
    assert kinds == ["scale"] * 16 + ["skipped"]
    assert counters_of(run)["scale"] == {"value": 1.0, "good_updates": 4}
    assert all(tensor.isfinite().all() for tensor in tensors_of(run).values())


def test_a_run_in_fp16_goes_on_bit_for_bit(toy_file: Path) -> None:
    """P4."""
    short = [FP16, "training.updates=12"]
    go(toy_file, Run("half-whole", overrides=short, bears=2.0**14))
    go(toy_file, Run("half-stopped", overrides=short, bears=2.0**14, stop_after=7))
    go(toy_file, Run("half-stopped", overrides=short))
    whole, stopped = (toy_file.parent / f"half-{name}" for name in ("whole", "stopped"))
    assert counters_of(whole)["scale"] == {"value": 2.0**14, "good_updates": 12}
    assert_same(stopped, whole)


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_other_numbers_have_no_scale(toy_file: Path, precision: str) -> None:
    name = f"unscaled-{precision}"
    overrides = [f"training.precision={precision}", "training.updates=6"]
    go(toy_file, Run(name, overrides=overrides, poisoned=[1]))
    run = toy_file.parent / name
    kinds = [r["kind"] for r in records_of(run) if r["kind"] in ("scale", "skipped")]
    assert kinds == ["skipped"]
    assert counters_of(run)["scale"] == {"value": FIRST, "good_updates": 0}
