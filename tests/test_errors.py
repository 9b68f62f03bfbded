import pytest

from nmt.errors import CheckpointError, ConfigError, DataError, NmtError, TrainingError


@pytest.mark.parametrize("kind", [CheckpointError, ConfigError, DataError, TrainingError])
def test_every_kind_is_for_people(kind: type[Exception]) -> None:
    """P9."""
    assert issubclass(kind, NmtError)


def test_a_wrong_setting_is_told_with_its_key_its_value_and_the_rule() -> None:
    error = ConfigError("model.width", 7, "it must be even")
    assert str(error) == "model.width is 7, but it must be even"


def test_a_config_error_can_say_something_else() -> None:
    error = ConfigError.saying("'x' is not an override: write section.key=value")
    assert isinstance(error, ConfigError)
    assert str(error) == "'x' is not an override: write section.key=value"
