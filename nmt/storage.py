"""Access to object stores; the only module that uses `pyarrow.fs`.

An address is s3://BUCKET/FOLDER, with pyarrow's options after a question mark: region, and for a
store other than Amazon's endpoint_override=HOST:PORT and scheme=http. Credentials come from the
environment (AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY), from ~/.aws or from the role of the host,
never from the address, which appears in logs, config files and process lists.
Objects are written as a whole: there is no rename and no append.
"""

import contextlib
import os
import secrets
import socket
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from pyarrow import ArrowException
from pyarrow.fs import FileSelector, FileSystem, FileType, copy_files

from nmt.config.settings import check_address
from nmt.errors import StorageError

_REASONS = (
    (("NO_SUCH_BUCKET",), "no such bucket; create it, or name another"),
    (
        ("ACCESS_DENIED", "HTTP response code 403", "INVALID_ACCESS_KEY", "SIGNATURE", "HTTP 403"),
        "access denied; set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or give the host a role "
        "with read and write access",
    ),
    (
        ("NETWORK_CONNECTION", "curlCode", "Could not connect", "resolve host"),
        "no answer from the store; check the network, and endpoint_override in the address",
    ),
)
"""Parts of pyarrow's messages, and the message for the user."""


LEASE = ".lease"
"""Object that names the command that writes a folder."""
LEASE_INTERVAL_S = 15.0
"""Seconds between two heartbeats of a lease."""
LEASE_SETTLE_S = 0.5
"""Seconds to wait after writing a lease, until one that was written meanwhile is visible."""


@dataclass(frozen=True)
class StoredObject:
    """Entry of a listing."""

    num_bytes: int
    written: float
    """Time of writing in seconds since 1970, by the store's clock."""


def join_address(address: str, name: str) -> str:
    """Return the address of the folder `name` in the folder at `address`."""
    head, mark, query = address.partition("?")
    return f"{head.rstrip('/')}/{name}{mark}{query}"


def display_address(address: str) -> str:
    """Return an address without its options, for messages."""
    return address.partition("?")[0].rstrip("/")


class ObjectStore:
    """Folder of an object store.

    All methods raise StorageError if the store refuses, or does not answer after pyarrow's retries.
    """

    def __init__(self, address: str) -> None:
        check_address("the store", address)
        with _storage_errors(display_address(address)):
            self._files, self._root = FileSystem.from_uri(address)

    def url(self, name: str = "") -> str:
        """Return the address of a file, or of this folder, for messages."""
        return f"s3://{self._path(name)}"

    def check_writable(self) -> float:
        """Write and delete a test file; return its time of writing as `written` does."""
        # A name of its own: another host may do the same at this moment.
        path = self._path(f".nmt-was-here-{secrets.token_hex(4)}")
        with _storage_errors(self.url()):
            # Write access is not visible in a listing: try it.
            with self._files.open_output_stream(path) as stream:
                stream.write(b"nmt\n")
            now = float(self._files.get_file_info(path).mtime_ns or 0) / 1e9
            self._files.delete_file(path)
        return now

    def write(self, name: str, content: bytes) -> None:
        """Write a small file; an existing one of that name is replaced."""
        stream = self._files.open_output_stream
        with _storage_errors(self.url(name)), stream(self._path(name)) as file:
            file.write(content)

    def written(self, name: str) -> float:
        """Return the time of writing of a file (`StoredObject.written`); 0: it does not exist."""
        with _storage_errors(self.url(name)):
            return float(self._files.get_file_info(self._path(name)).mtime_ns or 0) / 1e9

    def list_objects(self, folder: str = "") -> dict[str, StoredObject]:
        """List all files below `folder` by their names relative to this folder."""
        selector = FileSelector(self._path(folder), allow_not_found=True, recursive=True)
        with _storage_errors(self.url(folder)):
            infos = self._files.get_file_info(selector)
        return {
            info.path.removeprefix(f"{self._root}/"): StoredObject(info.size, info.mtime_ns / 1e9)
            for info in infos
            if info.type == FileType.File
        }

    def read(self, name: str) -> bytes | None:
        """Return the content of a small file; None: it does not exist."""
        with _storage_errors(self.url(name)):
            try:
                with self._files.open_input_stream(self._path(name)) as stream:
                    content: bytes = stream.read()
                    return content
            except FileNotFoundError:
                return None

    def upload(self, file: Path, name: str) -> None:
        """Upload a file; an existing one of that name is replaced."""
        with _storage_errors(self.url(name)):
            # Streamed: checkpoints may be larger than memory.
            copy_files(str(file), self._path(name), destination_filesystem=self._files)

    def download(self, name: str, file: Path) -> bool:
        """Download a file and return True; return False if it does not exist."""
        with _storage_errors(self.url(name)):
            try:
                copy_files(self._path(name), str(file), source_filesystem=self._files)
            except FileNotFoundError:
                return False
        return True

    def delete(self, names: list[str]) -> None:
        """Delete files in this order; missing ones are ignored."""
        for name in names:
            with _storage_errors(self.url(name)), contextlib.suppress(FileNotFoundError):
                self._files.delete_file(self._path(name))

    def _path(self, name: str) -> str:
        return f"{self._root}/{name}" if name else self._root


@contextlib.contextmanager
def hold_lease(store: ObjectStore, local: Path, on_loss: Callable[[str], object]) -> Iterator[None]:
    """Hold the lease of a folder, so that a second command that writes there is refused.

    The lease is an object that a thread writes again in each interval. It is stale after two
    intervals; the host of a command that crashed takes it back at once.

    Args:
        store: the folder.
        local: file with the last lease of this host, read while its lock file is held.
        on_loss: called with an error message if another command has taken the lease.

    Raises:
        StorageError: another command holds the lease, or the store refuses.
    """
    lease = f"process {os.getpid()} on {socket.gethostname()} {secrets.token_hex(8)}".encode()
    limit_s = 2 * LEASE_INTERVAL_S

    def is_ours() -> bool:
        return (store.read(LEASE) or lease) == lease

    def describe() -> str:
        holder = (store.read(LEASE) or b"").decode(errors="replace").rpartition(" ")[0]
        return f"{store.url()}: another command writes this run ({holder})"

    previous = local.read_bytes() if local.exists() else b""
    if store.read(LEASE) not in (None, previous):
        age_s = store.check_writable() - store.written(LEASE)
        if age_s < limit_s:
            raise StorageError(
                f"{describe()}; wait for it to end, or give the experiment another name; the lease "
                f"of a command that crashed is stale after {limit_s:.0f} s"
            )
    store.write(LEASE, lease)
    local.write_bytes(lease)
    # Of two commands that write at the same moment, the last one holds the lease.
    is_over = threading.Event()
    is_over.wait(LEASE_SETTLE_S)
    if not is_ours():
        raise StorageError(f"{describe()}; wait for it to end")

    def renew() -> None:
        while not is_over.wait(LEASE_INTERVAL_S):
            # An unreachable store is no loss: it is written again in the next interval.
            with contextlib.suppress(StorageError):
                if not is_ours():
                    on_loss(f"{describe()} after the lease of this one expired; this command ends")
                    return
                store.write(LEASE, lease)

    thread = threading.Thread(target=renew, name="lease", daemon=True)
    thread.start()
    try:
        yield
    finally:
        is_over.set()
        thread.join()
        with contextlib.suppress(StorageError):
            if is_ours():
                store.delete([LEASE])


@contextlib.contextmanager
def _storage_errors(where: str) -> Iterator[None]:
    """Convert pyarrow's errors to a StorageError of one line; FileNotFoundError passes."""
    try:
        yield
    except FileNotFoundError:
        raise
    except (OSError, ArrowException) as error:
        text = " ".join(str(error).split())
        # pyarrow has no error codes: known causes are recognised by parts of its text.
        for signs, message in _REASONS:
            if any(sign in text for sign in signs):
                raise StorageError(f"{where}: {message}") from None
        raise StorageError(f"{where}: {text}") from None
