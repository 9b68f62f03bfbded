"""TSV: a pair per line, columns separated by tabs, no quoting; further columns are ignored.

Without settings the first two columns are source and target and there is no header. Columns set by
number (from 1) mean the same; columns set by name need a header line, which is not a pair.
"""

import re
from collections.abc import Iterator
from pathlib import Path

from nmt.corpus.formats.record_file import RawPair, RecordFile, find_columns
from nmt.corpus.io import read_blocks, split_lines
from nmt.corpus.text import EncodingChecker
from nmt.errors import DataError

_NUMBER = re.compile(r"\d{1,6}")


def list_columns(path: Path) -> list[str]:
    """Return the cells of the first line, invalid characters replaced."""
    # Of bytes: the lines after it may be invalid, which is a rule of cleaning.
    blocks = (split_lines(block)[0] for _, block in read_blocks(path))
    return next(blocks, b"").decode("utf-8", "replace").split("\t")


def read(file: RecordFile) -> Iterator[RawPair]:
    """Read the pairs of a TSV file.

    Raises:
        DataError: see `read_blocks`; a column is missing in the header or in a row.
    """
    has_header = any(name and not _NUMBER.fullmatch(name) for name in file.columns)
    if has_header:
        src, tgt = find_columns(list_columns(file.path), file)
    else:
        src, tgt = (int(name or side) - 1 for side, name in enumerate(file.columns, start=1))
    if min(src, tgt) < 0 or src == tgt:
        raise DataError(
            f"{file.path}: columns {src + 1} and {tgt + 1} cannot be source and target: set "
            f"src_column and tgt_column to two numbers from 1"
        )
    last = max(src, tgt)
    checker = EncodingChecker(str(file.path), is_strict=file.is_strict)
    for first_line, block in read_blocks(file.path):
        checker.check(first_line, block)
        for number, line in enumerate(split_lines(block), start=first_line):
            if number == 1 and has_header:
                continue
            # An empty side is a pair (`\t`); a missing tab is an error.
            cells = line.split(b"\t", last + 1)
            if len(cells) <= last:
                raise DataError(_missing_column(file.path, number, len(cells), last + 1))
            yield cells[src], cells[tgt]
    checker.finish()


def _missing_column(path: Path, line: int, found: int, expected: int) -> str:
    if expected == 2:
        return f"{path}, line {line}: no tab; expected source, tab, target: fix or delete the line"
    return (
        f"{path}, line {line}: {found} columns, but source and target need {expected}: fix or "
        f"delete the line"
    )
