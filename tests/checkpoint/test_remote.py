"""Runs in an object store."""

import logging
import os
import shutil
import time
import uuid
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from toy_checkpoints import EXPERIMENT, FILES, SUBWORD, files_below, message_of, save, state

from nmt.checkpoint.async_writer import AsyncCheckpointWriter
from nmt.checkpoint.format import format_score
from nmt.checkpoint.load import load_training_state
from nmt.checkpoint.location import run_dir
from nmt.checkpoint.remote import RemoteRun, fetch_checkpoint, local_copy
from nmt.checkpoint.run_directory import best_checkpoint, list_checkpoints
from nmt.errors import StorageError
from nmt.storage import ObjectStore


@pytest.fixture
def address(s3: str) -> str:
    """Address of a new, empty run."""
    return f"s3://bucket/{uuid.uuid4().hex}/toy{s3}"


@pytest.fixture
def remote(address: str, tmp_path: Path) -> RemoteRun:
    return RemoteRun(ObjectStore(address), tmp_path / "local")


def elsewhere(remote: RemoteRun, tmp_path: Path) -> RemoteRun:
    """Return the same run on another host, without local files."""
    return RemoteRun(remote.store, tmp_path / "other")


def push(remote: RemoteRun, *updates: int, bleu: float | None = None) -> None:
    for update in updates:
        remote.push(save(remote._run_dir, update, bleu))


def corrupt(remote: RemoteRun, name: str) -> None:
    file = remote._run_dir / "corrupt"
    data = bytearray(remote.store.read(name) or b"")
    data[len(data) // 2] ^= 1
    file.write_bytes(data)
    remote.store.upload(file, name)
    file.unlink()


def make_older(file: Path) -> None:
    """Change a file's time of writing: times of stored objects are whole seconds."""
    seconds = file.stat().st_mtime - 60
    os.utime(file, (seconds, seconds))


def make_stale(folder: Path) -> None:
    (folder / "bundle.json").write_text("{}")


def test_a_download_equals_the_upload(remote: RemoteRun, tmp_path: Path) -> None:
    """Exact resume, self-contained checkpoints (nmt/README.md, Guarantees)."""
    push(remote, 500)
    folder = elsewhere(remote, tmp_path).pull("update-00000500")
    assert folder == tmp_path / "other/checkpoints/update-00000500"
    assert files_below(folder) == sorted(FILES)
    for name in FILES:
        original = tmp_path / "local/checkpoints/update-00000500" / name
        assert (folder / name).read_bytes() == original.read_bytes()


def test_bundle_json_is_uploaded_last(remote: RemoteRun, monkeypatch: pytest.MonkeyPatch) -> None:
    """Self-contained checkpoints (nmt/README.md, Guarantees)."""
    sent: list[str] = []
    upload = ObjectStore.upload

    def spy(store: ObjectStore, file: Path, name: str) -> None:
        sent.append(name.removeprefix("checkpoints/update-00000500/"))
        upload(store, file, name)

    monkeypatch.setattr(ObjectStore, "upload", spy)
    push(remote, 500)
    assert sorted(sent) == sorted(FILES)
    assert sent[-1] == "bundle.json"


@pytest.mark.parametrize("is_there_already", [False, True])
def test_an_interrupted_upload_is_no_checkpoint(
    is_there_already: bool, remote: RemoteRun, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Self-contained checkpoints (nmt/README.md, Guarantees)."""
    push(remote, 400, *([500] if is_there_already else []))
    upload = ObjectStore.upload

    def cut(store: ObjectStore, file: Path, name: str) -> None:
        if name.endswith("/weights.safetensors"):
            raise StorageError("cut off")
        upload(store, file, name)

    with monkeypatch.context() as patch:
        patch.setattr(ObjectStore, "upload", cut)
        with pytest.raises(StorageError):
            push(remote, 500)
    other = elsewhere(remote, tmp_path)
    assert other.names() == ["update-00000400"]
    newest = other.newest_complete()
    assert newest is not None
    assert load_training_state(newest).update == 400


def test_a_corrupt_object_is_refused_by_name(remote: RemoteRun, tmp_path: Path) -> None:
    """Self-contained checkpoints (nmt/README.md, Guarantees)."""
    push(remote, 400, 500)
    corrupt(remote, "checkpoints/update-00000500/training/optimizer.safetensors")
    other, url = elsewhere(remote, tmp_path), remote.store.url()
    assert message_of(lambda: other.pull("update-00000500")) == (
        f"{url}/checkpoints/update-00000500/training/optimizer.safetensors is corrupt: its SHA-256 "
        "does not match bundle.json; use another checkpoint, such as "
        f"{url}/checkpoints/update-00000400"
    )
    assert list((tmp_path / "other/checkpoints").iterdir()) == []


def test_a_missing_object_is_refused_by_name(remote: RemoteRun, tmp_path: Path) -> None:
    """Self-contained checkpoints (nmt/README.md, Guarantees)."""
    push(remote, 500)
    remote.store.delete(["checkpoints/update-00000500/config.yaml"])
    assert message_of(lambda: elsewhere(remote, tmp_path).pull("update-00000500")) == (
        f"{remote.store.url()}/checkpoints/update-00000500/config.yaml is missing; restore it from "
        "a copy, or train again"
    )


def test_the_newest_complete_one_is_downloaded(
    remote: RemoteRun, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Self-contained checkpoints (nmt/README.md, Guarantees)."""
    push(remote, 99_999_999, 100_000_000, 100_000_001)
    corrupt(remote, "checkpoints/update-100000000/weights.safetensors")
    corrupt(remote, "checkpoints/update-100000001/bundle.json")
    with caplog.at_level(logging.WARNING):
        newest = elsewhere(remote, tmp_path).newest_complete()
    assert newest == tmp_path / "other/checkpoints/update-99999999"
    assert [record.getMessage().split(" is ")[0] for record in caplog.records] == [
        f"skipped a checkpoint: {remote.store.url()}/checkpoints/update-100000001/bundle.json",
        "skipped a checkpoint: "
        f"{remote.store.url()}/checkpoints/update-100000000/weights.safetensors",
    ]


def test_a_complete_local_copy_is_not_downloaded(
    remote: RemoteRun, monkeypatch: pytest.MonkeyPatch
) -> None:
    push(remote, 500)
    monkeypatch.setattr(ObjectStore, "download", lambda *_: pytest.fail("downloaded again"))
    remote.pull("update-00000500")


def test_a_corrupt_local_copy_is_downloaded_again(remote: RemoteRun, tmp_path: Path) -> None:
    """Self-contained checkpoints (nmt/README.md, Guarantees)."""
    push(remote, 500)
    file = tmp_path / "local/checkpoints/update-00000500/weights.safetensors"
    intact = file.read_bytes()
    file.write_bytes(b"corrupt")
    remote.pull("update-00000500")
    assert file.read_bytes() == intact


@pytest.mark.parametrize(
    ("damage", "num_downloads"), [(shutil.rmtree, 1), (make_stale, 1), (lambda folder: None, 0)]
)
def test_ranks_on_a_host_download_a_checkpoint_once(
    damage: Callable[[Path], None], num_downloads: int, remote: RemoteRun,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    """Self-contained checkpoints (nmt/README.md, Guarantees)."""
    push(remote, 500)
    folder = list_checkpoints(remote._run_dir)[0]
    score = format_score((folder / "bundle.json").read_text(), 31.0, "nrefs:1")
    (folder / "score.json").write_text(score)
    remote.upload_logs()
    damage(folder)
    started: list[str] = []
    download = ObjectStore.download

    def download_slowly(store: ObjectStore, name: str, file: Path) -> bool:
        started.append(name)
        time.sleep(0.02)
        return download(store, name, file)

    monkeypatch.setattr(ObjectStore, "download", download_slowly)
    ranks = [RemoteRun(remote.store, remote._run_dir) for _ in range(4)]
    with ThreadPoolExecutor(len(ranks)) as pool:
        found = list(pool.map(lambda rank: rank.pull(folder.name), ranks))
    assert found == [folder] * len(ranks)
    assert sorted(started) == sorted(
        f"checkpoints/{folder.name}/{name}" for name in FILES[1:] * num_downloads
    )
    assert files_below(folder) == sorted([*FILES, "score.json"])
    assert list_checkpoints(remote._run_dir) == [folder]


def test_a_copy_that_cannot_be_written_is_an_error(remote: RemoteRun, tmp_path: Path) -> None:
    """Actionable errors (nmt/README.md, Guarantees)."""
    push(remote, 500)
    (tmp_path / "other").write_text("a file")
    message = message_of(lambda: elsewhere(remote, tmp_path).pull("update-00000500"))
    folder = tmp_path / "other/checkpoints/update-00000500"
    assert message.startswith(f"{folder} was not written: ")


def test_checkpoints_missing_in_the_store_are_deleted(remote: RemoteRun, tmp_path: Path) -> None:
    push(remote, 500)
    save(tmp_path / "local", 600)
    remote.delete_unpublished()
    assert [folder.name for folder in list_checkpoints(tmp_path / "local")] == ["update-00000500"]


def test_pruning_in_the_store_equals_local_pruning(remote: RemoteRun) -> None:
    """Self-contained checkpoints (nmt/README.md, Guarantees)."""
    for update, bleu in [(1, 20.0), (2, 30.0), (3, 10.0), (4, None), (5, 25.0), (6, 1.0)]:
        push(remote, update, bleu=bleu)
    remote.store.delete(["checkpoints/update-00000001/bundle.json"])
    remote.prune(2, "update-00000006", pending=[4])
    assert [int(name[7:]) for name in remote.names()] == [2, 4, 5, 6]
    assert remote.store.list_objects("checkpoints/update-00000001") == {}


def test_a_checkpoint_older_than_corrupt_ones_is_kept(remote: RemoteRun) -> None:
    """A run that resumed from 1 has just written 2."""
    push(remote, 1, 2)
    push(remote, 3, 4, bleu=30.0)
    for update in (3, 4):
        corrupt(remote, f"checkpoints/update-0000000{update}/weights.safetensors")
    remote.prune(2, "update-00000002")
    assert [int(name[7:]) for name in remote.names()] == [2, 3, 4]


def test_an_interrupted_deletion_leaves_no_checkpoint(
    remote: RemoteRun, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Self-contained checkpoints (nmt/README.md, Guarantees)."""
    push(remote, 400, 500)
    delete = ObjectStore.delete
    monkeypatch.setattr(ObjectStore, "delete", lambda store, names: delete(store, names[:1]))
    remote.prune(1, "update-00000500")
    assert remote.names() == ["update-00000500"]


def test_a_corrupt_checkpoint_is_not_the_best(remote: RemoteRun) -> None:
    push(remote, 400, bleu=31.0)
    push(remote, 500, bleu=32.0)
    corrupt(remote, "checkpoints/update-00000500/bundle.json")
    assert remote.best() == "update-00000400"


def test_a_late_score_is_uploaded_and_downloaded(remote: RemoteRun, tmp_path: Path) -> None:
    """Honest numbers (nmt/README.md, Guarantees)."""
    push(remote, 500, 600)
    for update, bleu in ((500, 31.0), (600, 30.0)):
        folder = tmp_path / f"local/checkpoints/update-00000{update}"
        text = format_score((folder / "bundle.json").read_text(), bleu, "nrefs:1")
        (folder / "score.json").write_text(text)
    remote.upload_logs()
    other = elsewhere(remote, tmp_path)
    assert other.best() == "update-00000500"
    assert other.info("update-00000600").bleu == 30.0
    found = files_below(other.pull("update-00000600"))
    assert found == sorted([*FILES, "score.json"])


# Logs.


def test_logs_are_downloaded_on_another_host(remote: RemoteRun, tmp_path: Path) -> None:
    """Exact resume (nmt/README.md, Guarantees)."""
    local, other = tmp_path / "local", tmp_path / "other"
    push(remote, 500)
    names = "metrics.jsonl", "dev/update-00000500.de", "ray/a", "ray.log", ".hidden", "lock"
    for name in names:
        (local / name).parent.mkdir(exist_ok=True)
        (local / name).write_text(name)
    remote.upload_logs()
    elsewhere(remote, tmp_path).download_logs()
    assert files_below(other) == ["dev/update-00000500.de", "metrics.jsonl"]
    assert (other / "metrics.jsonl").read_text() == "metrics.jsonl"


def test_only_changed_logs_are_uploaded(
    remote: RemoteRun, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    local = tmp_path / "local"
    local.mkdir()
    for name in ("a", "b"):
        (local / name).write_text("1")
    remote.upload_logs()
    (local / "b").write_text("1\n2")
    sent: list[str] = []
    monkeypatch.setattr(ObjectStore, "upload", lambda store, file, name: sent.append(name))
    remote.upload_logs()
    assert sent == ["b"]


def test_the_newer_of_two_logs_is_kept(remote: RemoteRun, tmp_path: Path) -> None:
    local = tmp_path / "local"
    local.mkdir()
    for name in ("older", "newer"):
        (local / name).write_text("stored")
    remote.upload_logs()
    for name, seconds in (("older", -1000), ("newer", 1000)):
        (local / name).write_text("local")
        now = (local / name).stat().st_mtime
        os.utime(local / name, (now + seconds, now + seconds))
    remote.download_logs()
    assert (local / "older").read_text() == "stored"
    assert (local / "newer").read_text() == "local"


def test_logs_of_a_command_that_trains_stay_in_place(remote: RemoteRun, tmp_path: Path) -> None:
    """`nmt report` and `nmt audit` read the local copy of the host on which a run trains."""
    local = tmp_path / "local"
    local.mkdir()
    with (local / "metrics.jsonl").open("ab", buffering=0) as log:
        log.write(b"update 1\n")
        make_older(local / "metrics.jsonl")
        remote.upload_logs()
        RemoteRun(remote.store, local).download_logs()
        log.write(b"update 2\n")
    assert (local / "metrics.jsonl").read_text() == "update 1\nupdate 2\n"


@pytest.mark.parametrize("is_stale", [True, False])
def test_the_last_update_of_an_extended_run_is_kept(
    is_stale: bool, remote: RemoteRun, tmp_path: Path
) -> None:
    """It is stale if the run was resumed on another host and ended there."""
    push(remote, 500)
    record = tmp_path / "local/pulse.json"
    record.write_text("{}")
    if is_stale:
        make_older(record)
    remote.download_logs()
    assert record.exists() != is_stale


def test_logs_that_are_newer_in_the_store_stay_there(remote: RemoteRun, tmp_path: Path) -> None:
    """After a restart nothing is known to be uploaded."""
    local = tmp_path / "local"
    local.mkdir()
    for text, name in (("stored", "older"), ("older", "older"), ("newer", "newer")):
        (local / name).write_text(text)
        if text == "older":
            make_older(local / name)
        RemoteRun(remote.store, local).upload_logs()
    assert remote.store.read("older") == b"stored"
    assert remote.store.read("newer") == b"newer"


# Addresses of checkpoints.


def test_an_address_is_a_checkpoint_or_the_best_of_a_run(
    address: str, remote: RemoteRun, tmp_path: Path
) -> None:
    push(remote, 400, bleu=31.0)
    push(remote, 500, bleu=30.0)
    copy = tmp_path / "scratch" / address.partition("?")[0].replace("://", "/") / "checkpoints"
    head, query = address.split("?")
    scratch = tmp_path / "scratch"
    assert fetch_checkpoint(address, scratch) == copy / "update-00000400"
    one = f"{head}/checkpoints/update-00000500/?{query}"
    assert fetch_checkpoint(one, scratch) == copy / "update-00000500"
    assert local_copy(address, scratch) == copy.parent


def test_a_local_copy_has_the_best_and_the_newest_checkpoint(
    address: str, remote: RemoteRun, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`nmt report` shows translations of the best one."""
    monkeypatch.setenv("HOME", str(tmp_path))
    push(remote, 300, bleu=29.0)
    push(remote, 400, bleu=31.0)
    push(remote, 500, bleu=30.0)
    copy = run_dir(address)
    assert [each.name for each in list_checkpoints(copy)] == ["update-00000400", "update-00000500"]
    assert best_checkpoint(copy) == copy / "checkpoints/update-00000400"


def test_an_address_without_checkpoints_is_refused(address: str, tmp_path: Path) -> None:
    head, _, _ = address.partition("?")
    assert message_of(lambda: fetch_checkpoint(address, tmp_path)) == (
        f"{head} has no checkpoint; name a run or one of its checkpoints"
    )


def test_the_address_of_a_missing_checkpoint_is_refused(
    address: str, remote: RemoteRun, tmp_path: Path
) -> None:
    push(remote, 400)
    head, query = address.split("?")
    one = f"{head}/checkpoints/update-00000500"
    assert message_of(lambda: fetch_checkpoint(f"{one}?{query}", tmp_path)) == (
        f"{one}/bundle.json is missing: the checkpoint is incomplete; use another checkpoint, such "
        f"as {head}/checkpoints/update-00000400"
    )


# Background uploads.


def test_the_writer_uploads_and_prunes(remote: RemoteRun, tmp_path: Path) -> None:
    """Exact resume, self-contained checkpoints (nmt/README.md, Guarantees)."""
    (tmp_path / "local").mkdir()
    (tmp_path / "local/train.log").write_text("a line\n")
    writer = AsyncCheckpointWriter(tmp_path / "local", EXPERIMENT, SUBWORD.to_json(), remote)
    for update in (1, 2, 3):
        writer.write(state(update))
    writer.wait()
    assert writer.take_error() == ""
    assert remote.names() == ["update-00000002", "update-00000003"]
    shutil.rmtree(tmp_path / "local")
    other = elsewhere(remote, tmp_path)
    newest = other.newest_complete()
    assert newest is not None
    assert load_training_state(newest).update == 3
    other.download_logs()
    assert (tmp_path / "other/train.log").read_text() == "a line\n"


def test_a_failing_store_is_reported(
    remote: RemoteRun, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:

    def fail(*_: object) -> None:
        raise StorageError("s3://bucket/toy: no answer")

    monkeypatch.setattr(ObjectStore, "upload", fail)
    monkeypatch.setattr("nmt.checkpoint.async_writer.RETRY_PAUSES_S", (0.0,))
    writer = AsyncCheckpointWriter(tmp_path / "local", EXPERIMENT, SUBWORD.to_json(), remote)
    writer.write(state(1))
    writer.wait()
    assert writer.take_error() == "s3://bucket/toy: no answer"


def test_an_upload_that_fails_once_is_repeated(
    remote: RemoteRun, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    errors, upload = [StorageError("no answer")], RemoteRun.push

    def push_later(run: RemoteRun, folder: Path) -> None:
        if errors:
            raise errors.pop()
        upload(run, folder)

    monkeypatch.setattr(RemoteRun, "push", push_later)
    monkeypatch.setattr("nmt.checkpoint.async_writer.RETRY_PAUSES_S", (0.0,))
    writer = AsyncCheckpointWriter(tmp_path / "local", EXPERIMENT, SUBWORD.to_json(), remote)
    writer.write(state(1))
    writer.wait()
    assert (writer.take_error(), remote.names()) == ("", ["update-00000001"])


def test_logs_are_uploaded_before_their_checkpoint(
    remote: RemoteRun, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Exact resume (nmt/README.md, Guarantees)."""
    sent: list[str] = []
    monkeypatch.setattr(ObjectStore, "upload", lambda store, file, name: sent.append(name))
    (tmp_path / "local").mkdir()
    (tmp_path / "local/train.log").write_text("a line\n")
    writer = AsyncCheckpointWriter(tmp_path / "local", EXPERIMENT, SUBWORD.to_json(), remote)
    writer.write(state(1))
    writer.wait()
    assert sent[0] == "train.log"
    assert sent[-1] == "checkpoints/update-00000001/bundle.json"
