"""Reading and writing files: compression, line ends, locks and atomic replacement.

Reading decompresses .gz, .xz, .zst and .bz2 and splits lines at line feeds only, so that U+2028,
U+0085 or a bare carriage return inside a line cannot shift the two sides of a corpus against each
other. The carriage return of CRLF and a byte order mark at the start of a file are removed.
"""

import bz2
import errno
import fcntl
import gzip
import logging
import lzma
import os
import re
import secrets
import select
import zipfile
import zlib
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any, BinaryIO

import zstandard

from nmt.errors import ConfigError, DataError, check_path, summarise_names

log = logging.getLogger(__name__)

Source = str | Path | BinaryIO
"""A path, decompressed by its suffix, or an open stream of uncompressed bytes."""

READ_BYTES = 1 << 17
ZSTD_INPUT = 1 << 10
"""Bytes of a zstd file decompressed at once, because its output has no limit: 32 MiB at most."""
MAX_OUTPUT = 1 << 20
"""The same for the output of other formats."""
MAX_LINE_BYTES = 1 << 26
"""Longest line, 64 MiB: beyond that the file has other line ends, or none."""

_DECOMPRESSORS: dict[str, tuple[str, bytes | tuple[bytes, ...], Callable[[], Any]]] = {
    ".gz": ("gzip", b"\x1f\x8b", lambda: zlib.decompressobj(wbits=31)),
    ".xz": ("xz", b"\xfd7zXZ\0", lzma.LZMADecompressor),
    ".zst": ("zstd", b"\x28\xb5\x2f\xfd", lambda: _zstd_decompressor().decompressobj()),
    ".bz2": ("bzip2", tuple(b"BZh%d1AY&SY" % n for n in range(1, 10)), bz2.BZ2Decompressor),
}
"""Format name, first bytes of a file and decompressor, by suffix."""
COMPRESSED = tuple(_DECOMPRESSORS)
"""Suffixes of compressed files."""
_BOM = b"\xef\xbb\xbf"
_READ_ERRORS = (
    EOFError, OSError, zlib.error, lzma.LZMAError, zstandard.ZstdError, zipfile.BadZipFile,
)  # fmt: skip


def read_blocks(
    source: Source, digest: Any = None, idle_s: float | None = None, name: str = ""
) -> Iterator[tuple[int, bytes]]:
    """Read a file in blocks of complete lines, with CRLF as plain line feeds.

    Args:
        source: a path, decompressed by its suffix (`COMPRESSED`), or an open binary stream.
        digest: a hashlib object to update with the bytes of the file, compressed as they are.
        idle_s: seconds after which an input that has no more data for now gives an empty block.
        name: of the source in messages; empty: its own.

    Yields:
        The number of the block's first line, from 1, and its bytes. Every line ends with a line
        feed, except perhaps the last one of the file.

    Raises:
        DataError: the file is missing, damaged, compressed without the suffix, in UTF-16, without
            line feeds, or has NUL bytes.
    """
    name = name or source_name(source)
    line, has_cr = 1, False
    # Grows in place: a line of 64 MiB would be copied hundreds of times.
    rest = bytearray()
    stream = _decompressed(source, digest, idle_s)
    while True:
        try:
            data = next(stream, None)
        except _READ_ERRORS as error:
            raise _read_error(f"{name}, line {line}", name, error) from None
        if data is None:
            break
        if not data:
            yield line, b""
            continue
        # A pipe may deliver less than a byte order mark at first.
        if line == 1 and len(rest) < len(_BOM):
            rest, data = bytearray(), bytes(rest) + data
            if len(data) >= len(_BOM):
                data = _without_bom(data, name)
        # Up to the last line feed the block is complete; the rest waits for more data.
        end = data.rfind(b"\n") + 1
        has_cr = has_cr or (line == 1 and b"\r" in data)
        if not end:
            rest += data
            if b"\0" in data:
                _checked(bytes(rest), line, name)
            # Without line feeds the whole file would be read into memory.
            if len(rest) > MAX_LINE_BYTES:
                raise DataError(_no_line_ends(name, line, has_cr))
            continue
        block, rest = bytes(rest) + data[:end], bytearray(data[end:])
        # The lines before a NUL byte are read; the error names its line.
        nul = block.find(b"\0")
        if nul >= 0 and (size := block.rfind(b"\n", 0, nul) + 1):
            yield line, _checked(block[:size], line, name)
        yield line, _checked(block, line, name)
        line += block.count(b"\n")
    # One line with carriage returns inside: a file with the line ends of old Macs.
    if line == 1 and b"\r" in rest[:-1]:
        raise DataError(_no_line_ends(name, line, has_cr=True))
    if rest:
        yield line, _checked(bytes(rest), line, name)


def read_data(path: Path) -> Iterator[bytes]:
    """Read the bytes of a file, decompressed by its suffix; DataError if it cannot be read."""
    try:
        yield from _decompressed(path, None, None)
    except _READ_ERRORS as error:
        raise _read_error(str(path), str(path), error) from None


def split_lines(block: bytes) -> list[bytes]:
    """Split a block into lines without their line feeds."""
    lines = block.split(b"\n")
    if not lines[-1]:
        lines.pop()
    return lines


def is_writable(folder: Path) -> bool:
    """Return True if files can be written to a folder that exists or can be created."""
    # The folder may not exist yet: its nearest existing parent decides.
    parents = (folder, *folder.absolute().parents)
    # A folder cannot be created where a broken symbolic link is.
    existing = next(path for path in parents if path.exists() or path.is_symlink())
    return existing.is_dir() and os.access(existing, os.W_OK)


def check_files(files: Iterable[str | Path]) -> None:
    """Raise DataError if an input file does not exist, before anything slow starts."""
    for file in files:
        check_path("the file", file)
        if not Path(file).exists():
            raise DataError(f"{file}: file not found; check the path")


def check_regular_files(files: Iterable[str | Path]) -> None:
    """Raise DataError if an input file does not exist or, as a pipe, can be read only once."""
    for file in files:
        check_files([file])
        if not Path(file).is_file():
            raise DataError(
                f"{file}: not a regular file, but it is read several times; save it first"
            )


def check_writable(key: str, directory: Path) -> None:
    """Raise ConfigError if the directory of a setting is not writable."""
    if not is_writable(directory):
        raise ConfigError(key, directory, "it is not writable: use another directory")


@contextmanager
def lock_work(folder: Path, own: str, advice: str) -> Iterator[None]:
    """Create and lock a folder of unfinished work: two commands would overwrite each other's files.

    Args:
        folder: the folder; it may be deleted when the work is done.
        own: pattern of the names of its files.
        advice: what to name instead, for error messages.

    Raises:
        DataError: it has other files, cannot be written, or another process holds the lock.
    """
    found = folder.iterdir() if folder.is_dir() else []
    names = sorted(path.name + "/" * path.is_dir() for path in found)
    if others := [name for name in names if not re.fullmatch(rf"lock|\..*|{own}", name)]:
        raise DataError(f"{folder}: holds other files ({summarise_names(others)}); {advice}")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock = (folder / "lock").open("w")
    except OSError as error:
        raise DataError(f"{folder}: cannot be written: {error.strerror}; {advice}") from None
    with lock:
        if not try_lock(lock, folder):
            raise DataError(
                f"{folder}: lock file held by another process; wait for it to end, or {advice}"
            )
        yield


def try_lock(lock: IO[Any], folder: Path) -> bool:
    """Lock a folder until the lock file is closed; return False if another process holds it.

    The lock ends with its process in any case. A file system without locks grants it to all, with
    a warning.
    """
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:
        log.warning("%s: the file system has no locks: run one command at a time here", folder)
    return True


@contextmanager
def atomic_write(path: Path) -> Iterator[Path]:
    """Yield a temporary path that replaces `path` at the end, or is removed after an exception.

    Raises:
        DataError: the folder is missing, writing is not permitted, or the disk is full.
    """
    if path.is_dir():
        raise DataError(f"{path}: is a folder; name a file in it")
    # In the same folder: a rename across file systems is not atomic. A random name keeps two
    # processes apart.
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}.tmp")
    try:
        with temporary.open("wb"):
            pass
    except OSError as error:
        raise DataError(
            f"{path}: cannot be written: {error.strerror}; check the folder and its permissions"
        ) from None
    try:
        with name_write_errors(path):
            yield temporary
            # On disk before the rename: a crash must not leave an empty file under the final name.
            with temporary.open("rb+") as file:
                os.fsync(file.fileno())
            temporary.replace(path)
    finally:
        with suppress(FileNotFoundError):
            temporary.unlink()


@contextmanager
def name_write_errors(path: Path) -> Iterator[None]:
    """Raise DataError with the path for a disk that is full, or a file that is too large."""
    try:
        yield
    except OSError as error:
        # Other errors are bugs and keep their traceback.
        if error.errno not in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO):
            raise
        raise DataError(
            f"{path}: cannot be written: {os.strerror(error.errno)}; make room and try again"
        ) from None


def write_zstd(path: Path, parts: Iterable[bytes]) -> None:
    """Write bytes to a zstd file, atomically."""
    with (
        atomic_write(path) as temporary,
        temporary.open("wb") as file,
        # Temporary files: speed matters more than size; readers verify the checksum.
        zstandard.ZstdCompressor(level=1, write_checksum=True).stream_writer(
            file, closefd=False
        ) as compressed,
    ):
        for part in parts:
            compressed.write(part)


def read_zstd(path: Path) -> bytes:
    """Read a file of `write_zstd`; ValueError if it is damaged."""
    try:
        with path.open("rb") as file:
            return b"".join(_decompress(_read_raw(file, None, None), _DECOMPRESSORS[".zst"][2]))
    except (zstandard.ZstdError, EOFError) as error:
        raise ValueError(str(error)) from None


def compress_to(file: BinaryIO, suffix: str) -> Any:
    """Return a stream that compresses into a file by suffix; equal text gives equal bytes."""
    if suffix == ".gz":
        # No name and no time in the header, which would differ between two equal texts.
        return gzip.GzipFile(filename="", mode="wb", fileobj=file, mtime=0)
    if suffix == ".xz":
        return lzma.LZMAFile(file, "wb")
    if suffix == ".zst":
        return zstandard.ZstdCompressor().stream_writer(file)
    if suffix == ".bz2":
        return bz2.BZ2File(file, "wb")
    return file


def source_name(source: Source) -> str:
    """Return the name of a source for messages."""
    if isinstance(source, str | Path):
        return str(source)
    name = getattr(source, "name", "")
    return "standard input" if name in ("", 0, "<stdin>") else str(name)


def _zstd_decompressor() -> zstandard.ZstdDecompressor:
    # Window of 2 GiB, as `zstd --long=31` writes it; the default of 128 MiB is that of the command.
    return zstandard.ZstdDecompressor(max_window_size=1 << 31)


def _decompressed(source: Source, digest: Any, idle_s: float | None) -> Iterator[bytes]:
    if not isinstance(source, str | Path):
        yield from _read_raw(source, digest, idle_s)
        return
    with Path(source).open("rb") as file:
        blocks = _read_raw(file, digest, idle_s)
        # By suffix, as users and other tools expect; `_without_bom` detects the opposite case.
        if Path(source).suffix in _DECOMPRESSORS:
            is_zstd = Path(source).suffix == ".zst"
            blocks = _cut(blocks, ZSTD_INPUT) if is_zstd else blocks
            create = _DECOMPRESSORS[Path(source).suffix][2]
            blocks = _decompress(blocks, create, 0 if is_zstd else MAX_OUTPUT)
        yield from blocks


def _read_raw(stream: BinaryIO, digest: Any, idle_s: float | None) -> Iterator[bytes]:
    # read1 returns what a pipe already holds, and leaves nothing in its buffer.
    read = getattr(stream, "read1", stream.read)
    while True:
        if idle_s is not None and _is_idle(stream, idle_s):
            yield b""
        data = read(READ_BYTES)
        if not data:
            return
        if digest is not None:
            digest.update(data)
        yield data


def _is_idle(stream: BinaryIO, seconds: float) -> bool:
    """Return True if a pipe or terminal has no data within some seconds."""
    try:
        return not select.select([stream], [], [], seconds)[0]
    # A stream without a file descriptor is never idle.
    except (OSError, ValueError, TypeError):
        return False


def _decompress(
    blocks: Iterator[bytes], create: Callable[[], Any], limit: int = 0
) -> Iterator[bytes]:
    """Decompress one or several members in a row; EOFError if the last one is truncated.

    Args:
        blocks: the compressed file.
        create: returns a decompressor for one member.
        limit: largest block of output; 0: none, for decompressors that have no such limit.
    """
    decompressor = create()
    is_complete = False
    for data in blocks:
        while data:
            if decompressor.eof:
                data = data.lstrip(b"\0")  # tapes and some tools pad with zeros
                if not data:
                    break
                decompressor = create()
            is_complete = False
            yield from _expand(decompressor, data, limit)
            # Data after the end of a member starts the next one (`cat a.gz b.gz`).
            is_complete = decompressor.eof
            data = decompressor.unused_data if is_complete else b""
    if not is_complete:
        raise EOFError("it ends too early")


def _cut(blocks: Iterator[bytes], size: int) -> Iterator[bytes]:
    for block in blocks:
        for start in range(0, len(block), size):
            yield block[start : start + size]


def _expand(decompressor: Any, data: bytes, limit: int) -> Iterator[bytes]:
    # A block of a few bytes can expand to many MiB.
    while True:
        output = decompressor.decompress(data, *([limit] if limit else []))
        if output:
            yield output
        if not limit or decompressor.eof or len(output) < limit:
            return
        # zlib returns the rest of the input; the others keep it.
        data = getattr(decompressor, "unconsumed_tail", b"")


def _without_bom(data: bytes, name: str) -> bytes:
    """Remove the byte order mark at the start of a file; DataError if it is not UTF-8 text."""
    # Before the check for NUL bytes, of which UTF-16 is full.
    if data.startswith((b"\xff\xfe", b"\xfe\xff")):
        raise DataError(
            f"{name}, line 1: the file is UTF-16, but UTF-8 is expected; "
            f"convert it (`iconv -f UTF-16 -t UTF-8`)"
        )
    for suffix, (kind, magic, _) in _DECOMPRESSORS.items():
        if data.startswith(magic):
            raise DataError(
                f"{name}, line 1: {kind} data where plain text was expected; "
                f"rename the file to end in {suffix}, or decompress it"
            )
    return data.removeprefix(_BOM)


def _checked(block: bytes, first_line: int, name: str) -> bytes:
    """Return a block with CRLF as line feeds; DataError if it has a NUL byte."""
    # Text has no NUL bytes: they mean damage, or UTF-16 without a byte order mark.
    nul = block.find(b"\0")
    if nul >= 0:
        line = first_line + block.count(b"\n", 0, nul)
        raise DataError(
            f"{name}, line {line}: a NUL byte: the file is damaged or not UTF-8; download it "
            f"again, or delete the NUL bytes (`tr -d '\\000'`) if the lines are complete"
        )
    return block.replace(b"\r\n", b"\n") if b"\r\n" in block else block


def _no_line_ends(name: str, line: int, has_cr: bool) -> str:
    if has_cr:
        return (
            f"{name}, line {line}: carriage returns but no line feed; expected line feeds at the "
            f"ends of lines: convert the file (`tr '\\r' '\\n'`)"
        )
    return (
        f"{name}, line {line}: no line feed in {MAX_LINE_BYTES >> 20} MiB; expected one segment "
        f"per line: this is not a text file, or its line ends are missing"
    )


def _read_error(place: str, name: str, error: Exception) -> DataError:
    if isinstance(error, FileNotFoundError):
        return DataError(f"{name}: there is no such file; check corpus.root and the file's name")
    if isinstance(error, IsADirectoryError):
        return DataError(f"{name}: is a folder; name a file in it")
    if isinstance(error, OSError) and error.strerror:
        return DataError(f"{name}: cannot be read: {error.strerror}")
    suffix = Path(name).suffix
    kind = _DECOMPRESSORS[suffix][0] if suffix in _DECOMPRESSORS else "compressed"
    return DataError(
        f"{place}: the {kind} data is damaged ({error}); "
        f"copy or download the file again, and check that its format is that of its name"
    )
