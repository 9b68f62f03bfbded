"""Search spaces: ranges of settings, and the trials drawn from them.

A range is given as `training.learning_rate=loguniform(1e-3, 1e-2)` on the command line, or as
`key: expression` in a YAML file. Trials depend on space and seed only; a longer search starts with
the trials of a shorter one, and no two trials are equal. Each trial is validated when drawn, so
contradicting values are found before the search starts.
"""

import math
import random
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any

import yaml

from nmt.config.experiment import Experiment
from nmt.config.files import override, overrides_of, read_tree
from nmt.errors import ConfigError

KINDS = "choice(a, b, ...), uniform(low, high), loguniform(low, high) or integers(low, high)"
_EXPRESSION = re.compile(r"\s*(choice|uniform|loguniform|integers)\((.*)\)\s*", re.DOTALL)
_DIGITS = 4
"""Significant digits of drawn numbers."""
_TRIES = 100
"""Draws per trial before the search has fewer trials: a narrow range has few distinct values."""
_NOT_SEARCHED = {
    "name": "each trial has its own name",
    "preset": "each trial sets its own sizes",
    "corpus.prepared": "it is derived from the settings of a trial",
    "cluster": "cluster settings do not affect the model",
}


@dataclass(frozen=True)
class Range:
    """Range of a setting."""

    kind: str
    """Kind: choice, uniform, loguniform or integers."""
    values: tuple[Any, ...]
    """All values of a choice; else the lower and upper limit, both inclusive."""

    @property
    def size(self) -> float:
        """Number of values; infinite if the range is continuous."""
        if self.kind == "choice":
            return len(self.values)
        return self.values[1] - self.values[0] + 1 if self.kind == "integers" else math.inf

    @property
    def all(self) -> Sequence[Any]:
        """All values of a finite range."""
        return self.values if self.kind == "choice" else range(self.values[0], self.values[1] + 1)

    def draw(self, rng: random.Random) -> Any:
        """Draw a value."""
        if self.kind == "choice":
            return rng.choice(self.values)
        low, high = self.values
        if self.kind == "integers":
            return rng.randint(low, high)
        if self.kind == "loguniform":
            # Uniform in the logarithm: each order of magnitude is equally likely.
            drawn = math.exp(rng.uniform(math.log(low), math.log(high)))
        else:
            drawn = rng.uniform(low, high)
        return min(max(float(f"{drawn:.{_DIGITS}g}"), low), high)


Space = Mapping[str, Range]
"""Range by dotted key."""


@dataclass(frozen=True)
class Trial:
    """Experiment of a search."""

    number: int
    """Number of the trial, from 1."""
    settings: Mapping[str, Any]
    """Drawn value by dotted key."""
    experiment: Experiment

    @property
    def overrides(self) -> list[str]:
        """Settings as command-line overrides."""
        return overrides_of(self.settings)


def read_space(texts: Sequence[str]) -> Space:
    """Parse `key=expression` texts and YAML files of them.

    Raises:
        ConfigError: a text is neither, or a key occurs twice.
    """
    space: dict[str, Range] = {}
    for text in texts:
        key, equals, expression = text.partition("=")
        if equals:
            pairs = [(key.strip(), expression)]
        elif text.endswith((".yaml", ".yml")):
            pairs = list(read_tree(Path(text)).items())
        else:
            rule = f"it must be KEY={KINDS}, or a YAML file"
            raise ConfigError("--search", repr(text), rule)
        for each, value in pairs:
            if each in space:
                raise ConfigError.from_message(f"--search: {each} is given twice; remove one")
            space[each] = _read_range(each, value)
    return space


def draw_trials(experiment: Experiment, space: Space, max_trials: int, seed: int) -> list[Trial]:
    """Draw at most `max_trials` trials; a finite space with no more values is enumerated.

    Raises:
        ConfigError: a key is unknown or cannot be searched, or a value is invalid, alone or with
            the others of a trial.
    """
    for key, range_ in space.items():
        if reason := _NOT_SEARCHED.get("cluster" if key.startswith("cluster.") else key):
            raise ConfigError.from_message(f"--search: {key} cannot be searched: {reason}")
        # Both limits are validated, so that a trial hours later cannot be the first to fail.
        for value in range_.values:
            override(experiment, overrides_of({key: value}))
    trials = []
    for number, settings in enumerate(_draw(space, max_trials, seed), start=1):
        try:
            trials.append(Trial(number, settings, override(experiment, overrides_of(settings))))
        except ConfigError as error:
            words = " ".join(overrides_of(settings))
            problem = f"trial {number} ({words}) is invalid: {error}"
            raise ConfigError.from_message(f"--search: {problem}") from None
    return trials


def _draw(space: Space, max_trials: int, seed: int) -> list[dict[str, Any]]:
    if math.prod(range_.size for range_ in space.values()) <= max_trials:
        every = product(*(range_.all for range_ in space.values()))
        return [dict(zip(space, values, strict=True)) for values in every]
    drawn: list[dict[str, Any]] = []
    # Python hashes a text seed with SHA-512: the same sequence in every process.
    rng = random.Random(f"search {seed}")
    for _ in range(_TRIES * max_trials):
        settings = {key: range_.draw(rng) for key, range_ in space.items()}
        if settings not in drawn:
            drawn.append(settings)
        if len(drawn) == max_trials:
            break
    return drawn


def _read_range(key: str, expression: Any) -> Range:
    match = _EXPRESSION.fullmatch(expression) if isinstance(expression, str) else None
    if match is None:
        raise ConfigError(f"--search {key}", expression, f"it must be {KINDS}")
    kind, arguments = match.groups()
    try:
        values = yaml.safe_load(f"[{arguments}]")
    except (yaml.YAMLError, ValueError, RecursionError):
        values = []
    if kind == "choice":
        is_valid = len(values) > 1 and all(x not in values[:n] for n, x in enumerate(values))
        rule = "two or more distinct values"
    elif kind == "integers":
        are_integers = len(values) == 2 and all(type(value) is int for value in values)
        is_valid = are_integers and values[0] < values[1]
        rule = "two integers, the lower first"
    else:
        # NaN, for what is not a number, makes the comparison false.
        values = [_number(value) for value in values]
        limit = 0.0 if kind == "loguniform" else -math.inf
        is_valid = len(values) == 2 and limit < values[0] < values[1] < math.inf
        rule = f"two numbers{' above 0' if limit == 0 else ''}, the lower first"
    if not is_valid:
        raise ConfigError(f"--search {key}", expression, f"it needs {rule}")
    return Range(kind, tuple(values))


def _number(value: Any) -> float:
    """Convert a value, also text such as 1e-3 that YAML does not read as a number; else NaN."""
    try:
        return math.nan if isinstance(value, bool) else float(value)
    except (TypeError, ValueError):
        return math.nan
