"""Errors that a user can correct.

The message is one line: what is wrong, where, what was expected, what to do. The command line
prints it and exits with status 2. Any other exception is a bug and keeps its traceback.
"""

import difflib
import re
from collections.abc import Iterable, Sequence
from pathlib import Path


class NmtError(Exception):
    """User-correctable error."""


class ConfigError(NmtError):
    """Invalid setting or command-line option."""

    def __init__(self, key: str, value: object, rule: str) -> None:
        """Format the message as "<key> is <value>, but <rule>"."""
        super().__init__(f"{key} is {value}, but {rule}")

    @classmethod
    def from_message(cls, message: str) -> "ConfigError":
        """Create an error with a message of another form."""
        error = cls.__new__(cls)
        Exception.__init__(error, message)
        return error


class DataError(NmtError):
    """Invalid corpus, shard or text file."""


class CheckpointError(NmtError):
    """Missing, corrupt or incompatible checkpoint."""


class TrainingError(NmtError):
    """Training run that cannot start or resume."""


class StorageError(NmtError):
    """Object store that is unreachable or refuses a request."""


def check_path(key: str, value: object) -> None:
    """Raise ConfigError for a value that is neither a path nor an address."""
    if not isinstance(value, str | Path):
        raise ConfigError(key, shorten(repr(value)), "it must be a path")


def check_strings(key: str, values: object, rule: str) -> list[str]:
    """Return several strings as a list; raise ConfigError for any other value, also for one string.

    Args:
        key: name of the argument.
        values: its value; a generator is read.
        rule: rule of the error message.
    """
    # A string is an iterable of its characters.
    texts = None if isinstance(values, str) or not isinstance(values, Iterable) else list(values)
    if texts is None or not all(isinstance(each, str) for each in texts):
        raise ConfigError(key, shorten(repr(values)), rule)
    return texts


def did_you_mean(word: str, known: Iterable[str], prefix: str = "") -> str:
    """Return the end of an error message about an unknown name: the nearest known one, or all.

    Args:
        prefix: text printed before the nearest name.
    """
    names = list(known)
    if matches := difflib.get_close_matches(word, names, n=1, cutoff=0.5):
        return f"; did you mean {prefix}{matches[0]}?"
    return f"; choose from {', '.join(names)}" if names else ""


def shorten(text: str, width: int = 60) -> str:
    """Return a text in at most `width` characters for an error message."""
    return text if len(text) <= width else f"{text[: width - 3]}..."


def escape_controls(text: str) -> str:
    """Escape characters that control a terminal, except line feeds and tabs."""
    controls = r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069\ud800-\udfff]"
    return re.sub(controls, lambda found: found[0].encode("unicode_escape").decode(), text)


def one_line(message: str) -> str:
    """Return a message without control characters and with long words shortened."""
    message = re.sub(r"\S{400,}", lambda found: shorten(found[0], 200), message[:100_000])
    return shorten(escape_controls(message).replace("\n", "\\n"), 2000)


def summarise_names(names: Sequence[str]) -> str:
    """Return the first name and the number of further ones."""
    rest = f" and {len(names) - 1} more" if len(names) > 1 else ""
    return f"{names[0]}{rest}"
