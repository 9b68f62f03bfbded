"""An experiment: its defaults, what contradicts itself, and what a stage changes."""

from pathlib import Path

import pytest
from toy_settings import CONFIGS, TEXT, load, message_of

from nmt.config.files import load_experiment


@pytest.mark.parametrize("file", sorted(CONFIGS.glob("*.yaml")), ids=lambda file: file.name)
def test_experiments_that_come_with_nmt_load(file: Path) -> None:
    assert load_experiment(file).name == file.stem


def test_what_is_not_set_has_a_default() -> None:
    experiment = load()
    assert experiment.model.width == 128
    assert experiment.corpus.cleaning.nfc
    assert experiment.prepared == "prepared/toy"


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
            ["corpus.train.0.weight=0", "corpus.train.1.weight=0"],
            "corpus.train: every corpus has weight 0 (talks, news); give one a weight above 0",
        ),
        (
            ["corpus.train.0.weight=0", "stages=[{from_update: 10, weights: {news: 0}}]"],
            "stages, from update 10: every corpus has weight 0 (talks, news); give one a weight "
            "above 0",
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
