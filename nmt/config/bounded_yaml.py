"""YAML of bounded depth and size, in which duplicate keys are errors."""

from typing import Any

import yaml

from nmt.errors import ConfigError, shorten

_Loader: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
"""libyaml where it is available: 30 times as fast."""
_MAX_DEPTH, _MAX_VALUES = 50, 100_000
"""Limits of a text, aliases expanded: nested aliases can stand for billions of values."""


def parse_yaml(text: str, where: str) -> Any:
    """Parse YAML.

    Args:
        text: one document; an empty one is None.
        where: name of the file or setting, for error messages.

    Raises:
        ConfigError: the text is not valid YAML, too deep or too large, or has a duplicate key.
    """
    try:
        # libyaml recurses without a limit when it composes nodes: check the depth by events.
        depth = 0
        for number, event in enumerate(yaml.parse(text, Loader=_Loader)):
            # A value has two events at most; building a million nodes would take a minute.
            if number > 2 * _MAX_VALUES + 9:
                raise ValueError(f"more than {_MAX_VALUES:,} values")
            depth += isinstance(event, yaml.CollectionStartEvent)
            depth -= isinstance(event, yaml.CollectionEndEvent)
            if depth > _MAX_DEPTH:
                raise ValueError(f"more than {_MAX_DEPTH} levels")
        loader = _Loader(text)
        node = loader.get_single_node()
        _count_values(node, {}, where)
        return None if node is None else loader.construct_document(node)
    except ConfigError:
        raise
    except Exception as error:  # PyYAML raises errors of any type for invalid tagged values
        mark = getattr(error, "problem_mark", None)
        line = f", line {mark.line + 1}" if mark else ""
        lines = (getattr(error, "problem", None) or str(error)).splitlines() or [""]
        is_known = isinstance(error, yaml.YAMLError | ValueError)
        problem = lines[0] if is_known else "a value does not match its tag"
    raise ConfigError.from_message(f"{where}{line}: not valid YAML: {shorten(problem, 200)}")


def _count_values(node: yaml.Node | None, counts: dict[int, int], where: str) -> int:
    """Return the number of values below a node, aliases expanded.

    Raises:
        ValueError: there are too many, or an alias contains itself.
        ConfigError: a duplicate key, of which YAML would silently use the last.

    Args:
        counts: results by id of the node; 0 while it is being counted.
    """
    if not isinstance(node, yaml.CollectionNode):
        return 1
    if id(node) not in counts:
        counts[id(node)] = 0
        items, seen = list(node.value), set()
        if isinstance(node, yaml.MappingNode):
            for key, _ in node.value:
                name = str(key.value)
                if isinstance(key, yaml.ScalarNode) and name in seen:
                    where = f"{where}, line {key.start_mark.line + 1}"
                    raise ConfigError.from_message(
                        f"{where}: duplicate key {shorten(name)}; remove one"
                    )
                seen.add(name)
            items = [child for pair in node.value for child in pair]
        counts[id(node)] = 1 + sum(_count_values(item, counts, where) for item in items)
    elif not counts[id(node)]:
        raise ValueError("an alias contains itself")
    if counts[id(node)] > _MAX_VALUES:
        raise ValueError(f"more than {_MAX_VALUES:,} values, aliases expanded")
    return counts[id(node)]
