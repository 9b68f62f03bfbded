"""Object stores, tested against an S3-compatible server on loopback."""

import urllib.request
from pathlib import Path

import pytest

from nmt.errors import NmtError, StorageError
from nmt.storage import ObjectStore, display_address, is_address, join_address


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
