"""Text: lines in, lines out, and the one way a line is mended before training and translating.

Zero-width joiner and non-joiner stay where they stand inside a word: Persian, Indic scripts and
emoji families are spelt with them. At the edge of a word they join nothing and go, as do all other
invisible format characters (zero width space, soft hyphen, byte order and direction marks): the
reader of a page does not see them either. Control characters, line and paragraph separators and
every kind of wide, narrow or no-break space become one plain space.
"""

import io
import re
import sys
import unicodedata
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TextIO

from nmt.config.corpus import Case, CleaningConfig, ParallelText
from nmt.corpus.io import (
    Source,
    atomic_write,
    open_compressor,
    read_blocks,
    source_name,
    split_lines,
)
from nmt.errors import DataError

MIN_INVALID = 10
MAX_INVALID = 0.9
"""Of the lines beyond ASCII, the share from which on a file is not damaged but not UTF-8 at all."""

_TO_SPACE = re.compile(
    "[\0-\x1f\x7f-\xa0\u1680\u2000-\u200a\u2028\u2029\u202f\u205f\u3000]",
)
_INVISIBLE = re.compile(
    "[\u00ad\u061c\u200b\u200e\u200f\u202a-\u202e\u2060-\u2064\u2066-\u206f\ufeff\ufff9-\ufffb"
    "\U000e0001\U000e0020-\U000e007f]"
)
_LOOSE_JOINERS = re.compile(r"(?:(?<= )|\A)[\u200c\u200d]+|[\u200c\u200d]+(?= |\Z)")
_SPACES = re.compile("  +")


def normalise(line: str, cleaning: CleaningConfig) -> str:
    """Mend a line, the same way for training and translating; twice is as good as once."""
    if cleaning.control_characters:
        line = remove_control_characters(line)
    return compose_nfc(line) if cleaning.nfc else line


def change_case(line: str, case: Case) -> str:
    """A line in other letters: all upper case, or each word with one at its start."""
    match case:
        case "as_is":
            return line
        case "upper":
            return line.upper()
        case "title":
            return " ".join(word[:1].title() + word[1:] for word in line.split(" "))


def remove_control_characters(line: str) -> str:
    """No control and no invisible format characters, one space between words, none at the ends."""
    # isprintable is false for every character that the patterns know, and costs a tenth of them.
    if line.isprintable() and "  " not in line and line[:1] != " " and line[-1:] != " ":
        return line
    line = _INVISIBLE.sub("", _TO_SPACE.sub(" ", line))
    return _SPACES.sub(" ", _LOOSE_JOINERS.sub("", line)).strip(" ")


def compose_nfc(line: str) -> str:
    """With each character in its composed form, Unicode NFC."""
    return line if line.isascii() else unicodedata.normalize("NFC", line)


def read_lines(source: Source) -> Iterator[str]:
    """The lines of a UTF-8 file or stream, without line ends, as they arrive.

    Raises:
        DataError: as `read_blocks`, or a byte that is not UTF-8, with its line.
    """
    name = source_name(source)
    for first_line, block in read_blocks(source):
        lines = decode(block, first_line, name).split("\n")
        if not lines[-1]:
            lines.pop()
        yield from lines


def decode(block: bytes, first_line: int, name: str) -> str:
    """A block of lines as text; DataError with file, line and byte where it is not UTF-8."""
    try:
        return block.decode("utf-8")
    except UnicodeDecodeError as error:
        line = first_line + block.count(b"\n", 0, error.start)
        column = error.start - block.rfind(b"\n", 0, error.start)
        raise DataError(
            f"{name}, line {line}: byte 0x{block[error.start]:02X} at position {column} is not "
            f"UTF-8; convert the file (`iconv -f {_likely_encoding([block])} -t UTF-8`) or mend "
            f"the line"
        ) from None


def read_pairs(text: ParallelText, root: str | Path) -> Iterator[tuple[str, str]]:
    """The pairs of a corpus below a folder, strictly: nothing is cleaned, dropped or skipped.

    Raises:
        DataError: as `read_lines`, a TSV row without a tab, or sides of different length.
    """
    if text.tsv:
        path = Path(root, text.tsv)
        for number, line in enumerate(read_lines(path), start=1):
            src, tab, tgt = line.partition("\t")
            if not tab:
                raise DataError(missing_tab_message(path, number))
            yield src, tgt.partition("\t")[0]
        return
    sides = Path(root, text.src), Path(root, text.tgt)
    src_lines, tgt_lines = map(read_lines, sides)
    count = 0
    for src_line in src_lines:
        tgt_line = next(tgt_lines, None)
        if tgt_line is None:
            raise DataError(
                line_counts_message(text.name, sides, (count + 1 + _count(src_lines), count))
            )
        count += 1
        yield src_line, tgt_line
    if more := _count(tgt_lines):
        raise DataError(line_counts_message(text.name, sides, (count, count + more)))


def line_counts_message(corpus: str, sides: tuple[Path, Path], counts: tuple[int, int]) -> str:
    """What to say of two sides that are not parallel."""
    return (
        f"corpus {corpus}: {sides[0]} has {counts[0]} lines, but {sides[1]} has {counts[1]}; "
        f"line n of one must translate line n of the other: find where they part, or get both again"
    )


def missing_tab_message(path: Path, line: int) -> str:
    """What to say of a TSV row of one column."""
    return f"{path}, line {line}: no tab; expected source, tab, target: mend or delete the line"


class EncodingChecker:
    """Whether a file is UTF-8, seen block by block.

    A few lines that are not are damage, to be dropped and counted. But where more than nine in ten
    of the lines that hold more than ASCII, and ten or more, are not UTF-8, the file is in another
    encoding: that is an error.
    """

    def __init__(self, name: str, *, is_strict: bool) -> None:
        """Check the file called `name`; strict: any byte that is not UTF-8 is an error."""
        self.name, self.is_strict = name, is_strict
        self.num_beyond_ascii = self.num_invalid = 0
        self._first = ""
        self._samples: list[bytes] = []

    def check(self, first_line: int, block: bytes) -> None:
        """Check one block of whole lines."""
        if block.isascii():
            return
        lines = split_lines(block)
        self.num_beyond_ascii += len(lines) - sum(map(bytes.isascii, lines))
        try:
            block.decode("utf-8")
        except UnicodeDecodeError:
            if self.is_strict:
                decode(block, first_line, self.name)
            for number, line in enumerate(lines, start=first_line):
                if not is_utf8(line):
                    self._count_invalid(number, line)

    def finish(self) -> None:
        """Raise DataError if the file as a whole is not UTF-8."""
        if self.num_invalid >= MIN_INVALID and (
            self.num_invalid > MAX_INVALID * self.num_beyond_ascii
        ):
            raise DataError(
                f"{self.name}{self._first}: {self.num_invalid} of the {self.num_beyond_ascii} "
                f"lines that hold more than ASCII are not UTF-8; convert the file "
                f"(`iconv -f {_likely_encoding(self._samples)} -t UTF-8`) or delete these lines"
            )

    def _count_invalid(self, number: int, line: bytes) -> None:
        self.num_invalid += 1
        if len(self._samples) < 1000:
            self._samples.append(line)
        if not self._first:
            try:
                line.decode("utf-8")
            except UnicodeDecodeError as error:
                byte = f"byte 0x{line[error.start]:02X} at position {error.start + 1}"
                self._first = f", line {number}, {byte}"


def is_utf8(line: bytes) -> bool:
    """Whether a line decodes."""
    try:
        line.decode("utf-8")
    except UnicodeDecodeError:
        return False
    return True


@contextmanager
def open_output(target: str | Path | None) -> Iterator[TextIO]:
    """Write UTF-8 lines to stdout (None or "-") or to a file, packed by suffix (.gz, .xz, .zst).

    The file appears whole when the block ends, or not at all. Line feeds stay line feeds on every
    system.

    Raises:
        DataError: the file cannot be written.
    """
    if target is None or str(target) == "-":
        sys.stdout.flush()
        text = io.TextIOWrapper(sys.stdout.buffer, encoding="utf-8", newline="\n")
        try:
            yield text
        finally:
            text.detach()
        return
    path = Path(target).resolve() if Path(target).is_symlink() else Path(target)
    if path.exists() and not (path.is_file() or path.is_dir()):
        # A pipe or a device, such as /dev/null: there is nothing to put in its place.
        with path.open("w", encoding="utf-8", newline="\n") as text:
            yield text
        return
    with atomic_write(path) as temporary, temporary.open("wb") as file:
        packed = open_compressor(file, Path(target).suffix)
        with io.TextIOWrapper(packed, encoding="utf-8", newline="\n") as text:
            yield text


def _likely_encoding(samples: list[bytes]) -> str:
    # 0x80 to 0x9F are control codes in Latin-1, but quotes and dashes in the Windows code page.
    is_windows = any(0x80 <= byte <= 0x9F for sample in samples for byte in sample)
    return "WINDOWS-1252" if is_windows else "ISO-8859-1"


def _count(lines: Iterator[str]) -> int:
    return sum(1 for _ in lines)
