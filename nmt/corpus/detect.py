"""Detection of the languages and columns of raw corpora, for `nmt init`."""

import re
from collections.abc import Sequence
from itertools import islice
from pathlib import Path

from nmt.config.corpus import RECORD_FORMATS, ParallelText
from nmt.corpus.formats.record_file import SIDES, find_column, format_names
from nmt.corpus.io import COMPRESSED, read_blocks, split_lines
from nmt.corpus.language_id import language_codes, language_of
from nmt.corpus.languages import describe_language, primary_language
from nmt.corpus.pair_files import FORMATS, PairFiles
from nmt.errors import ConfigError, DataError

SAMPLE_PAIRS = 500
"""Pairs of a corpus that are examined."""
MIN_SHARE = 0.4
"""Minimum share of a text in its most likely language for that language to be certain."""
_SUFFIXES = {"ndjson": "jsonl", "json": "jsonl", "pq": "parquet"}
_AMBIGUOUS = {"id", "no", "is", "it", "to", "so", "my", "am", "as", "be", "or", "pa"}
"""Language codes that are more often a word or an identifier in the first line of a TSV."""
_CODE = re.compile("[A-Za-z][A-Za-z0-9_-]*")
_GIVE = "give them with --languages SRC,TGT"


def plain_name(path: str) -> Path:
    """Return the name of a file without the suffix of its compression."""
    name = Path(path)
    return Path(name.stem) if name.suffix in COMPRESSED else Path(name.name)


def make_name(text: str, default: str = "corpus") -> str:
    """Return a name for a corpus, with the characters that names may have."""
    return re.sub("[^A-Za-z0-9._-]+", "_", text).lstrip("._-")[:80] or default


def format_of(path: str) -> str:
    """Return the format of a file by its suffix: lines, or a key of `ParallelText`."""
    suffix = plain_name(path).suffix.lower().removeprefix(".")
    form = _SUFFIXES.get(suffix, suffix)
    return form if form in RECORD_FORMATS else "lines"


def suffix_language(path: str) -> str:
    """Return the language of a file by its suffix, such as train.en.gz; empty: unknown."""
    suffix = plain_name(path).suffix.removeprefix(".")
    return primary_language(suffix)


def detect_languages(files: PairFiles) -> tuple[str, str]:
    """Return the languages of a corpus, by names in its files, else by its text.

    Raises:
        DataError: they cannot be determined.
    """
    named = _named_languages(files)
    if all(named) and named[0] == named[1]:
        raise DataError(
            f"{' and '.join(map(str, files.paths()))}: both sides are named "
            f"{describe_language(named[0])}: check the files, or {_GIVE}"
        )
    if all(named):
        return named
    src_lines, tgt_lines = sample(files)
    if not src_lines:
        raise DataError(f"{files.paths()[0]}: no pairs; expected a corpus to train on")
    found = []
    for name, lines in zip(named, (src_lines, tgt_lines), strict=True):
        language, share = (name, 1.0) if name else language_of(lines)
        if share < MIN_SHARE:
            raise DataError(f"{files.paths()[0]}: the languages are not certain: {_GIVE}")
        found.append(language)
    src, tgt = found
    if src == tgt:
        raise DataError(
            f"{' and '.join(map(str, files.paths()))}: both sides look like "
            f"{describe_language(src)}: check the files, or {_GIVE}"
        )
    return src, tgt


def are_swapped(files: PairFiles) -> bool:
    """Return True if the text of a corpus is in its two languages, but on the other sides."""
    expected = [language_codes(language) for language in files.languages]
    if not all(expected) or expected[0] & expected[1]:
        return False
    found = [language_of(lines) for lines in sample(files)]
    return all(
        share >= MIN_SHARE and language in codes
        for (language, share), codes in zip(found, reversed(expected), strict=True)
    )


def sample(files: PairFiles) -> tuple[list[str], list[str]]:
    """Return the lines of the first pairs of a corpus, invalid characters replaced."""
    pairs = list(islice(files.read_raw(), SAMPLE_PAIRS))
    src, tgt = ([pair[side].decode("utf-8", "replace") for pair in pairs] for side in (0, 1))
    return src, tgt


def detect_columns(
    text: ParallelText, root: str, languages: tuple[str, str] | None
) -> ParallelText:
    """Set the columns of a TSV file unless they are its first two, without a header.

    Columns set by number are set by name where the first line is a header, which is not a pair.

    Args:
        text: a corpus.
        root: folder of its files.
        languages: those of the user; None: in the order of the file.
    """
    files = PairFiles(text, root, ("", ""))
    if text.format != "tsv":
        return text
    [path] = files.paths()
    rows = [line.split("\t") for line in _first_lines(path)]
    if not rows:
        return text
    header = rows[0]
    # A value of its column, such as the code of a language in each row, is no name.
    header = ["" if _is_frequent(cell, n, rows[1:]) else cell for n, cell in enumerate(header)]
    if text.src_column:
        return _name_columns(text, path, header, languages)
    chosen = _header_columns(path, header, languages)
    if chosen is not None:
        src, tgt = (header[column] for column in chosen)
        return text.model_copy(update={"src_column": src, "tgt_column": tgt})
    chosen = _text_columns(rows)
    if chosen == (0, 1):
        return text
    src, tgt = (str(column + 1) for column in chosen)
    return text.model_copy(update={"src_column": src, "tgt_column": tgt})


def _is_frequent(cell: str, column: int, rows: Sequence[Sequence[str]]) -> bool:
    """Return True if a fifth of the rows or more have this cell in a column."""
    count = sum(row[column : column + 1] == [cell] for row in rows)
    return count > 0 and 5 * count >= len(rows)


def _name_columns(
    text: ParallelText, path: Path, header: Sequence[str], languages: tuple[str, str] | None
) -> ParallelText:
    """Replace the numbers of two columns by their names if the first line is a header."""
    columns = text.src_column, text.tgt_column
    if not all(column.isdecimal() and 0 < int(column) <= len(header) for column in columns):
        return text
    cells = [header[int(column) - 1] for column in columns]
    is_unique = all(header.count(cell) == 1 and not cell.isdecimal() for cell in cells)
    if not is_unique or _header_columns(path, cells, languages) is None:
        return text
    return text.model_copy(update={"src_column": cells[0], "tgt_column": cells[1]})


def swap_columns(text: ParallelText) -> ParallelText:
    """Exchange source and target of a corpus."""
    if text.format == "lines":
        return text.model_copy(update={"src": text.tgt, "tgt": text.src})
    columns = text.src_column or "1", text.tgt_column or "2"
    return text.model_copy(update={"src_column": columns[1], "tgt_column": columns[0]})


def _named_languages(files: PairFiles) -> tuple[str, str]:
    """Return the languages by file suffixes, columns, keys, tags or members; empty: unknown."""
    text = files.text
    if text.format == "lines":
        return suffix_language(text.src), suffix_language(text.tgt)
    if text.src_column:
        names = [text.src_column, text.tgt_column]
        return primary_language(names[0]), primary_language(names[1])
    [path] = files.paths()
    if text.format == "tsv":
        return "", ""
    columns = FORMATS[text.format].list_columns(path)
    languages = dict.fromkeys(filter(None, map(primary_language, columns)))
    if len(languages) > 2 and text.format in ("parquet", "jsonl"):
        for name in ("id", "no"):
            if name in languages and _has_identifiers(files, name, columns):
                del languages[name]
    general = [any(name.lower() in side for name in columns) for side in SIDES]
    if len(languages) == 2:
        src, tgt = languages
        return src, tgt
    if len(languages) > 2 or not all(general):
        raise DataError(
            f"{path}: source and target are not certain, it has {format_names(columns)}: {_GIVE}"
            f"{' or --columns SRC,TGT' if text.format in ('parquet', 'jsonl') else ''}"
        )
    return "", ""


def _has_identifiers(files: PairFiles, name: str, columns: Sequence[str]) -> bool:
    """Return True if no value of a column has several words: it is no text in that language."""
    other = next(column for column in columns if column != name)
    text = files.text.model_copy(update={"src_column": name, "tgt_column": other})
    values, _ = sample(PairFiles(text, files.root, ("", "")))
    return not any(len(value.split()) > 1 for value in values)


def _first_lines(path: Path) -> list[str]:
    lines: list[str] = []
    for _, block in read_blocks(path):
        lines += [line.decode("utf-8", "replace") for line in split_lines(block)]
        if len(lines) >= SAMPLE_PAIRS:
            break
    return lines[:SAMPLE_PAIRS]


def _header_columns(
    path: Path, header: Sequence[str], languages: tuple[str, str] | None
) -> tuple[int, int] | None:
    """Return the columns that a header line names; None if the line is no header."""
    lower = [cell.strip().lower() for cell in header]
    if languages is not None:
        src, tgt = (find_column(lower, "", language, ()) for language in languages)
        if src is not None and tgt is not None and src != tgt:
            return src, tgt
    named = {
        primary_language(cell): number
        for number, cell in reversed(list(enumerate(lower)))
        if cell not in _AMBIGUOUS and primary_language(cell)
    }
    if len(named) >= 2:
        if len(named) > 2:
            raise DataError(
                f"{path}: the header names {', '.join(header)}: choose two columns with --columns "
                "SRC,TGT"
            )
        src, tgt = sorted(named.values())
        return src, tgt
    sides = [[n for n, cell in enumerate(lower) if cell in names] for names in SIDES]
    return (sides[0][0], sides[1][0]) if all(sides) else None


def _text_columns(rows: Sequence[Sequence[str]]) -> tuple[int, int]:
    """Return the first two columns of text, identifiers, scores and addresses left out."""
    width = max(map(len, rows))
    cells = [[row[column] for row in rows if len(row) > column] for column in range(width)]
    texts = [column for column, values in enumerate(cells) if _is_text(values, len(rows))]
    return (texts[0], texts[1]) if len(texts) >= 2 else (0, 1)


def _is_text(cells: Sequence[str], num_rows: int) -> bool:
    words = [cell for cell in cells if any(map(str.isalpha, cell))]
    # Optional columns and constants, such as the code of a language, are not the text.
    if 2 * len(words) < num_rows or (num_rows > 20 and 5 * len(set(words)) < len(words)):
        return False
    is_address = [cell.startswith(("http://", "https://", "www.")) for cell in words]
    # Identifiers have no spaces; some scripts have none either.
    is_sentence = [" " in cell.strip() or not cell.isascii() for cell in words]
    return 2 * sum(is_address) < len(words) and 5 * sum(is_sentence) >= len(words)


def parse_languages(text: str) -> tuple[str, str]:
    """Return the two languages of `en,de` or `en-de`; ConfigError for anything else."""
    parts = text.split(",") if "," in text else text.split("-")
    codes = [part.strip() for part in parts]
    if len(codes) != 2 or not all(map(_CODE.fullmatch, codes)) or codes[0] == codes[1]:
        raise ConfigError("--languages", text, "two language codes are expected, such as en,de")
    return codes[0], codes[1]
