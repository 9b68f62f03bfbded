"""Reading and writing lines of text, and the normalisation shared by training and translation.

Zero-width joiner and non-joiner stay inside a word: Persian, Indic scripts and emoji families are
written with them. At the edge of a word they join nothing and are removed, as are all other
invisible format characters (zero width space, soft hyphen, byte order and direction marks).
Control characters, line and paragraph separators and every kind of wide, narrow or no-break space
become one plain space.
"""

import io
import re
import sys
import unicodedata
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import TextIO

from nmt.config.corpus import Case, CleaningConfig
from nmt.console import TerminalText
from nmt.corpus.io import (
    Source,
    atomic_write,
    compress_to,
    name_write_errors,
    read_blocks,
    source_name,
    split_lines,
)
from nmt.errors import DataError

MIN_INVALID = 10
MAX_INVALID = 0.9
"""Share of invalid lines among non-ASCII ones above which a file is not damaged, but not UTF-8."""
IDLE_S = 0.05
"""Seconds without data after which lines read from a pipe are answered."""

_TO_SPACE = re.compile("[\0-\x1f\x7f-\xa0\u1680\u2000-\u200a\u2028\u2029\u202f\u205f\u3000]")
# The tags of a flag such as that of Scotland, group 1, are part of an emoji.
_INVISIBLE = re.compile(
    "(\U0001f3f4[\U000e0030-\U000e007a]+\U000e007f)|"
    "[\u00ad\u061c\u200b\u200e\u200f\u202a-\u202e\u2060-\u2064\u2066-\u206f\ufeff\ufff9-\ufffb"
    "\U000e0001\U000e0020-\U000e007f]"
)
# Look-behind here and below: a long run that does not match is read once, not from each character.
_LOOSE_JOINERS = re.compile(
    r"(?:(?<= )|\A)[\u200c\u200d]+|(?<![\u200c\u200d])[\u200c\u200d]+(?= |\Z)"
)
_SPACES = re.compile("  +")
UNSPACED = re.compile(
    "[\u0e00-\u0fff\u1000-\u109f\u1780-\u17ff\u1950-\u19ff\u1a20-\u1aaf\u2e80-\u2fdf\u3005-\u3007"
    "\u3021-\u312f\u31a0-\u31bf\u31f0-\u31ff\u3400-\u4dbf\u4e00-\u9fff\ua000-\ua4cf\ua9e0-\ua9ff"
    "\uaa60-\uaa7f\uf900-\ufaff\uff66-\uff9f\U0001b000-\U0001b16f\U00020000-\U0003ffff]"
)
"""Character of a script without spaces between words: Chinese, Japanese, Thai, Lao, Tibetan,
Burmese, Khmer, Tai, Yi."""


def normalise(line: str, cleaning: CleaningConfig) -> str:
    """Normalise a line, the same way for training and translating; idempotent."""
    if cleaning.control_characters:
        line = strip_controls(line)
    return to_nfc(line) if cleaning.nfc else line


def change_case(line: str, case: Case) -> str:
    """Return a line as it is, in upper case, or with each word capitalised."""
    if case == "upper":
        return line.upper()
    if case == "title":
        # Not str.title, which also capitalises after an apostrophe: McDonald'S.
        return " ".join(word[:1].title() + word[1:] for word in line.split(" "))
    return line


def fold_case(line: str) -> tuple[Case, str]:
    """Return the case of a line and its text in lower case; as_is, and the line, for any other.

    `change_case` restores the line, and both texts have as many bytes of UTF-8.
    """
    lower = line.lower()
    if lower == line or len(lower.encode()) != len(line.encode()):
        return "as_is", line
    num_capitals = sum(each != each.lower() for each in line)
    sizes: dict[Case, int] = {"upper": sum(map(str.isalpha, line)), "title": 1 + line.count(" ")}
    for case, size in sizes.items():
        # One capital is that of a sentence; a few in another script are those of a name.
        if num_capitals > max(1, size // 2) and change_case(lower, case) == line:
            return case, lower
    return "as_is", line


def strip_controls(line: str) -> str:
    """Remove control and invisible characters; leave one space between words, none at the ends."""
    # isprintable is False for every character of the patterns, at a tenth of their cost.
    if line.isprintable() and "  " not in line and line[:1] != " " and line[-1:] != " ":
        return line
    # Order matters: removed characters may leave spaces side by side, and joiners at an edge.
    line = _INVISIBLE.sub(r"\1", _TO_SPACE.sub(" ", line))
    return _SPACES.sub(" ", _LOOSE_JOINERS.sub("", line)).strip(" ")


def to_nfc(line: str) -> str:
    """Return a line in Unicode normalisation form C (composed characters)."""
    return line if line.isascii() else unicodedata.normalize("NFC", line)


@cache
def mark_class() -> str:
    """Return the characters that are marks on a letter, as the inside of a class."""
    # Not at import: few commands need it. No mark is outside of these planes.
    code_points = (*range(0x300, 0x1E950), *range(0xE0100, 0xE01F0))
    return "".join(c for c in map(chr, code_points) if unicodedata.category(c)[0] == "M")


_LETTER_PARTS = "\u0e33\u0eb3\u200c\u200d\uff9e\uff9f"
"""Vowels that are letters in Unicode but part of the letter before, and joiners."""


@cache
def letter_boundary() -> re.Pattern[str]:
    """Return the pattern of a position beside a letter of a script without spaces.

    It is not before the marks of a letter, nor after a sign that joins the next letter to it.
    """
    return re.compile(rf"{_between_letters()}(?:(?<={UNSPACED.pattern})|(?={UNSPACED.pattern}))")


@cache
def word_boundary() -> re.Pattern[str]:
    """Return the pattern of a position that is not inside a word.

    In scripts without spaces it is any `letter_boundary`.
    """
    marks, unspaced = mark_class(), UNSPACED.pattern
    # U+FFFD: a character that is incomplete may continue a word.
    return re.compile(
        rf"{_between_letters()}"
        rf"(?:(?<={unspaced})|(?={unspaced})|(?<![\w\ufffd{marks}{_LETTER_PARTS}])|(?![\w\ufffd]))"
    )


def _between_letters() -> str:
    return rf"(?![{mark_class()}{_LETTER_PARTS}])(?<![\u1039\u17d2\u200d])"


def is_whole_word(text: str, start: int, end: int) -> bool:
    """Return True if neither end of a span is inside a word (`word_boundary`)."""
    boundary = word_boundary()
    return bool(boundary.match(text, start) and boundary.match(text, end))


def phrase_pattern(phrases: Iterable[str]) -> re.Pattern[str]:
    """Return the pattern of phrases as whole words, the longest of them first."""
    boundary = word_boundary().pattern
    in_order = sorted(phrases, key=lambda phrase: (-len(phrase), phrase))
    any_phrase = "|".join(map(re.escape, in_order)) or "(?!)"
    return re.compile(f"{boundary}(?:{any_phrase}){boundary}")


_SENTENCE_ENDS = {
    "Arabic, Urdu, Syriac": "\u061f\u06d4\u0700-\u0702",
    "Devanagari and other Indic scripts": "\u0964\u0965\uabeb\u1c7e\u1c7f",
    "Armenian": "\u0589",
    "Ethiopic": "\u1362\u1367\u1368",
    "Burmese, Khmer, Tibetan": "\u104b\u17d4\u17d5\u0f0e",
    "Mongolian, N'Ko, Vai": "\u1803\u1809\u07f9\ua60e",
    "Chinese, Japanese": "\u3002\uff01\uff1f\uff61",
}
"""Characters that end a sentence, with or without white space after them, by script."""
_MARKS = "".join(_SENTENCE_ENDS.values())
END_MARKS = f".!?\u2026\u203c\u2047-\u2049\u0f0d{_MARKS}"
"""Characters that end a sentence, as the inside of a class."""
_CLOSING = "\"'\u2019\u201d\u00bb\u203a)\\]}\u300d\u300f\uff09\u3011\u300b\u3009\uff63\uff3d\u3015"
ENDS_SENTENCE = re.compile(rf"[{END_MARKS}][{_CLOSING}\u201c\u00ab ]*\Z")
"""End of a text that ends with a sentence."""
_SENTENCE_END = re.compile(
    # Full stop, Greek question mark and Tibetan shad end a sentence before white space only.
    rf"(?:(?P<stop>(?<![{END_MARKS}])[{END_MARKS}]+|"
    rf"(?<=[\u0370-\u03ff\u1f00-\u1fff]);)[{_CLOSING}\u201c\u00ab]*(?: \u00bb(?=\s))?(?=\s)|"
    rf"[{_MARKS}][.!?{_MARKS}]*[{_CLOSING}]*)(?P<gap>\s*)"
)
_WORD_BEFORE = re.compile(r"[\w.]+\Z")
_ABBREVIATIONS = (
    " mr mrs ms dr prof st sr jr vs no nr vol fig pp gen col lt sgt capt rev hon gov sen rep pres "
    "mt approx dept est jan feb mar apr jun jul aug sep sept oct nov dec hr fr frl str bd bzw ca "
    "evtl ggf inkl vgl abs art chr mio mrd tel geb mme mlle mm sra srta dra ud uds sig dott avv "
    "ing dhr mevr bijv ул им стр рис тыс млн млрд "
)


def split_sentences(text: str) -> list[tuple[str, str]]:
    """Split a text into sentences, each with the white space after it; joined, they are the text.

    Abbreviations, initials and numbers of one or two digits before a full stop end no sentence,
    and neither does anything before a lower-case word, unless the text has no other words.
    """
    sentences, start, has_case = [], 0, text != text.lower()
    for match in _SENTENCE_END.finditer(text):
        end = match.start("gap")
        if match["gap"] == "" and end < len(text) and text[end] in "\u3068\u3063":
            continue  # a quotation continues: 「はい。」と言った
        if match["stop"] and not _is_end(text, match, has_case):
            continue
        if text[start:end].strip():
            sentences.append((text[start:end], match["gap"]))
            start = match.end()
    return [*sentences, (text[start:], "")] if text[start:] else sentences


def _is_end(text: str, match: re.Match[str], has_case: bool) -> bool:
    following = text[match.end() : match.end() + 3].lstrip("\"'“„«»([¿¡")
    if has_case and following[:1].islower():
        return False
    word = _WORD_BEFORE.search(text, max(0, match.start() - 30), match.start())
    # After a closing quote or bracket the full stop is that of a sentence.
    if word is None or match["stop"] != "." or match.end("stop") < match.start("gap"):
        return True
    if word[0].isdecimal():
        return len(word[0]) > 2
    # Initials such as J., U.S. and z.B.
    is_initials = max(map(len, word[0].split("."))) == 1 and word[0].lower() != word[0].upper()
    return not (is_initials or f" {word[0].casefold()} " in _ABBREVIATIONS)


def read_lines(source: Source) -> Iterator[str]:
    """Read lines of a UTF-8 file or stream as they arrive, without line ends.

    Raises:
        DataError: see `read_blocks`; or a byte is not UTF-8, with its line.
    """
    name = source_name(source)
    for first_line, block in read_blocks(source):
        lines = decode(block, first_line, name).split("\n")
        if not lines[-1]:
            lines.pop()
        yield from lines


def follow_lines(source: Source) -> Iterator[str | None]:
    """Read lines as `read_lines`; None whenever the input has no more lines for a moment.

    The lines before an invalid one are read.
    """
    name = source_name(source)
    for first_line, block in read_blocks(source, idle_s=IDLE_S):
        if not block:
            yield None
        for number, line in enumerate(split_lines(block), start=first_line):
            yield decode(line, number, name)


def decode(block: bytes, first_line: int, name: str) -> str:
    """Decode a block of lines; DataError with file, line and byte where it is not UTF-8."""
    try:
        return block.decode("utf-8")
    except UnicodeDecodeError as error:
        line = first_line + block.count(b"\n", 0, error.start)
        column = error.start - block.rfind(b"\n", 0, error.start)
        raise DataError(
            f"{name}, line {line}: byte 0x{block[error.start]:02X} at position {column} is not "
            f"UTF-8; {_conversion([block])} or fix the line"
        ) from None


def line_counts_message(corpus: str, sides: tuple[Path, Path], counts: tuple[int, int]) -> str:
    """Return the error message for two sides of different length."""
    return (
        f"corpus {corpus}: {sides[0]} has {counts[0]:,} lines, {sides[1]} has {counts[1]:,}: "
        f"the two files must be line-parallel; find the first pair that does not match, or "
        f"download both again"
    )


class EncodingChecker:
    """Checks block by block that a file is UTF-8.

    A few invalid lines are damage, to be dropped and counted. If ten or more lines, and more than
    nine in ten of the non-ASCII lines, are invalid, the file has another encoding: an error.
    """

    def __init__(self, name: str, *, is_strict: bool) -> None:
        """Check the file called `name`; strict: any byte that is not UTF-8 is an error."""
        self.name, self.is_strict = name, is_strict
        self.num_beyond_ascii = self.num_invalid = 0
        self._first = ""
        self._samples: list[bytes] = []

    def check(self, first_line: int, block: bytes) -> None:
        """Check one block of complete lines."""
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
                self._check_line(number, line)

    def finish(self) -> None:
        """Raise DataError if the file as a whole is not UTF-8."""
        # In a short file a few damaged lines can be most of the lines beyond ASCII.
        if self.num_invalid >= MIN_INVALID and (
            self.num_invalid > MAX_INVALID * self.num_beyond_ascii
        ):
            raise DataError(
                f"{self.name}{self._first}: {self.num_invalid} of the {self.num_beyond_ascii} "
                f"non-ASCII lines are not UTF-8; {_conversion(self._samples)} or delete these lines"
            )

    def _check_line(self, number: int, line: bytes) -> None:
        try:
            line.decode("utf-8")
        except UnicodeDecodeError as error:
            self.num_invalid += 1
            if len(self._samples) < 1000:
                self._samples.append(line)
            byte = f"byte 0x{line[error.start]:02X} at position {error.start + 1}"
            # The first invalid byte, for the message of `finish`.
            self._first = self._first or f", line {number}, {byte}"


@contextmanager
def open_output(target: str | Path | None) -> Iterator[TextIO]:
    """Write UTF-8 lines to stdout (None or "-") or to a file, compressed by its suffix.

    The suffixes are .gz, .xz, .zst and .bz2. The file appears complete at the end of the block, or
    not at all. Line feeds stay line feeds on every system.

    Raises:
        DataError: the file cannot be written.
    """
    if target is None or str(target) == "-":
        # Bypasses the text layer of stdout, whose encoding depends on the locale.
        sys.stdout.flush()
        kind = TerminalText if sys.stdout.isatty() else io.TextIOWrapper
        text: io.TextIOWrapper = kind(sys.stdout.buffer, encoding="utf-8", newline="\n")
        try:
            yield text
        finally:
            text.detach()
        return
    # Replace the file behind a symbolic link, not the link.
    path = Path(target).resolve() if Path(target).is_symlink() else Path(target)
    if path.exists() and not (path.is_file() or path.is_dir()):
        # A pipe or a device such as /dev/null cannot be replaced by a file.
        with name_write_errors(path), path.open("w", encoding="utf-8", newline="\n") as text:
            yield text
        return
    with atomic_write(path) as temporary, temporary.open("wb") as file:
        compressed = compress_to(file, Path(target).suffix)
        with io.TextIOWrapper(compressed, encoding="utf-8", newline="\n") as text:
            yield text


def _conversion(samples: list[bytes]) -> str:
    """Return the advice to convert a file, for an error message."""
    # 0x80 to 0x9F are control codes in Latin-1, but quotes and dashes in the Windows code page.
    is_windows = any(0x80 <= byte <= 0x9F for sample in samples for byte in sample)
    guess = "WINDOWS-1252" if is_windows else "ISO-8859-1"
    return (
        f"convert the file from its encoding (`iconv -f {guess} -t UTF-8` if it is Western "
        f"European; `iconv -l` lists others)"
    )
