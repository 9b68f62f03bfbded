"""Segmentations: the same text, the published statistics, deterministic."""

import math
import random
from collections import Counter
from collections.abc import Callable
from itertools import pairwise
from typing import Literal

import numpy as np
import pytest

from nmt.config.corpus import SubwordConfig
from nmt.config.experiment import Experiment
from nmt.corpus import subword_sampling
from nmt.corpus.prepare import prepare
from nmt.corpus.prepared import open_prepared
from nmt.corpus.subword import NUM_RESERVED, Merges, Subword
from nmt.corpus.subword_sampling import Pair, SubwordSampler, merge_with_dropout, sample_unigram
from nmt.errors import DataError

LINES = [
    "A dog runs through the green field.",
    "Ein Hund rennt durch das grüne Feld.",
    "Two dogs run through a field of 12 flowers.",
    "Zwei Hunde rennen durch ein Feld mit 12 Blumen.",
] * 20
ODD = ["", "Ω and Ψ", "aΩb", "the" * 40, "…" * 200, "中文 dog", "12 345", "dogs, dog-runs",
       "中文" * 40 + "。dogs", "field.12," * 20]  # fmt: skip
SUBWORD = Subword.train(LINES, SubwordConfig(vocab_size=400))
ANY = 10**6


def pairs_of(lines: list[str]) -> list[Pair]:
    return [(SUBWORD.encode(line), SUBWORD.encode(line[::-1])) for line in lines]


def listed(pairs: list[Pair]) -> list[list[list[int]]]:
    return [[list(side) for side in pair] for pair in pairs]


def test_without_dropout_nothing_changes() -> None:
    """Also in words that encoding splits: no merge crosses the ends of their parts."""
    pairs = pairs_of(LINES[:4] + ODD)
    found = SubwordSampler(SUBWORD, 0.0, seed=1).segment(pairs, range(len(pairs)), 5, ANY)
    assert listed(found) == listed(pairs)


@pytest.mark.parametrize("dropout", [0.1, 0.5, 0.99])
def test_every_segmentation_gives_the_same_text(dropout: float) -> None:
    """Line in, line out (nmt/README.md, Guarantees)."""
    pairs = pairs_of(LINES[:4] + ODD)
    sampler = SubwordSampler(SUBWORD, dropout, seed=1)
    for epoch in range(20):
        found = sampler.segment(pairs, range(len(pairs)), epoch, ANY)
        for pair, cut in zip(pairs, found, strict=True):
            assert [SUBWORD.decode(side) for side in cut] == [SUBWORD.decode(s) for s in pair]
    assert any(listed([pair]) != listed([cut]) for pair, cut in zip(pairs, found, strict=True))


def test_high_dropout_gives_characters() -> None:
    [(src, _)] = SubwordSampler(SUBWORD, 0.9999, seed=1).segment(
        pairs_of(["dogs run"]), [0], 0, ANY
    )
    assert SUBWORD.pieces(src) == ["▁", "d", "o", "g", "s", "▁", "r", "u", "n"]


def test_a_segmentation_depends_on_seed_epoch_and_row() -> None:
    """World-size independence (nmt/README.md, Guarantees): not on other pairs or earlier calls."""
    pairs = pairs_of(LINES[:40])
    rows = np.arange(100, 140)
    together = listed(SubwordSampler(SUBWORD, 0.2, seed=1).segment(pairs, rows, 3, ANY))
    sampler = SubwordSampler(SUBWORD, 0.2, seed=1)
    sampler.segment(pairs, rows, 2, ANY)
    one_by_one = [sampler.segment([pairs[n]], [100 + n], 3, ANY)[0] for n in reversed(range(40))]
    assert listed(one_by_one[::-1]) == together
    assert listed(SubwordSampler(SUBWORD, 0.2, seed=2).segment(pairs, rows, 3, ANY)) != together
    assert listed(sampler.segment(pairs, rows, 4, ANY)) != together
    assert listed(sampler.segment(pairs, rows + 1, 3, ANY)) != together


CLAUSES = ["今天天气很好", "我们去公园散步", "明天可能下雨", "公园的天气很好", "我们明天去"]
UNSPACED = ["，".join(CLAUSES[n % 5] for n in range(k, k + 12)) + "。" for k in range(20)]


@pytest.mark.parametrize(("kind", "share"), [("bpe", 0.2), ("unigram", 0.02)])
@pytest.mark.parametrize(
    "line",
    [UNSPACED[3], UNSPACED[1][:30], UNSPACED[0] * 5, UNSPACED[2].replace("，", "")],
    ids=["clauses", "short", "paragraph", "no_marks"],
)
def test_lines_without_spaces_are_segmented(
    kind: Literal["bpe", "unigram"], share: float, line: str
) -> None:
    subword = Subword.train(UNSPACED, SubwordConfig(kind=kind, vocab_size=330))
    pair = (subword.encode(line), subword.encode(line[::-1]))
    sampler = SubwordSampler(subword, share, seed=1)
    cuts = [listed(sampler.segment([pair], [7], epoch, ANY))[0] for epoch in range(10)]
    assert len({tuple(src) for src, _ in cuts}) > 1
    for src, tgt in cuts:
        assert (subword.decode(src), subword.decode(tgt)) == (line, line[::-1])
    again = SubwordSampler(subword, share, seed=1)
    assert listed(again.segment([pair], [7], 9, ANY))[0] == cuts[9]


def test_a_full_table_does_not_change_segmentations(monkeypatch: pytest.MonkeyPatch) -> None:
    """Bounded memory (nmt/README.md, Guarantees)."""
    pairs = pairs_of(LINES[:4])
    expected = SubwordSampler(SUBWORD, 0.2, seed=1).segment(pairs, range(4), 0, ANY)
    monkeypatch.setattr(subword_sampling, "MAX_WORDS", 2)
    sampler = SubwordSampler(SUBWORD, 0.2, seed=1)
    assert listed(sampler.segment(pairs, range(4), 0, ANY)) == listed(expected)
    assert len(sampler._table) <= 2


def merge_as_published(symbols: list[int], merges: Merges, dropout: float) -> tuple[int, ...]:
    """Apply algorithm 1 of Provilkov et al. 2020 literally: draw for each merge at each step."""
    while True:
        possible = [
            (*merges[pair], place)
            for place, pair in enumerate(pairwise(symbols))
            if pair in merges and random.random() >= dropout
        ]
        if not possible:
            return tuple(symbols)
        _, merged, place = min(possible)
        symbols = [*symbols[:place], merged, *symbols[place + 2 :]]


def test_dropout_matches_the_published_algorithm() -> None:
    """20,000 segmentations each of abcab."""
    a, b, c, ab, bc, abc = range(6)
    merges = {(a, b): (0, ab), (b, c): (1, bc), (ab, c): (2, abc)}
    random.seed(1)
    num = 20_000
    sampled = Counter(
        merge_with_dropout([a, b, c, a, b], merges, 0.3, random.random) for _ in range(num)
    )
    published = Counter(merge_as_published([a, b, c, a, b], merges, 0.3) for _ in range(num))
    assert len(published) == 8
    for cut in sampled | published:
        assert sampled[cut] / num == pytest.approx(published[cut] / num, abs=0.015), cut


def test_each_merge_is_kept_with_its_probability() -> None:
    """Over many rows and epochs; the variants of a word are themselves a sample."""
    left, right = SUBWORD.encode("12")
    assert SUBWORD.pieces([left, right]) == ["▁1", "2"]
    sampler = SubwordSampler(SUBWORD, 0.25, seed=1)
    cut = [sampler.segment([([left], [right])], [row], row % 7, ANY)[0][0] for row in range(2000)]
    whole = sum(len(src) == 1 for src in cut) / len(cut)
    assert whole == pytest.approx(0.75, abs=0.12)  # 64 variants: standard deviation 0.054


def test_unigram_samples_match_their_probabilities() -> None:
    """20,000 segmentations of abc, against all three by hand (Kudo 2018)."""
    a, b, c, ab, bc = range(5)
    probs = {(a,): 0.1, (b,): 0.2, (c,): 0.3, (a, b): 0.25, (b, c): 0.15}
    log_probs = {key: (token, math.log(p)) for token, (key, p) in enumerate(probs.items())}
    weights = {(a, b, c): 0.006**0.5, (ab, c): 0.075**0.5, (a, bc): 0.015**0.5}
    rng, num = random.Random(1), 20_000
    found = Counter(sample_unigram([a, b, c], log_probs, 0.5, rng) for _ in range(num))
    assert found.keys() == weights.keys()
    for cut, weight in weights.items():
        assert found[cut] / num == pytest.approx(weight / sum(weights.values()), abs=0.015), cut


def test_unigram_samples_are_deterministic() -> None:
    """By seed, epoch and row alone; a large alpha gives the most probable segmentation."""
    subword = Subword.train(LINES, SubwordConfig(kind="unigram", vocab_size=330))
    pairs = [(subword.encode(line), subword.encode(line[::-1])) for line in LINES[:4] + ODD]
    rows = range(len(pairs))
    sampler = SubwordSampler(subword, 0.2, seed=1)
    cuts = [listed(sampler.segment(pairs, rows, epoch, ANY)) for epoch in range(5)]
    for cut in cuts:
        for pair, sides in zip(pairs, cut, strict=True):
            assert [subword.decode(side) for side in sides] == [subword.decode(s) for s in pair]
    assert all(cut != cuts[0] for cut in cuts[1:])
    assert listed(SubwordSampler(subword, 0.2, seed=1).segment(pairs, rows, 4, ANY)) == cuts[4]
    assert listed(SubwordSampler(subword, 1000.0, seed=1).segment(pairs, rows, 0, ANY)) == listed(
        pairs
    )


def test_segmentations_stay_within_the_maximum_length() -> None:
    """A pair without a segmentation that is short enough stays as it is."""
    pairs = pairs_of([LINES[0]])
    length = max(len(side) for side in pairs[0])
    sampler = SubwordSampler(SUBWORD, 0.3, seed=1)
    lengths = [max(map(len, sampler.segment(pairs, [row], 0, length + 3)[0])) for row in range(200)]
    assert max(lengths) <= length + 3
    assert len(set(lengths)) > 2
    assert listed(SubwordSampler(SUBWORD, 0.9, seed=1).segment(pairs, [0], 0, length)) == listed(
        pairs
    )
    assert sampler.segment([], [], 0, ANY) == []


def test_planned_lengths_include_the_growth(
    make_corpus: Callable[..., Experiment],
) -> None:
    """Pure schedule (nmt/README.md, Guarantees): from corpus, dropout and seed alone."""
    lines = [f"{line} {n}" for n, line in enumerate(LINES[:40])]
    experiment = make_corpus({"train": list(zip(lines[::2], lines[1::2], strict=True))})
    prepare(experiment)
    shards, subword = open_prepared(experiment)
    src, tgt = SubwordSampler(subword, 0.2, seed=1).planned_lengths(shards, max_length=18)
    again = SubwordSampler(subword, 0.2, seed=1).planned_lengths(shards, max_length=18)
    assert np.array_equal(src, again[0])
    assert np.array_equal(tgt, again[1])
    for planned, real in ((src, shards.src_lengths), (tgt, shards.tgt_lengths)):
        assert ((planned > real) | (real >= 17)).all()
        assert (planned[real <= 17] <= 17).all()
    none = SubwordSampler(subword, 0.0, seed=1).planned_lengths(shards, max_length=1000)
    assert np.array_equal(none[0], shards.src_lengths)


def test_characters_and_merges_match_the_vocabulary() -> None:
    assert SUBWORD.characters[:NUM_RESERVED] == [[token] for token in range(NUM_RESERVED)]
    for token, characters in enumerate(SUBWORD.characters):
        assert SUBWORD.decode([65 + 3, token]) == SUBWORD.decode([65 + 3, *characters])
    names = SUBWORD.pieces(range(SUBWORD.num_pieces))
    for (left, right), (_, merged) in SUBWORD.merges.items():
        assert names[left] + names[right] == names[merged]


def test_a_vocabulary_has_merges_or_probabilities() -> None:
    unigram = Subword.train(LINES, SubwordConfig(kind="unigram", vocab_size=400))
    with pytest.raises(DataError, match="it has no merges"):
        _ = unigram.merges
    with pytest.raises(DataError, match="it has no probabilities"):
        _ = SUBWORD.log_probs
