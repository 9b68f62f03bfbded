"""Preparing with the vocabulary of another corpus: corpus.subword.tokenizer."""

from pathlib import Path

import pytest
from toy_corpora import CLEAN, Make, error_of

from nmt.config.corpus import SubwordConfig
from nmt.config.experiment import Experiment
from nmt.corpus.prepare import prepare
from nmt.corpus.prepared import open_prepared, prepared_folder
from nmt.corpus.subword import Subword


@pytest.fixture
def first(make_corpus: Make) -> Experiment:
    experiment = make_corpus({"old": CLEAN})
    prepare(experiment)
    return experiment


@pytest.fixture
def given(first: Experiment, tmp_path: Path) -> Path:
    file = tmp_path / "given.json"
    file.write_bytes((prepared_folder(first) / "tokenizer.json").read_bytes())
    return file


def make_second(make_corpus: Make, given: Path, kind: str = "bpe") -> Experiment:
    subword = {"vocab_size": 400, "tokenizer": str(given), "kind": kind}
    return make_corpus({"new": [("Other words.", "Andere.")]}, prepared="second", subword=subword)


def test_vocabulary_is_kept(make_corpus: Make, first: Experiment, given: Path) -> None:
    second = make_second(make_corpus, given)
    prepare(second)
    assert (prepared_folder(second) / "tokenizer.json").read_bytes() == given.read_bytes()
    assert open_prepared(second)[1].fingerprint == open_prepared(first)[1].fingerprint
    # Usable without the file, as without the raw text.
    given.unlink()
    prepare(second)


def test_vocabulary_of_another_kind_is_an_error(make_corpus: Make, given: Path) -> None:
    assert error_of(make_second(make_corpus, given, "unigram")) == (
        "given.json: a bpe vocabulary, but corpus.subword.kind is unigram: set "
        "corpus.subword.kind=bpe"
    )


def test_missing_vocabulary_is_an_error(make_corpus: Make, tmp_path: Path) -> None:
    second = make_second(make_corpus, tmp_path / "none.json")
    assert error_of(second) == "none.json: cannot be read: No such file or directory"
    assert not prepared_folder(second).exists()


def test_changed_vocabulary_is_an_error(make_corpus: Make, given: Path) -> None:
    second = make_second(make_corpus, given)
    prepare(second)
    given.write_text(Subword.train(["other text"] * 9, SubwordConfig()).to_json())
    assert error_of(second) == (
        "given.json: not the vocabulary that second was prepared with; remove the folder and run "
        "`nmt prepare` again, or set corpus.prepared to another"
    )
