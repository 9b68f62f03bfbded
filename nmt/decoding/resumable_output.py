"""Resumable output: a file written in chunks that survives a kill.

    out.de.unfinished/
      begun.json       settings of the output: input, model, options
      text             finished chunks, in order, uncompressed
      chunks.jsonl     a line per chunk: input lines, bytes and SHA-256 of its text, and counts
      lock

A chunk counts once its line in chunks.jsonl is complete and its text matches that line. Anything
after the last such chunk, a partial chunk or corruption, is truncated on resume.
"""

import hashlib
import json
import logging
import os
import shutil
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import BinaryIO, TypeVar

from nmt.config.settings import Count, parse_record
from nmt.corpus.io import lock_work
from nmt.corpus.text import open_output
from nmt.errors import ConfigError, DataError

log = logging.getLogger(__name__)

ItemT = TypeVar("ItemT")

SETTINGS, TEXT, CHUNKS = "begun.json", "text", "chunks.jsonl"
_OWN_FILES = r"begun\.json|text|chunks\.jsonl|ray\.log"
"""Names of files of unfinished output; ray.log is that of the workers."""


@dataclass(frozen=True)
class ChunkRecord:
    """Line of chunks.jsonl."""

    num_lines: Count
    num_bytes: Count
    sha256: str
    counts: dict[str, Count]


class ResumableOutput:
    """Finished chunks of an output; created by `open_resumable`."""

    def __init__(self, folder: Path, text: BinaryIO, chunks: BinaryIO) -> None:
        """Read the complete chunks and truncate the rest."""
        self.folder = folder
        self.num_chunks = 0
        self.num_lines = 0
        """Input lines of the finished chunks."""
        self.counts: Counter[str] = Counter()
        """Counts of the finished chunks."""
        self._text, self._chunks = text, chunks
        text_size = records_size = 0
        total = os.fstat(text.fileno()).st_size
        for line in chunks.read().splitlines(keepends=True):
            record = _parse_record(line)
            # Never more than the file has: a damaged size must not reserve memory.
            data = text.read(min(record.num_bytes, total)) if record else b""
            # The first mismatch ends what can be trusted: chunks are written in order.
            if record is None or record.sha256 != hashlib.sha256(data).hexdigest():
                log.warning("%s: corrupt; resuming after line %d", folder, self.num_lines)
                break
            text_size += len(data)
            records_size += len(line)
            self._count(record)
        for file, size in ((text, text_size), (chunks, records_size)):
            file.truncate(size)
            file.seek(size)

    def rest(self, chunks: Iterable[Sequence[ItemT]]) -> Iterator[Sequence[ItemT]]:
        """Yield the chunks of the input without the finished lines.

        The finished chunks may have had another size: on GPUs chunks are larger.
        """
        left = self.num_lines
        for chunk in chunks:
            if left < len(chunk):
                yield chunk[left:]
            left = max(0, left - len(chunk))

    def add(self, output: str, num_lines: int, counts: Mapping[str, int]) -> None:
        """Write the output of the next chunk of `num_lines` input lines to disk."""
        data = output.encode()
        record = ChunkRecord(num_lines, len(data), hashlib.sha256(data).hexdigest(), dict(counts))
        # The text first: a record without its text would be corrupt, a text without record is cut.
        self._write(self._text, data)
        self._write(self._chunks, json.dumps(asdict(record)).encode() + b"\n")
        self._count(record)

    def _count(self, record: ChunkRecord) -> None:
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
                f"{self.folder}: cannot be written: {error.strerror}; free some space and run the "
                "same command again: it resumes"
            ) from None


@contextmanager
def open_resumable(output: Path, settings: Mapping[str, str]) -> Iterator[ResumableOutput]:
    """Open the resumable output for a file, new or resumed, and lock it.

    When the block succeeds the file is written, compressed as its name requires, and the working
    folder is removed.

    Args:
        output: the file.
        settings: names and values that must not change until the output is complete.

    Raises:
        DataError: it cannot be written, or another process has locked it.
        ConfigError: it was started with other settings.
    """
    folder = work_folder(output)
    with lock_work(folder, _OWN_FILES, "choose another output"):
        _check_settings(folder, settings)
        for name in (TEXT, CHUNKS):
            (folder / name).touch()
        with (folder / TEXT).open("rb+") as text, (folder / CHUNKS).open("rb+") as chunks:
            yield ResumableOutput(folder, text, chunks)
        # open_output compresses by the name and replaces the file only if all is written.
        path = folder / TEXT
        with path.open(encoding="utf-8", newline="") as done, open_output(output) as file:
            shutil.copyfileobj(done, file, 1 << 20)
    shutil.rmtree(folder, ignore_errors=True)


def work_folder(output: Path) -> Path:
    """Return the folder of an incomplete output."""
    return output.with_name(f"{output.name}.unfinished")


def _check_settings(folder: Path, settings: Mapping[str, str]) -> None:
    """Compare the settings with those of the folder, or store them in a new one."""
    path = folder / SETTINGS
    stored = None
    with suppress(FileNotFoundError, ValueError):
        stored = parse_record(dict[str, str], path.read_bytes())
    if stored is None:
        # Settings are written before any chunk, so chunks without settings cannot be trusted.
        (folder / CHUNKS).unlink(missing_ok=True)
        path.write_text(json.dumps(settings, indent=1) + "\n", encoding="utf-8")
        return
    for name, value in settings.items():
        if stored.get(name) != value:
            raise ConfigError.from_message(
                f"{folder}: started with {name} {stored.get(name)}, now {value}: use the same "
                "value to resume, or remove the folder to start again"
            )


def _parse_record(line: bytes) -> ChunkRecord | None:
    """Return the record of a line of chunks.jsonl; None if it is corrupt."""
    # Without its line feed the record was interrupted.
    if not line.endswith(b"\n"):
        return None
    try:
        return parse_record(ChunkRecord, line)
    except ValueError:
        return None
