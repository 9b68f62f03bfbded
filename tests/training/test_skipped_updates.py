"""Updates without a finite gradient."""

import json
from pathlib import Path

import pytest
from toy_ends import counters_of, end_of, records_of, rows_of, tensors_of


def test_an_update_without_a_finite_gradient_is_skipped_by_all(gloo: Path) -> None:
    run = gloo / "skips"
    skipped = [record for record in records_of(run) if record["kind"] == "skipped"]
    pairs = sorted(row for _, rows in rows_of(run)["2"] for row in rows)
    assert skipped == [{"kind": "skipped", "update": 3, "grad_norm": "inf", "pairs": pairs}]
    assert counters_of(run)["num_skipped"] == 1
    assert counters_of(run)["skipped_in_a_row"] == 0
    steps = {name: t for name, t in end_of(run).optimizer.items() if name.startswith("step/")}
    assert {step.item() for step in steps.values()} == {5}
    assert all(tensor.isfinite().all() for tensor in tensors_of(run).values())


def test_a_skipped_update_is_told(gloo: Path) -> None:
    log = (gloo / "skips" / "train.log").read_text(encoding="utf-8")
    pairs = sorted(row for _, rows in rows_of(gloo / "skips")["2"] for row in rows)
    assert (
        f"update 3 skipped: its gradient is not finite (inf); pairs {pairs[0]} to {pairs[-1]}, "
        f"all {len(pairs)} in metrics.jsonl\n"
    ) in log
    assert "; 1 updates skipped\n" in log


def test_metrics_are_json_though_updates_are_skipped(gloo: Path) -> None:
    """P11."""
    for line in (gloo / "skips" / "metrics.jsonl").read_text(encoding="utf-8").splitlines():
        json.loads(line, parse_constant=lambda constant: pytest.fail(constant))


def test_a_run_ends_after_a_few_skipped_updates_in_a_row(gloo: Path) -> None:
    """P9."""
    for rank in (0, 1):
        assert (gloo / "fails" / f"error-{rank}.txt").read_text() == (
            "2 updates in a row had a gradient that is not finite, the last one update 3: lower "
            "training.learning_rate (0.003) or use training.precision=fp32; the same command then "
            "goes on from the last good checkpoint"
        )


def test_a_run_that_failed_does_not_say_that_it_finished(gloo: Path) -> None:
    log = (gloo / "fails" / "train.log").read_text(encoding="utf-8")
    assert "update 3 skipped" in log
    assert "finished" not in log
