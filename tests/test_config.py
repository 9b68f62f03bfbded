import re
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from nmt.config.cluster import Cluster
from nmt.config.experiment import Experiment
from nmt.config.explain import explain
from nmt.config.files import (
    differences,
    dump,
    load_cluster,
    load_experiment,
    parse,
    split_overrides,
)
from nmt.config.settings import Settings
from nmt.errors import ConfigError

CONFIGS = Path(__file__).resolve().parents[1] / "configs"
TEXT = """
name: toy
corpus:
  train: [{name: talks, src: talks.en, tgt: talks.de}, {name: news, tsv: news.tsv}]
  dev: {name: dev, src: dev.en, tgt: dev.de}
"""
SECTION = "a section: `key: value` line by line, or {key: value}"
A_NAME = "1 to 100 of A-Z a-z 0-9 . _ - and begin with a letter or a digit"


@pytest.fixture(autouse=True)
def _in_a_folder_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def load(*overrides: str, text: str = TEXT) -> Experiment:
    Path("toy.yaml").write_text(text, encoding="utf-8")
    return load_experiment("toy.yaml", overrides)


def message_of(*overrides: str, text: str = TEXT) -> str:
    with pytest.raises(ConfigError) as error:
        load(*overrides, text=text)
    return str(error.value)


def cluster_message_of(*overrides: str) -> str:
    with pytest.raises(ConfigError) as error:
        load_cluster(None, overrides)
    return str(error.value)


# What is right.


@pytest.mark.parametrize("file", sorted(CONFIGS.glob("*.yaml")), ids=lambda file: file.name)
def test_experiments_that_come_with_nmt_load(file: Path) -> None:
    assert load_experiment(file).name == file.stem


@pytest.mark.parametrize(
    "file", sorted((CONFIGS / "clusters").glob("*.yaml")), ids=lambda file: file.name
)
def test_clusters_that_come_with_nmt_load(file: Path) -> None:
    assert load_cluster(file).name == file.stem


def test_what_is_not_set_has_a_default() -> None:
    experiment = load()
    assert experiment.model.width == 128
    assert experiment.corpus.cleaning.nfc
    assert experiment.prepared == "prepared/toy"


def test_no_cluster_file_is_this_machine_with_one_worker() -> None:
    assert load_cluster(None) == Cluster(name="local", workers=1, storage="runs")


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


def test_what_is_dumped_loads_to_the_same() -> None:
    experiment = load("training.betas=[0.5,0.75]", "corpus.root=ä b", "corpus.src='no'")
    assert parse(Experiment, dump(experiment), "dumped") == experiment
    cluster = load_cluster(None, ["env={A: '1'}"])
    assert parse(Cluster, dump(cluster), "dumped") == cluster


def test_an_experiment_travels_as_json() -> None:
    experiment = load()
    assert Experiment.model_validate_json(experiment.model_dump_json()) == experiment


def test_settings_do_not_change() -> None:
    with pytest.raises(ValidationError, match="frozen"):
        load().seed = 5  # type: ignore[misc]


def test_differences_are_those_of_single_keys() -> None:
    assert differences(load(), load("model.width=64", "training.betas=[0.5,0.75]")) == [
        ("model.width", 128, 64),
        ("training.betas", [0.9, 0.98], [0.5, 0.75]),
    ]
    assert differences(load(), load()) == []


def all_settings(kind: type[Settings] = Settings) -> list[type[Settings]]:
    return [found for child in kind.__subclasses__() for found in (child, *all_settings(child))]


@pytest.mark.parametrize("kind", all_settings(), ids=lambda kind: kind.__name__)
def test_every_setting_says_what_it_means(kind: type[Settings]) -> None:
    assert kind.__doc__
    assert kind.model_fields
    for name, field in kind.model_fields.items():
        assert field.description, name
        assert "\n" not in field.description, name


# Explanations.


@pytest.mark.parametrize(
    ("key", "expected"),
    [
        (
            "training.patience",
            "training.patience: Validations in a row without a better dev BLEU after which "
            "training stops; 0: never.  [whole number, >= 0; default 0]",
        ),
        (
            "training.betas",
            "training.betas: Decay of AdamW's first and second moment.  "
            "[[number, number]; default [0.9, 0.98]]",
        ),
        (
            "model.dropout",
            "model.dropout: Share of values dropped from what a block adds (gnmt: from what an "
            "LSTM layer reads).  [number, >= 0, < 1; default 0.2]",
        ),
        (
            "training.precision",
            "training.precision: Numbers of forward and backward; weights, optimizer and loss "
            'sums are always fp32.  [fp32 | bf16; default "fp32"]',
        ),
        (
            "name",
            "name: Name of the run: it is stored in <storage>/<name>, and the same name goes on "
            "where it was.  [text; required]",
        ),
        (
            "cluster.workers",
            "cluster.workers: Worker processes, each with its share of every update: a number, or "
            "{min: 1, max: 8}.  "
            "[section]\n"
            "cluster.workers.min: Fewest with which training goes on; with less room it waits.  "
            "[whole number, >= 1; default 1]\n"
            "cluster.workers.max: Most; reached as hosts join the cluster.  "
            "[whole number, >= 1; default 1]",
        ),
        (
            "cluster.env",
            "cluster.env: Environment variables of the workers.  [text: text; default {}]",
        ),
    ],
)
def test_a_key_is_explained(key: str, expected: str) -> None:
    assert explain(key) == expected


def test_a_section_is_explained_with_its_keys() -> None:
    first, *keys = explain("decoding").splitlines()
    assert first == "decoding: How a translation is searched for.  [section]"
    assert keys[1] == (
        "decoding.beam: Hypotheses kept at each step; 1: greedy.  [whole number, >= 1; default 5]"
    )
    assert len(keys) == 20


def test_a_list_of_sections_is_explained_with_their_keys() -> None:
    lines = explain("corpus.train").splitlines()
    assert lines[0] == "corpus.train: Corpora to train on.  [[section, ...]; required]"
    assert lines[1].startswith("corpus.train.name: ")


@pytest.mark.parametrize(
    ("override", "expected", "text"),
    [
        ("workers=3", (3, 3), "workers: 3\n"),
        ("workers={min: 2, max: 8}", (2, 8), "workers:\n  min: 2\n  max: 8\n"),
        ("workers.max=4", (1, 4), "workers:\n  min: 1\n  max: 4\n"),
    ],
)
def test_workers_are_a_number_or_a_range(
    override: str, expected: tuple[int, int], text: str
) -> None:
    cluster = load_cluster(None, [override])
    assert (cluster.workers.min, cluster.workers.max) == expected
    assert text in dump(cluster)
    assert parse(Cluster, dump(cluster), "dumped") == cluster


def test_the_cluster_is_explained() -> None:
    assert explain("cluster").splitlines()[1].startswith("cluster.workers: ")


@pytest.mark.parametrize(
    ("key", "expected"),
    [
        ("training.patiance", "; did you mean training.patience?"),
        ("trainin", "; did you mean training?"),
        ("cluster.worker", "; did you mean cluster.workers?"),
        ("corpus.train.nam", "; did you mean corpus.train.name?"),
        ("training.patience.x", ""),
        (
            "xyz",
            "; known here: name, seed, preset, corpus, batching, model, training, stages, decoding",
        ),
        (
            "",
            "; known here: name, seed, preset, corpus, batching, model, training, stages, decoding",
        ),
    ],
)
def test_what_is_no_key_cannot_be_explained(key: str, expected: str) -> None:
    """P9."""
    with pytest.raises(ConfigError) as error:
        explain(key)
    assert str(error.value) == f"{key!r} is not a setting{expected}"


# What is wrong.


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


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (("name: toy", "nam: toy"), "toy.yaml: nam is not a setting; did you mean name?"),
        (
            ("name: toy", ""),
            "toy.yaml: name is missing; `nmt config explain name` tells what it is",
        ),
        (("name: toy", "name: 5"), "toy.yaml: name is 5, but it must be text: put it in quotes"),
        (("name: toy", "name: toy\nmodel:"), f"toy.yaml: model is empty, but it must be {SECTION}"),
        (("name: toy", "name: toy\nseed: -1"), "toy.yaml: seed is -1, but it must be 0 or more"),
        (
            ("name: toy", "name: toy\nname: toy"),
            "toy.yaml, line 3: name stands twice in its section; keep one of them",
        ),
        (
            ("tgt: dev.de", "tgt: dev.de, tgt: dev.fr"),
            "toy.yaml, line 5: tgt stands twice in its section; keep one of them",
        ),
        (
            ("name: toy", "name: toy: story"),
            "toy.yaml, line 2: not valid YAML: mapping values are not allowed here",
        ),
        (("name: toy", "name: 2024-13-45"), "toy.yaml: not valid YAML: month must be in 1..12"),
        (
            ("name: toy", "name: toy\nyes: 5"),
            "toy.yaml: 1 is not a setting; known here: name, seed, preset, corpus, batching, "
            "model, training, stages, decoding",
        ),
    ],
)
def test_a_wrong_file_is_told(change: tuple[str, str], expected: str) -> None:
    """P9."""
    assert message_of(text=TEXT.replace(*change)) == expected


@pytest.mark.parametrize(
    ("text", "found"), [("", "empty"), ("[1, 2]", "[1, 2]"), ("toy", "'toy'"), ("5", "5")]
)
def test_a_file_without_settings_is_told(text: str, found: str) -> None:
    """P9."""
    assert message_of(text=text) == (
        f"toy.yaml: settings were expected, `key: value` line by line, but it is {found}"
    )


def test_a_long_value_is_told_in_short() -> None:
    message = message_of(f"seed={list(range(100))}")
    assert re.fullmatch(
        r"command line: seed is \[0, 1, 2.{49}\.\.\., but it must be a whole number", message
    )


def test_a_file_that_is_not_there_is_told() -> None:
    """P9."""
    with pytest.raises(ConfigError) as error:
        load_experiment("none.yaml")
    assert str(error.value) == (
        "none.yaml: there is no such file; configs/ holds the ones that come with nmt"
    )


def test_a_folder_is_no_file() -> None:
    """P9."""
    Path("folder").mkdir()
    with pytest.raises(ConfigError) as error:
        load_experiment("folder")
    assert str(error.value) == "folder is a folder; name a YAML file in it"


def test_a_file_in_another_encoding_is_told() -> None:
    """P9."""
    Path("toy.yaml").write_bytes("name: täy\n".encode("latin-1"))
    with pytest.raises(ConfigError) as error:
        load_experiment("toy.yaml")
    assert str(error.value) == "toy.yaml: byte 8 is not UTF-8; save the file as UTF-8 text"


@pytest.mark.parametrize(
    ("override", "expected"),
    [
        ("workers=0", "cluster.workers is 0, but it must be 1 or more"),
        (
            "workers=many",
            "cluster.workers is 'many', but it must be a whole number, or {min: 1, max: 8}",
        ),
        (
            "workers=true",
            "cluster.workers is true, but it must be a whole number, or {min: 1, max: 8}",
        ),
        (
            "workers={min: 3, max: 2}",
            "cluster.workers.min is 3, but it must be cluster.workers.max (2) or less",
        ),
        (
            "workers={mim: 3}",
            "cluster.workers.mim is not a setting; did you mean cluster.workers.min?",
        ),
        ("workers={min: 0}", "cluster.workers.min is 0, but it must be 1 or more"),
        ("hang_timeout_s=0", "cluster.hang_timeout_s is 0, but it must be more than 0"),
        ("max_lost_updates=-1", "cluster.max_lost_updates is -1, but it must be 0 or more"),
        ("worker=2", "cluster.worker is not a setting; did you mean cluster.workers?"),
        ("gpus_per_worker=2", "cluster.gpus_per_worker is 2, but it must be 1 or less"),
        ("env={A: 1}", "cluster.env.A is 1, but it must be text: put it in quotes"),
    ],
)
def test_a_wrong_override_of_the_cluster_is_told(override: str, expected: str) -> None:
    """P9."""
    assert cluster_message_of(override) == f"command line: {expected}"


# What contradicts itself.


def test_a_contradiction_in_a_file_is_told() -> None:
    """P9."""
    assert message_of(text=TEXT.replace("name: news", "name: talks")) == (
        "toy.yaml: corpus.train is ['talks', 'talks'], but each corpus needs a name of its own"
    )


@pytest.mark.parametrize(
    ("overrides", "expected"),
    [
        (
            ["batching.max_length=2000"],
            "batching.max_length is 2000, but no micro-batch could hold such a pair: set "
            "batching.max_tokens (1024) or less",
        ),
        (
            ["model.width=7"],
            "model.width is 7, but it must be even: each encoder direction has half of it",
        ),
        (
            ["model.heads=3"],
            "model.width is 128, but it must be a multiple of model.heads (3)",
        ),
        (
            ["model.preset=gnmt"],
            "model.attention is multi_head, but the gnmt preset is defined with additive attention",
        ),
        (
            ["model.preset=gnmt", "model.attention=additive", "model.encoder_layers=1"],
            "model.encoder_layers and decoder_layers is 1 and 3, but the gnmt preset needs 2 or "
            "more",
        ),
        (
            ["training.updates=100"],
            "training.warmup_updates is 500, but training has fewer updates (100)",
        ),
        (
            ["training.patience=2", "training.validate_every=300"],
            "training.validate_every is 300, but with early stopping one of it and "
            "checkpoint_every (500) must divide the other",
        ),
        (
            ["training.subword_dropout=0.1", "corpus.subword.kind=unigram"],
            "training.subword_dropout is 0.1, but corpus.subword.kind is unigram: only bpe has "
            "merges",
        ),
        (
            ["training.subword_sampling=0.2"],
            "training.subword_sampling is 0.2, but corpus.subword.kind is bpe: only unigram has "
            "probabilities",
        ),
        (
            ["stages=[{from_update: 9, subword_dropout: 0.1}]", "corpus.subword.kind=unigram"],
            "stages.subword_dropout is 0.1, but corpus.subword.kind is unigram: only bpe has "
            "merges",
        ),
        (
            ["stages=[{from_update: 10}]"],
            "stages.from_update is 10, but it changes nothing: set one of rdrop, "
            "label_smoothing, learning_rate, subword_dropout, subword_sampling, dropout, "
            "embedding_dropout, attention_dropout, word_dropout, weight_dropout, weights",
        ),
        (
            ["stages=[{from_update: 10, weights: {neews: 2}}]"],
            "stages.weights is neews, but no corpus of corpus.train is called so: talks, news",
        ),
        (
            ["stages=[{from_update: 10, rdrop: 1}, {from_update: 10, rdrop: 2}]"],
            "stages.from_update is [10, 10], but each stage must begin after the one before it",
        ),
        (
            ["corpus.train.1.name=talks"],
            "corpus.train is ['talks', 'talks'], but each corpus needs a name of its own",
        ),
        (
            ["corpus.tests=[{name: a, tsv: a}, {name: a, tsv: b}]"],
            "corpus.tests is ['a', 'a'], but each test set needs a name of its own",
        ),
        (
            ["corpus.dev.tgt="],
            "corpus 'dev' needs either both src and tgt or tsv alone: src is 'dev.en', tgt is '', "
            "tsv is ''",
        ),
        (
            ["corpus.root=s3://bucket/raw"],
            "corpus.root is s3://bucket/raw, but only runs are kept in object stores: name a "
            "folder that every host sees",
        ),
        (
            ["corpus.dev.src_case=upper"],
            "src_case of corpus 'dev' is upper, but dev and test sets stay as they are: only a "
            "corpus to train on has a case",
        ),
        (
            ["corpus.dev.tsv=dev.tsv"],
            "corpus 'dev' needs either both src and tgt or tsv alone: src is 'dev.en', tgt is "
            "'dev.de', tsv is 'dev.tsv'",
        ),
    ],
)
def test_settings_that_contradict_each_other_are_told(overrides: list[str], expected: str) -> None:
    """P9."""
    assert message_of(*overrides) == f"toy.yaml and command line: {expected}"


def test_a_stage_holds_until_a_later_one_changes_it_again() -> None:
    stages = (
        "stages=[{from_update: 5, rdrop: 1.0, label_smoothing: 0.2}, {from_update: 8, rdrop: 3}]"
    )
    experiment = load(stages)
    found = [experiment.training_at(update) for update in (4, 5, 8)]
    assert [each.rdrop for each in found] == [0, 1, 3]
    assert [each.label_smoothing for each in found] == [0.1, 0.2, 0.2]
    assert found[0] == experiment.training


def test_a_stage_changes_what_the_network_drops() -> None:
    experiment = load("stages=[{from_update: 5, dropout: 0.5}, {from_update: 8, word_dropout: 0}]")
    found = [experiment.model_at(update) for update in (4, 5, 8)]
    assert [each.dropout for each in found] == [experiment.model.dropout, 0.5, 0.5]
    assert [each.word_dropout for each in found] == [experiment.model.word_dropout] * 2 + [0]
    assert found[0] == experiment.model
