"""Load settings from YAML files and command-line overrides, compare and dump them.

Unknown and duplicate keys are errors.
"""

import json
import logging
import math
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from numbers import Integral, Real
from pathlib import Path
from typing import Any, TypeVar, get_origin

import yaml
from pydantic import ValidationError

from nmt.config.bounded_yaml import parse_yaml
from nmt.config.cluster import Cluster
from nmt.config.corpus import ParallelText
from nmt.config.experiment import Experiment
from nmt.config.settings import USER_INPUT, Settings, add_legacy_values, section_in
from nmt.errors import ConfigError, check_strings, did_you_mean, shorten

log = logging.getLogger(__name__)

S = TypeVar("S", bound=Settings)
_MAX_BYTES = 1 << 26
"""Largest file."""
_RULES = {
    "int_type int_parsing int_from_float": "be an integer",
    "float_type float_parsing": "be a number",
    "finite_number": "be a finite number",
    "greater_than_equal": "be {ge} or more",
    "greater_than": "be more than {gt}",
    "less_than_equal": "be {le} or less",
    "less_than": "be less than {lt}",
    "bool_type bool_parsing": "be true or false",
    "string_type": "be text: quote it",
    "string_pattern_mismatch": "be 1 to 100 of A-Z a-z 0-9 . _ - and start with a letter or digit",
    "literal_error": "be {expected}",
    "list_type tuple_type": "be a list: [first, second]",
    "model_type dict_type": "be a mapping: `key: value` per line, or {{key: value}}",
    "too_short": "have at least {min_length} item(s)",
    "too_long": "have at most {max_length} item(s)",
}
"""Rule by types of pydantic errors."""


def load_experiment(path: str | Path, overrides: Sequence[str] = ()) -> Experiment:
    """Read an experiment file and apply `section.key=value` overrides.

    A relative corpus.root of the file is one below the folder of the file; that of an override is
    one below the working folder.

    Raises:
        ConfigError: the file or an override is invalid.
    """
    experiment = _load(Experiment, path, overrides)
    check_sets(experiment, f"{path} and command line" if overrides else str(path))
    keys = [text.partition("=")[0] for text in overrides]
    # `corpus.root=null` restores the default, which is one of the file.
    has_root = "root" in experiment.corpus.model_fields_set and {"corpus.root", "corpus"} & {*keys}
    return experiment if has_root else _resolve_root(experiment, Path(path))


def build_experiment(tree: Mapping[str, Any]) -> Experiment:
    """Build an experiment from a nested mapping, as a YAML file would hold it.

    Raises:
        ConfigError: a key or a value is invalid.
    """
    return _build(Experiment, tree, "experiment", is_input=True)


def build_text(fields: Mapping[str, str]) -> ParallelText:
    """Build a corpus from file names of the command line.

    Raises:
        ConfigError: a name is invalid, for example not UTF-8.
    """
    return _build(ParallelText, fields, f"corpus {fields['name']}")


def load_cluster(path: str | Path | None, overrides: Sequence[str] = ()) -> Cluster:
    """Read a cluster file and apply `key=value` overrides.

    None stands for one worker, with a GPU if there is one.
    """
    cluster = _load(Cluster, path, overrides)
    if path is None and "gpus_per_worker" not in cluster.model_fields_set:
        return cluster.model_copy(update={"gpus_per_worker": "auto"})
    return cluster


def split_overrides(overrides: Sequence[str]) -> tuple[list[str], list[str]]:
    """Split overrides into those of the experiment and of the cluster, without `cluster.`.

    Raises:
        ConfigError: they are no list of strings.
    """
    overrides = check_strings("overrides", overrides, "it must be a list of settings")
    prefix = "cluster."
    for_experiment = [text for text in overrides if not text.startswith(prefix)]
    for_cluster = [text.removeprefix(prefix) for text in overrides if text.startswith(prefix)]
    return for_experiment, for_cluster


def dump(settings: Settings, left_out: Iterable[str] = ()) -> str:
    """Return all settings as YAML; loading it gives equal settings.

    Args:
        left_out: dotted keys of settings that are not set and stay so.
    """
    tree = settings.model_dump(mode="json")
    for key in left_out:
        *path, last = key.split(".")
        section = tree
        for part in path:
            section = section[part]
        del section[last]
    return yaml.safe_dump(tree, sort_keys=False, allow_unicode=True)


def format_value(value: Any) -> str:
    """Return YAML of one line, such as `{name: news, src: news.en}`, or `'no'` for text."""
    text: str = yaml.safe_dump(
        value, default_flow_style=True, sort_keys=False, allow_unicode=True, width=math.inf
    )
    # Plain text ends as a document.
    return text.removesuffix("\n").removesuffix("\n...")


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
    """Return settings with `section.key=value` overrides applied.

    Settings that were not set stay so, which decides about `preset: auto`.

    Args:
        where: origin of the overrides, for error messages.

    Raises:
        ConfigError: an override is invalid.
    """
    tree = settings.model_dump(mode="json", exclude_unset=True)
    for text in overrides:
        _set(type(settings), tree, text)
    return _build(type(settings), tree, where, overrides if where == "command line" else ())


def overrides_of(values: Mapping[str, Any]) -> list[str]:
    """Format values by dotted key as command-line overrides."""

    def plain(value: object) -> object:
        """Return a number of NumPy as one of Python, and the text of any other object."""
        if isinstance(value, Integral):
            return int(value)
        return float(value) if isinstance(value, Real) else str(value)

    return [
        f"{key}={json.dumps(value, ensure_ascii=False, default=plain)}"
        for key, value in values.items()
    ]


def differences(one: Settings, other: Settings) -> list[tuple[str, Any, Any]]:
    """Return the settings that differ: dotted key, value in one, value in the other.

    Values are those of a file; None where a key is missing.
    """
    left, right = (dict(_leaves(settings.model_dump(mode="json"))) for settings in (one, other))
    keys = [key for key in left | right if left.get(key) != right.get(key)]
    return [(key, left.get(key), right.get(key)) for key in keys]


def keys_named(name: str) -> list[str]:
    """Return the dotted keys of all settings called `name`, list items left out."""

    def keys_of(section: type[Settings], prefix: str) -> Iterator[str]:
        for each, field in section.model_fields.items():
            yield f"{prefix}{each}"
            inner = section_in(field.annotation)
            if inner is not None and get_origin(field.annotation) is not list:
                yield from keys_of(inner, f"{prefix}{each}.")

    keys = [*keys_of(Experiment, ""), *keys_of(Cluster, "cluster.")]
    return [key for key in keys if key.rpartition(".")[2] == name]


def read_tree(path: str | Path) -> dict[str, Any]:
    """Read a YAML file with a mapping.

    Raises:
        ConfigError: the file is missing, unreadable or not a YAML mapping.
    """
    try:
        with Path(path).open("rb") as file:
            # A device such as /dev/zero has no end.
            data = file.read(_MAX_BYTES + 1)
        if len(data) <= _MAX_BYTES:
            return _read_yaml(data.decode(), str(path))
        problem = f"more than {_MAX_BYTES >> 20} MiB; give a YAML file of settings"
    except FileNotFoundError:
        problem = "file not found; the files that come with nmt are in configs/"
        if "=" in str(path) and Path(path).suffix not in (".yaml", ".yml"):
            problem = "not a file; settings follow all files: EXPERIMENT [CLUSTER] KEY=VALUE ..."
    except IsADirectoryError:
        problem = "this is a directory; give a YAML file"
    except OSError as error:
        problem = f"cannot be read: {error.strerror}"
    except UnicodeDecodeError as error:
        problem = f"byte {error.start + 1} is not UTF-8; save the file as UTF-8"
    raise ConfigError.from_message(f"{path}: {problem}")


def _load(kind: type[S], path: str | Path | None, overrides: Sequence[str]) -> S:
    tree = {} if path is None else read_tree(path)
    for override in overrides:
        _set(kind, tree, override)
    where = "command line" if path is None else str(path)
    return _build(kind, tree, where, overrides, is_input=True)


def check_sets(experiment: Experiment, where: str) -> None:
    """Raise ConfigError for settings of a dev or test set that have an effect in training only."""
    # Not in `CorpusConfig.check`: stored settings may have them.
    for text in (experiment.corpus.dev, *experiment.corpus.tests):
        for key, default in (("tag", 0), ("weight", 1)):
            if (value := getattr(text, key)) != default:
                problem = f"{key} of corpus {text.name!r} is {value:g}"
                raise _error(where, f"{problem}, but only training corpora have a {key}: remove it")


def _resolve_root(experiment: Experiment, file: Path) -> Experiment:
    """Resolve a relative corpus.root against the folder of the experiment file."""
    corpus = experiment.corpus
    beside = os.path.join(file.parent, corpus.root)
    # Shorter in messages; `..` behind a symbolic link is another folder.
    if os.path.realpath(os.path.normpath(beside)) == os.path.realpath(beside):
        beside = os.path.normpath(beside)

    def has_files(root: str) -> bool:
        texts = (*corpus.train, corpus.dev, *corpus.tests)
        return any(Path(root, name).exists() for text in texts for name in text.files)

    # Experiments of earlier versions have paths below the working folder.
    if not has_files(beside) and has_files(corpus.root):
        log.warning(
            f"{file}: warning: no text in {beside}; using corpus.root {corpus.root} in the working "
            "folder: make it relative to the folder of the experiment file"
        )
        return experiment
    return experiment.with_settings("corpus", root=beside)


def _read_yaml(text: str, where: str) -> dict[str, Any]:
    tree = parse_yaml(text, where)
    if not isinstance(tree, dict):
        raise ConfigError.from_message(
            f"{where}: expected a mapping (`key: value` per line), but it is {_short(tree)}"
        )
    return tree


def _set(kind: type[Settings], tree: Any, override: str) -> None:
    """Apply an override `a.b.c=value` to a tree in place.

    List items are numbered from 0. `null` removes a setting, so that its default applies.

    Args:
        kind: type of the settings in the tree.
    """
    key, equals, text = override.partition("=")
    shown = shorten(repr(override))
    if not equals or not key:
        raise ConfigError.from_message(f"{shown} is not an override: use section.key=value")
    try:
        value = parse_yaml(text, key) if text else ""
    except ConfigError:
        problem = "the value is not valid YAML: quote it"
        raise ConfigError.from_message(f"{shown}: {problem}") from None
    *path, last = key.split(".")
    node = tree
    for part in path:
        if isinstance(node, list):
            node = node[_index(node, part, override)]
            if not isinstance(node, dict | list):
                raise ConfigError.from_message(f"{shown}: item {part} is not a section")
            continue
        # A missing section is created; an unknown key is reported by the validation.
        if node.get(part) is None:
            node[part] = {}
        node = node[part]
        if not isinstance(node, dict | list):
            problem = f"sets a part of {part}, which is {_short(node)}: set {part} as a whole"
            raise ConfigError.from_message(f"{shown} {problem}")
    if isinstance(node, list):
        node[_index(node, last, override)] = value
    elif value is None and last in _keys_in(kind, path):
        node.pop(last, None)
    else:
        node[last] = value


def _index(items: list[Any], part: str, override: str) -> int:
    if not part.isdecimal() or int(part) >= len(items):
        raise ConfigError.from_message(
            f"{shorten(repr(override))}: {part!r} is not an index of a list of {len(items)} "
            "(0 is the first)"
        )
    return int(part)


def _build(
    kind: type[S], tree: Any, where: str, overrides: Sequence[str] = (), is_input: bool = False
) -> S:
    """Validate a tree; raise ConfigError with the origin, key, value and rule of one problem.

    Args:
        is_input: False for stored settings, in which paths need not exist on this machine.
    """
    try:
        return kind.model_validate(tree, context=USER_INPUT if is_input else None)
    except ConfigError as error:
        if overrides and where != "command line":
            where += " and command line"
        raise _error(where, str(error)) from None
    except ValidationError as error:
        # A misspelt key is reported before the required key that is missing because of it.
        unknown = ("extra_forbidden", "invalid_key")
        errors = error.errors(include_url=False)
        first = min(errors, key=lambda error: error["type"] not in unknown)
    *path, last = map(str, first["loc"])
    key = ".".join([*path, last])
    # An error below or above an overridden key is one of the command line.
    overridden = [override.partition("=")[0] + "." for override in overrides]
    if any(name.startswith(f"{key}.") or f"{key}.".startswith(name) for name in overridden):
        where = "command line"
        path = ["cluster", *path] if kind is Cluster else path
        key = ".".join([*path, last])
    match first["type"]:
        case "extra_forbidden" | "invalid_key":
            known = _keys_in(kind, first["loc"][:-1])
            elsewhere = keys_named(last)
            own, other, its_key = "an experiment", "cluster", f"cluster.{key}"
            if kind is Cluster:
                own, other, its_key = "a cluster", "experiment", key
            if where != "command line" and its_key in elsewhere:
                problem = f"a setting of {other} files, but this is read as {own} file"
                raise _error(where, f"{key} is {problem}")
            hint = (
                f"; did you mean {' or '.join(elsewhere)}?"
                if len(elsewhere) in (1, 2)
                else (did_you_mean(last, known, "".join(f"{part}." for part in path)))
            )
            raise _error(where, f"{key} is not a setting{hint}")
        case "missing":
            plain = ".".join(part for part in key.split(".") if not part.isdecimal())
            hint = f"see `nmt config explain {plain}`"
            raise _error(where, f"{key} is missing; {hint}")
    rule = _rule_of(first["type"], first.get("ctx", {}), first["msg"])
    raise _error(where, f"{key} is {_short(first['input'])}, but {rule}")


def _error(where: str, message: str) -> ConfigError:
    """Return an error that starts with the origin of the settings; "" for options of a call."""
    return ConfigError.from_message(f"{where}: {message}" if where else message)


def _rule_of(kind: str, facts: Mapping[str, Any], message: str) -> str:
    """Return the rule that a value breaks, from type, context and message of a pydantic error."""
    rule = next((rule for kinds, rule in _RULES.items() if kind in kinds.split()), None)
    return f"it must {rule.format(**facts)}" if rule else message.removeprefix("Value error, ")


def _short(value: Any) -> str:
    """Format a value as in a file, in at most 60 characters."""
    if value is None:
        return "empty"
    return shorten(repr(value) if isinstance(value, str) else json.dumps(value, default=str))


def _keys_in(kind: Any, path: Sequence[str | int]) -> list[str]:
    """Return the keys of the section at a path of keys and list indices."""
    for part in path:
        section = section_in(kind)
        if isinstance(part, str) and section is not None and part in section.model_fields:
            kind = section.model_fields[part].annotation
    section = section_in(kind)
    return list(section.model_fields) if section is not None else []


def _leaves(tree: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for name, value in tree.items():
        if isinstance(value, dict):
            yield from _leaves(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value
