"""Base class and field types of settings and records, and values that older files lack.

Paths are strings, because they may refer to another machine.
"""

import json
import math
import os
import re
from typing import Annotated, Any, Self, TypeVar, get_args, get_origin

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    TypeAdapter,
    ValidationError,
    ValidationInfo,
    model_validator,
)
from pydantic.fields import FieldInfo

from nmt.errors import ConfigError

T = TypeVar("T")
N = TypeVar("N", int, float)
_ADAPTERS: dict[Any, TypeAdapter[Any]] = {}


def _not_bool(value: Any) -> Any:
    """Refuse booleans, which pydantic accepts as numbers."""
    if isinstance(value, bool):
        raise ValueError("it must be a number")
    return value


def _check_size(value: N) -> N:
    if 2**63 <= abs(value) < math.inf:
        raise ValueError("it must be less than 2^63")
    return value


def _check_text(value: str) -> str:
    if re.search("[\0\ud800-\udfff]", value):
        raise ValueError("it must be text without NUL bytes and lone surrogates")
    return value


def expand_path(path: str) -> str:
    """Expand `~` and `$VAR` as a shell does; unset variables stay as they are."""
    return os.path.expandvars(os.path.expanduser(path))


def _expand_path(value: str, info: ValidationInfo) -> str:
    # Stored settings stay readable on machines without the variable.
    if info.context is USER_INPUT:
        for plain, braced in re.findall(r"\$(?:(\w+)|\{([^}]*)\})", value, re.ASCII):
            if (plain or braced) not in os.environ:
                raise ValueError(f"the environment variable {plain or braced} is not set")
    return _check_path(expand_path(_check_path(value)))


def _check_path(value: str) -> str:
    parts = [len(os.fsencode(part)) for part in _check_text(value).split("/")]
    if max(parts) > 255 or sum(parts) + len(parts) > 4096:
        raise ValueError("no file system has names this long: 255 bytes, 4,095 with directories")
    return value


Text = Annotated[str, AfterValidator(_check_text)]
PathText = Annotated[str, AfterValidator(_expand_path)]
"""Path of a file or directory; `~` and `$VAR` are those of the machine that reads the setting."""
HostPathText = Annotated[str, AfterValidator(_check_path)]
"""Path on each host; `~` and `$VAR` are those of the host (`expand_path`)."""
USER_INPUT = {"source": "user"}
"""Validation context of files and options of the user, as opposed to stored settings."""
# Not strict: YAML reads 3e-4 as text.
Number = Annotated[
    float, BeforeValidator(_not_bool), AfterValidator(_check_size), Field(allow_inf_nan=False)
]
Share = Annotated[Number, Field(ge=0, le=1)]
Fraction = Annotated[Number, Field(ge=0, lt=1)]
PositiveFloat = Annotated[Number, Field(gt=0)]
NaturalFloat = Annotated[Number, Field(ge=0)]
PositiveInt = Annotated[int, Field(ge=1, strict=True), AfterValidator(_check_size)]
NaturalInt = Annotated[int, Field(ge=0, strict=True), AfterValidator(_check_size)]
Count = Annotated[int, Field(ge=0, le=2**53, strict=True)]
"""Number in a record on disk; JSON readers of other languages are exact up to 2^53."""
Timestamp = Annotated[Number, Field(ge=0, lt=253402300800)]
"""Seconds since 1970, before the year 10000."""
Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,99}$")]


def parse_record(kind: type[T], data: Any) -> T:
    """Read a dataclass from JSON text, or from a tree parsed from it; types must match exactly.

    Unknown keys are ignored: a later version may have added them.

    Raises:
        ValueError: it is no JSON, or a field is missing or of another type; the message names it.
    """
    try:
        text = data if isinstance(data, str | bytes) else json.dumps(data)
        # Building an adapter takes a millisecond, reading a record microseconds.
        if kind not in _ADAPTERS:
            _ADAPTERS[kind] = TypeAdapter(kind)
        record: T = _ADAPTERS[kind].validate_json(text, strict=True)
        return record
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        place = ".".join(str(part) for part in first["loc"])
        message = first["msg"]
    except (TypeError, RecursionError) as error:
        place, message = "", str(error)
    raise ValueError(f"{place}: {message}" if place else message)


class Settings(BaseModel):
    """Section of settings: typed and frozen; unknown keys are errors."""

    model_config = ConfigDict(
        frozen=True, extra="forbid", use_attribute_docstrings=True, hide_input_in_errors=True
    )

    @model_validator(mode="after")
    def _check(self) -> Self:
        self.check()
        return self

    def check(self) -> None:
        """Raise ConfigError if settings contradict each other."""


def added_setting(default: Any, *, before: Any) -> Any:
    """Declare a setting that files of earlier versions lack; use it as pydantic's `Field`.

    Args:
        default: value where an experiment file does not set it; `...` if it is required.
        before: behaviour of the versions without the setting, as a file would hold it. Stored
            settings that lack the key get this value (`add_legacy_values`).
    """
    return Field(default, json_schema_extra={"before": before})


def has_legacy_value(field: FieldInfo) -> bool:
    """Return True if the field was declared with `added_setting`."""
    return isinstance(field.json_schema_extra, dict) and "before" in field.json_schema_extra


def legacy_value(field: FieldInfo) -> Any:
    """Return the value that stored settings without this field stand for."""
    assert isinstance(field.json_schema_extra, dict)
    return field.json_schema_extra["before"]


def section_in(kind: Any) -> type[Settings] | None:
    """Return the section that a type is, or that its list items are; else None."""
    if get_origin(kind) is list:
        kind = get_args(kind)[0]
    return kind if isinstance(kind, type) and issubclass(kind, Settings) else None


def add_legacy_values(kind: type[Settings], tree: Any) -> Any:
    """Complete stored settings: a missing key gets the value that its setting had before it.

    Args:
        tree: settings of `kind` as parsed from JSON or YAML; wrong types are left to validation.

    Returns:
        A new tree. Keys without a declared legacy value stay missing: they existed in format 1,
        or their default is the behaviour of earlier versions.
    """
    if isinstance(tree, list):
        return [add_legacy_values(kind, item) for item in tree]
    if not isinstance(tree, dict):
        return tree
    filled = dict(tree)
    for name, field in kind.model_fields.items():
        section = section_in(field.annotation)
        if name in filled:
            if section is not None:
                filled[name] = add_legacy_values(section, filled[name])
        elif has_legacy_value(field):
            filled[name] = legacy_value(field)
        elif section is not None and isinstance(field.default, Settings):
            # The section is older than some of its settings: its default would be today's.
            filled[name] = add_legacy_values(section, {})
    return filled


def drop_legacy_values(kind: type[Settings], tree: Any) -> Any:
    """Remove keys at their legacy value: the reverse of `add_legacy_values`.

    Digests of the result do not change when a version adds a setting.
    """
    if isinstance(tree, list):
        return [drop_legacy_values(kind, item) for item in tree]
    if not isinstance(tree, dict):
        return tree
    kept = {}
    for name, value in tree.items():
        field = kind.model_fields.get(name)
        if field is not None and has_legacy_value(field) and value == legacy_value(field):
            continue
        section = section_in(field.annotation) if field is not None else None
        kept[name] = value if section is None else drop_legacy_values(section, value)
    return kept


def check_folder(key: str, value: str) -> None:
    """Raise ConfigError for the address of an object store, where only a directory is supported."""
    if "://" in value:
        rule = "only runs can be in an object store: use a directory that every host sees"
        raise ConfigError(key, _without_secret(value), rule)


def is_address(path: str) -> bool:
    """Return True if `path` is the address of an object store, not a directory."""
    return "://" in path


def absolute_path(path: str) -> str:
    """Return a path of the current directory as an absolute one; addresses and "" as they are."""
    return path if not path or is_address(path) else os.path.abspath(path)


def check_address(key: str, value: str) -> None:
    """Raise ConfigError for an invalid object store address, or one that contains a secret."""
    scheme, mark, rest = value.partition("://")
    bucket = rest.partition("?")[0].partition("/")[0]
    if "@" in bucket:
        rule = (
            "addresses are logged: remove the secret and set AWS_ACCESS_KEY_ID and "
            "AWS_SECRET_ACCESS_KEY in the environment"
        )
        raise ConfigError(key, _without_secret(value), rule)
    if mark and scheme != "s3":
        rule = "it must be a directory or s3://BUCKET/PATH (S3 or compatible)"
        raise ConfigError(key, value, rule)
    if mark and not bucket:
        raise ConfigError(key, value, "the bucket is missing: s3://BUCKET/PATH")


def _without_secret(address: str) -> str:
    """Replace everything before "@" for error messages."""
    scheme, mark, rest = address.partition("://")
    head, at, tail = rest.rpartition("@")
    return f"{scheme}{mark}***@{tail}" if at and head else address
