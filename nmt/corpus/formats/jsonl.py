"""JSON lines: an object per line, {"translation": {"en": ..., "de": ...}} or two keys of text."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from nmt.corpus.formats.record_file import (
    RawPair,
    RecordFile,
    encode_side,
    find_columns,
    format_names,
)
from nmt.corpus.io import read_blocks, split_lines
from nmt.corpus.text import EncodingChecker
from nmt.errors import DataError, shorten


def list_columns(path: Path) -> list[str]:
    """Return the keys of the first object, or of its `translation`."""
    for first_line, block in read_blocks(path):
        for number, line in enumerate(split_lines(block), start=first_line):
            if line.strip():
                return list(_parse(line, path, number))
    return []


def read(file: RecordFile) -> Iterator[RawPair]:
    """Read the pairs of a file of JSON lines; blank lines are skipped.

    Raises:
        DataError: see `read_blocks`; a line is no object, or lacks a key.
    """
    checker = EncodingChecker(str(file.path), is_strict=file.is_strict)
    keys: tuple[str, str] | None = None
    for first_line, block in read_blocks(file.path):
        checker.check(first_line, block)
        for number, line in enumerate(split_lines(block), start=first_line):
            if not line.strip():
                continue
            record = _parse(line, file.path, number)
            if keys is None:
                names = list(record)
                src, tgt = find_columns(names, file, "key")
                keys = names[src], names[tgt]
            yield _side(record, keys[0], file, number), _side(record, keys[1], file, number)
    checker.finish()


def _parse(line: bytes, path: Path, number: int) -> dict[str, Any]:
    place = f"{path}, line {number}"
    try:
        # Invalid bytes become lone surrogates and, in `encode_side`, invalid text again.
        record = json.loads(line.decode("utf-8", "surrogateescape"))
    except (ValueError, RecursionError) as error:
        problem = getattr(error, "msg", "too deep or a number too long")
        raise DataError(
            f"{place}: not JSON ({shorten(problem)}); expected an object per line, such as "
            f'{{"translation": {{"en": "...", "de": "..."}}}}'
        ) from None
    if isinstance(record, dict) and isinstance(record.get("translation"), dict):
        record = record["translation"]
    if not isinstance(record, dict):
        raise DataError(
            f"{place}: {type(record).__name__} where an object was expected; write an object per "
            f"line (`jq -c '.[]'` splits an array)"
        )
    return record


def _side(record: dict[str, Any], key: str, file: RecordFile, line: int) -> bytes:
    if key not in record:
        raise DataError(
            f"{file.path}, line {line}: no key {key}; it has {format_names(list(record))}: fix or "
            f"delete the line"
        )
    return encode_side(record[key], line, key, file)
