"""Object stores: the door of `pyarrow.fs`.

An address is s3://BUCKET/FOLDER, with what pyarrow takes behind a question mark: region, and for a
store that is not Amazon's endpoint_override=HOST:PORT and scheme=http. Credentials come from the
environment (AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY), from ~/.aws or from the role of the host,
never from the address: logs, config files and lists of processes repeat it.
An object is there whole or not at all; there is no rename, and nothing grows.
"""

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from pyarrow import ArrowException
from pyarrow.fs import FileSelector, FileSystem, FileType, copy_files

from nmt.config.settings import check_address
from nmt.errors import StorageError

_REASONS = (
    (("NO_SUCH_BUCKET",), "there is no such bucket; make it, or name another"),
    (
        ("ACCESS_DENIED", "HTTP response code 403", "INVALID_ACCESS_KEY", "SIGNATURE", "HTTP 403"),
        "access is refused; set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY where this runs, or "
        "give the host a role that may read and write there",
    ),
    (
        ("NETWORK_CONNECTION", "curlCode", "Could not connect", "resolve host"),
        "the store does not answer; check the network, and endpoint_override in the address",
    ),
)
"""What pyarrow's message holds, and what it means."""


@dataclass(frozen=True)
class StoredObject:
    """What a listing says of a file."""

    num_bytes: int
    written: float
    """Seconds since 1970, by the store's clock."""


def is_address(path: str) -> bool:
    """Whether text names an object store, not a folder."""
    return "://" in path


def join_address(address: str, name: str) -> str:
    """The address of a folder in another."""
    head, mark, query = address.partition("?")
    return f"{head.rstrip('/')}/{name}{mark}{query}"


def display_address(address: str) -> str:
    """An address as people read it: where, not how to get there."""
    return address.partition("?")[0].rstrip("/")


class ObjectStore:
    """A folder of an object store.

    All methods raise StorageError where the store does not answer, after a few tries and seconds,
    or refuses.
    """

    def __init__(self, address: str) -> None:
        check_address("the store", address)
        with _told(display_address(address)):
            self._files, self._root = FileSystem.from_uri(address)

    def url(self, name: str = "") -> str:
        """What people call a file of it, or itself."""
        return f"s3://{self._path(name)}"

    def check_writable(self) -> None:
        """Raise StorageError unless files can be written here."""
        with _told(self.url()):
            with self._files.open_output_stream(self._path(".nmt-was-here")) as stream:
                stream.write(b"nmt\n")
            self._files.delete_file(self._path(".nmt-was-here"))

    def list_objects(self, folder: str = "") -> dict[str, StoredObject]:
        """All files, or those below a folder in it, by their names in this one."""
        selector = FileSelector(self._path(folder), allow_not_found=True, recursive=True)
        with _told(self.url(folder)):
            infos = self._files.get_file_info(selector)
        return {
            info.path.removeprefix(f"{self._root}/"): StoredObject(info.size, info.mtime_ns / 1e9)
            for info in infos
            if info.type == FileType.File
        }

    def read(self, name: str) -> bytes | None:
        """What a small file holds; None: there is none."""
        with _told(self.url(name)):
            try:
                with self._files.open_input_stream(self._path(name)) as stream:
                    content: bytes = stream.read()
                    return content
            except FileNotFoundError:
                return None

    def upload(self, file: Path, name: str) -> None:
        """Put a file there, instead of one of that name."""
        with _told(self.url(name)):
            copy_files(str(file), self._path(name), destination_filesystem=self._files)

    def download(self, name: str, file: Path) -> bool:
        """Get a file; False: there is none."""
        with _told(self.url(name)):
            try:
                copy_files(self._path(name), str(file), source_filesystem=self._files)
            except FileNotFoundError:
                return False
        return True

    def delete(self, names: list[str]) -> None:
        """Remove files, in this order."""
        for name in names:
            with _told(self.url(name)), contextlib.suppress(FileNotFoundError):
                self._files.delete_file(self._path(name))

    def _path(self, name: str) -> str:
        return f"{self._root}/{name}" if name else self._root


@contextlib.contextmanager
def _told(where: str) -> Iterator[None]:
    """Say what pyarrow says as one line; FileNotFoundError is for the caller."""
    try:
        yield
    except FileNotFoundError:
        raise
    except (OSError, ArrowException) as error:
        text = " ".join(str(error).split())
        for signs, meaning in _REASONS:
            if any(sign in text for sign in signs):
                raise StorageError(f"{where}: {meaning}") from None
        raise StorageError(f"{where}: {text}") from None
