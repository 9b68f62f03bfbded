"""Settings on disk that an earlier version wrote, and the rule for adding a setting."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from pydantic import Field
from pydantic.fields import FieldInfo
from toy_settings import SECTION, load

from nmt.config.cluster import Cluster
from nmt.config.experiment import Experiment
from nmt.config.explain import _explain_field
from nmt.config.files import dump, parse_stored, restore
from nmt.config.settings import (
    Settings,
    add_legacy_values,
    added_setting,
    drop_legacy_values,
    has_legacy_value,
    section_in,
)
from nmt.errors import ConfigError

GOLDEN = Path(__file__).parents[1] / "golden/run-of-format-1/checkpoints/update-00000003"
WITHOUT_DECLARATION = {
    "Experiment.preset": "none",
    "Experiment.stages": [],
    "ParallelText.weight": 1.0,
    "ModelConfig.locked_dropout": False,
    "ModelConfig.weight_dropout": 0.0,
    "TrainingConfig.plateau_patience": 3,
    "TrainingConfig.rdrop": 0.0,
    "TrainingConfig.subword_dropout": 0.0,
    "TrainingConfig.subword_sampling": 0.0,
    "StageConfig.from_update": ...,
    "StageConfig.rdrop": None,
    "StageConfig.label_smoothing": None,
    "StageConfig.learning_rate": None,
    "StageConfig.subword_dropout": None,
    "StageConfig.subword_sampling": None,
    "StageConfig.dropout": None,
    "StageConfig.embedding_dropout": None,
    "StageConfig.attention_dropout": None,
    "StageConfig.word_dropout": None,
    "StageConfig.weight_dropout": None,
    "StageConfig.weights": {},
    "DecodingConfig.method": "beam",
    "DecodingConfig.length_norm": "gnmt",
    "DecodingConfig.coverage_penalty": 0.0,
    "DecodingConfig.min_length": 0,
    "DecodingConfig.max_length": 0,
    "DecodingConfig.diverse_groups": 1,
    "DecodingConfig.diversity": 0.5,
    "DecodingConfig.temperature": 1.0,
    "DecodingConfig.top_k": 0,
    "DecodingConfig.top_p": 1.0,
    "DecodingConfig.samples": 32,
    "DecodingConfig.seed": 1,
    "DecodingConfig.max_source_length": 0,
    "DecodingConfig.protect": [],
}
"""Settings added to format 1 before `added_setting` existed, and their default, which is the
behaviour of the versions without them (...: required). Add nothing here: a new setting is declared
with `added_setting`, and so is one of these whose default changes."""
OF_THE_CLUSTER = {
    *("Workers.min", "Workers.max", "Cluster.name", "Cluster.workers", "Cluster.gpus_per_worker"),
    *("Cluster.cpus_per_worker", "Cluster.gradients", "Cluster.storage", "Cluster.scratch"),
    *("Cluster.validation", "Cluster.validation_cpus", "Cluster.validations_behind"),
    *("Cluster.max_failures", "Cluster.max_lost_updates", "Cluster.hang_timeout_s"),
    *("Cluster.address", "Cluster.env"),
}
"""Settings that the metadata of every submitted job holds. Add nothing here either."""


class Rule(Settings):
    """Made-up section with a setting that was added later."""

    limit: int = 10
    is_strict: bool = added_setting(True, before=False)
    """Made-up."""


class Made(Settings):
    """Made-up settings: an old section, a list of sections, a new section."""

    rule: Rule = Rule()
    rules: list[Rule] = Field(default=[])
    new: Rule = added_setting(Rule(), before={"limit": 0, "is_strict": False})


def test_missing_stored_key_gets_its_legacy_value() -> None:
    stored = {"rule": {"limit": 5}, "rules": [{"limit": 6}, {"is_strict": True}]}
    off = {"limit": 0, "is_strict": False}
    assert restore(Made, stored, "here").model_dump() == {
        "rule": {"limit": 5, "is_strict": False},
        "rules": [{"limit": 6, "is_strict": False}, {"limit": 10, "is_strict": True}],
        "new": off,
    }


def test_missing_stored_section_gets_legacy_values() -> None:
    assert restore(Made, {}, "here").rule == Rule(is_strict=False)


def test_missing_key_of_a_user_gets_the_default() -> None:
    assert Made.model_validate({"rules": [{"limit": 6}]}).rules == [Rule(limit=6, is_strict=True)]


def test_invalid_stored_settings_are_an_error() -> None:
    with pytest.raises(ConfigError) as wrong:
        restore(Made, {"rule": 3}, "here")
    assert str(wrong.value) == f"here: rule is 3, but it must be {SECTION}"
    with pytest.raises(ConfigError) as unknown:
        restore(Made, {"rule": {"limits": 3}}, "here")
    assert str(unknown.value) == ("here: rule.limits is not a setting; did you mean rule.limit?")


def test_legacy_values_are_dropped_and_restored() -> None:
    made = Made(rule=Rule(is_strict=False), rules=[Rule(), Rule(is_strict=False)])
    tree = made.model_dump()
    dropped = drop_legacy_values(Made, tree | {"unknown": 1})
    assert dropped == {
        "rule": {"limit": 10},
        "rules": [{"limit": 10, "is_strict": True}, {"limit": 10}],
        "new": {"limit": 10, "is_strict": True},
        "unknown": 1,
    }
    assert add_legacy_values(Made, dropped) == tree | {"unknown": 1}


def test_dump_is_restored() -> None:
    experiment = load("corpus.train.0.tag=3")
    assert parse_stored(Experiment, dump(experiment), "dumped") == experiment


def test_explain_shows_the_legacy_value() -> None:
    assert _explain_field("is_strict", Rule.model_fields["is_strict"]) == (
        "is_strict: Made-up.  [true | false; default true; false in files of versions without it]"
    )


# The rule.


def fields(kind: type[Settings]) -> Iterator[tuple[str, FieldInfo]]:
    for name, field in kind.model_fields.items():
        yield f"{kind.__name__}.{name}", field
        if (section := section_in(field.annotation)) is not None:
            yield from fields(section)


def names_in(kind: type[Settings], tree: Any) -> Iterator[str]:
    for each in tree if isinstance(tree, list) else [tree]:
        for name, value in each.items():
            yield f"{kind.__name__}.{name}"
            if (section := section_in(kind.model_fields[name].annotation)) is not None:
                yield from names_in(section, value)


@pytest.mark.parametrize(("name", "field"), list(fields(Cluster)))
def test_new_cluster_setting_declares_its_legacy_value(name: str, field: FieldInfo) -> None:
    assert name in OF_THE_CLUSTER or has_legacy_value(field)


@pytest.mark.parametrize(("name", "field"), list(dict(fields(Experiment)).items()))
def test_new_setting_declares_its_legacy_value(name: str, field: FieldInfo) -> None:
    stored = yaml.safe_load((GOLDEN / "config.yaml").read_text(encoding="utf-8"))
    if name in names_in(Experiment, stored) or has_legacy_value(field):
        return
    assert name in WITHOUT_DECLARATION, (
        f"{name} is new: declare it with nmt.config.settings.added_setting(default, before=...), "
        "where `before` is the behaviour of versions without it"
    )
    default = ... if field.is_required() else field.default
    assert default == WITHOUT_DECLARATION[name], (
        f"the default of {name} has changed: declare it with added_setting(..., "
        f"before={WITHOUT_DECLARATION[name]!r}), as old files may lack it"
    )
