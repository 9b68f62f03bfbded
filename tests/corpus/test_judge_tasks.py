"""Rules that learn from the corpus: each has an example, a switch and a count."""

import random
import time

import numpy as np
import pytest
from toy_corpora import Make, Pairs, text_of

from nmt.config.corpus import CleaningConfig
from nmt.corpus import adequacy
from nmt.corpus.adequacy import WordTable, fold_of, score_pairs
from nmt.corpus.pair_model import PairModel
from nmt.corpus.prepare import prepare
from nmt.corpus.rules import DROP_REASONS

WORDS = [(f"{a}{b}{c}o", f"{c}{b}{a}en") for a in "bdfg" for b in "aeiu" for c in "klm"]


def translate(numbers: list[int]) -> tuple[str, str]:
    """Return a sentence of made-up words and its translation."""
    src, tgt = (" ".join(WORDS[number][side] for number in numbers) for side in (0, 1))
    return f"{src.capitalize()}.", f"{tgt.capitalize()}."


def sentences(num: int, seed: int = 1) -> Pairs:
    draw = random.Random(seed)
    return [translate(draw.choices(range(len(WORDS)), k=draw.randint(3, 12))) for _ in range(num)]


PAIRS = sentences(1200)
LONG = list(range(12))
EXAMPLES = {
    "length": (translate(LONG[:4])[0], translate(LONG)[1]),
    "truncated": (translate(LONG)[0], translate(LONG[:6])[1].removesuffix(".")),
    "word_order": (translate([1, 2, 3])[0], "maben. Kaben laben"),
    "min_adequacy": (translate(LONG)[0], translate([number + 20 for number in LONG])[1]),
}
ON = {"length": True, "truncated": True, "word_order": True, "min_adequacy": -3.0}


@pytest.mark.parametrize("rule", EXAMPLES)
def test_a_rule_of_the_corpus_counts_its_example(rule: str, make_corpus: Make) -> None:
    """Line in, line out (nmt/README.md, Guarantees)."""
    experiment = make_corpus({"train": [*PAIRS, EXAMPLES[rule]]}, cleaning={rule: ON[rule]})
    dropped = prepare(experiment).corpora[0].dropped
    assert {name: count for name, count in dropped.items() if count} == {rule: 1}


def test_a_rule_of_the_corpus_has_a_switch(make_corpus: Make) -> None:
    experiment = make_corpus({"train": [*PAIRS, *EXAMPLES.values()]})
    info = prepare(experiment).corpora[0]
    assert info.kept == info.read
    # Later rules that are off leave the manifest as the version before them wrote it.
    assert not {*EXAMPLES} & {*info.dropped}
    assert {*EXAMPLES} < {*DROP_REASONS}


def test_chunks_do_not_change_what_the_rules_learn(make_corpus: Make) -> None:
    """Pure schedule (nmt/README.md, Guarantees)."""
    pairs = [*EXAMPLES.values(), *PAIRS]
    rows = []
    for size in (350, 100_000):
        experiment = make_corpus(
            {"train": pairs}, prepared=f"prepared-{size}", cleaning=ON, shard_pairs=size
        )
        assert prepare(experiment).corpora[0].kept == len(PAIRS)
        rows.append(text_of(experiment))
    assert rows[0] == rows[1]


def test_a_small_corpus_passes_the_rules() -> None:
    assert PairModel.fit(*zip(*PAIRS[:999], strict=True)) is None


def test_marks_and_capitals_count_only_where_the_corpus_has_them() -> None:
    plain = [(src.lower().removesuffix("."), tgt.removesuffix(".")) for src, tgt in PAIRS]
    for pairs, reason in ((PAIRS, "word_order"), (plain, "")):
        model = PairModel.fit(*zip(*pairs, strict=True))
        assert model is not None
        assert model.judge(["Bado."], ["daben."], CleaningConfig()) == [reason]


ORDER = CleaningConfig(length=False, truncated=False)


@pytest.mark.parametrize(
    "tgt",
    [
        "เขาเกิดในปี พ.ศ. 2549 ที่นี่",
        "เขามาถึงเวลา 10.00 น. ที่บ้าน",
        "เขาเป็นเพื่อนของ ดร. สมชาย",
        "ลาวมาถึง ส.ป.ป. ลาว ในเมื่อวาน",
    ],
)
def test_inner_marks_of_a_language_without_end_marks_stay(tgt: str) -> None:
    model = PairModel.fit([src for src, _ in PAIRS], ["เขามาถึงบ้านแล้ว"] * len(PAIRS))
    assert model is not None
    assert model.judge(["He came home."], [tgt], ORDER) == [""]


@pytest.mark.parametrize("tgt", ["Daben. kiben", "Daben kiben! maben", "Daben ... kiben"])
def test_a_mark_that_has_moved_into_the_text_is_found(tgt: str) -> None:
    model = PairModel.fit(*zip(*PAIRS, strict=True))
    assert model is not None
    assert model.judge(["Bado kibo."], [tgt], ORDER) == ["word_order"]
    assert model.judge(["Bado kibo."], [f"{tgt}."], ORDER) == [""]


@pytest.mark.parametrize("marks", [".", ".,", ".,,,,,,,,,,,,"])
def test_a_line_of_marks_is_judged_in_linear_time(marks: str) -> None:
    model = PairModel.fit(*zip(*PAIRS, strict=True))
    assert model is not None
    started = time.process_time()
    model.judge(["Bado."], [marks * (100_000 // len(marks)) + "x"], ORDER)
    assert time.process_time() - started < 0.5


@pytest.mark.parametrize("limit", [10**9, 20_000, 7_000])
def test_words_are_learnt_from_a_bounded_sample(
    limit: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Bounded memory (nmt/README.md, Guarantees)."""
    src, tgt = zip(*PAIRS, strict=True)
    num_cells = sum(
        (len(one.split()) + 1) * len(two.split()) for one, two in zip(src, tgt, strict=True)
    )
    step = -(-num_cells // limit)
    expected = WordTable.train(src[::step], tgt[::step])
    monkeypatch.setattr(adequacy, "MAX_CELLS", limit)
    table = WordTable.train(src, tgt)
    for name in ("keys", "probabilities", "frequencies"):
        assert np.array_equal(getattr(table, name), getattr(expected, name))


def test_scores_do_not_depend_on_the_pairs_scored_together(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Pure schedule (nmt/README.md, Guarantees)."""
    sides = [[pair[side] for pair in PAIRS[:100]] for side in (0, 1)]
    tables = [(WordTable.train(*sides), WordTable.train(*sides[::-1]))] * 2
    expected = score_pairs(*sides, tables)
    monkeypatch.setattr(adequacy, "SCORE_PAIRS", 7)
    assert np.array_equal(score_pairs(*sides, tables), expected)


def test_a_pair_is_scored_by_the_other_half() -> None:
    table = WordTable.train(*zip(*PAIRS, strict=True))
    backward = WordTable.train(*([pair[side] for pair in PAIRS] for side in (1, 0)))
    none = WordTable.train(["a"], ["b"])
    good, bad = (translate(LONG), EXAMPLES["min_adequacy"])
    for pair in (good, bad):
        tables = [(none, none), (none, none)]
        tables[1 - fold_of(*pair)] = (table, backward)
        [score] = score_pairs([pair[0]], [pair[1]], tables)
        assert score > 20 if pair == good else score < -10
