"""TMX, the exchange format of translation memories, parsed as a stream in constant memory.

A translation unit gives a pair of its source and target variants. The exact tag (en) is preferred
to others of the language (en-US); each of several variants with one tag makes a pair. Units without
both languages, or with one tag for both, are skipped. Text of markup elements inside a segment is
left out.

Files are not trusted: a document that declares entities, an external entity, deep nesting and
overlong values are errors, and a DTD that is named is not loaded.
"""

from collections.abc import Iterator
from itertools import product
from pathlib import Path
from typing import Any
from xml.parsers import expat

from nmt.corpus.formats.record_file import (
    ColumnError,
    RawPair,
    RecordFile,
    encode_side,
    find_column,
    format_names,
)
from nmt.corpus.io import MAX_LINE_BYTES, read_data
from nmt.corpus.languages import describe_language
from nmt.errors import DataError

MAX_DEPTH = 100
MAX_TAG_BYTES = 1 << 20
"""Longest tag: expat holds an incomplete one in memory and scans it again for each block."""
SAMPLED_UNITS = 100
"""Units in which the languages of a file are looked for."""
_MARKUP = {"bpt", "ept", "ph", "it", "ut"}
"""Elements of native codes inside a segment; <hi> holds text."""
Unit = list[tuple[str, str]]
"""Language tag and text of the variants of a translation unit."""


def list_columns(path: Path) -> list[str]:
    """Return the language tags of the first units, that of the source first if it is declared."""
    parser = _Parser(path)
    tags: dict[str, None] = {}
    for number, unit in enumerate(parser.units()):
        if parser.source_language:
            tags.setdefault(parser.source_language)
        tags.update(dict.fromkeys(tag for tag, _ in unit))
        if number >= SAMPLED_UNITS:
            break
    return list(tags)


def read(file: RecordFile) -> Iterator[RawPair]:
    """Read the pairs of a TMX file.

    Raises:
        DataError: it cannot be read, is not well-formed, or has no unit of both languages.
    """
    has_pair, shared = False, ""
    tags: dict[str, None] = {}
    for number, unit in enumerate(_Parser(file.path).units(), start=1):
        names = [tag for tag, _ in unit]
        chosen = zip(file.columns, file.languages, strict=True)
        places = [find_column(names, column, language, ()) for column, language in chosen]
        found = [names[place] if place is not None else None for place in places]
        if found[0] == found[1] and found[0] is not None:
            shared, found = found[0], [None, None]
        sides = [[text for name, text in unit if name == tag] for tag in found]
        for src, tgt in product(*sides):
            has_pair = True
            yield encode_side(src, number, "seg", file), encode_side(tgt, number, "seg", file)
        if not has_pair and len(tags) < SAMPLED_UNITS:
            tags.update(dict.fromkeys(names))
    if not has_pair and shared:
        raise ColumnError(
            f"{file.path}: tag {shared} is both source and target",
            f"set src_column and tgt_column to two of {format_names(list(tags))}",
        )
    if not has_pair:
        chosen = zip(file.columns, file.languages, strict=True)
        wanted = " and ".join(column or describe_language(language) for column, language in chosen)
        raise ColumnError(
            f"{file.path}: no translation unit in {wanted}; it has {format_names(list(tags))}",
            "set corpus.src and corpus.tgt, or src_column and tgt_column, to two of them",
        )


class _Parser:
    """Collects the variants of each translation unit while expat reads."""

    def __init__(self, path: Path) -> None:
        self.source_language = ""
        """Language of the header; empty if there is none or several."""
        self._path = path
        self._stack: list[str] = []
        self._done: list[Unit] = []
        self._unit: Unit = []
        self._tag = ""
        self._text: list[str] | None = None
        self._num_chars = self._num_markup = 0
        parser = expat.ParserCreate()
        parser.buffer_text = True
        parser.SetParamEntityParsing(expat.XML_PARAM_ENTITY_PARSING_NEVER)
        parser.StartElementHandler, parser.EndElementHandler = self._start, self._end
        parser.CharacterDataHandler = self._add
        parser.StartDoctypeDeclHandler = self._refuse_subset
        parser.EntityDeclHandler = self._refuse_entity
        parser.ExternalEntityRefHandler = self._refuse_entity
        # An entity of a DTD that was not loaded, such as &nbsp;, stays as it is written.
        parser.SkippedEntityHandler = lambda name, _: self._add(f"&{name};")
        self._expat = parser

    def units(self) -> Iterator[Unit]:
        """Yield the units of the file as they are complete."""
        num_bytes = 0
        for data in read_data(self._path):
            num_bytes += len(data)
            self._parse(data, is_last=False)
            if num_bytes - self._expat.CurrentByteIndex > MAX_TAG_BYTES:
                raise self._error(f"a tag of more than {MAX_TAG_BYTES >> 20} MiB")
            yield from self._take()
        if not num_bytes:
            raise DataError(f"{self._path}: is empty; expected a TMX file")
        self._parse(b"", is_last=True)
        yield from self._take()

    def _take(self) -> list[Unit]:
        done, self._done = self._done, []
        return done

    def _parse(self, data: bytes, is_last: bool) -> None:
        try:
            self._expat.Parse(data, is_last)
        except expat.ExpatError as error:
            raise self._error(f"not valid XML ({expat.ErrorString(error.code)})") from None
        # An unknown encoding, or one of several bytes.
        except (LookupError, ValueError) as error:
            raise self._error(f"not valid XML ({error})") from None

    def _start(self, name: str, attributes: dict[str, str]) -> None:
        name = name.lower()
        if not self._stack and name != "tmx":
            raise self._error(f"<{name}> where <tmx> was expected")
        self._stack.append(name)
        if len(self._stack) > MAX_DEPTH:
            raise self._error(f"more than {MAX_DEPTH} nested elements")
        self._num_markup += name in _MARKUP
        if name == "header":
            language = attributes.get("srclang", "")
            self.source_language = "" if language == "*all*" else language
        elif name == "tu":
            self._unit = []
        elif name == "tuv":
            self._tag = attributes.get("xml:lang") or attributes.get("lang") or ""
        elif name == "seg":
            self._text, self._num_chars = [], 0

    def _end(self, name: str) -> None:
        self._stack.pop()
        self._num_markup -= name.lower() in _MARKUP
        if name.lower() == "seg" and self._text is not None:
            self._unit.append((self._tag, "".join(self._text)))
            self._text = None
        elif name.lower() == "tu":
            self._done.append(self._unit)

    def _add(self, text: str) -> None:
        if self._text is None or self._num_markup:
            return
        self._text.append(text)
        self._num_chars += len(text)
        if self._num_chars > MAX_LINE_BYTES:
            raise self._error(f"a segment of more than {MAX_LINE_BYTES >> 20} MiB")

    def _refuse_subset(
        self, _: str, system: str | None, public: str | None, has_subset: int
    ) -> None:
        if has_subset:
            raise self._error("a DTD inside the file, which could expand without limit; remove it")

    def _refuse_entity(self, *_: Any) -> Any:
        raise self._error("it declares or reads XML entities, which are not supported; remove them")

    def _error(self, problem: str) -> DataError:
        return DataError(
            f"{self._path}, line {self._expat.CurrentLineNumber}: {problem}; expected TMX"
        )
