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
        rule = "object stores are not supported yet: name a folder that every host sees"
        raise ConfigError(key, value, rule)
