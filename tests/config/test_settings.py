"""What holds for all settings."""

import pytest
from pydantic import ValidationError
from toy_settings import load

from nmt.config.experiment import Experiment
from nmt.config.settings import Settings


def test_an_experiment_travels_as_json() -> None:
    experiment = load()
    assert Experiment.model_validate_json(experiment.model_dump_json()) == experiment


def test_settings_do_not_change() -> None:
    with pytest.raises(ValidationError, match="frozen"):
        load().seed = 5  # type: ignore[misc]


def all_settings(kind: type[Settings] = Settings) -> list[type[Settings]]:
    return [found for child in kind.__subclasses__() for found in (child, *all_settings(child))]


SETTINGS = [kind for kind in all_settings() if kind.__module__.startswith("nmt.")]


@pytest.mark.parametrize("kind", SETTINGS, ids=lambda kind: kind.__name__)
def test_every_setting_says_what_it_means(kind: type[Settings]) -> None:
    assert kind.__doc__
    assert kind.model_fields
    for name, field in kind.model_fields.items():
        assert field.description, name
        assert "\n" not in field.description, name
