"""What a section of settings is, and the numbers that can stand in one.

Sections are typed, frozen and strict. Paths stay strings: what they lead to may lie on another
machine.
"""

from typing import Annotated, Any, Self

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, model_validator

from nmt.errors import ConfigError


def _no_truth_value(value: Any) -> Any:
    """Refuse true, which pydantic takes for 1; text may be a number: YAML takes 3e-4 for text."""
    if isinstance(value, bool):
        raise ValueError("it must be a number")
    return value


Number = Annotated[float, BeforeValidator(_no_truth_value), Field(allow_inf_nan=False)]
Share = Annotated[Number, Field(ge=0, le=1)]
Fraction = Annotated[Number, Field(ge=0, lt=1)]
PositiveFloat = Annotated[Number, Field(gt=0)]
NaturalFloat = Annotated[Number, Field(ge=0)]
PositiveInt = Annotated[int, Field(ge=1, strict=True)]
NaturalInt = Annotated[int, Field(ge=0, strict=True)]
Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,99}$")]


class Settings(BaseModel):
    """Frozen, typed, and without a place for a key that nobody reads."""

    model_config = ConfigDict(
        frozen=True, extra="forbid", use_attribute_docstrings=True, hide_input_in_errors=True
    )

    @model_validator(mode="after")
    def _obey_rules(self) -> Self:
        self.check()
        return self

    def check(self) -> None:
        """Raise ConfigError where two settings contradict each other."""


def check_folder(key: str, value: str) -> None:
    """Refuse the address of an object store, which would be taken for a folder called s3:."""
    if "://" in value:
        rule = "only runs are kept in object stores: name a folder that every host sees"
        raise ConfigError(key, _without_secret(value), rule)


def check_address(key: str, value: str) -> None:
    """Refuse the address of an object store that cannot be, or that holds a secret."""
    scheme, mark, rest = value.partition("://")
    bucket = rest.partition("?")[0].partition("/")[0]
    if "@" in bucket:
        rule = (
            "addresses are printed and logged: leave the secret out, and set AWS_ACCESS_KEY_ID and "
            "AWS_SECRET_ACCESS_KEY where it runs"
        )
        raise ConfigError(key, _without_secret(value), rule)
    if mark and scheme != "s3":
        rule = "it must be a folder, or s3://BUCKET/FOLDER: a store that speaks S3"
        raise ConfigError(key, value, rule)
    if mark and not bucket:
        raise ConfigError(key, value, "it names no bucket: s3://BUCKET/FOLDER")


def _without_secret(address: str) -> str:
    scheme, mark, rest = address.partition("://")
    head, at, tail = rest.rpartition("@")
    return f"{scheme}{mark}***@{tail}" if at and head else address
