"""Experiments: defaults, contradictions and stages."""

from pathlib import Path

import pytest
from toy_settings import CONFIGS, TEXT, load, message_of

from nmt.config.experiment import Experiment
from nmt.config.files import load_experiment, restore


@pytest.mark.parametrize("file", sorted(CONFIGS.glob("*.yaml")), ids=lambda file: file.name)
def test_experiments_of_the_project_load(file: Path) -> None:
    assert load_experiment(file).name == file.stem


def test_unset_settings_have_defaults() -> None:
    experiment = load()
    assert experiment.model.width == 128
    assert experiment.corpus.cleaning.nfc
    assert experiment.prepared == "prepared/toy"


def test_contradiction_in_a_file_is_an_error() -> None:
    assert message_of(text=TEXT.replace("name: news", "name: talks")) == (
        "toy.yaml: corpus.train is ['talks', 'talks'], but names must be unique"
    )


@pytest.mark.parametrize(
    ("overrides", "expected"),
    [
        (
            ["batching.max_length=2000"],
            "batching.max_length is 2000, but a micro-batch holds at most batching.max_tokens "
            "(1024)",
        ),
        (
            ["model.width=7"],
            "model.width is 7, but it must be even: each encoder direction uses half of it",
        ),
        (
            ["model.heads=3"],
            "model.width is 128, but it must be a multiple of model.heads (3)",
        ),
        (
            ["model.preset=gnmt"],
            "model.attention is multi_head, but the gnmt preset uses additive attention: set "
            "model.attention=additive",
        ),
        (
            ["model.preset=gnmt", "model.attention=additive", "model.encoder_layers=1"],
            "model.encoder_layers and decoder_layers is 1 and 3, but the gnmt preset needs 2 or "
            "more",
        ),
        (
            ["training.updates=100"],
            "training.warmup_updates is 500, but it must be at most training.updates (100)",
        ),
        (
            ["training.patience=2", "training.validate_every=300"],
            "training.validate_every is 300, but early stopping needs it to be a multiple or a "
            "divisor of training.checkpoint_every (500)",
        ),
        (
            ["training.subword_dropout=0.1", "corpus.subword.kind=unigram"],
            "training.subword_dropout is 0.1, but corpus.subword.kind is unigram: BPE-dropout "
            "needs bpe",
        ),
        (
            ["training.subword_sampling=0.2"],
            "training.subword_sampling is 0.2, but corpus.subword.kind is bpe: subword sampling "
            "needs unigram",
        ),
        (
            ["stages=[{from_update: 9, subword_dropout: 0.1}]", "corpus.subword.kind=unigram"],
            "stages.subword_dropout is 0.1, but corpus.subword.kind is unigram: BPE-dropout "
            "needs bpe",
        ),
        (
            ["stages=[{from_update: 10}]"],
            "stages.from_update is 10, but it changes nothing: set one of rdrop, "
            "cutoff, risk, switchout, reverse, label_smoothing, learning_rate, subword_dropout, "
            "subword_sampling, dropout, embedding_dropout, attention_dropout, word_dropout, "
            "weight_dropout, weights",
        ),
        (
            ["training.cutoff=0.05", "training.rdrop=1"],
            "training.cutoff is 0.05, but R-Drop is on too (1): set one of them to 0",
        ),
        (
            ["stages=[{from_update: 9, cutoff: 0.1}]", "training.rdrop=2"],
            "stages, from_update 9: cutoff is 0.1, but R-Drop is on too (2): set one of them to 0",
        ),
        (
            ["training.risk=1"],
            "training.risk is 1, but it needs a trained model: set training.init_from, or risk in "
            "a later stage",
        ),
        (
            ["training.risk=1", "training.init_from=runs/a", "training.cutoff=0.1"],
            "training.cutoff is 0.1, but minimum risk is on too (1): set one of them to 0",
        ),
        (
            ["training.reverse=0.5", "corpus.train.0.tag=1", "corpus.train.1.src_case=upper"],
            "training.reverse is 0.5, but it leaves out corpora with tag, changed case or "
            "distillation: all have one",
        ),
        (
            ["stages=[{from_update: 10, weights: {neews: 2}}]"],
            "stages.weights is neews, but corpus.train has no corpus of that name; it has "
            "talks, news",
        ),
        (
            ["corpus.train.0.weight=0", "corpus.train.1.weight=0"],
            "corpus.train: all corpora have weight 0 (talks, news); set one above 0",
        ),
        (
            ["corpus.train.0.weight=0", "stages=[{from_update: 10, weights: {news: 0}}]"],
            "stages, from_update 10: all corpora have weight 0 (talks, news); set one above 0",
        ),
        (
            ["stages=[{from_update: 10, rdrop: 1}, {from_update: 10, rdrop: 2}]"],
            "stages.from_update is [10, 10], but each stage must start after the previous one",
        ),
        (
            ["corpus.train.1.name=talks"],
            "corpus.train is ['talks', 'talks'], but names must be unique",
        ),
        (
            ["corpus.tests=[{name: a, tsv: a}, {name: a, tsv: b}]"],
            "corpus.tests is ['a', 'a'], but names must be unique",
        ),
        (
            ["corpus.dev.tgt="],
            "corpus 'dev' needs either src and tgt, or one of tsv, tmx, parquet, jsonl, zip: it "
            "has src",
        ),
        (
            ["corpus.root=s3://bucket/raw"],
            "corpus.root is s3://bucket/raw, but only runs can be in an object store: use a "
            "directory that every host sees",
        ),
        (
            ["corpus.dev.src_case=upper"],
            "src_case of corpus 'dev' is upper, but only training corpora can change case: remove "
            "it",
        ),
        (
            ["corpus.dev.tsv=dev.tsv"],
            "corpus 'dev' needs either src and tgt, or one of tsv, tmx, parquet, jsonl, zip: it "
            "has src, tgt, tsv",
        ),
        (
            ["corpus.dev.tag=1"],
            "tag of corpus 'dev' is 1, but only training corpora have a tag: remove it",
        ),
        (
            ["corpus.tests=[{name: news, tsv: a.tsv, weight: 0.5}]"],
            "weight of corpus 'news' is 0.5, but only training corpora have a weight: remove it",
        ),
    ],
)
def test_contradicting_settings_are_an_error(overrides: list[str], expected: str) -> None:
    assert message_of(*overrides) == f"toy.yaml and command line: {expected}"


def test_stored_test_sets_may_have_a_tag() -> None:
    tree = load().model_dump()
    tree["corpus"]["tests"] = [{"name": "news", "tsv": "news.tsv", "tag": 1}]
    assert restore(Experiment, tree, "config.yaml").corpus.tests[0].tag == 1


def test_stage_holds_until_a_later_one_changes_it() -> None:
    stages = (
        "stages=[{from_update: 5, rdrop: 1.0, label_smoothing: 0.2}, {from_update: 8, rdrop: 3}]"
    )
    experiment = load(stages)
    found = [experiment.training_at(update) for update in (4, 5, 8)]
    assert [each.rdrop for each in found] == [0, 1, 3]
    assert [each.label_smoothing for each in found] == [0.1, 0.2, 0.2]
    assert found[0] == experiment.training


def test_stage_changes_dropout() -> None:
    experiment = load("stages=[{from_update: 5, dropout: 0.5}, {from_update: 8, word_dropout: 0}]")
    found = [experiment.model_at(update) for update in (4, 5, 8)]
    assert [each.dropout for each in found] == [experiment.model.dropout, 0.5, 0.5]
    assert [each.word_dropout for each in found] == [experiment.model.word_dropout] * 2 + [0]
    assert found[0] == experiment.model
