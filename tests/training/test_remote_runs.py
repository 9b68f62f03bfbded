"""Runs in an object store resume on hosts without local files."""

import json
import os
import shutil
import time
import uuid
from pathlib import Path
from typing import Any

import pytest
from toy_results import assert_same, rows_of
from toy_runs import LostError, Run, go

from nmt.checkpoint.async_writer import AsyncCheckpointWriter
from nmt.checkpoint.remote import RemoteRun
from nmt.config.experiment import Experiment
from nmt.storage import ObjectStore
from nmt.training.resume import check_run


def address_of(folder: str, s3: str) -> str:
    return f"s3://bucket/{uuid.uuid4().hex}/{folder}{s3}"


def test_a_run_resumes_on_an_empty_host_bit_for_bit(toy_file: Path, one: Path, s3: str) -> None:
    """Exact resume (nmt/README.md, Guarantees)."""
    run = Run("stored", address=address_of("stored", s3), stop_after=7)
    go(toy_file, run)
    folder = toy_file.parent / run.folder
    shutil.rmtree(folder)
    go(toy_file, Run(run.folder, address=run.address))
    assert rows_of(folder).keys() == {str(number) for number in range(7, 20)}
    assert_same(one, folder)
    log = (folder / "train.log").read_text(encoding="utf-8")
    assert "interrupted after 7 of 20 updates" in log
    assert "finished after 20 of 20 updates" in log
    names = {path.name for path in (folder / "dev").iterdir()}
    assert names == {"update-00000010.de", "update-00000020.de"}


def test_a_new_host_logs_the_cost_of_losing_another(
    toy_file: Path, s3: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Known up to the last checkpoint only.
    address = address_of("lost", s3)
    lost = Run("lost-a", address=address, lost_after=8, max_lost_updates=11)
    with monkeypatch.context() as patch:
        patch.setattr(AsyncCheckpointWriter, "close", AsyncCheckpointWriter.wait)
        with pytest.raises(LostError):
            go(toy_file, lost)
    go(toy_file, Run("lost-b", address=address))
    (restart,) = restarts_of(toy_file.parent / "lost-b")
    assert restart["from_update"] == 6
    assert restart["updates_lost"] in (0, 1, 2)
    assert 0 < restart["s_lost"] < 60
    assert "pulse.json" not in ObjectStore(address).list_objects()
    # Times of stored objects are whole seconds, and these runs take less than one.
    for path in (toy_file.parent / "lost-a").rglob("*"):
        os.utime(path, (time.time() - 60,) * 2)
    # The heartbeat on the first host is of a failure that was resumed elsewhere.
    go(toy_file, Run("lost-a", address=address, overrides=["training.updates=21"]))
    assert restarts_of(toy_file.parent / "lost-a") == [restart]


def restarts_of(folder: Path) -> list[dict[str, Any]]:
    lines = (folder / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    return [record for record in map(json.loads, lines) if record["kind"] == "restart"]


def test_the_store_wins_over_local_checkpoints(
    toy_file: Path, one: Path, s3: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    address = address_of("two-hosts", s3)
    go(toy_file, Run("host-a", address=address, stop_after=7))
    shutil.copytree(toy_file.parent / "host-a", toy_file.parent / "host-a-later")
    with monkeypatch.context() as patch:
        patch.setattr(RemoteRun, "push", lambda *_: None)
        go(toy_file, Run("host-a-later", address=address, stop_after=9))
    go(toy_file, Run("host-b", address=address, stop_after=8))
    go(toy_file, Run("host-a-later", address=address))
    assert_same(one, toy_file.parent / "host-a-later")


def test_all_ranks_skip_a_corrupt_object(
    toy_file: Path, one: Path, s3: str, tmp_path: Path
) -> None:
    """Self-contained checkpoints (nmt/README.md, Guarantees)."""
    address = address_of("damaged", s3)
    go(toy_file, Run("stored-damaged", address=address))
    (tmp_path / "damaged").write_bytes(b"not what was written")
    name = "checkpoints/update-00000020/training/optimizer.safetensors"
    ObjectStore(address).upload(tmp_path / "damaged", name)
    folder = toy_file.parent / "stored-damaged"
    shutil.rmtree(folder)
    go(toy_file, Run(folder.name, address=address))
    assert rows_of(folder).keys() == {str(number) for number in range(10, 20)}
    assert_same(one, folder)


def test_pending_scores_are_in_the_store(toy_file: Path, s3: str, toy: Experiment) -> None:
    address, every = address_of("late", s3), ["training.validate_every=5"]
    go(
        toy_file,
        Run("stored-late", overrides=every, stop_after=16, address=address, scorer="reversed"),
    )
    folder = toy_file.parent / "stored-late"
    shutil.rmtree(folder)
    go(toy_file, Run(folder.name, overrides=every, address=address, scorer="quick"))
    go(toy_file, Run("local-late", overrides=every, scorer="reversed"))
    assert_same(toy_file.parent / "local-late", folder)
    remote = RemoteRun(ObjectStore(address), folder)
    infos = {name: remote.info(name) for name in remote.names()}
    assert [name[-2:] for name, info in infos.items() if info.bleu is None] == ["16"]
    scored = {name: info for name, info in infos.items() if info.bleu is not None}
    # Of equal dev BLEU the lower dev loss is the better one.
    assert remote.best() == max(
        scored, key=lambda name: (scored[name].bleu, -(scored[name].dev_loss or 0))
    )
    check_run(toy, folder)
