"""The files of a corpus, a dev or a test set, and their pairs in any format.

A format is a module of `nmt.corpus.formats`; to add one, also add its key to `ParallelText`.
"""

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

from nmt.config.corpus import CorpusConfig, ParallelText
from nmt.corpus.formats import jsonl, moses_zip, parquet, tmx, tsv
from nmt.corpus.formats.lines import read_sides
from nmt.corpus.formats.record_file import RawPair, RecordFile
from nmt.corpus.io import READ_BYTES, read_blocks
from nmt.corpus.text import line_counts_message, read_lines
from nmt.errors import DataError

FORMATS: dict[str, ModuleType] = {
    "tsv": tsv, "tmx": tmx, "parquet": parquet, "jsonl": jsonl, "zip": moses_zip,
}  # fmt: skip
"""Module of each format, by the key of `ParallelText` that names the file."""


@dataclass(frozen=True)
class PairFiles:
    """The files of a corpus on this machine."""

    text: ParallelText
    root: str
    """Folder of its files."""
    languages: tuple[str, str]

    @classmethod
    def of(cls, text: ParallelText, corpus: CorpusConfig) -> "PairFiles":
        """Return the files of a corpus, a dev or a test set of an experiment."""
        return cls(text, os.path.abspath(corpus.root), (corpus.src, corpus.tgt))

    def paths(self) -> list[Path]:
        """Return the paths of all files, further references included."""
        return [Path(self.root, name) for name in (*self.text.files, *self.text.refs)]

    def check(self) -> None:
        """Check that the files exist and that their beginnings have the right format; quick.

        Raises:
            DataError: a file is missing, does not start as text, or lacks a column.
        """
        paths = self.paths()
        for path in paths:
            self._check_exists(path)
        num_records = 0
        if self.text.format != "lines":
            next(self.read_raw(), None)
            num_records = 1
        # The beginning shows compression, UTF-16, NUL bytes and missing line feeds.
        for path in paths[num_records:]:
            size = 0
            for _, block in read_blocks(path):
                size += len(block)
                if size >= READ_BYTES:
                    break

    def read_raw(self, *, is_strict: bool = False) -> Iterator[RawPair]:
        """Read the pairs as bytes, without cleaning.

        Args:
            is_strict: True if text that is not UTF-8 is an error.

        Raises:
            DataError: a file is missing, damaged or not of its format, or the sides differ in
                length.
        """
        text, paths = self.text, self.paths()
        if text.format == "lines":
            sides = paths[0], paths[1]
            return read_sides(text.name, sides, sides, is_strict)
        self._check_exists(paths[0])
        columns = text.src_column, text.tgt_column
        file = RecordFile(paths[0], columns, self.languages, is_strict)
        pairs: Iterator[RawPair] = FORMATS[text.format].read(file)
        return pairs

    def read(self) -> Iterator[tuple[str, str]]:
        """Read the pairs as text, without cleaning; DataError as `read_raw`, or not UTF-8."""
        for src, tgt in self.read_raw(is_strict=True):
            yield src.decode(), tgt.decode()

    def read_refs(self, num_pairs: int) -> list[list[str]]:
        """Read the further references of a test set of `num_pairs` pairs."""
        found = []
        for path in self.paths()[len(self.text.files) :]:
            lines = list(read_lines(path))
            if len(lines) != num_pairs:
                counts = num_pairs, len(lines)
                message = line_counts_message(self.text.name, (self.paths()[0], path), counts)
                raise DataError(message)
            found.append(lines)
        return found

    def _check_exists(self, path: Path) -> None:
        if not path.is_file():
            raise DataError(
                f"{path}: there is no such file; check corpus.root and the names in the experiment"
            )
