"""Object stores, tested against an S3-compatible server on loopback."""

import os
import socket
import time
import urllib.request
import uuid
from pathlib import Path

import pytest

from nmt import storage
from nmt.config.settings import is_address
from nmt.errors import NmtError, StorageError
from nmt.storage import ObjectStore, display_address, hold_lease, join_address


def message_of_check(address: str) -> str:
    with pytest.raises(StorageError) as error:
        ObjectStore(address).check_writable()
    return str(error.value)


def test_files_are_uploaded_and_downloaded(s3: str, tmp_path: Path) -> None:
    store = ObjectStore(f"s3://bucket/up{s3}")
    store.check_writable()
    (tmp_path / "a").write_bytes(bytes(range(256)) * 100)
    store.upload(tmp_path / "a", "folder/a")
    store.upload(tmp_path / "a", "b")
    assert {name: found.num_bytes for name, found in store.list_objects().items()} == {
        "b": 25_600, "folder/a": 25_600,
    }  # fmt: skip
    assert store.list_objects("folder").keys() == {"folder/a"}
    assert store.download("folder/a", tmp_path / "again")
    assert (tmp_path / "again").read_bytes() == (tmp_path / "a").read_bytes()
    assert store.read("b") == (tmp_path / "a").read_bytes()
    store.delete(["b", "folder/a"])
    assert store.list_objects() == {}


def test_missing_objects(s3: str, tmp_path: Path) -> None:
    store = ObjectStore(f"s3://bucket/nothing{s3}")
    assert store.list_objects() == {}
    assert store.read("a") is None
    assert not store.download("a", tmp_path / "a")
    store.delete(["a"])


def test_addresses() -> None:
    assert is_address("s3://bucket")
    assert not is_address("/runs/s3")
    assert join_address("s3://bucket/runs/?region=x", "demo") == "s3://bucket/runs/demo?region=x"
    assert display_address("s3://bucket/runs?region=x") == "s3://bucket/runs"


# Errors: one line, without a secret.


def test_a_missing_bucket_is_reported(s3: str) -> None:
    assert message_of_check(f"s3://buckett/runs{s3}") == (
        "s3://buckett/runs: no such bucket; create it, or name another"
    )


def test_an_unreachable_store_is_reported(s3: str) -> None:
    address = "s3://bucket/runs?endpoint_override=127.0.0.1:9&scheme=http&region=us-east-1"
    assert message_of_check(address) == (
        "s3://bucket/runs: no answer from the store; check the network, and endpoint_override in "
        "the address"
    )


def test_refused_credentials_are_reported(s3: str, monkeypatch: pytest.MonkeyPatch) -> None:
    endpoint = s3.partition("endpoint_override=")[2].partition("&")[0]

    def set_unchecked_requests(count: bytes) -> None:
        url, header = f"http://{endpoint}/moto-api/reset-auth", {"Content-Type": "text/plain"}
        urllib.request.urlopen(urllib.request.Request(url, data=count, headers=header)).close()

    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "s3cr3t")
    store = ObjectStore(f"s3://bucket/runs{s3}")
    set_unchecked_requests(b"0")
    try:
        for call in (store.check_writable, store.list_objects, lambda: store.read("a")):
            with pytest.raises(StorageError) as error:
                call()
            assert str(error.value).removesuffix("/a") in {
                f"s3://bucket/runs{name}: access denied; set AWS_ACCESS_KEY_ID and "
                "AWS_SECRET_ACCESS_KEY, or give the host a role with read and write access"
                for name in ("", "/a")
            }
    finally:
        set_unchecked_requests(b"inf")


def test_an_unknown_option_is_refused() -> None:
    with pytest.raises(StorageError) as error:
        ObjectStore("s3://bucket/runs?endpoint=127.0.0.1:9")
    assert str(error.value) == (
        "s3://bucket/runs: Unexpected query parameter in S3 URI: 'endpoint'"
    )


@pytest.mark.parametrize(
    ("address", "message"),
    [
        (
            "gs://bucket/runs",
            "the store is gs://bucket/runs, but it must be a directory or s3://BUCKET/PATH (S3 or "
            "compatible)",
        ),
        ("s3:///runs", "the store is s3:///runs, but the bucket is missing: s3://BUCKET/PATH"),
        (
            "s3://AKIA:s3cr3t@bucket/runs",
            "the store is s3://***@bucket/runs, but addresses are logged: remove the secret and "
            "set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY in the environment",
        ),
    ],
)
def test_an_invalid_address_is_refused(address: str, message: str) -> None:
    """Safe by default (nmt/README.md, Guarantees)."""
    with pytest.raises(NmtError) as error:
        ObjectStore(address)
    assert str(error.value) == message


@pytest.fixture
def lease_store(s3: str, monkeypatch: pytest.MonkeyPatch) -> ObjectStore:
    """A new folder; heartbeats of leases are fast."""
    monkeypatch.setattr(storage, "LEASE_SETTLE_S", 0.0)
    monkeypatch.setattr(storage, "LEASE_INTERVAL_S", 0.1)
    return ObjectStore(f"s3://bucket/{uuid.uuid4().hex}{s3}")


def fail(problem: str) -> None:
    pytest.fail(problem)


def test_second_command_is_refused_while_the_first_writes(
    lease_store: ObjectStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with hold_lease(lease_store, tmp_path / "a", fail):
        monkeypatch.setattr(storage, "LEASE_INTERVAL_S", 15.0)
        with (
            pytest.raises(StorageError) as error,
            hold_lease(lease_store, tmp_path / "b", fail),
        ):
            pass
    assert str(error.value) == (
        f"{lease_store.url()}: another command writes this run (process {os.getpid()} on "
        f"{socket.gethostname()}); wait for it to end, or give the experiment another name; the "
        "lease of a command that crashed is stale after 30 s"
    )
    assert lease_store.list_objects() == {}
    with hold_lease(lease_store, tmp_path / "b", fail):
        pass


def test_lease_of_a_crashed_command_is_stale_after_two_intervals(
    lease_store: ObjectStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lease_store.write(".lease", b"process 1 on lost 00")
    written = lease_store.written(".lease")
    monkeypatch.setattr(storage, "LEASE_INTERVAL_S", 15.0)
    monkeypatch.setattr(ObjectStore, "check_writable", lambda _: written + 29)
    with pytest.raises(StorageError), hold_lease(lease_store, tmp_path / "a", fail):
        pass
    monkeypatch.setattr(ObjectStore, "check_writable", lambda _: written + 31)
    with hold_lease(lease_store, tmp_path / "a", fail):
        assert lease_store.read(".lease") == (tmp_path / "a").read_bytes()


def test_host_of_a_crashed_command_takes_its_lease_back(
    lease_store: ObjectStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(storage, "LEASE_INTERVAL_S", 15.0)
    lease_store.write(".lease", b"process 1 on here 00")
    (tmp_path / "a").write_bytes(b"process 1 on here 00")
    with hold_lease(lease_store, tmp_path / "a", fail):
        pass


def test_lease_is_renewed_and_its_loss_reported(lease_store: ObjectStore, tmp_path: Path) -> None:
    losses: list[str] = []
    with hold_lease(lease_store, tmp_path / "a", losses.append):
        lease_store.delete([".lease"])
        deadline = time.monotonic() + 20
        while lease_store.read(".lease") is None and time.monotonic() < deadline:
            time.sleep(0.02)
        # Again: the heartbeat may overwrite a lease that was written while it was on its way.
        while not losses and time.monotonic() < deadline:
            lease_store.write(".lease", b"process 2 on other 00")
            time.sleep(0.02)
    assert losses == [
        f"{lease_store.url()}: another command writes this run (process 2 on other) after the "
        "lease of this one expired; this command ends"
    ]
    assert lease_store.read(".lease") == b"process 2 on other 00"


def test_of_two_commands_at_once_the_last_one_writes(
    lease_store: ObjectStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write = ObjectStore.write

    def overtaken(store: ObjectStore, name: str, content: bytes) -> None:
        write(store, name, content)
        write(store, name, b"process 2 on other 00")

    monkeypatch.setattr(ObjectStore, "write", overtaken)
    with pytest.raises(StorageError) as error, hold_lease(lease_store, tmp_path / "a", fail):
        pass
    assert str(error.value) == (
        f"{lease_store.url()}: another command writes this run (process 2 on other); wait for it "
        "to end"
    )
    assert lease_store.read(".lease") == b"process 2 on other 00"


def test_lease_survives_a_store_that_does_not_answer(
    lease_store: ObjectStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[str] = []

    def refuse(store: ObjectStore, name: str) -> bytes:
        asked.append(name)
        raise StorageError("no answer")

    deadline = time.monotonic() + 20
    with hold_lease(lease_store, tmp_path / "a", fail):
        with monkeypatch.context() as patch:
            patch.setattr(ObjectStore, "read", refuse)
            while len(asked) < 2 and time.monotonic() < deadline:
                time.sleep(0.02)
        lease_store.delete([".lease"])
        while lease_store.read(".lease") is None and time.monotonic() < deadline:
            time.sleep(0.02)
        assert lease_store.read(".lease") == (tmp_path / "a").read_bytes()
        # Nor does the end of the command fail.
        monkeypatch.setattr(ObjectStore, "read", refuse)
