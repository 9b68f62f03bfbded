import pytest

from nmt.errors import (
    CheckpointError,
    ConfigError,
    DataError,
    NmtError,
    StorageError,
    TrainingError,
)


@pytest.mark.parametrize(
    "kind", [CheckpointError, ConfigError, DataError, StorageError, TrainingError]
)
def test_every_error_is_an_nmt_error(kind: type[Exception]) -> None:
    assert issubclass(kind, NmtError)


def test_config_error_names_key_value_and_rule() -> None:
    error = ConfigError("model.width", 7, "it must be even")
    assert str(error) == "model.width is 7, but it must be even"


def test_config_error_from_message() -> None:
    error = ConfigError.from_message("'x' is not an override: write section.key=value")
    assert isinstance(error, ConfigError)
    assert str(error) == "'x' is not an override: write section.key=value"
