"""What is asked for each line: its text, what its translation must and must not say.

JSON lines have Sockeye's keys: text, constraints, avoid, target_prefix; others are passed through.
A glossary is a TSV file: where its first column stands in a line, its second must in the
translation.
"""

import json
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from nmt.corpus.text import read_lines
from nmt.errors import DataError


@dataclass(frozen=True)
class Request:
    """One line to translate."""

    text: str
    constraints: tuple[str, ...] = ()
    """Terms that must stand in the translation as they are."""
    avoid: tuple[str, ...] = ()
    """Words that must not."""
    target_prefix: str = ""
    """Words that the translation must begin with."""
    fields: dict[str, Any] = field(default_factory=dict)
    """All that the line of JSON had."""
    where: str = ""
    """File and line, for messages."""


def read_json_lines(lines: Iterable[str], name: str) -> Iterator[Request]:
    """Requests from lines of JSON; a blank line is a blank text.

    Raises:
        DataError: a line is no object with a text, or a key has the wrong type.
    """
    for number, line in enumerate(lines, start=1):
        where = f"{name}, line {number}"
        if not line.strip():
            yield Request("", where=where)
            continue
        try:
            tree = json.loads(line)
        except (ValueError, RecursionError) as error:
            problem = getattr(error, "msg", "nested too deep")
            raise DataError(
                f'{where}: not JSON: {problem}; expected an object such as {{"text": "..."}}'
            ) from None
        if not isinstance(tree, dict) or "text" not in tree:
            what = "an object without text" if isinstance(tree, dict) else "no object"
            raise DataError(f'{where}: JSON, but {what}; expected {{"text": "..."}}')
        yield Request(
            _text(tree, "text", where),
            _texts(tree, "constraints", where),
            _texts(tree, "avoid", where),
            _text(tree, "target_prefix", where),
            tree,
            where,
        )


class Glossary:
    """Terms and how they are translated."""

    def __init__(self, terms: dict[str, str]) -> None:
        self._terms = terms
        longest_first = sorted(terms, key=lambda term: (-len(term), term))
        self._pattern = re.compile(
            rf"(?<!\w)(?:{'|'.join(map(re.escape, longest_first))})(?!\w)" if terms else r"(?!)"
        )

    @classmethod
    def read(cls, path: Path) -> "Glossary":
        """From lines of source term, tab, target term; blank lines are nothing.

        Raises:
            DataError: as `read_lines`, or a line has not two terms, or a source term stands twice.
        """
        terms: dict[str, str] = {}
        for number, line in enumerate(read_lines(path), start=1):
            if not line.strip():
                continue
            term, tab, translation = (part.strip() for part in line.partition("\t"))
            if (not tab.isspace() and not (term and translation)) or "\t" in translation:
                raise DataError(
                    f"{path}, line {number}: expected source term, tab, target term; "
                    "mend or delete the line"
                )
            if terms.setdefault(term, translation) != translation:
                raise DataError(
                    f"{path}, line {number}: {term!r} has two translations; keep one of them"
                )
        return cls(terms)

    def applied(self, request: Request) -> Request:
        """The request with the terms that its text needs; the longest where several fit."""
        found = [self._terms[match[0]] for match in self._pattern.finditer(request.text)]
        wanted = dict.fromkeys([*request.constraints, *found])
        return replace(request, constraints=tuple(wanted))


def _text(tree: dict[str, Any], key: str, where: str) -> str:
    value = tree.get(key)
    if value is None and key != "text":
        return ""
    if not isinstance(value, str):
        raise DataError(f"{where}: {key} is {_shown(value)}, but it must be text")
    return value


def _texts(tree: dict[str, Any], key: str, where: str) -> tuple[str, ...]:
    value = tree.get(key)
    if value is None:
        return ()
    if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
        raise DataError(f"{where}: {key} is {_shown(value)}, but it must be a list of texts")
    return tuple(value)


def _shown(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 40 else f"{text[:37]}..."
