"""Checkpoints written in the background."""

import errno
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from toy_checkpoints import EXPERIMENT, FILES, SUBWORD, files_below, save, state

from nmt.checkpoint import async_writer, write
from nmt.checkpoint.async_writer import AsyncCheckpointWriter
from nmt.checkpoint.load import load_training_state
from nmt.checkpoint.run_directory import list_checkpoints, newest_complete


def writer_of(run: Path) -> AsyncCheckpointWriter:
    return AsyncCheckpointWriter(run, EXPERIMENT, SUBWORD.to_json())


class Gate:
    """Blocks the writing of tensors until it is opened."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.opened, self.reached = threading.Event(), threading.Event()
        self._save_file = write.save_file
        monkeypatch.setattr(write, "save_file", self)

    def __call__(self, *arguments: Any, **named: Any) -> None:
        self.reached.set()
        assert self.opened.wait(60)
        self._save_file(*arguments, **named)


@pytest.mark.parametrize("has_average", [True, False])
def test_the_state_at_the_call_is_written(
    has_average: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Exact resume, self-contained checkpoints (nmt/README.md, Guarantees)."""
    folder = save(tmp_path / "foreground", has_average=has_average)
    gate = Gate(monkeypatch)
    current, writer = state(has_average=has_average), writer_of(tmp_path / "background")
    writer.write(current)
    for tensors in (current.weights, current.optimizer, current.average or {}):
        for tensor in tensors.values():
            tensor.zero_()
    gate.opened.set()
    writer.wait()
    other = newest_complete(tmp_path / "background")
    assert other is not None
    assert files_below(other) == files_below(folder)
    for name in files_below(folder):
        assert (other / name).read_bytes() == (folder / name).read_bytes()


def test_write_waits_only_for_the_previous_write(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    gate, writer = Gate(monkeypatch), writer_of(tmp_path)
    writer.write(state(1))
    assert gate.reached.wait(60)
    assert list_checkpoints(tmp_path) == []
    second = threading.Thread(target=lambda: writer.write(state(2)))
    second.start()
    time.sleep(0.05)
    assert second.is_alive()
    gate.opened.set()
    second.join()
    writer.wait()
    assert [folder.name for folder in list_checkpoints(tmp_path)] == [
        "update-00000001",
        "update-00000002",
    ]


def test_old_checkpoints_are_pruned(tmp_path: Path) -> None:
    writer = writer_of(tmp_path)
    for update in (1, 2, 3, 4, 5):
        writer.write(state(update), 10.0 - update, "nrefs:1")
    writer.wait()
    assert EXPERIMENT.training.keep_last == 2
    assert [int(folder.name[7:]) for folder in list_checkpoints(tmp_path)] == [1, 4, 5]


def test_checkpoints_with_pending_scores_are_kept(tmp_path: Path) -> None:
    writer = writer_of(tmp_path)
    for update in (1, 2, 3, 4, 5):
        writer.write(state(update), pending=[2])
    writer.wait()
    assert [int(folder.name[7:]) for folder in list_checkpoints(tmp_path)] == [2, 4, 5]


def test_a_tied_tensor_is_copied_once() -> None:
    tied = torch.randn(3)
    original = state()
    original.weights["a"] = original.weights["b"] = tied
    original.optimizer["empty"] = torch.zeros(0)
    copy, _ = async_writer._copy_state(original)
    assert copy.weights["a"] is copy.weights["b"]
    assert copy.weights["a"].data_ptr() != tied.data_ptr()
    assert copy.optimizer["empty"].shape == (0,)


def test_a_full_disk_is_reported_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Self-contained checkpoints (nmt/README.md, Guarantees)."""
    writer = writer_of(tmp_path)
    with monkeypatch.context() as patch:

        def fill_up(*arguments: Any, **named: Any) -> None:
            raise OSError(errno.ENOSPC, "No space left on device")

        patch.setattr(write, "save_file", fill_up)
        writer.write(state(1))
        writer.wait()
    writer.write(state(2))
    writer.wait()
    assert writer.take_error() == (
        f"{tmp_path}/checkpoints/update-00000001 was not written: the disk is full; it needs "
        "0.1 MB: free some space, or keep fewer checkpoints (training.keep_last)"
    )
    assert writer.take_error() == ""
    assert [folder.name for folder in list_checkpoints(tmp_path)] == ["update-00000002"]


def test_an_error_of_another_file_names_it(tmp_path: Path) -> None:
    writer = writer_of(tmp_path)
    writer.record_error(OSError(errno.ENOSPC, "No space left on device", "ledger.jsonl"))
    assert writer.take_error() == "ledger.jsonl cannot be written: No space left on device"


def test_a_programming_error_is_raised(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(write, "save_file", lambda *_, **__: 1 / 0)
    writer = writer_of(tmp_path)
    writer.write(state(1))
    writer.wait()
    with pytest.raises(ZeroDivisionError):
        writer.take_error()


CRASH = """
import os, sys
from pathlib import Path
sys.path.insert(0, sys.argv[2])
from toy_checkpoints import EXPERIMENT, SUBWORD, save, state
from nmt.checkpoint import write
from nmt.checkpoint.async_writer import AsyncCheckpointWriter
run, save_file = Path(sys.argv[1]), write.save_file
save(run, 400)
def crash(tensors, file, metadata):
    save_file(tensors, file, metadata)
    if file.name == "optimizer.safetensors":
        os._exit(9)
write.save_file = crash
writer = AsyncCheckpointWriter(run, EXPERIMENT, SUBWORD.to_json())
writer.write(state(500))
writer.wait()
"""


def test_a_crash_during_a_write_keeps_the_previous_one(tmp_path: Path) -> None:
    """Exact resume, self-contained checkpoints (nmt/README.md, Guarantees)."""
    command = [sys.executable, "-c", CRASH, str(tmp_path), str(Path(__file__).parent)]
    assert subprocess.run(command, check=False).returncode == 9
    assert [path.suffix for path in (tmp_path / "checkpoints").glob(".*")] == [".writing"]
    assert load_training_state(tmp_path).update == 400
    writer = writer_of(tmp_path)
    writer.write(state(500))
    writer.wait()
    assert files_below(tmp_path / "checkpoints") == sorted(
        f"update-00000{update}/{name}" for update in (400, 500) for name in FILES
    )
