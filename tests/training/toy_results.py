"""Files of toy runs, and comparisons of two runs."""

import json
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from nmt.checkpoint.format import CheckpointState
from nmt.checkpoint.load import load_training_state

CLOCK_KEYS = {"time", "train_s", "eta_s", "src_tokens_per_s", "tgt_tokens_per_s"} | {
    "data_wait_percent"
}


def end_of(run: Path) -> CheckpointState:
    return load_training_state(run)


def tensors_of(run: Path) -> dict[str, Tensor]:
    state = end_of(run)
    assert state.average is not None
    return {
        **{f"weights/{name}": tensor for name, tensor in state.weights.items()},
        **{f"average/{name}": tensor for name, tensor in state.average.items()},
        **{f"optimizer/{name}": tensor for name, tensor in state.optimizer.items()},
    }


def records_of(run: Path) -> list[dict[str, Any]]:
    """Return metrics.jsonl without the values that depend on the clock."""
    lines = (run / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    return [
        {name: value for name, value in json.loads(line).items() if name not in CLOCK_KEYS}
        for line in lines
    ]


def counters_of(run: Path) -> dict[str, Any]:
    counters = end_of(run).counters
    since_log = {k: v for k, v in counters["since_log"].items() if not k.endswith("_s")}
    return {k: v for k, v in counters.items() if k != "train_s"} | {"since_log": since_log}


def rows_of(run: Path) -> dict[str, list[tuple[int, list[int]]]]:
    """Return index and pairs of the micro-batches of each update, over all ranks."""
    found: dict[str, list[Any]] = {}
    for file in sorted(run.glob("seen-*.json")):
        for update, parts in json.loads(file.read_text())["rows"].items():
            found[update] = sorted([*found.get(update, []), *parts])
    return found


def assert_same(run: Path, other: Path) -> None:
    """Compare tensors, counters and records bit for bit, without the records of restarts."""
    ours, theirs = tensors_of(run), tensors_of(other)
    assert ours.keys() == theirs.keys()
    for name, tensor in ours.items():
        assert torch.equal(tensor, theirs[name]), name
    assert counters_of(run) == counters_of(other)
    our_records, their_records = (
        [record for record in records_of(folder) if record["kind"] != "restart"]
        for folder in (run, other)
    )
    assert our_records == their_records


def assert_near(run: Path, other: Path) -> None:
    """Compare tensors up to summation order."""
    ours, theirs = end_of(run), end_of(other)
    assert ours.update == theirs.update
    assert ours.average is not None
    assert theirs.average is not None
    for name, tensor in ours.weights.items():
        assert (tensor - theirs.weights[name]).abs().max() <= 1e-5, name
    for name, tensor in ours.average.items():
        assert (tensor - theirs.average[name]).abs().max() <= 1e-5, name
