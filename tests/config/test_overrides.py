"""Overrides on the command line: section.key=value."""

import re
from typing import Any

import pytest
from toy_settings import SECTION, load, message_of

from nmt.config.files import split_overrides

A_NAME = "1 to 100 of A-Z a-z 0-9 . _ - and start with a letter or digit"


@pytest.mark.parametrize(
    ("override", "key", "expected"),
    [
        ("training.updates=700", "training.updates", 700),
        ("training.learning_rate=3e-4", "training.learning_rate", 3e-4),
        ("training.learning_rate=1", "training.learning_rate", 1.0),
        ("training.betas=[0.5, 0.75]", "training.betas", (0.5, 0.75)),
        ("corpus.cleaning.nfc=off", "corpus.cleaning.nfc", False),
        ("corpus.prepared=", "corpus.prepared", ""),
        ("corpus.root=a=b", "corpus.root", "a=b"),
        ("corpus.train.1.tsv=old.tsv", "corpus.train.1.tsv", "old.tsv"),
        ("corpus.train.1={name: x, tsv: x.tsv}", "corpus.train.1.name", "x"),
        ("model={width: 12, heads: 3}", "model.heads", 3),
    ],
)
def test_override_sets_a_key(override: str, key: str, expected: Any) -> None:
    value: Any = load(override)
    for part in key.split("."):
        value = value[int(part)] if part.isdecimal() else getattr(value, part)
    assert value == expected
    assert type(value) is type(expected)


@pytest.mark.parametrize(
    ("override", "key"),
    [
        ("training.updates=null", "updates"),
        ("training.init_from=~", "init_from"),
        ("training=null", "learning_rate"),
    ],
)
def test_null_restores_a_default(override: str, key: str) -> None:
    earlier = ("training.updates=9999", "training.init_from=runs/a", "training.learning_rate=0.5")
    settings = load(*earlier, override)
    training = settings.training.model_dump()
    assert training[key] == type(settings.training)().model_dump()[key]
    assert key not in settings.training.model_fields_set


def test_null_restores_a_default_of_a_list_item() -> None:
    assert load("corpus.train.0.weight=3", "corpus.train.0.weight=null").corpus.train[0].weight == 1


def test_null_for_a_required_setting_is_an_error() -> None:
    expected = "command line: corpus.src is missing; see `nmt config explain corpus.src`"
    assert message_of("corpus.src=null") == expected


def test_null_for_an_unknown_setting_is_an_error() -> None:
    assert message_of("training.sizes=null").startswith("command line: training.sizes is not a")


def test_last_override_wins() -> None:
    assert load("seed=3", "seed=4").seed == 4


def test_cluster_overrides_are_split_off() -> None:
    assert split_overrides(["cluster.workers=2", "seed=3", "cluster.env={A: b}"]) == (
        ["seed=3"],
        ["workers=2", "env={A: b}"],
    )


@pytest.mark.parametrize(
    ("override", "expected"),
    [
        ("training.updates=many", "training.updates is 'many', but it must be an integer"),
        ("training.updates=2.5", "training.updates is 2.5, but it must be an integer"),
        ("training.updates=yes", "training.updates is true, but it must be an integer"),
        ("training.updates=0", "training.updates is 0, but it must be 1 or more"),
        ("training.epsilon=fast", "training.epsilon is 'fast', but it must be a number"),
        ("training.epsilon=on", "training.epsilon is true, but it must be a number"),
        ("training.epsilon=[1]", "training.epsilon is [1], but it must be a number"),
        ("training.epsilon=0", "training.epsilon is 0, but it must be more than 0"),
        ("training.epsilon=.inf", "training.epsilon is Infinity, but it must be a finite number"),
        ("training.epsilon=.nan", "training.epsilon is NaN, but it must be a finite number"),
        ("model.dropout=1", "model.dropout is 1, but it must be less than 1"),
        (
            "corpus.subword.vocab_size=70000",
            "corpus.subword.vocab_size is 70000, but it must be 65535 or less",
        ),
        (
            "corpus.cleaning.nfc=maybe",
            "corpus.cleaning.nfc is 'maybe', but it must be true or false",
        ),
        ("corpus.src=no", "corpus.src is false, but it must be text: quote it"),
        ("corpus.root=5", "corpus.root is 5, but it must be text: quote it"),
        ("model.preset=rnn", "model.preset is 'rnn', but it must be 'residual' or 'gnmt'"),
        ("name=my run", f"name is 'my run', but it must be {A_NAME}"),
        ("name=../toy", f"name is '../toy', but it must be {A_NAME}"),
        ("model=5", f"model is 5, but it must be {SECTION}"),
        ("corpus.dev=dev.en", f"corpus.dev is 'dev.en', but it must be {SECTION}"),
        (
            "corpus.train=talks",
            "corpus.train is 'talks', but it must be a list: [first, second]",
        ),
        ("corpus.train=[]", "corpus.train is [], but it must have at least 1 item(s)"),
        (
            "training.betas=[0.5,0.5,0.5]",
            "training.betas is [0.5, 0.5, 0.5], but it must have at most 2 item(s)",
        ),
        ("training.betas=[0.5,2]", "training.betas.1 is 2, but it must be less than 1"),
        (
            "training.betas=[0.5]",
            "training.betas.1 is missing; see `nmt config explain training.betas`",
        ),
        (
            "corpus={}",
            "corpus.src is missing; see `nmt config explain corpus.src`",
        ),
        ("training.update=5", "training.update is not a setting; did you mean training.updates?"),
        ("trainin.updates=5", "trainin is not a setting; did you mean training?"),
        (
            "corpus.train.0.sorc=x",
            "corpus.train.0.sorc is not a setting; did you mean corpus.train.0.src?",
        ),
        (
            "xyz=5",
            "xyz is not a setting; choose from name, seed, preset, corpus, batching, model, "
            "training, stages, decoding",
        ),
    ],
)
def test_invalid_value_is_an_error(override: str, expected: str) -> None:
    assert message_of(override) == f"command line: {expected}"


@pytest.mark.parametrize(
    ("override", "expected"),
    [
        ("seed", "'seed' is not an override: use section.key=value"),
        ("=5", "'=5' is not an override: use section.key=value"),
        ("seed=[1", "'seed=[1': the value is not valid YAML: quote it"),
        ("name=2024-13-45", "'name=2024-13-45': the value is not valid YAML: quote it"),
        (
            "corpus.train.2.name=x",
            "'corpus.train.2.name=x': '2' is not an index of a list of 2 (0 is the first)",
        ),
        (
            "corpus.train.x=5",
            "'corpus.train.x=5': 'x' is not an index of a list of 2 (0 is the first)",
        ),
    ],
)
def test_malformed_override_is_an_error(override: str, expected: str) -> None:
    assert message_of(override) == expected


def test_long_value_is_shortened_in_the_error() -> None:
    message = message_of(f"seed={list(range(100))}")
    assert re.fullmatch(
        r"command line: seed is \[0, 1, 2.{49}\.\.\., but it must be an integer", message
    )
