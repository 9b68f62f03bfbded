"""A search space: which settings of an experiment are tried, and with which values.

`training.learning_rate=loguniform(1e-3, 1e-2)` on a command line, or `key: expression` line by line
in a YAML file. What is tried is drawn from a seed alone, the same in every process, and no two
trials are alike; of more trials the first are the same. Each is a whole experiment that was
checked, so a search does not find out in its third hour that two of its values do not go together.
"""

import math
import random
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import islice, product
from pathlib import Path
from typing import Any

import yaml

from nmt.config.experiment import Experiment
from nmt.config.files import override, overrides_of, read_tree
from nmt.errors import ConfigError

KINDS = "choice(a, b, ...), uniform(low, high), loguniform(low, high) or integers(low, high)"
_EXPRESSION = re.compile(r"\s*(choice|uniform|loguniform|integers)\((.*)\)\s*", re.DOTALL)
_DIGITS = 4
"""Of a number that is drawn, so that it can be read, typed and remembered."""
_TRIES = 100
"""Draws for each trial: a narrow range of numbers with few digits has fewer than were asked for."""
_NOT_SEARCHED = {
    "name": "a trial has a name of its own",
    "preset": "a trial has sizes of its own",
    "corpus.prepared": "a trial knows the folder of its corpus",
}


@dataclass(frozen=True)
class Range:
    """What a setting may be."""

    kind: str
    """choice, uniform, loguniform or integers."""
    values: tuple[Any, ...]
    """All of a choice; of the others the low and the high end, both included."""

    @property
    def all(self) -> Sequence[Any] | None:
        """Each value, where they can be counted."""
        match self.kind:
            case "choice":
                return self.values
            case "integers":
                return range(self.values[0], self.values[1] + 1)
        return None

    def draw(self, rng: random.Random) -> Any:
        """One of the values."""
        if self.all is not None:
            return rng.choice(self.all)
        low, high = self.values
        if self.kind == "loguniform":
            drawn = math.exp(rng.uniform(math.log(low), math.log(high)))
        else:
            drawn = rng.uniform(low, high)
        return min(max(float(f"{drawn:.{_DIGITS}g}"), low), high)


Space = Mapping[str, Range]
"""What each key may be."""


@dataclass(frozen=True)
class Trial:
    """One of the experiments that are tried."""

    number: int
    """From 1."""
    settings: Mapping[str, Any]
    """What was drawn for each key."""
    experiment: Experiment

    @property
    def overrides(self) -> list[str]:
        """The settings as they are typed."""
        return overrides_of(self.settings)


def read_space(texts: Sequence[str]) -> Space:
    """Read `key=expression` and the names of YAML files.

    Raises:
        ConfigError: one is neither, or a key stands twice.
    """
    space: dict[str, Range] = {}
    for text in texts:
        key, equals, expression = text.partition("=")
        if equals:
            pairs = [(key.strip(), expression)]
        elif text.endswith((".yaml", ".yml")):
            pairs = list(read_tree(Path(text)).items())
        else:
            raise ConfigError.from_message(
                f"--search is {text!r}, but it must be KEY={KINDS}, or a YAML file of such lines"
            )
        for each, value in pairs:
            if each in space:
                raise ConfigError.from_message(
                    f"--search: {each} is searched twice; keep one of them"
                )
            space[each] = _read_range(each, value)
    return space


def draw_trials(experiment: Experiment, space: Space, most: int, seed: int) -> list[Trial]:
    """The trials of a search: `most` of them, or all that there are.

    Raises:
        ConfigError: a key is unknown or cannot be searched, or has a value that it may not have, by
            itself or together with the others of a trial.
    """
    for key, of_key in space.items():
        if key in _NOT_SEARCHED:
            raise ConfigError.from_message(
                f"--search: {key} cannot be searched: {_NOT_SEARCHED[key]}"
            )
        if key.startswith("cluster."):
            rule = "cannot be searched: where it trains changes nothing of what is learnt"
            raise ConfigError.from_message(f"--search: {key} {rule}")
        for value in of_key.values:
            override(experiment, overrides_of({key: value}))
    trials = []
    for number, settings in enumerate(_draw(space, most, seed), start=1):
        try:
            trials.append(Trial(number, settings, override(experiment, overrides_of(settings))))
        except ConfigError as error:
            words = " ".join(overrides_of(settings))
            raise ConfigError.from_message(
                f"--search: trial {number} ({words}) cannot be: {error}"
            ) from None
    return trials


def _draw(space: Space, most: int, seed: int) -> list[dict[str, Any]]:
    countable = [of_key.all for of_key in space.values()]
    if all(values is not None for values in countable):
        num = math.prod(len(values) for values in countable if values is not None)
        if num <= most:
            grid = islice(product(*(values for values in countable if values is not None)), most)
            return [dict(zip(space, values, strict=True)) for values in grid]
    drawn: list[dict[str, Any]] = []
    # A text as seed goes through SHA-512: the same numbers in every process.
    rng = random.Random(f"search {seed}")
    for _ in range(_TRIES * most):
        settings = {key: of_key.draw(rng) for key, of_key in space.items()}
        if settings not in drawn:
            drawn.append(settings)
        if len(drawn) == most:
            break
    return drawn


def _read_range(key: str, expression: Any) -> Range:
    found = _EXPRESSION.fullmatch(expression) if isinstance(expression, str) else None
    if found is None:
        raise ConfigError(f"--search {key}", expression, f"it must be {KINDS}")
    kind, inside = found.groups()
    try:
        values = yaml.safe_load(f"[{inside}]")
    except (yaml.YAMLError, ValueError, RecursionError):
        values = []
    if kind == "choice":
        if len(values) < 2 or any(value in values[:n] for n, value in enumerate(values)):
            raise ConfigError(
                f"--search {key}", expression, "it needs two values or more, each once"
            )
        return Range(kind, tuple(values))
    if kind == "integers":
        is_good = len(values) == 2 and all(type(value) is int for value in values)
        rule = "it needs two whole numbers, the low end first"
    else:
        values = [_number(value) for value in values]
        is_good = len(values) == 2 and all(map(math.isfinite, values))
        rule = "it needs two numbers, the low end first"
        if kind == "loguniform":
            is_good = is_good and values[0] > 0
            rule = "it needs two numbers above 0, the low end first"
    if not is_good or values[0] >= values[1]:
        raise ConfigError(f"--search {key}", expression, rule)
    return Range(kind, tuple(values))


def _number(value: Any) -> float:
    """A number, or what YAML takes for text though it is one, such as 1e-3; else not a number."""
    try:
        return math.nan if isinstance(value, bool) else float(value)
    except (TypeError, ValueError):
        return math.nan
