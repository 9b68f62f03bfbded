"""Lexical shortlists."""

from pathlib import Path

import numpy as np

from nmt.config.experiment import Experiment
from nmt.corpus import shortlist
from nmt.corpus.prepare import prepare
from nmt.corpus.prepared import open_prepared
from nmt.corpus.shortlist import candidates_of, learn_shortlist
from nmt.corpus.subword import EOS, PAD

WORDS = {"red": "rot", "blue": "blau", "dog": "Hund", "cat": "Katze", "sees": "sieht"}


def test_translations_come_first(tmp_path: Path) -> None:
    random = np.random.default_rng(1)
    lines = [random.permutation(list(WORDS))[:3].tolist() for _ in range(300)]
    (tmp_path / "train.en").write_text("".join(" ".join(line) + "\n" for line in lines))
    translated = [[WORDS[word] for word in line] for line in lines]
    (tmp_path / "train.de").write_text("".join(" ".join(line) + "\n" for line in translated))
    (tmp_path / "dev.en").write_text("red dog\n")
    (tmp_path / "dev.de").write_text("rot Hund\n")
    sides = [{"name": name, "src": f"{name}.en", "tgt": f"{name}.de"} for name in ("train", "dev")]
    corpus = {
        "root": str(tmp_path), "prepared": str(tmp_path / "prepared"), "train": sides[:1],
        "dev": sides[1], "src": "en", "tgt": "de", "subword": {"vocab_size": 330},
        "cleaning": {"duplicates": False, "near_duplicates": False},
    }  # fmt: skip
    experiment = Experiment.model_validate({"name": "toy", "corpus": corpus})
    prepare(experiment)
    shards, subword = open_prepared(experiment)
    table = learn_shortlist(shards, subword.num_pieces)
    for word, translation in WORDS.items():
        [src], [tgt] = subword.encode(word), subword.encode(translation)
        assert table[src, :2].tolist() == [src, tgt]
    assert set(table[PAD]) >= {subword.encode(translation)[0] for translation in WORDS.values()}


def test_candidates_depend_on_the_sentence_alone() -> None:
    table = np.full((200, 4), EOS, np.int32)
    table[:, 0] = np.arange(200)
    table[9, 1:3] = 50, 40
    table[PAD] = 7, 8, 9, EOS
    alone = candidates_of(table, [[9, 30]])
    together = candidates_of(table, [[30], [9, 30], list(range(100, 190))])
    assert alone.shape == (1, shortlist.MULTIPLE)
    assert alone[0, :10].tolist() == [0, 1, 2, 7, 8, 9, 30, 40, 50, 200]
    assert together.shape == (3, 2 * shortlist.MULTIPLE)
    assert together[1, :10].tolist() == alone[0, :10].tolist()
    assert (together[:, 100:] == 200).all()
