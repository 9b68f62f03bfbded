"""Settings on the command line: section.key=value."""

import re
from typing import Any

import pytest
from toy_settings import SECTION, load, message_of

from nmt.config.files import split_overrides

A_NAME = "1 to 100 of A-Z a-z 0-9 . _ - and begin with a letter or a digit"


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
def test_an_override_sets_a_key(override: str, key: str, expected: Any) -> None:
    value: Any = load(override)
    for part in key.split("."):
        value = value[int(part)] if part.isdecimal() else getattr(value, part)
    assert value == expected
    assert type(value) is type(expected)


def test_the_last_override_counts() -> None:
    assert load("seed=3", "seed=4").seed == 4


def test_overrides_of_the_cluster_are_told_apart() -> None:
    assert split_overrides(["cluster.workers=2", "seed=3", "cluster.env={A: b}"]) == (
        ["seed=3"],
        ["workers=2", "env={A: b}"],
    )


@pytest.mark.parametrize(
    ("override", "expected"),
    [
        ("training.updates=many", "training.updates is 'many', but it must be a whole number"),
        ("training.updates=2.5", "training.updates is 2.5, but it must be a whole number"),
        ("training.updates=yes", "training.updates is true, but it must be a whole number"),
        ("training.updates=0", "training.updates is 0, but it must be 1 or more"),
        ("training.updates=~", "training.updates is empty, but it must be a whole number"),
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
        ("corpus.src=no", "corpus.src is false, but it must be text: put it in quotes"),
        ("corpus.root=5", "corpus.root is 5, but it must be text: put it in quotes"),
        ("model.preset=rnn", "model.preset is 'rnn', but it must be 'residual' or 'gnmt'"),
        ("name=my run", f"name is 'my run', but it must be {A_NAME}"),
        ("name=../toy", f"name is '../toy', but it must be {A_NAME}"),
        ("model=5", f"model is 5, but it must be {SECTION}"),
        ("corpus.dev=dev.en", f"corpus.dev is 'dev.en', but it must be {SECTION}"),
        (
            "corpus.train=talks",
            "corpus.train is 'talks', but it must be a list: [first, second]",
        ),
        ("corpus.train=[]", "corpus.train is [], but it must have 1 or more items"),
        (
            "training.betas=[0.5,0.5,0.5]",
            "training.betas is [0.5, 0.5, 0.5], but it must have 2 items at most",
        ),
        ("training.betas=[0.5,2]", "training.betas.1 is 2, but it must be less than 1"),
        (
            "training.betas=[0.5]",
            "training.betas.1 is missing; `nmt config explain training.betas` tells what it is",
        ),
        (
            "corpus={}",
            "corpus.train is missing; `nmt config explain corpus.train` tells what it is",
        ),
        ("training.update=5", "training.update is not a setting; did you mean training.updates?"),
        ("trainin.updates=5", "trainin is not a setting; did you mean training?"),
        (
            "corpus.train.0.sorc=x",
            "corpus.train.0.sorc is not a setting; did you mean corpus.train.0.src?",
        ),
        (
            "xyz=5",
            "xyz is not a setting; known here: name, seed, preset, corpus, batching, model, "
            "training, stages, decoding",
        ),
    ],
)
def test_a_wrong_override_is_told(override: str, expected: str) -> None:
    """P9."""
    assert message_of(override) == f"command line: {expected}"


@pytest.mark.parametrize(
    ("override", "expected"),
    [
        ("seed", "'seed' is not an override: write section.key=value"),
        ("=5", "'=5' is not an override: write section.key=value"),
        ("seed=[1", "'seed=[1': the value is not valid YAML; quote it"),
        ("name=2024-13-45", "'name=2024-13-45': the value is not valid YAML; quote it"),
        (
            "corpus.train.2.name=x",
            "'corpus.train.2.name=x': '2' is not an item of a list of 2; items count from 0",
        ),
        (
            "corpus.train.x=5",
            "'corpus.train.x=5': 'x' is not an item of a list of 2; items count from 0",
        ),
    ],
)
def test_what_is_no_override_is_told(override: str, expected: str) -> None:
    """P9."""
    assert message_of(override) == expected


def test_a_long_value_is_told_in_short() -> None:
    message = message_of(f"seed={list(range(100))}")
    assert re.fullmatch(
        r"command line: seed is \[0, 1, 2.{49}\.\.\., but it must be a whole number", message
    )
