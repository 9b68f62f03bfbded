"""A file of pairs, one record per pair, and the choice of its source and target columns.

A format is a module with two functions: `list_columns(path)` returns the names of the sides in a
file (columns, keys, language tags or members), and `read(file)` its pairs.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from nmt.corpus.languages import describe_language, primary_language
from nmt.errors import DataError

RawPair = tuple[bytes, bytes]
"""Source and target as UTF-8 without line feeds; invalid text stays invalid."""
SIDES = (
    ("source", "src", "source_text", "src_text", "sentence1", "original", "input"),
    ("target", "tgt", "trg", "target_text", "tgt_text", "sentence2", "translation", "output"),
)
"""Names of columns that stand for source and target of any language pair."""


class ColumnError(DataError):
    """A file of pairs has no column for a side, or the same one for both."""

    def __init__(self, problem: str, advice: str) -> None:
        """Create the error; the advice names settings of the experiment."""
        super().__init__(f"{problem}: {advice}")
        self.problem = problem


@dataclass(frozen=True)
class RecordFile:
    """A file of pairs and how to read it."""

    path: Path
    columns: tuple[str, str]
    """Names of source and target in the file; empty: chosen by language."""
    languages: tuple[str, str]
    is_strict: bool = False
    """True if text that is not UTF-8 is an error, rather than read as it is."""


def find_columns(names: Sequence[str], file: RecordFile, kind: str = "column") -> tuple[int, int]:
    """Return the numbers of the source and target column of a file.

    Args:
        names: names of its columns.
        file: the settings.
        kind: word for a column in the error message.

    Raises:
        ColumnError: a side has no column, or both have the same.
    """
    sides = zip(file.columns, file.languages, SIDES, strict=True)
    found = [find_column(names, *side) for side in sides]
    for number, language, setting in zip(found, file.languages, ("src", "tgt"), strict=True):
        if number is None:
            wanted = file.columns[setting == "tgt"] or describe_language(language)
            raise ColumnError(
                f"{file.path}: no {kind} for {wanted}; it has {format_names(names)}",
                f"set {setting}_column to one of them",
            )
    src, tgt = found
    assert src is not None
    assert tgt is not None
    if src == tgt:
        raise ColumnError(
            f"{file.path}: {kind} {names[src]} is both source and target",
            f"set src_column and tgt_column to two of {format_names(names)}",
        )
    return src, tgt


def find_column(
    names: Sequence[str], wanted: str, language: str, general: Sequence[str]
) -> int | None:
    """Return the number of the column of one side; None if there is none.

    Args:
        names: names of the columns.
        wanted: name set by the user; empty: by language, then by `general`.
        language: language of the side.
        general: names of the side in any language.
    """
    if wanted:
        return names.index(wanted) if wanted in names else None
    lower = [name.lower().replace("_", "-") for name in names]
    exact, code = language.lower().replace("_", "-"), primary_language(language)
    general = [name.replace("_", "-") for name in general]
    # Exact names first: a file can have both en and en-GB.
    for fits in (
        lambda name: name == exact,
        lambda name: bool(code) and primary_language(name) == code,
        lambda name: name in general,
    ):
        for number, name in enumerate(lower):
            if fits(name):
                return number
    return None


def format_names(names: Sequence[str]) -> str:
    """Format the columns of a file for a message, the first ten of them."""
    more = f" and {len(names) - 10} more" if len(names) > 10 else ""
    # A variant of a TMX without xml:lang, an empty cell of a header line.
    return ", ".join(name or "(no name)" for name in names[:10]) + more if names else "none"


def encode_side(text: object, number: int, column: str, file: RecordFile) -> bytes:
    """Return one side of a record as a line; null is empty text, a lone surrogate invalid UTF-8.

    Raises:
        DataError: it is not text, or invalid in a strict file; the message names the record and
            the column.
    """
    if text is None:
        return b""
    if not isinstance(text, str):
        raise DataError(
            f"{file.path}, record {number}: {column} is a {type(text).__name__}, but text was "
            f"expected; choose other columns, or fix the record"
        )
    # Line ends inside a segment would shift the two sides against each other, and a file of lines
    # has no NUL bytes.
    if "\n" in text or "\0" in text:
        text = text.replace("\r\n", " ").replace("\n", " ").replace("\0", " ")
    try:
        return text.encode("utf-8", "strict" if file.is_strict else "surrogatepass")
    except UnicodeEncodeError:
        raise DataError(
            f"{file.path}, record {number}: {column} has a lone surrogate, which is no character; "
            f"fix or delete the record"
        ) from None
