"""Requests: lines to translate with their constraints, from JSON lines or with a glossary.

JSON lines have the keys of Sockeye: text, constraints, avoid, target_prefix; other keys are passed
through. A glossary is a TSV file: where the first column appears in a line, the second must appear
in the translation. Protected spans, such as addresses, have no terms.
"""

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from nmt.config.corpus import CleaningConfig
from nmt.config.decoding import Protected
from nmt.corpus.text import normalise, phrase_pattern, read_lines
from nmt.decoding.placeholders import mask_line
from nmt.errors import DataError

EXAMPLE = '{"text": "..."}'
"""Request in JSON, for error messages."""


@dataclass(frozen=True)
class Request:
    """Line to translate."""

    text: str
    constraints: tuple[str, ...] = ()
    """Terms that must appear in the translation."""
    avoid: tuple[str, ...] = ()
    """Words that must not appear."""
    target_prefix: str = ""
    """Beginning of the translation; no word continues it after a space at its end."""
    fields: dict[str, Any] = field(default_factory=dict)
    """All keys of the JSON object."""
    where: str = ""
    """File and line for error messages."""
    glossary: tuple[tuple[str, str], ...] = ()
    """Terms of a glossary in the text, and their translations, which are among the constraints."""

    def __post_init__(self) -> None:
        """Raise DataError for text that is no Unicode, from a program or the command line.

        Other types are refused, too; a string in place of several would be read as its characters.
        """
        for key in ("constraints", "avoid"):
            value = getattr(self, key)
            if isinstance(value, str) or not isinstance(value, Iterable):
                kind = "a string" if isinstance(value, str) else type(value).__name__
                where = self.where or "the text"
                raise DataError(f"{where}: {key} is {kind}, but it must be a tuple of strings")
            # A generator can be read only once.
            object.__setattr__(self, key, tuple(value))
        for text in (self.text, *self.constraints, *self.avoid, self.target_prefix):
            if not isinstance(text, str):
                where = self.where or "the text"
                problem = f"{text!r:.40} is {type(text).__name__}, but it must be a string"
                raise DataError(f"{where}: {problem}")
            try:
                text.encode()
            except UnicodeEncodeError as error:
                where = self.where or "the text"
                raise DataError(f"{where}: {_surrogate_problem(error)}") from None


def parse_json_line(line: str, where: str) -> Request:
    """Parse a request from a line of JSON; a blank line is a blank text.

    Args:
        line: a JSON object.
        where: file and line for error messages.

    Raises:
        DataError: the line is not an object with a text, a key has the wrong type, or a value
            cannot be written as JSON again.
    """
    if not line.strip():
        return Request("", where=where)
    return request_of(parse_json(line, where, EXAMPLE), where)


def parse_json(text: str, where: str, example: str) -> Any:
    """Parse a value of strict JSON.

    Args:
        text: the value.
        where: its place, for error messages.
        example: an object, for error messages.

    Raises:
        DataError: the text is not JSON, or its value cannot be written as JSON again.
    """
    try:
        tree = json.loads(text)
        # JSON of Python has NaN, infinity and lone surrogates, which no other reader accepts.
        json.dumps(tree, ensure_ascii=False, allow_nan=False).encode()
    except (ValueError, RecursionError) as error:
        raise DataError(f"{where}: {_json_problem(error, example)}") from None
    return tree


def request_of(tree: Any, where: str) -> Request:
    """Return the request that a JSON value describes.

    Raises:
        DataError: it is not an object with a text, or a key has the wrong type.
    """
    if not isinstance(tree, dict) or "text" not in tree:
        found = "an object without text" if isinstance(tree, dict) else "not an object"
        raise DataError(f"{where}: JSON, but {found}; expected {EXAMPLE}")
    return Request(
        _string(tree, "text", where),
        _strings(tree, "constraints", where),
        _strings(tree, "avoid", where),
        _string(tree, "target_prefix", where),
        tree,
        where,
    )


class Glossary:
    """Terms and their translations, matched as the model reads them: normalised and masked."""

    def __init__(
        self, terms: dict[str, str], cleaning: CleaningConfig, protect: Sequence[Protected] = ()
    ) -> None:
        self._terms = terms
        self._cleaning, self._protect = cleaning, protect
        # No mask is one of these.
        self._with_digits = [term for term in terms if any(map(str.isdecimal, term))]
        # Longest first, so that "New York" is preferred to "York".
        self._pattern = phrase_pattern(terms)

    @classmethod
    def read(
        cls, path: Path, cleaning: CleaningConfig, protect: Sequence[Protected] = ()
    ) -> "Glossary":
        """Read lines of source term, tab, target term; blank lines are ignored.

        Args:
            path: a UTF-8 file, compressed by its suffix.
            cleaning: rules of the model, which normalise its lines.
            protect: kinds of text that are copied, in which no term is found.

        Raises:
            DataError: the file cannot be read, a line does not have two terms, or a source term
                has two translations.
        """
        terms: dict[str, str] = {}
        for number, line in enumerate(read_lines(path), start=1):
            if not line.strip():
                continue
            parts = [normalise(part, cleaning).strip() for part in line.strip().split("\t")]
            if len(parts) != 2 or not all(parts):
                raise DataError(
                    f"{path}, line {number}: expected source term, tab, target term: fix or delete "
                    "the line"
                )
            term, translation = parts
            if terms.setdefault(term, translation) != translation:
                raise DataError(
                    f"{path}, line {number}: {term!r} has two translations: keep one of them"
                )
        return cls(terms, cleaning, protect)

    def apply(self, request: Request) -> Request:
        """Add the translations of the terms in the text to the constraints of a request."""
        if not self._terms:
            return request
        text = normalise(request.text, self._cleaning)
        text = mask_line(text, self._protect, self._with_digits).text
        found = {match[0]: self._terms[match[0]] for match in self._pattern.finditer(text)}
        # Each term once, in order; requested ones first.
        terms = dict.fromkeys([*request.constraints, *found.values()])
        return replace(request, constraints=tuple(terms), glossary=tuple(found.items()))


def _json_problem(error: ValueError | RecursionError, example: str) -> str:
    if isinstance(error, UnicodeEncodeError):
        return _surrogate_problem(error)
    if isinstance(error, json.JSONDecodeError | RecursionError):
        problem = getattr(error, "msg", "nested too deeply")
        return f"not JSON: {problem}; expected an object such as {example}"
    problem = "has more than 4,300 digits" if "digits" in str(error) else "is NaN or infinite"
    return f"a number {problem}: write it as a string, or remove it"


def _surrogate_problem(error: UnicodeEncodeError) -> str:
    character = ascii(error.object[error.start])
    return f"{character} is half of a character (a lone surrogate): complete or remove it"


def _string(tree: dict[str, Any], key: str, where: str) -> str:
    value = tree.get(key)
    if value is None and key != "text":
        return ""
    if not isinstance(value, str):
        raise DataError(f"{where}: {key} is {_shorten(value)}, but it must be a string")
    return value


def _strings(tree: dict[str, Any], key: str, where: str) -> tuple[str, ...]:
    value = tree.get(key)
    if value is None:
        return ()
    if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
        raise DataError(f"{where}: {key} is {_shorten(value)}, but it must be a list of strings")
    return tuple(value)


def _shorten(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 40 else f"{text[:37]}..."
