"""Memory that runs out over a micro-batch."""

import re
from pathlib import Path

import pytest
from toy_ends import assert_near, counters_of, records_of, rows_of


def test_an_update_that_did_not_fit_is_made_again_in_halves(gloo: Path) -> None:
    """P3: the same gradient up to the order of sums, at all workers."""
    assert_near(gloo / "roomy", gloo / "short")
    splits = [record for record in records_of(gloo / "short") if record["kind"] == "split"]
    assert {(split["update"], split["worker"]) for split in splits} == {(3, 1), (6, 1)}
    # Workers take every second of three micro-batches: the last one has the middle one alone.
    rows = next(len(rows) for index, rows in rows_of(gloo / "short")["2"] if index == 1)
    assert rows == 3
    first = [(split["micro_batch"], split["num_pairs"]) for split in splits[:2]]
    assert first == [(1, 3), (1, 2)]
    assert counters_of(gloo / "short")["num_split"] == len(splits)
    log = (gloo / "short" / "train.log").read_text(encoding="utf-8")
    assert re.search(
        r"update 3: worker 1 ran out of memory over micro-batch 1, 3 pairs in \d+ positions; "
        "the update is made again with it in two halves\n",
        log,
    )
    assert f", {len(splits)} micro-batches split\n" in log


def test_what_did_not_fit_is_counted_once(gloo: Path) -> None:
    """P11."""
    last = {}
    for run in ("roomy", "short"):
        last[run] = [r for r in records_of(gloo / run) if r["kind"] == "train"][-1]
    assert last["short"]["nll"] == pytest.approx(last["roomy"]["nll"], rel=1e-4)


def test_a_pair_that_does_not_fit_ends_the_run(gloo: Path) -> None:
    """P9."""
    for rank in (0, 1):
        assert re.fullmatch(
            r"update 2: worker 1 ran out of memory over one pair \(\d+ tokens of both sides\); "
            "lower batching.max_length or the size of the model, or give each worker more memory",
            (gloo / "too-short" / f"error-{rank}.txt").read_text(),
        )
