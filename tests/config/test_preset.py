"""`preset: auto`: sizes chosen by the number of pairs."""

from typing import Any

import pytest
from toy_settings import CONFIGS

from nmt.config.experiment import Experiment
from nmt.config.files import dump, load_experiment, override, parse_stored
from nmt.config.preset import ROWS, check_possible, explain_choice, resolve
from nmt.errors import ConfigError

TEXT = {"name": "a", "src": "a.en", "tgt": "a.de"}


def experiment(**sections: Any) -> Experiment:
    corpus = {"src": "en", "tgt": "de", "train": [TEXT], "dev": TEXT, **sections.pop("corpus", {})}
    tree = {"name": "tiny", "preset": "auto", "corpus": corpus, **sections}
    return Experiment.model_validate(tree)


def test_larger_corpus_has_a_larger_model() -> None:
    found = [resolve(experiment(), pairs) for pairs in (5_000, 29_000, 151_000, 10**6, 10**7)]
    assert [each.model.width for each in found] == [128, 128, 256, 512, 1024]
    assert [each.corpus.subword.vocab_size for each in found] == [2000, 6000, 8000, 16000, 32000]
    assert [each.model.dropout for each in found] == [0.4, 0.3, 0.2, 0.2, 0.2]


@pytest.mark.parametrize("row", ROWS, ids=lambda row: str(row.max_pairs))
def test_row_is_valid_up_to_its_max_pairs(row: Any) -> None:
    found = resolve(experiment(), int(min(row.max_pairs, 10**9)))
    model = (found.model.width, found.model.encoder_layers, found.model.heads)
    assert model == (row.width, row.layers, row.heads)
    assert found.training.updates == row.updates


def test_rows_match_the_experiments_of_the_project() -> None:
    for name, pairs in (("multi30k_en_de", 29_000), ("tatoeba_en_de", 151_000)):
        ours = load_experiment(CONFIGS / f"{name}.yaml")
        found = resolve(experiment(), pairs)
        for section in ("width", "encoder_layers", "decoder_layers", "ffn_width", "heads"):
            assert getattr(found.model, section) == getattr(ours.model, section)
        assert found.model.dropout == ours.model.dropout
        assert found.corpus.subword == ours.corpus.subword
        assert found.batching == ours.batching
        assert found.training.learning_rate == ours.training.learning_rate


def test_settings_of_the_experiment_win() -> None:
    given = experiment(
        model={"width": 64, "dropout": 0.1}, training={"updates": 500, "warmup_updates": 7}
    )
    found = resolve(given, 29_000)
    assert (found.model.width, found.model.dropout, found.model.encoder_layers) == (64, 0.1, 3)
    assert (found.training.updates, found.training.warmup_updates) == (500, 7)
    shorter = resolve(experiment(training={"updates": 500}), 29_000).training
    assert (shorter.warmup_updates, shorter.validate_every) == (50, 25)
    shortest = resolve(override(experiment(), ["training.updates=100"]), 29_000).training
    assert (shortest.warmup_updates, shortest.validate_every) == (10, 5)
    assert found.corpus.subword.vocab_size == 6000


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({}, (1100, 1100, 6)),
        ({"patience": 0}, (1100, 1100, 0)),
        ({"validate_every": 300}, (300, 300, 6)),
        ({"checkpoint_every": 70}, (70, 70, 6)),
        ({"validate_every": 300, "checkpoint_every": 100}, (300, 100, 6)),
        ({"validate_every": 300, "checkpoint_every": 200}, (300, 200, 0)),
    ],
)
def test_preset_sets_patience(given: dict[str, int], expected: tuple[int, int, int]) -> None:
    found = resolve(experiment(training=given), 29_000).training
    assert (found.validate_every, found.checkpoint_every, found.patience) == expected


@pytest.mark.parametrize("override_", ["model.word_dropout=0.3", "seed=2", "corpus.root=x"])
def test_an_override_leaves_other_sizes_to_the_preset(override_: str) -> None:
    assert resolve(override(experiment(), [override_]), 5_000).model.dropout == 0.4


def test_resolved_experiment_does_not_change() -> None:
    """A run stores the resolved settings; loading them resolves nothing again."""
    found = resolve(experiment(), 29_000)
    assert found.preset == "auto"
    again = parse_stored(Experiment, dump(found), "a bundle")
    assert resolve(again, 10**7) == found


def test_preset_none_changes_nothing() -> None:
    given = experiment(preset="none")
    assert resolve(given, 10**7) is given


def test_explain_choice() -> None:
    given = experiment(model={"width": 64}, training={"updates": 500})
    assert explain_choice(given, 29_000) == (
        "preset auto: 29,000 pairs -> width 64, 3 + 3 layers, dropout 0.3, vocabulary 6,000, "
        "500 updates of 2 x 1,024 tokens, learning rate 0.003, patience 6; set by the experiment: "
        "model.width, training.updates"
    )
    assert "set by the experiment" not in explain_choice(experiment(), 29_000)


def test_warm_up_that_is_set_must_fit() -> None:
    with pytest.raises(ConfigError) as refused:
        override(experiment(), ["training.updates=100", "training.warmup_updates=200"])
    assert str(refused.value) == (
        "command line: training.warmup_updates is 200, but it must be at most training.updates "
        "(100)"
    )


def test_contradiction_with_a_row_is_an_error() -> None:
    with pytest.raises(ConfigError) as refused:
        resolve(experiment(model={"width": 100}), 10**6)
    assert str(refused.value) == (
        "preset auto for 1,000,000 pairs: model.width is 100, but it must be a multiple of "
        "model.heads (8)"
    )


@pytest.mark.parametrize(
    ("least", "most", "is_possible"),
    [(600_000, 1_000_000, False), (500_000, 1_000_000, True), (3_000_000, 4_000_000, False)],
)
def test_contradiction_is_found_before_cleaning(least: int, most: int, is_possible: bool) -> None:
    given = experiment(model={"width": 100})
    if is_possible:
        check_possible(given, least, most)
    else:
        with pytest.raises(ConfigError, match=r"model\.width is 100"):
            check_possible(given, least, most)
