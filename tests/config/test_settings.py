"""Properties of all settings."""

import re

import pytest
from pydantic import ValidationError
from toy_settings import load

from nmt.config.experiment import Experiment
from nmt.config.settings import Settings


def test_json_round_trip() -> None:
    experiment = load()
    assert Experiment.model_validate_json(experiment.model_dump_json()) == experiment


def test_settings_are_frozen() -> None:
    with pytest.raises(ValidationError, match="frozen"):
        load().seed = 5  # type: ignore[misc]


def all_settings(kind: type[Settings] = Settings) -> list[type[Settings]]:
    return [found for child in kind.__subclasses__() for found in (child, *all_settings(child))]


BANNED = "What|Whether|Why|How|Of|As|None|All|Told|Says"
SETTINGS = [kind for kind in all_settings() if kind.__module__.startswith("nmt.")]


@pytest.mark.parametrize("kind", SETTINGS, ids=lambda kind: kind.__name__)
def test_descriptions_start_with_a_noun_phrase(kind: type[Settings]) -> None:
    assert kind.__doc__
    assert kind.model_fields
    for name, field in kind.model_fields.items():
        assert field.description, name
        assert re.fullmatch(rf"(?!(?:{BANNED})\b)[A-Z].*\.", field.description), name
