"""Noise in source text: what each kind changes, and that it is a pure function of the pair."""

import random
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from toy_corpora import CLEAN, Make

from nmt.config.corpus import ROBUST_NOISE, CleaningConfig, CorpusConfig, NoiseConfig
from nmt.corpus.noise import SourceNoise, add_noise, press_neighbour
from nmt.corpus.prepare import prepare
from nmt.corpus.prepared import open_prepared
from nmt.corpus.subword import CASE_MARKS, tag_token
from nmt.errors import ConfigError

LINE = 'He said: "Déjà vu - I\'m 3 years old..."'


def noisy(line: str, seed: int = 1, **rates: float) -> str:
    return add_noise(line, NoiseConfig(**rates), random.Random(seed))


@pytest.mark.parametrize(
    ("kind", "line", "expected"),
    [
        ("upper_case", "Déjà vu.", "DÉJÀ VU."),
        ("title_case", "a dog's life", "A Dog's Life"),
        ("final_punctuation", "Is it? Yes!", "Is it? Yes"),
        ("final_punctuation", "...", "..."),
        ("final_punctuation", "Wait…\u3000!", "Wait"),
        ("final_punctuation", "यह कुत्ता है।", "यह कुत्ता है"),
        ("final_punctuation", "هل هذا كلب؟", "هل هذا كلب"),
        ("final_punctuation", "یہ کتا ہے۔ ", "یہ کتا ہے"),
        ("final_punctuation", "ይህ ውሻ ነው።", "ይህ ውሻ ነው"),
        ("accents", "Đây là chó đỏ, łódź, ısırır", "Day la cho do, lodz, isirir"),
        ("accents", "Déjà vu, Ελλάδα über", "Deja vu, Ελλάδα uber"),
        ("accents", "De\u0301ja\u0300 vu\u031b\u0309, α\u0301 й", "Deja vu, α\u0301 й"),
        ("typography", LINE, "He said: “Déjà vu – I’m 3\u00a0years old…”"),
        ("merged_words", "a b c", "abc"),
    ],
)
def test_kinds_of_lines(kind: str, line: str, expected: str) -> None:
    assert noisy(line, **{kind: 1.0}) == expected


def test_marks_within_a_line_take_linear_time() -> None:
    # Without a newline at the end: a regular expression took a minute.
    line = "." * 100_000 + "a"
    started = time.process_time()
    assert noisy(line, final_punctuation=1.0) == line
    assert time.process_time() - started < 5


def test_kinds_of_words() -> None:
    found = {
        kind: {noisy("word", seed, **{kind: 1.0}) for seed in range(99)}
        for kind in ("dropped_letters", "doubled_letters", "swapped_letters", "split_words")
    }
    assert found == {
        "dropped_letters": {"ord", "wrd", "wod"},
        "doubled_letters": {"wword", "woord", "worrd"},
        "swapped_letters": {"owrd", "wrod", "wodr"},
        "split_words": {"w ord", "wo rd", "wor d"},
    }


def test_typos_are_neighbours_on_the_keyboard() -> None:
    rng = random.Random(1)
    assert {press_neighbour("Go", 0, rng) for _ in range(99)} == {"Fo", "Ho", "To", "Bo"}
    assert press_neighbour("щи", 0, rng) == "щи"


def test_short_words_and_numbers_stay() -> None:
    rates = dict.fromkeys(("typos", "dropped_letters", "split_words"), 0.33)
    assert noisy("the 1,500 is 3D a-b", **rates) == "the 1,500 is 3D a-b"


def test_rates_are_shares() -> None:
    rng = random.Random(1)
    words = add_noise(" ".join(["word"] * 4000), NoiseConfig(typos=0.1), rng).split(" ")
    assert 0.08 < sum(word != "word" for word in words) / 4000 < 0.12
    upper = [add_noise("a", NoiseConfig(upper_case=0.2), rng) for _ in range(2000)]
    assert 0.17 < upper.count("A") / 2000 < 0.23
    assert add_noise(LINE, NoiseConfig(), rng) == LINE


def test_cases_exclude_each_other() -> None:
    with pytest.raises(ConfigError) as error:
        NoiseConfig(upper_case=0.6, title_case=0.5)
    assert str(error.value) == "noise.title_case is 0.5, but with upper_case (0.6) it exceeds 1"


@pytest.fixture
def corpus(make_corpus: Make) -> Any:
    experiment = make_corpus({"one": CLEAN[:50], "two": CLEAN[50:]})
    prepare(experiment)
    return open_prepared(experiment)


def make_noise(corpus: Any, rates: list[NoiseConfig], tags: tuple[int, int] = (0, 0)) -> Any:
    shards, subword = corpus
    return SourceNoise(subword, shards.corpora, rates, tags, CleaningConfig(), 1)


def test_noise_depends_on_epoch_and_row_only(corpus: Any) -> None:
    """Pure schedule, world-size independence (nmt/README.md, Guarantees)."""
    shards, _ = corpus
    rows = np.arange(100)
    noise = make_noise(corpus, [ROBUST_NOISE, ROBUST_NOISE])
    whole = noise.apply(shards.pairs(rows), rows, 3, 500)
    for part in (rows[::-1], rows[7:9], rows[50:]):
        found = noise.apply(shards.pairs(part), part, 3, 500)
        for row, (src, tgt) in zip(part.tolist(), found, strict=True):
            assert list(src) == list(whole[row][0])
            assert list(tgt) == list(shards.pairs([row])[0][1])
    other = noise.apply(shards.pairs(rows), rows, 4, 500)
    assert any(list(one[0]) != list(two[0]) for one, two in zip(whole, other, strict=True))


def test_only_noisy_corpora_change(corpus: Any) -> None:
    shards, subword = corpus
    noise = make_noise(corpus, [NoiseConfig(upper_case=1), NoiseConfig()])
    for row, (src, _) in enumerate(noise.apply(shards.pairs(range(100)), range(100), 0, 500)):
        text = subword.decode(shards.pairs([row])[0][0])
        assert subword.decode(src) == (text.upper() if row < 50 else text)


def test_tags_stay_and_long_sources_have_no_noise(corpus: Any) -> None:
    shards, subword = corpus
    tag = tag_token(2)
    pairs = [([tag, *map(int, src)], tgt) for src, tgt in shards.pairs(range(4))]
    noise = make_noise(corpus, [NoiseConfig(upper_case=1), NoiseConfig()], tags=(2, 0))
    for (src, _), (clean, _) in zip(noise.apply(pairs, range(4), 0, 500), pairs, strict=True):
        assert src[0] == tag
        assert subword.decode(src[1:]) == subword.decode(clean[1:]).upper()
    assert noise.apply(pairs, range(4), 0, 3) == pairs


def test_case_is_marked(corpus: Any) -> None:
    shards, subword = corpus
    rates = [NoiseConfig(upper_case=1), NoiseConfig(title_case=1)]
    noise = SourceNoise(subword, shards.corpora, rates, (2, 0), CleaningConfig(), 1, True)
    pairs = list(shards.pairs(range(100)))
    pairs[:50] = [([tag_token(2), *map(int, src)], tgt) for src, tgt in pairs[:50]]
    for row, (src, _) in enumerate(noise.apply(pairs, range(100), 0, 500)):
        text = subword.decode(shards.pairs([row])[0][0]).lower()
        marks = [tag_token(2), CASE_MARKS["upper"]] if row < 50 else [CASE_MARKS["title"]]
        assert src == [*marks, *subword.encode(text)]


def test_case_is_marked_in_corpora_without_noise(corpus: Any) -> None:
    shards, subword = corpus
    noise = SourceNoise(
        subword, shards.corpora, [NoiseConfig()] * 2, (0, 0), CleaningConfig(), 1, True
    )
    pairs = [(subword.encode(line), []) for line in ("THE DOG", "The dog")]
    assert [src for src, _ in noise.apply(pairs, [0, 1], 0, 500)] == [
        [CASE_MARKS["upper"], *subword.encode("the dog")],
        subword.encode("The dog"),
    ]


def test_noise_needs_no_new_preparation(make_corpus: Make) -> None:
    experiment = make_corpus({"one": CLEAN})
    prepare(experiment)
    text = experiment.corpus.train[0].model_copy(update={"noise": ROBUST_NOISE})
    corpus = experiment.corpus.model_copy(update={"train": [text]})
    manifest = Path(experiment.corpus.prepared, "manifest.json").read_text()
    prepare(experiment.model_copy(update={"corpus": corpus}))
    assert Path(experiment.corpus.prepared, "manifest.json").read_text() == manifest


def test_dev_set_has_no_noise() -> None:
    text = {"name": "dev", "src": "d.en", "tgt": "d.de"}
    dev = text | {"noise": {"typos": 0.1}}
    with pytest.raises(ConfigError) as error:
        CorpusConfig.model_validate({"src": "en", "tgt": "de", "train": [text], "dev": dev})
    assert str(error.value) == (
        "noise of corpus 'dev' is typos: 0.1, but only training corpora can have noise: remove it"
    )
