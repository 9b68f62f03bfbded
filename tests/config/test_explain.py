"""`explain`: description, type, limits and default of settings."""

import pytest

from nmt.config.explain import explain
from nmt.errors import ConfigError


@pytest.mark.parametrize(
    ("key", "expected"),
    [
        (
            "training.patience",
            "training.patience: Early stopping: consecutive validations without a better dev BLEU "
            "before the end; 0: off.  [integer, >= 0; default 0]",
        ),
        (
            "training.betas",
            "training.betas: Decay rates of the first and second moment of AdamW.  "
            "[[number, number]; default [0.9, 0.98]]",
        ),
        (
            "model.dropout",
            "model.dropout: Dropout on the output of each sublayer (residual) or the input of each "
            "LSTM layer (gnmt).  [number, >= 0, < 1; default 0.2]",
        ),
        (
            "training.precision",
            "training.precision: Dtype of forward and backward; tf32, fp16: for GPUs; auto: bf16 "
            'if faster, else fp32.  [fp32 | tf32 | bf16 | fp16 | auto; default "fp32"]',
        ),
        (
            "name",
            "name: Name of the run, stored in <storage>/<name>; the same name resumes it.  "
            "[text; required]",
        ),
        (
            "cluster.workers",
            "cluster.workers: Number of worker processes, auto, or a range {min: 1, max: 8} for "
            "elastic training.  [section]\n"
            "cluster.workers.min: Minimum number of workers; with fewer, training waits for "
            "resources.  [integer, >= 1, <= 10000; default 1]\n"
            "cluster.workers.max: Maximum number of workers, used when the cluster has room.  "
            "[integer, >= 1, <= 10000; default 1]\n"
            "cluster.workers.auto: True: one worker per GPU; min and max hold where there is "
            "none.  [true | false; default false]",
        ),
        (
            "stages.0.learning_rate",
            "stages.0.learning_rate: New peak learning rate; the schedule keeps its shape.  "
            "[number, > 0, <= 100; default null]",
        ),
        (
            "corpus.train.1.src",
            "corpus.train.1.src: Source file below corpus.root: UTF-8, a segment per line; plain, "
            '.gz, .xz, .zst or .bz2.  [text; default ""]',
        ),
        (
            "cluster.gpus_per_worker",
            "cluster.gpus_per_worker: GPUs per worker: 1 (NCCL), 0 to train on CPU cores (gloo), "
            "or auto: 1 if enough are found.  [0 | 1 | auto; default 0]",
        ),
        (
            "cluster.env",
            "cluster.env: Environment variables of the workers.  [text: text; default {}]",
        ),
    ],
)
def test_explain_setting(key: str, expected: str) -> None:
    assert explain(key) == expected


def test_explain_notes_no_value_that_equals_the_default() -> None:
    lines = explain("corpus.train").splitlines()
    [noise] = [line for line in lines if line.startswith("corpus.train.noise:")]
    assert noise.endswith("[section]")


def test_explain_section_lists_its_settings() -> None:
    first, *keys = explain("decoding").splitlines()
    assert first == "decoding: Search and sampling.  [section]"
    assert keys[1] == (
        "decoding.beam: Beam size; 1: greedy search.  [integer, >= 1, <= 1000; default 5]"
    )
    assert len(keys) == 22


def test_explain_list_of_sections() -> None:
    lines = explain("corpus.train").splitlines()
    assert lines[0] == "corpus.train: Training corpora.  [[section, ...]; required]"
    assert lines[1].startswith("corpus.train.name: ")


def test_explain_cluster() -> None:
    assert explain("cluster").splitlines()[1].startswith("cluster.workers: ")


@pytest.mark.parametrize(
    ("key", "expected"),
    [
        ("training.patiance", "; did you mean training.patience?"),
        ("trainin", "; did you mean training?"),
        ("cluster.worker", "; did you mean cluster.workers?"),
        ("corpus.train.nam", "; did you mean corpus.train.name?"),
        ("training.patience.x", ""),
        ("training.patience.0", ""),
        (
            "xyz",
            "; choose from name, seed, preset, corpus, batching, model, training, stages, decoding",
        ),
    ],
)
def test_explain_unknown_key_is_an_error(key: str, expected: str) -> None:
    with pytest.raises(ConfigError) as error:
        explain(key)
    assert str(error.value) == f"{key!r} is not a setting{expected}"


def test_explain_without_a_key_lists_the_sections() -> None:
    lines = explain().splitlines()
    assert [line.partition(":")[0] for line in lines][-2:] == ["decoding", "cluster"]
    assert "corpus: Corpora, cleaning and subwords.  [section; required]" in lines


def test_a_name_without_its_section_is_found() -> None:
    assert explain("beam") == explain("decoding.beam")
    assert explain("workers") == explain("cluster.workers")
