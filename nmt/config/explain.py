"""Explanations of settings: description, type, limits and default."""

import json
from types import UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from pydantic.fields import FieldInfo

from nmt.config.cluster import Cluster
from nmt.config.experiment import Experiment
from nmt.config.files import keys_named
from nmt.config.settings import Settings, has_legacy_value, legacy_value, section_in
from nmt.errors import ConfigError, did_you_mean


def explain(key: str = "") -> str:
    """Explain a setting; for a section also all its settings, one per line.

    Without a key: all sections. A name without its section, such as beam, stands for the only
    setting of that name.

    Raises:
        ConfigError: the key is unknown.
    """
    if not key:
        cluster = f"cluster: {(Cluster.__doc__ or '').strip()}  [section]"
        return f"{_explain_section(Experiment, '')}\n{cluster}"
    if "." not in key and key not in Experiment.model_fields:
        named = keys_named(key)
        key = named[0] if len(named) == 1 else key
    is_cluster = key.partition(".")[0] == "cluster"
    kind: Any = Cluster if is_cluster else Experiment
    if key == "cluster":
        return _explain_section(Cluster, "cluster.")
    parts = key.split(".")
    field = None
    for depth in range(is_cluster, len(parts)):
        part, section = parts[depth], section_in(kind)
        if part.isdecimal() and get_origin(kind) is list:
            continue  # all items have the same settings
        if section is None or part not in section.model_fields:
            prefix = "".join(f"{each}." for each in parts[:depth])
            hint = did_you_mean(part, section.model_fields if section else [], prefix)
            raise ConfigError.from_message(f"{key!r} is not a setting{hint}")
        field = section.model_fields[part]
        kind = field.annotation
    assert field is not None
    text = _explain_field(key, field)
    section = section_in(kind)
    return text if section is None else f"{text}\n{_explain_section(section, f'{key}.')}"


def _explain_section(section: type[Settings], prefix: str) -> str:
    return "\n".join(
        _explain_field(prefix + name, field) for name, field in section.model_fields.items()
    )


def _explain_field(key: str, field: FieldInfo) -> str:
    signs = {"ge": ">=", "gt": ">", "le": "<=", "lt": "<"}
    kind = field
    if get_origin(field.annotation) in (Union, UnionType):
        # A union is always with None; the first member is the type.
        kind = FieldInfo.from_annotation(get_args(field.annotation)[0])
    limits = [
        f"{sign} {getattr(limit, name)}"
        for limit in kind.metadata
        for name, sign in signs.items()
        if hasattr(limit, name)
    ]
    facts = ", ".join([_type_name(kind.annotation), *limits])
    if field.is_required():
        facts += "; required"
    elif not isinstance(field.default, Settings):
        facts += f"; default {json.dumps(field.default)}"
    default = field.default
    default = default.model_dump() if isinstance(default, Settings) else default
    if has_legacy_value(field) and legacy_value(field) != default:
        facts += f"; {json.dumps(legacy_value(field))} in files of versions without it"
    return f"{key}: {field.description}  [{facts}]"


def _type_name(annotation: Any) -> str:
    origin, inner = get_origin(annotation), get_args(annotation)
    if origin is Literal:
        return " | ".join(map(str, inner))
    if origin in (Union, UnionType, Annotated):
        return _type_name(inner[0])
    if origin is list:
        return f"[{_type_name(inner[0])}, ...]"
    if origin is tuple:
        return f"[{', '.join(map(_type_name, inner))}]"
    if origin is dict:
        return ": ".join(map(_type_name, inner))
    names = {bool: "true | false", int: "integer", float: "number", str: "text"}
    return names.get(annotation, "section")
