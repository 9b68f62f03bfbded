"""Settings from YAML files and overrides, and back.

An unknown key is refused with the nearest known one, a key that stands twice is refused too.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import yaml
from pydantic import ValidationError

from nmt.config.cluster import Cluster
from nmt.config.experiment import Experiment
from nmt.config.messages import hint_of, keys_in, rule_of, shown
from nmt.config.settings import Settings, add_legacy_values
from nmt.errors import ConfigError

S = TypeVar("S", bound=Settings)


def load_experiment(path: str | Path, overrides: Sequence[str] = ()) -> Experiment:
    """Read an experiment file and set what `section.key=value` overrides say.

    Raises:
        ConfigError: the file or an override is wrong: the place, the key, what it is and may be.
    """
    return _load(Experiment, path, overrides)


def load_cluster(path: str | Path | None, overrides: Sequence[str] = ()) -> Cluster:
    """Read a cluster file and set `key=value` overrides; None: this machine with one worker."""
    return _load(Cluster, path, overrides)


def split_overrides(overrides: Sequence[str]) -> tuple[list[str], list[str]]:
    """Part overrides into the experiment's and the cluster's, those without their `cluster.`."""
    ours = [text for text in overrides if not text.startswith("cluster.")]
    theirs = [text.removeprefix("cluster.") for text in overrides if text.startswith("cluster.")]
    return ours, theirs


def dump(settings: Settings) -> str:
    """The resolved settings as YAML that loads again to the same."""
    return yaml.safe_dump(settings.model_dump(mode="json"), sort_keys=False, allow_unicode=True)


def parse_stored(kind: type[S], text: str, where: str) -> S:
    """Read settings that `dump` wrote, possibly in an earlier version; see `restore`."""
    return restore(kind, _read_yaml(text, where), where)


def restore(kind: type[S], tree: Any, where: str) -> S:
    """Build stored settings; a missing key means the behaviour of the version that wrote them.

    Args:
        tree: parsed settings, such as config.yaml of a checkpoint.
        where: name of the file, for error messages.

    Raises:
        ConfigError: a key is unknown or a value is invalid.
    """
    return _build(kind, add_legacy_values(kind, tree), where)


def override(settings: S, overrides: Sequence[str], where: str = "command line") -> S:
    """The same settings with what `section.key=value` overrides say, which come from `where`.

    Raises:
        ConfigError: an override is wrong.
    """
    tree = settings.model_dump(mode="json")
    for text in overrides:
        _set(tree, text)
    return _build(type(settings), tree, where, overrides if where == "command line" else ())


def overrides_of(values: Mapping[str, Any]) -> list[str]:
    """Dotted keys and their values as they are typed on a command line."""
    return [f"{key}={json.dumps(value, ensure_ascii=False)}" for key, value in values.items()]


def differences(one: Settings, other: Settings) -> list[tuple[str, Any, Any]]:
    """The settings in which two of a kind differ: dotted key, value in one, value in the other.

    A value is what a file would hold; None where the key is not there.
    """
    ours, theirs = (dict(_leaves(settings.model_dump(mode="json"))) for settings in (one, other))
    return [
        (key, ours.get(key), theirs.get(key))
        for key in ours | theirs
        if ours.get(key) != theirs.get(key)
    ]


def read_tree(path: str | Path) -> dict[str, Any]:
    """What a YAML file of `key: value` lines says.

    Raises:
        ConfigError: it is not there, or not such a file.
    """
    try:
        return _read_yaml(Path(path).read_text(encoding="utf-8"), str(path))
    except FileNotFoundError:
        raise ConfigError.from_message(
            f"{path}: there is no such file; configs/ holds the ones that come with nmt"
        ) from None
    except IsADirectoryError:
        raise ConfigError.from_message(f"{path} is a folder; name a YAML file in it") from None
    except OSError as error:
        raise ConfigError.from_message(f"{path}: cannot be read: {error.strerror}") from None
    except UnicodeDecodeError as error:
        raise ConfigError.from_message(
            f"{path}: byte {error.start + 1} is not UTF-8; save the file as UTF-8 text"
        ) from None


def _load(kind: type[S], path: str | Path | None, overrides: Sequence[str]) -> S:
    tree: Any = {}
    where = "command line"
    if path is not None:
        where = str(path)
        tree = read_tree(path)
    for override in overrides:
        _set(tree, override)
    return _build(kind, tree, where, overrides)


def _read_yaml(text: str, where: str) -> dict[str, Any]:
    try:
        _refuse_doubles(yaml.compose(text, Loader=yaml.SafeLoader), where)
        tree = yaml.safe_load(text)
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        mark = getattr(error, "problem_mark", None)
        line = f", line {mark.line + 1}" if mark else ""
        problem = getattr(error, "problem", None) or str(error).splitlines()[0]
        raise ConfigError.from_message(f"{where}{line}: not valid YAML: {problem}") from None
    if not isinstance(tree, dict):
        raise ConfigError.from_message(
            f"{where}: settings were expected, `key: value` line by line, but it is {shown(tree)}"
        )
    return tree


def _refuse_doubles(node: yaml.Node | None, where: str) -> None:
    """Raise ConfigError where a key stands twice: YAML would take the last one in silence."""
    if isinstance(node, yaml.SequenceNode):
        for item in node.value:
            _refuse_doubles(item, where)
    elif isinstance(node, yaml.MappingNode):
        seen = set()
        for key, value in node.value:
            name = str(key.value)
            if name in seen:
                line = key.start_mark.line + 1
                raise ConfigError.from_message(
                    f"{where}, line {line}: {name} stands twice in its section; keep one of them"
                )
            seen.add(name)
            _refuse_doubles(value, where)


def _set(tree: Any, override: str) -> None:
    """Put the value of one `a.b.c=value` into the tree; list items go by number."""
    key, equals, text = override.partition("=")
    if not equals or not key:
        raise ConfigError.from_message(f"{override!r} is not an override: write section.key=value")
    try:
        value = yaml.safe_load(text) if text else ""
    except (yaml.YAMLError, ValueError, RecursionError):
        raise ConfigError.from_message(
            f"{override!r}: the value is not valid YAML; quote it"
        ) from None
    *path, last = key.split(".")
    node = tree
    for part in path:
        if isinstance(node, list):
            node = node[_index(node, part, override)]
            if not isinstance(node, dict | list):
                raise ConfigError.from_message(f"{override!r}: item {part} has no settings in it")
            continue
        if not isinstance(node.get(part), dict | list):
            node[part] = {}
        node = node[part]
    if isinstance(node, list):
        node[_index(node, last, override)] = value
    else:
        node[last] = value


def _index(items: list[Any], part: str, override: str) -> int:
    if not part.isdecimal() or int(part) >= len(items):
        raise ConfigError.from_message(
            f"{override!r}: {part!r} is not an item of a list of {len(items)}; items count from 0"
        )
    return int(part)


def _build(kind: type[S], tree: Any, where: str, overrides: Sequence[str] = ()) -> S:
    try:
        return kind.model_validate(tree)
    except ConfigError as error:
        if overrides and where != "command line":
            where += " and command line"
        raise ConfigError.from_message(f"{where}: {error}") from None
    except ValidationError as error:
        # A misspelt key comes before the key that is thereby missing.
        unknown = ("extra_forbidden", "invalid_key")
        errors = error.errors(include_url=False)
        first = min(errors, key=lambda error: error["type"] not in unknown)
    *path, last = map(str, first["loc"])
    key = ".".join([*path, last])
    ours = [override.partition("=")[0] + "." for override in overrides]
    if any(name.startswith(f"{key}.") or f"{key}.".startswith(name) for name in ours):
        where = "command line"
        path = ["cluster", *path] if kind is Cluster else path
        key = ".".join([*path, last])
    match first["type"]:
        case "extra_forbidden" | "invalid_key":
            nearest = hint_of(last, keys_in(kind, first["loc"][:-1]), path)
            raise ConfigError.from_message(f"{where}: {key} is not a setting{nearest}")
        case "missing":
            plain = ".".join(part for part in key.split(".") if not part.isdecimal())
            hint = f"`nmt config explain {plain}` tells what it is"
            raise ConfigError.from_message(f"{where}: {key} is missing; {hint}")
    rule = rule_of(first["type"], first.get("ctx", {}), first["msg"])
    raise ConfigError.from_message(f"{where}: {key} is {shown(first['input'])}, but {rule}")


def _leaves(tree: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for name, value in tree.items():
        if isinstance(value, dict):
            yield from _leaves(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value
