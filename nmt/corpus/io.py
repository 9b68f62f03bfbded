"""Files: bytes in and out, plain or packed, in whole lines, whole or not at all.

Reading unpacks .gz, .xz and .zst and splits on line feed only: U+2028, U+0085 and a bare carriage
return inside a line can never shift the two sides of a corpus against each other. The carriage
return of CRLF and a byte order mark at the start of a file are taken off, and nothing else.
"""

import errno
import fcntl
import gzip
import logging
import lzma
import os
import secrets
import zlib
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any, BinaryIO

import zstandard

from nmt.errors import DataError

log = logging.getLogger(__name__)

Source = str | Path | BinaryIO
"""A path, unpacked by its suffix, or an open stream of plain bytes."""

READ_BYTES = 1 << 17
MAX_LINE_BYTES = 1 << 26
"""A line longer than 64 MiB is no line: the file has other line ends, or none."""

_UNPACK: dict[str, tuple[str, Callable[[], Any]]] = {
    ".gz": ("gzip", lambda: zlib.decompressobj(wbits=31)),
    ".xz": ("xz", lzma.LZMADecompressor),
    ".zst": ("zstd", lambda: zstandard.ZstdDecompressor().decompressobj()),
}
_MAGIC = {b"\x1f\x8b": ".gz", b"\xfd7zXZ\0": ".xz", b"\x28\xb5\x2f\xfd": ".zst"}
_BOM = b"\xef\xbb\xbf"


def read_blocks(source: Source, digest: Any = None) -> Iterator[tuple[int, bytes]]:
    """The whole lines of a file, many at a time: the number of the first (from 1), and their bytes.

    Every line ends with a line feed, but perhaps the last of the file. Line ends are those of
    `normalise_line_ends`.

    Args:
        source: a path, unpacked by its suffix (.gz, .xz, .zst), or an open binary stream.
        digest: a hashlib object that is fed the file's own bytes, packed as they are.

    Raises:
        DataError: a file that is missing, damaged, packed but not named so, in UTF-16, without line
            feeds, or with NUL bytes.
    """
    name = source_name(source)
    line, rest, has_cr = 1, b"", False
    stream = _unpacked(source, digest)
    while True:
        try:
            data = next(stream, None)
        except (EOFError, OSError, zlib.error, lzma.LZMAError, zstandard.ZstdError) as error:
            raise _cannot_read(name, line, error) from None
        if data is None:
            break
        if line == 1 and len(rest) < len(_BOM):
            rest, data = b"", rest + data
            if len(data) >= len(_BOM):
                data = _without_bom(data, name)
        end = data.rfind(b"\n") + 1
        has_cr = has_cr or (line == 1 and b"\r" in data)
        if not end:
            rest += data
            if len(rest) > MAX_LINE_BYTES:
                raise DataError(_no_line_ends(name, line, has_cr))
            continue
        block, rest = rest + data[:end], data[end:]
        yield line, _checked(block, line, name)
        line += block.count(b"\n")
    if line == 1 and b"\r" in rest[:-1]:
        raise DataError(_no_line_ends(name, line, has_cr=True))
    if rest:
        yield line, _checked(rest, line, name)


def normalise_line_ends(block: bytes) -> bytes:
    """A block of whole lines whose CRLF line ends are plain line feeds."""
    return block.replace(b"\r\n", b"\n") if b"\r\n" in block else block


def split_lines(block: bytes) -> list[bytes]:
    """The lines of a block, without their line feeds."""
    lines = block.split(b"\n")
    if not lines[-1]:
        lines.pop()
    return lines


def is_writable(folder: Path) -> bool:
    """Whether files can be put into a folder that is there, or can be made."""
    there = next(path for path in (folder, *folder.absolute().parents) if path.exists())
    return there.is_dir() and os.access(there, os.W_OK)


def try_lock(lock: IO[Any], folder: Path) -> bool:
    """Take the lock of a folder until its file is closed; False: another process has it.

    The lock goes with its process, however that ends. Where the file system has none it is given to
    all, with a warning.
    """
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:
        log.warning("%s: cannot be locked: give the command once only", folder)
    return True


@contextmanager
def atomic_write(path: Path) -> Iterator[Path]:
    """A temporary path that becomes `path` when the block ends well, and is removed if it does not.

    Raises:
        DataError: there is no folder to write to, writing is not allowed, or the disk is full.
    """
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}.tmp")
    if path.is_dir():
        raise DataError(f"{path}: is a folder; name a file in it")
    try:
        with temporary.open("wb"):
            pass
    except OSError as error:
        raise DataError(
            f"{path}: cannot be written: {error.strerror}; check the folder and who may write to it"
        ) from None
    try:
        yield temporary
        with temporary.open("rb+") as file:
            os.fsync(file.fileno())
        temporary.replace(path)
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        raise DataError(
            f"{path}: cannot be written: {os.strerror(error.errno)}; make room and try again"
        ) from None
    finally:
        with suppress(FileNotFoundError):
            temporary.unlink()


def write_zstd(path: Path, parts: Iterable[bytes]) -> None:
    """Write bytes to a zstd file of our own, whole or not at all."""
    with (
        atomic_write(path) as temporary,
        temporary.open("wb") as file,
        zstandard.ZstdCompressor(level=1).stream_writer(file, closefd=False) as packed,
    ):
        for part in parts:
            packed.write(part)


def read_zstd(path: Path) -> bytes:
    """All bytes of a file of `write_zstd`, exactly as they were."""
    with path.open("rb") as file, zstandard.ZstdDecompressor().stream_reader(file) as packed:
        return bytes(packed.read())


def source_name(source: Source) -> str:
    """What messages call a source."""
    if isinstance(source, str | Path):
        return str(source)
    name = getattr(source, "name", "")
    return "standard input" if name in ("", 0, "<stdin>") else str(name)


def _unpacked(source: Source, digest: Any) -> Iterator[bytes]:
    if not isinstance(source, str | Path):
        yield from _raw(source, digest)
        return
    with Path(source).open("rb") as file:
        unpack = _UNPACK.get(Path(source).suffix)
        if unpack is None:
            yield from _raw(file, digest)
        else:
            yield from _unpack(_raw(file, digest), unpack[1])


def _raw(stream: BinaryIO, digest: Any) -> Iterator[bytes]:
    # read1 hands on what a pipe holds already: a person at a terminal sees each line answered.
    read = getattr(stream, "read1", stream.read)
    while data := read(READ_BYTES):
        if digest is not None:
            digest.update(data)
        yield data


def _unpack(packed: Iterator[bytes], unpacker: Callable[[], Any]) -> Iterator[bytes]:
    """Unpack one or several members, one after the other; EOFError where the last is cut short."""
    machine = unpacker()
    is_complete = False
    for data in packed:
        while data:
            if machine.eof:
                data = data.lstrip(b"\0")  # tapes and some tools fill up with zeros
                if not data:
                    break
                machine = unpacker()
            is_complete = False
            if unpacked := machine.decompress(data):
                yield unpacked
            is_complete = machine.eof
            data = machine.unused_data if machine.eof else b""
    if not is_complete:
        raise EOFError("it ends too early")


def open_compressor(file: BinaryIO, suffix: str) -> Any:
    """A stream that packs into a file as its suffix says; the same bytes for the same text."""
    if suffix == ".gz":
        return gzip.GzipFile(filename="", mode="wb", fileobj=file, mtime=0)
    if suffix == ".xz":
        return lzma.LZMAFile(file, "wb")
    if suffix == ".zst":
        return zstandard.ZstdCompressor().stream_writer(file)
    return file


def _without_bom(data: bytes, name: str) -> bytes:
    """The start of a file without its byte order mark; DataError if it is no UTF-8 text at all."""
    if data.startswith((b"\xff\xfe", b"\xfe\xff")):
        raise DataError(
            f"{name}, line 1: the file is UTF-16, but UTF-8 is expected; "
            f"convert it (`iconv -f UTF-16 -t UTF-8`)"
        )
    for magic, suffix in _MAGIC.items():
        if data.startswith(magic):
            raise DataError(
                f"{name}, line 1: this is {_UNPACK[suffix][0]} data where plain text was expected; "
                f"give the file a name that ends in {suffix}, or unpack it"
            )
    return data.removeprefix(_BOM)


def _checked(block: bytes, first_line: int, name: str) -> bytes:
    nul = block.find(b"\0")
    if nul >= 0:
        line = first_line + block.count(b"\n", 0, nul)
        raise DataError(
            f"{name}, line {line}: a NUL byte, which is never text; the file is damaged or not "
            f"UTF-8: get it again, or delete the NULs (`tr -d '\\000'`) if the lines are whole"
        )
    return normalise_line_ends(block)


def _no_line_ends(name: str, line: int, has_cr: bool) -> str:
    if has_cr:
        return (
            f"{name}, line {line}: carriage returns but no line feed; expected line feeds at the "
            f"ends of lines: convert the file (`tr '\\r' '\\n'`)"
        )
    return (
        f"{name}, line {line}: no line feed in {MAX_LINE_BYTES >> 20} MiB; "
        f"one segment a line was expected: this is not a text file, or its line ends are missing"
    )


def _cannot_read(name: str, line: int, error: Exception) -> DataError:
    if isinstance(error, FileNotFoundError):
        return DataError(f"{name}: there is no such file; check corpus.root and the file's name")
    if isinstance(error, IsADirectoryError):
        return DataError(f"{name}: is a folder; name a file in it")
    if isinstance(error, OSError) and error.strerror:
        return DataError(f"{name}: cannot be read: {error.strerror}")
    kind = _UNPACK.get(Path(name).suffix, ("packed", None))[0]
    return DataError(
        f"{name}, line {line}: the {kind} data is damaged ({error}); "
        f"copy or download the file again, and check that it is what its name says"
    )
