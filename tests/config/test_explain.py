"""Settings are explained."""

import pytest

from nmt.config.explain import explain
from nmt.errors import ConfigError


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
            "training.precision: Of forward and backward, all else fp32; auto: bf16 if quicker; "
            'fp16: for GPUs without it.  [fp32 | bf16 | fp16 | auto; default "fp32"]',
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
