"""Parquet: a struct `translation` with a field per language, or two columns of text."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from nmt.corpus.formats.record_file import RawPair, RecordFile, encode_side, find_columns
from nmt.corpus.shards import open_parquet

BATCH_ROWS = 10_000
"""Rows decoded at once."""


def list_columns(path: Path) -> list[str]:
    """Return the fields of `translation`, or the columns of text."""
    with open_parquet(path) as table:
        return list(_columns(table.schema_arrow))


def read(file: RecordFile) -> Iterator[RawPair]:
    """Read the pairs of a Parquet file, a batch of rows at a time.

    Raises:
        DataError: it is missing, damaged, or lacks a column.
    """
    with open_parquet(file.path) as table:
        columns = _columns(table.schema_arrow)
        names = list(columns)
        chosen = [names[number] for number in find_columns(names, file)]
        row = 0
        paths = [columns[name] for name in chosen]
        for batch in table.iter_batches(BATCH_ROWS, columns=paths, use_threads=False):
            sides = [_texts(batch, path) for path in paths]
            for pair in zip(*sides, strict=True):
                row += 1
                yield (
                    encode_side(pair[0], row, chosen[0], file),
                    encode_side(pair[1], row, chosen[1], file),
                )


def _columns(schema: Any) -> dict[str, str]:
    """Return the dotted paths of the columns by name."""
    fields = {field.name: field.type for field in schema}
    struct = fields.get("translation")
    if struct is not None and str(struct).startswith("struct<"):
        return {field.name: f"translation.{field.name}" for field in struct}
    texts = [name for name, kind in fields.items() if "string" in str(kind)]
    # A name with a dot would be read as a field of a struct.
    return {name: name for name in texts if "." not in name}


def _texts(batch: Any, path: str) -> list[str | None]:
    name, _, field = path.partition(".")
    column = batch.column(name)
    if field:
        # flatten applies the validity of the struct to its fields.
        column = column.flatten()[[each.name for each in column.type].index(field)]
    texts: list[str | None] = column.to_pylist()
    return texts
