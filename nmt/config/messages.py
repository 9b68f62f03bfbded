"""What is wrong with a setting, for people."""

import difflib
import json
from collections.abc import Mapping, Sequence
from typing import Any

from nmt.config.settings import section_in


def rule_of(kind: str, facts: Mapping[str, Any], message: str) -> str:
    """What a value must be, for people; pydantic's kind of error, its facts and its own message."""
    match kind:
        case "int_type" | "int_parsing" | "int_from_float":
            return "it must be a whole number"
        case "float_type" | "float_parsing":
            return "it must be a number"
        case "finite_number":
            return "it must be a finite number"
        case "greater_than_equal":
            return f"it must be {facts['ge']} or more"
        case "greater_than":
            return f"it must be more than {facts['gt']}"
        case "less_than_equal":
            return f"it must be {facts['le']} or less"
        case "less_than":
            return f"it must be less than {facts['lt']}"
        case "bool_type" | "bool_parsing":
            return "it must be true or false"
        case "string_type":
            return "it must be text: put it in quotes"
        case "string_pattern_mismatch":
            return "it must be 1 to 100 of A-Z a-z 0-9 . _ - and begin with a letter or a digit"
        case "literal_error":
            return f"it must be {facts['expected']}"
        case "list_type" | "tuple_type":
            return "it must be a list: [first, second]"
        case "model_type" | "dict_type":
            return "it must be a section: `key: value` line by line, or {key: value}"
        case "too_short":
            return f"it must have {facts['min_length']} or more items"
        case "too_long":
            return f"it must have {facts['max_length']} items at most"
    return message.removeprefix("Value error, ")


def shown(value: Any) -> str:
    """A value as it could stand in a file, shortened."""
    if value is None:
        return "empty"
    text = repr(value) if isinstance(value, str) else json.dumps(value, default=str)
    return text if len(text) <= 60 else f"{text[:57]}..."


def keys_in(kind: Any, path: Sequence[str | int]) -> list[str]:
    """The keys that a section has."""
    for part in path:
        section = section_in(kind)
        if isinstance(part, str) and section is not None and part in section.model_fields:
            kind = section.model_fields[part].annotation
    section = section_in(kind)
    return list(section.model_fields) if section is not None else []


def hint_of(part: str, known: list[str], path: Sequence[str]) -> str:
    """The nearest known key in the section at `path`, or all that there are."""
    matches = difflib.get_close_matches(part, known, n=1, cutoff=0.5)
    if matches:
        return f"; did you mean {'.'.join([*path, matches[0]])}?"
    return f"; known here: {', '.join(known)}" if known else ""
