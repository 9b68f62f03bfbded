"""What a user, a file or a machine can get wrong.

Every message is one line that a person can act on: the place, what was found, what was expected,
the next move. The command line prints it and exits with status 2; anything that is not an
`NmtError` is a bug of ours and keeps its traceback.
"""


class NmtError(Exception):
    """Something that the person at the keyboard can mend; the message says how."""


class ConfigError(NmtError):
    """A setting that cannot be: unknown, of the wrong type, or against a rule."""

    def __init__(self, key: str, value: object, rule: str) -> None:
        """Say "<key> is <value>, but <rule>"."""
        super().__init__(f"{key} is {value}, but {rule}")

    @classmethod
    def saying(cls, message: str) -> "ConfigError":
        """An error about a setting whose message does not fit "<key> is <value>, but <rule>"."""
        error = cls.__new__(cls)
        Exception.__init__(error, message)
        return error


class DataError(NmtError):
    """A corpus, a shard or a text file that is not what it should be."""


class CheckpointError(NmtError):
    """A checkpoint that is missing, damaged or of another model."""


class TrainingError(NmtError):
    """A run that cannot start or go on."""


class StorageError(NmtError):
    """An object store that does not answer, or refuses."""
