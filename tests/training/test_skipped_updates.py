"""Updates without a finite gradient: skipped, or overflows of fp16."""

import json
from pathlib import Path

import pytest
import torch
from toy_results import assert_same, counters_of, end_of, records_of, rows_of, tensors_of
from toy_runs import GlooRuns, Run, go

from nmt.training.ledger import read_ledger

FP16 = "training.precision=fp16"


def kinds_of(run: Path) -> list[tuple[str, int]]:
    kinds = ("overflow", "skipped")
    return [(each["kind"], each["update"]) for each in records_of(run) if each["kind"] in kinds]


def test_all_ranks_skip_a_gradient_that_is_not_finite(faulty: GlooRuns) -> None:
    run = faulty / "skips"
    skipped = [record for record in records_of(run) if record["kind"] == "skipped"]
    pairs = sorted(row for _, rows in rows_of(run)["2"] for row in rows)
    assert skipped == [{"kind": "skipped", "update": 3, "gnorm": "inf", "pairs": pairs}]
    assert counters_of(run)["num_skipped"] == 1
    assert counters_of(run)["skipped_in_a_row"] == 0
    steps = {name: t for name, t in end_of(run).optimizer.items() if name.startswith("step/")}
    assert {step.item() for step in steps.values()} == {5}
    assert all(tensor.isfinite().all() for tensor in tensors_of(run).values())


def test_a_skipped_update_is_logged(faulty: GlooRuns) -> None:
    log = (faulty / "skips" / "train.log").read_text(encoding="utf-8")
    pairs = sorted(row for _, rows in rows_of(faulty / "skips")["2"] for row in rows)
    assert (
        f" update 3 skipped | gnorm inf | pairs {pairs[0]} to {pairs[-1]}, all {len(pairs)} in "
        "metrics.jsonl\n"
    ) in log
    assert " | 1 updates skipped\n" in log


def test_metrics_are_json_though_updates_are_skipped(faulty: GlooRuns) -> None:
    """Honest numbers (nmt/README.md, Guarantees)."""
    for line in (faulty / "skips" / "metrics.jsonl").read_text(encoding="utf-8").splitlines():
        json.loads(line, parse_constant=lambda constant: pytest.fail(constant))


def test_a_run_ends_after_max_skipped_updates_in_a_row(faulty: GlooRuns) -> None:
    """Actionable errors (nmt/README.md, Guarantees)."""
    for rank in (0, 1):
        assert (faulty / "fails" / f"error-{rank}.txt").read_text() == (
            "the gradient of 2 updates in a row was not finite, the last one update 3: lower "
            "training.learning_rate (0.003) or use training.precision=fp32; repeat the command to "
            "resume from the last checkpoint"
        )
    log = (faulty / "fails" / "train.log").read_text(encoding="utf-8")
    assert "update 3 skipped" in log
    assert "finished" not in log


# fp16: torch.amp.GradScaler.


def test_an_overflow_is_skipped_and_lowers_the_scale(faulty: GlooRuns) -> None:
    """On one of two ranks, whose scales stay equal."""
    run = faulty / "overflows"
    overflows = [record for record in records_of(run) if record["kind"] == "overflow"]
    assert overflows == [
        {"kind": "overflow", "update": 1, "loss_scale": 2.0**15},
        {"kind": "overflow", "update": 2, "loss_scale": 2.0**14},
    ]
    counters = counters_of(run)
    assert (counters["num_overflows"], counters["num_skipped"]) == (2, 0)
    assert counters["scale"] == {"value": 2.0**14, "good_updates": 4}
    assert all(tensor.isfinite().all() for tensor in tensors_of(run).values())
    log = (run / "train.log").read_text(encoding="utf-8")
    assert " update 1 skipped | fp16 gradient overflow | loss scale lowered to 32,768\n" in log


def test_the_ledger_marks_overflows_as_skipped(faulty: GlooRuns) -> None:
    entries = list(read_ledger(faulty / "overflows"))
    assert [entry.update for entry in entries if entry.is_skipped] == [1, 2]
    assert [entry.update for entry in entries] == [1, 2, 3, 4, 5, 6]


def test_fp16_learns_what_fp32_learns(faulty: GlooRuns) -> None:
    half, whole = end_of(faulty / "fp16").weights, end_of(faulty / "whole").weights
    for name, tensor in whole.items():
        assert half[name].dtype == torch.float32
        assert torch.allclose(half[name], tensor, atol=2e-3), name


def test_overflows_do_not_count_toward_max_skipped(toy_file: Path) -> None:
    overrides = [FP16, "training.updates=6", "training.max_skipped=1"]
    go(toy_file, Run("many-overflows", overrides=overrides, max_scale=2.0**12))
    assert kinds_of(toy_file.parent / "many-overflows") == [("overflow", n) for n in (1, 2, 3, 4)]


def test_a_loss_of_nan_is_not_an_overflow(toy_file: Path) -> None:
    go(toy_file, Run("fp16-broken", overrides=[FP16, "training.updates=6"], broken=[2]))
    assert kinds_of(toy_file.parent / "fp16-broken") == [("skipped", 3)]


def test_an_infinite_gradient_at_any_scale_is_skipped(toy_file: Path) -> None:
    overrides = [FP16, "training.max_skipped=9"]
    go(toy_file, Run("fp16-poisoned", overrides=overrides, poisoned=range(18)))
    run = toy_file.parent / "fp16-poisoned"
    # 16 overflows halve 2^16 to 1; below that the scale is not to blame.
    expected = [("overflow", n) for n in range(1, 17)] + [("skipped", n) for n in (17, 18)]
    assert kinds_of(run) == expected
    assert counters_of(run)["num_skipped"] == 2


def test_the_loss_scale_resumes_bit_for_bit(toy_file: Path) -> None:
    """Exact resume (nmt/README.md, Guarantees)."""
    short = [FP16, "training.updates=12"]
    go(toy_file, Run("fp16-whole", overrides=short, max_scale=2.0**14))
    go(toy_file, Run("fp16-stopped", overrides=short, max_scale=2.0**14, stop_after=7))
    go(toy_file, Run("fp16-stopped", overrides=short))
    whole, stopped = (toy_file.parent / f"fp16-{name}" for name in ("whole", "stopped"))
    assert counters_of(whole)["scale"] == {"value": 2.0**14, "good_updates": 10}
    assert_same(stopped, whole)


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_other_precisions_have_no_loss_scale(toy_file: Path, precision: str) -> None:
    name = f"unscaled-{precision}"
    overrides = [f"training.precision={precision}", "training.updates=6"]
    go(toy_file, Run(name, overrides=overrides, poisoned=[1]))
    run = toy_file.parent / name
    assert kinds_of(run) == [("skipped", 2)]
    assert counters_of(run)["scale"] == {"value": 2.0**16, "good_updates": 0}
