"""An output that grows chunk by chunk, survives a kill, and becomes a file when it is whole.

    out.de.unfinished/
      begun.json       what it was begun with: input, model, options
      text             the chunks that are done, in order, unpacked
      chunks.jsonl     for each of them: lines of the input, bytes and SHA-256 of its text, and
                       what was counted
      lock

A chunk counts once its line in chunks.jsonl is whole and its text is what that line says. Whatever
stands behind the last such chunk is cut off when the work goes on: half a chunk, or damage.
"""

import hashlib
import json
import logging
import os
import shutil
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import BinaryIO

from nmt.corpus.io import try_lock
from nmt.corpus.text import open_output
from nmt.errors import ConfigError, DataError

log = logging.getLogger(__name__)

BEGUN, TEXT, CHUNKS = "begun.json", "text", "chunks.jsonl"


@dataclass(frozen=True)
class Record:
    """A line of chunks.jsonl."""

    num_lines: int
    num_bytes: int
    sha256: str
    counts: dict[str, int]


class Unfinished:
    """The part of an output that is there; `open_unfinished` makes one."""

    def __init__(self, folder: Path, text: BinaryIO, chunks: BinaryIO) -> None:
        """Count what is there and whole, and cut off the rest."""
        self.folder = folder
        self.num_chunks = 0
        self.num_lines = 0
        """Lines of the input whose output is there."""
        self.counts: Counter[str] = Counter()
        """What was counted in them."""
        self._text, self._chunks = text, chunks
        num_bytes = num_listed = 0
        for line in chunks.read().splitlines(keepends=True):
            record = _read_record(line)
            data = text.read(record.num_bytes) if record else b""
            if record is None or record.sha256 != hashlib.sha256(data).hexdigest():
                log.warning("%s: damaged, and going on, behind line %d", folder, self.num_lines)
                break
            num_bytes += len(data)
            num_listed += len(line)
            self._count(record)
        for file, length in ((text, num_bytes), (chunks, num_listed)):
            file.truncate(length)
            file.seek(length)

    def add(self, output: str, num_lines: int, counts: Mapping[str, int]) -> None:
        """Bring the output of the next chunk, of that many lines of the input, to the disk."""
        data = output.encode()
        record = Record(num_lines, len(data), hashlib.sha256(data).hexdigest(), dict(counts))
        self._write(self._text, data)
        self._write(self._chunks, json.dumps(asdict(record)).encode() + b"\n")
        self._count(record)

    def _count(self, record: Record) -> None:
        self.num_chunks += 1
        self.num_lines += record.num_lines
        self.counts.update(record.counts)

    def _write(self, file: BinaryIO, data: bytes) -> None:
        try:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        except OSError as error:
            raise DataError(
                f"{self.folder}: cannot be written: {error.strerror}; make room, and give the same "
                "command again: it goes on where it stopped"
            ) from None


@contextmanager
def open_unfinished(output: Path, begun_with: Mapping[str, str]) -> Iterator[Unfinished]:
    """The unfinished output for a file: ours alone, begun with the same or new.

    When the block ends well the file is there, packed as its name says, and the rest is removed.

    Args:
        output: the file that it is to become.
        begun_with: what must not change before it is whole, each under a name for people.

    Raises:
        DataError: it cannot be written, or another process is at work on it.
        ConfigError: it was begun with something else.
    """
    folder = folder_of(output)
    try:
        folder.mkdir(exist_ok=True)
        lock = (folder / "lock").open("w")
    except OSError as error:
        raise DataError(
            f"{folder}: cannot be written: {error.strerror}; name another output"
        ) from None
    with lock:
        if not try_lock(lock, folder):
            raise DataError(
                f"{folder}: another process is at work on it; wait for it, or name another output"
            )
        _check_begun(folder, begun_with)
        for name in (TEXT, CHUNKS):
            (folder / name).touch()
        with (folder / TEXT).open("rb+") as text, (folder / CHUNKS).open("rb+") as chunks:
            yield Unfinished(folder, text, chunks)
        with (
            (folder / TEXT).open(encoding="utf-8", newline="") as whole,
            open_output(output) as file,
        ):
            shutil.copyfileobj(whole, file, 1 << 20)
    shutil.rmtree(folder, ignore_errors=True)


def folder_of(output: Path) -> Path:
    """Where the unfinished output for a file is."""
    return output.with_name(f"{output.name}.unfinished")


def _check_begun(folder: Path, begun_with: Mapping[str, str]) -> None:
    path = folder / BEGUN
    before = None
    with suppress(FileNotFoundError, ValueError):
        before = json.loads(path.read_text(encoding="utf-8"))
    if not isinstance(before, dict):
        # Nothing that counts has been written yet: the first thing that is written is this.
        (folder / CHUNKS).unlink(missing_ok=True)
        path.write_text(json.dumps(begun_with, indent=1) + "\n", encoding="utf-8")
        return
    for name, value in begun_with.items():
        if before.get(name) != value:
            raise ConfigError.from_message(
                f"{folder} was begun with {name} {before.get(name)}, but now it is {value}: give "
                "that again to go on, or remove the folder to begin anew"
            )


def _read_record(line: bytes) -> Record | None:
    """A line of chunks.jsonl; None: it is damaged."""
    if not line.endswith(b"\n"):
        return None
    try:
        return Record(**json.loads(line))
    except (TypeError, ValueError):
        return None
