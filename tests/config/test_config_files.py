"""Read, write and compare settings files; errors in them."""

from pathlib import Path

import pytest
from toy_settings import SECTION, TEXT, load, message_of

from nmt.config.cluster import Cluster
from nmt.config.experiment import Experiment
from nmt.config.files import differences, dump, load_cluster, load_experiment, parse_stored
from nmt.errors import ConfigError


def test_dump_loads_to_equal_settings() -> None:
    experiment = load("training.betas=[0.5,0.75]", "corpus.root=ä b", "corpus.src='no'")
    assert parse_stored(Experiment, dump(experiment), "dumped") == experiment
    cluster = load_cluster(None, ["env={A: '1'}"])
    assert parse_stored(Cluster, dump(cluster), "dumped") == cluster


def test_differences_are_by_dotted_key() -> None:
    assert differences(load(), load("model.width=64", "training.betas=[0.5,0.75]")) == [
        ("model.width", 128, 64),
        ("training.betas", [0.9, 0.98], [0.5, 0.75]),
    ]
    assert differences(load(), load()) == []


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (("name: toy", "nam: toy"), "toy.yaml: nam is not a setting; did you mean name?"),
        (
            ("name: toy", ""),
            "toy.yaml: name is missing; see `nmt config explain name`",
        ),
        (("name: toy", "name: 5"), "toy.yaml: name is 5, but it must be text: quote it"),
        (("name: toy", "name: toy\nmodel:"), f"toy.yaml: model is empty, but it must be {SECTION}"),
        (("name: toy", "name: toy\nseed: -1"), "toy.yaml: seed is -1, but it must be 0 or more"),
        (
            ("name: toy", "name: toy\nname: toy"),
            "toy.yaml, line 3: duplicate key name; remove one",
        ),
        (
            ("tgt: dev.de", "tgt: dev.de, tgt: dev.fr"),
            "toy.yaml, line 7: duplicate key tgt; remove one",
        ),
        (
            ("name: toy", "name: toy: story"),
            "toy.yaml, line 2: not valid YAML: mapping values are not allowed in this context",
        ),
        (("name: toy", "name: 2024-13-45"), "toy.yaml: not valid YAML: month must be in 1..12"),
        (
            ("name: toy", "name: toy\nyes: 5"),
            "toy.yaml: 1 is not a setting; choose from name, seed, preset, corpus, batching, "
            "model, training, stages, decoding",
        ),
    ],
)
def test_invalid_file_is_an_error(change: tuple[str, str], expected: str) -> None:
    assert message_of(text=TEXT.replace(*change)) == expected


@pytest.mark.parametrize(
    ("text", "found"), [("", "empty"), ("[1, 2]", "[1, 2]"), ("toy", "'toy'"), ("5", "5")]
)
def test_file_without_a_mapping_is_an_error(text: str, found: str) -> None:
    assert message_of(text=text) == (
        f"toy.yaml: expected a mapping (`key: value` per line), but it is {found}"
    )


def test_missing_file_is_an_error() -> None:
    with pytest.raises(ConfigError) as error:
        load_experiment("none.yaml")
    assert str(error.value) == (
        "none.yaml: file not found; the files that come with nmt are in configs/"
    )


def test_a_setting_in_place_of_a_file_is_an_error() -> None:
    """`nmt plan EXPERIMENT KEY=VALUE` lacks the cluster file."""
    with pytest.raises(ConfigError) as error:
        load_cluster("training.updates=5")
    assert str(error.value) == (
        "training.updates=5: not a file; settings follow all files: EXPERIMENT [CLUSTER] "
        "KEY=VALUE ..."
    )


def test_a_file_of_the_other_kind_is_an_error() -> None:
    Path("toy.yaml").write_text(TEXT)
    Path("local.yaml").write_text("name: local\nworkers: 2\n")
    with pytest.raises(ConfigError) as error:
        load_cluster("toy.yaml")
    assert str(error.value) == (
        "toy.yaml: corpus is a setting of experiment files, but this is read as a cluster file"
    )
    with pytest.raises(ConfigError) as error:
        load_experiment("local.yaml")
    assert str(error.value) == (
        "local.yaml: workers is a setting of cluster files, but this is read as an experiment file"
    )


def test_directory_is_an_error() -> None:
    Path("folder").mkdir()
    with pytest.raises(ConfigError) as error:
        load_experiment("folder")
    assert str(error.value) == "folder: this is a directory; give a YAML file"


def test_file_that_is_not_utf8_is_an_error() -> None:
    Path("toy.yaml").write_bytes("name: täy\n".encode("latin-1"))
    with pytest.raises(ConfigError) as error:
        load_experiment("toy.yaml")
    assert str(error.value) == "toy.yaml: byte 8 is not UTF-8; save the file as UTF-8"
