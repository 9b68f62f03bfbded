"""Atomic writing of checkpoints."""

import errno
import os
import shutil
from collections import namedtuple
from pathlib import Path
from typing import Any

import pytest
from safetensors import SafetensorError
from toy_checkpoints import FILES, files_below, message_of, save

from nmt.checkpoint import write
from nmt.checkpoint.format import read_info, verify_checkpoint
from nmt.checkpoint.run_directory import newest_complete, prune_checkpoints


def test_a_checkpoint_has_its_files_and_update_number(tmp_path: Path) -> None:
    """Self-contained checkpoints (nmt/README.md, Guarantees)."""
    folder = save(tmp_path)
    assert folder == tmp_path / "checkpoints" / "update-00000500"
    assert files_below(folder) == sorted(FILES)
    assert list(folder.parent.iterdir()) == [folder]


def test_the_umask_decides_the_modes_of_all_files(tmp_path: Path) -> None:
    previous = os.umask(0o027)
    try:
        folder = save(tmp_path)
    finally:
        os.umask(previous)
    assert {(folder / name).stat().st_mode & 0o777 for name in FILES} == {0o640}


def test_the_same_state_gives_the_same_bytes(tmp_path: Path) -> None:
    folders = [save(tmp_path / run) for run in ("a", "b")]
    first, second = ([(folder / name).read_bytes() for name in FILES] for folder in folders)
    assert first == second


def test_a_checkpoint_of_the_same_update_is_replaced(tmp_path: Path) -> None:
    save(tmp_path, bleu=1.0)
    folder = save(tmp_path, bleu=2.0)
    verify_checkpoint(folder)
    assert read_info(folder).bleu == 2.0
    assert list(folder.parent.iterdir()) == [folder]


def test_nothing_is_pickled(tmp_path: Path) -> None:
    """Safe by default (nmt/README.md, Guarantees)."""
    folder = save(tmp_path)
    for name in FILES:
        data = (folder / name).read_bytes()
        assert not data.startswith((b"\x80", b"PK"))


def test_files_are_synced_before_the_rename(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Self-contained checkpoints (nmt/README.md, Guarantees)."""
    events: list[str] = []
    handles: list[int] = []
    rename, sync = Path.rename, write._sync

    def spy_sync(path: Path) -> None:
        events.append(path.name)
        sync(path)

    def spy_rename(path: Path, target: Path) -> Path:
        events.append("rename")
        return rename(path, target)

    monkeypatch.setattr(os, "fsync", handles.append)
    monkeypatch.setattr(write, "_sync", spy_sync)
    monkeypatch.setattr(Path, "rename", spy_rename)
    save(tmp_path / "run")
    before, after = events[: events.index("rename")], events[events.index("rename") + 1 :]
    new_folders, before = before[:2], before[2:]
    assert new_folders == ["run", tmp_path.name]
    assert sorted(before[:-1]) == sorted([*(Path(name).name for name in FILES), "training"])
    assert before[-1].endswith(".writing")
    assert after == ["checkpoints"]
    assert len(handles) == len(events) - 1


@pytest.mark.parametrize(
    "error",
    [
        OSError(errno.ENOSPC, "No space left on device"),
        OSError(errno.EDQUOT, "Disk quota exceeded"),
        SafetensorError("I/O error: No space left on device (os error 28)"),
    ],
)
def test_a_disk_that_fills_up_leaves_nothing(
    error: Exception, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Self-contained checkpoints (nmt/README.md, Guarantees)."""
    before = save(tmp_path, 400)
    write_tensors = write.save_file

    def fill_up(tensors: Any, file: Path, metadata: Any) -> None:
        write_tensors(tensors, file, metadata)
        if file.name == "optimizer.safetensors":
            file.write_bytes(b"half")
            raise error

    monkeypatch.setattr(write, "save_file", fill_up)
    message = message_of(lambda: save(tmp_path))
    assert message == (
        f"{tmp_path}/checkpoints/update-00000500 was not written: the disk is full; it needs "
        "0.1 MB: free some space, or keep fewer checkpoints (training.keep_last)"
    )
    assert list(before.parent.iterdir()) == [before]


def test_a_full_disk_is_detected_before_writing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage(9e9, 9e9, 20_000))
    message = message_of(lambda: save(tmp_path))
    assert message == (
        f"{tmp_path}/checkpoints/update-00000500 was not written: it needs 0.1 MB, 0.0 MB are "
        "free; free some space, or keep fewer checkpoints (training.keep_last)"
    )
    assert list((tmp_path / "checkpoints").iterdir()) == []


def test_an_unwritable_directory_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "checkpoints").write_text("a file")
    message = message_of(lambda: save(tmp_path))
    assert message == (f"{tmp_path}/checkpoints/update-00000500 was not written: File exists")


def test_an_interrupted_write_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupt(tensors: Any, file: Path, metadata: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(write, "save_file", interrupt)
    with pytest.raises(KeyboardInterrupt):
        save(tmp_path)
    assert list((tmp_path / "checkpoints").iterdir()) == []


@pytest.mark.parametrize("ending", ["writing", "deleting"])
@pytest.mark.parametrize("verb", ["save", "prune"])
def test_leftovers_of_a_killed_writer_are_removed(verb: str, ending: str, tmp_path: Path) -> None:
    """Self-contained checkpoints (nmt/README.md, Guarantees)."""
    folder = save(tmp_path)
    shutil.copytree(folder, folder.with_name(f".update-00000900.0123abcd.{ending}"))
    unrelated = folder.with_name(".mine.writing")
    unrelated.mkdir()
    assert newest_complete(tmp_path) == folder
    if verb == "save":
        save(tmp_path)
    else:
        prune_checkpoints(tmp_path, 1)
    assert sorted(folder.parent.iterdir()) == [unrelated, folder]
