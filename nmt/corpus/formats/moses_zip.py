"""Zip archives of OPUS in the Moses format: two line-parallel members, such as X.de-en.de and .en.

Other members (README, LICENSE, identifiers, hidden files) are ignored. Members are decompressed as
a stream.
"""

import zipfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import BinaryIO, cast

from nmt.corpus.formats.lines import read_sides
from nmt.corpus.formats.record_file import (
    ColumnError,
    RawPair,
    RecordFile,
    find_column,
    format_names,
)
from nmt.corpus.languages import describe_language
from nmt.errors import DataError


def list_columns(path: Path) -> list[str]:
    """Return the suffixes of the members that stand for languages."""
    with _open(path) as archive:
        return list(_members(archive))


def read(file: RecordFile) -> Iterator[RawPair]:
    """Read the pairs of an archive.

    Raises:
        DataError: see `read_blocks`; a member is missing, or the two differ in length.
    """
    with _open(file.path) as archive, ExitStack() as stack:
        names = _choose(archive, file, 0), _choose(archive, file, 1)
        if names[0] == names[1]:
            raise ColumnError(
                f"{file.path}: member {names[0]} is both source and target",
                f"set src_column and tgt_column to two of {format_names(archive.namelist())}",
            )
        streams, places = [], []
        for name in names:
            place = Path(file.path, name)
            try:
                streams.append(stack.enter_context(archive.open(name)))
            except (RuntimeError, NotImplementedError, zipfile.BadZipFile) as error:
                problem = f"cannot be read ({error}); unpack it with `unzip`"
                raise DataError(f"{place}: {problem}") from None
            places.append(place)
        sources = cast(BinaryIO, streams[0]), cast(BinaryIO, streams[1])
        yield from read_sides(file.path.name, sources, (places[0], places[1]), file.is_strict)


def _choose(archive: zipfile.ZipFile, file: RecordFile, side: int) -> str:
    members = _members(archive)
    column, language = file.columns[side], file.languages[side]
    # A member can be set by its name where several have the same suffix.
    if column in archive.namelist():
        return column
    suffixes = list(members)
    number = find_column(suffixes, column, language, ())
    found = members[suffixes[number]] if number is not None else []
    if len(found) != 1:
        setting = ("src_column", "tgt_column")[side]
        several = f"{len(found)} members" if found else "no member"
        raise ColumnError(
            f"{file.path}: {several} for {column or describe_language(language)}; it has "
            f"{format_names(archive.namelist())}",
            f"set {setting} to one of them",
        )
    return found[0]


def _members(archive: zipfile.ZipFile) -> dict[str, list[str]]:
    """Return the members by suffix; identifiers, folders, hidden files and others left out."""
    found: dict[str, list[str]] = {}
    for name in archive.namelist():
        suffix = Path(name).suffix.removeprefix(".")
        # macOS adds a hidden __MACOSX/._x.en to each x.en.
        is_file = not (name.endswith("/") or Path(name).name.startswith("."))
        if suffix and is_file and suffix not in ("ids", "xml", "txt", "md"):
            found.setdefault(suffix, []).append(name)
    return found


@contextmanager
def _open(path: Path) -> Iterator[zipfile.ZipFile]:
    try:
        archive = zipfile.ZipFile(path)
    except FileNotFoundError:
        raise
    except (OSError, zipfile.BadZipFile, ValueError) as error:
        raise DataError(f"{path}: not a zip archive ({error}); download it again") from None
    with archive:
        yield archive
