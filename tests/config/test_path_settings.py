"""Paths in settings: home, variables, and the folder that relative ones start from."""

import logging
from pathlib import Path

import pytest
from toy_settings import TEXT

from nmt.checkpoint.remote import local_copy
from nmt.config.cluster import Cluster
from nmt.config.experiment import Experiment
from nmt.config.files import dump, load_cluster, load_experiment, override, parse_stored
from nmt.errors import ConfigError


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("HOME", "/home/me")
    monkeypatch.setenv("DATA", "/data")
    return tmp_path


def write(path: str, root: str = "raw") -> str:
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    text = TEXT.replace("src: en\n", f"src: en\n  root: {root}\n")
    assert "root" in text
    Path(path).write_text(text)
    return path


def add_text(folder: str) -> None:
    Path(folder).mkdir(parents=True)
    Path(folder, "talks.en").touch()


@pytest.mark.parametrize(
    ("text", "expected"),
    [("~/x", "/home/me/x"), ("$DATA/x", "/data/x"), ("${DATA}x/$", "/datax/$"), ("/a~", "/a~")],
)
def test_home_and_variables_mean_the_same_in_every_path(text: str, expected: str) -> None:
    keys = ("root", "prepared", "train.0.src", "train.1.tsv", "dev.tgt")
    changes = [f"corpus.{key}='{text}'" for key in keys]
    corpus = load_experiment(write("toy.yaml"), changes).corpus
    paths = (corpus.root, corpus.prepared, corpus.train[0].src, corpus.train[1].tsv, corpus.dev.tgt)
    assert set(paths) == {expected}
    assert load_cluster(None, [f"storage='{text}'"]).storage == expected


def test_local_folder_of_a_host_is_expanded_there(monkeypatch: pytest.MonkeyPatch) -> None:
    scratch = load_cluster(None, ["scratch=$DATA/~"]).scratch
    assert scratch == "$DATA/~"
    monkeypatch.setenv("DATA", "/of/the/host")
    assert local_copy("s3://b/run", Path(scratch)) == Path("/of/the/host/~/s3/b/run")
    assert local_copy("s3://b/run", Path(Cluster().scratch)) == Path("/home/me/.cache/nmt/s3/b/run")


@pytest.mark.parametrize("text", ["$NONE/x", "${NONE}"])
def test_unset_variable_is_an_error(text: str) -> None:
    with pytest.raises(ConfigError) as caught:
        load_cluster(None, [f"storage={text}"])
    assert str(caught.value) == (
        f"command line: cluster.storage is '{text}', but the environment variable NONE is not set"
    )


def test_stored_settings_need_no_variable(monkeypatch: pytest.MonkeyPatch) -> None:
    """Settings of a checkpoint stay readable on any machine."""
    text = dump(load_experiment(write("toy.yaml"))).replace("root: raw", "root: $NONE/x")
    stored = parse_stored(Experiment, text, "stored")
    assert override(stored, ["seed=2"], "").corpus.root == "$NONE/x"


def test_root_is_relative_to_the_folder_of_the_file() -> None:
    write("configs/toy.yaml", "../data/raw")
    add_text("data/raw")
    assert load_experiment("configs/toy.yaml").corpus.root == "data/raw"
    # Also before the corpus is there.
    assert load_experiment(write("configs/new.yaml", "raw")).corpus.root == "configs/raw"


@pytest.mark.parametrize(
    "override_",
    [
        "corpus.root=other",
        "corpus={src: en, tgt: de, root: other, train: [{name: a, tsv: a}], "
        "dev: {name: b, tsv: b}}",
    ],
)
def test_root_of_the_command_line_is_below_the_working_folder(override_: str) -> None:
    write("configs/toy.yaml")
    add_text("configs/other")
    assert load_experiment("configs/toy.yaml", [override_]).corpus.root == "other"


def test_null_restores_the_root_of_a_file_without_one() -> None:
    assert load_experiment(write("configs/toy.yaml"), ["corpus.root=null"]).corpus.root == "configs"


def test_root_of_an_older_experiment_is_found_with_a_warning(
    caplog: pytest.LogCaptureFixture,
) -> None:
    write("configs/toy.yaml")
    add_text("raw")
    with caplog.at_level(logging.WARNING):
        assert load_experiment("configs/toy.yaml").corpus.root == "raw"
    assert caplog.messages == [
        "configs/toy.yaml: warning: no text in configs/raw; using corpus.root raw in the working "
        "folder: make it relative to the folder of the experiment file"
    ]


def test_storage_and_prepared_are_below_the_working_folder() -> None:
    experiment = load_experiment(write("configs/toy.yaml"), ["corpus.prepared=p"])
    Path("configs/c.yaml").write_text("storage: runs\n")
    assert (experiment.prepared, load_cluster("configs/c.yaml").storage) == ("p", "runs")
