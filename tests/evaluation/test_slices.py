"""Slices of a kind partition the test set and add up to its scores."""

from pathlib import Path

import pytest

from nmt.corpus.prepare import prepare
from nmt.errors import DataError
from nmt.evaluation import scores, slices
from nmt.evaluation.slices import Slice

REFS = ["Ein Hund rennt.", "Ja", "", "Der Hund sieht " + "den Hund, " * 9 + "sagt er."] * 2
HYPS = ["Ein Hund läuft.", "Ja", "Nein", "Der Hund sieht " + "einen Hund, " * 9 + "sagt sie."] * 2


def cut(labels: dict[str, list[str]]) -> tuple[Slice, ...]:
    found = scores.score(
        HYPS, [REFS], "de", test_set="t", system="s", metrics=["bleu"], num_resamples=1,
        labels=labels,
    )  # fmt: skip
    return found.slices


def test_lengths_are_counted_in_tokens_of_bleu() -> None:
    refs = ["", "Ja.", "a b c d e f g h i", "a b c d e f g h i.", "x " * 49, "x " * 50, "x " * 99]
    assert slices.by_length(refs, "de") == [
        "0", "1 to 9", "1 to 9", "10 to 19", "40 to 49", "50 or more", "50 or more",
    ]  # fmt: skip
    assert slices.by_length(["你好你好你好你好你好"], "zh") == ["10 to 19"]


def test_rarity_is_that_of_the_rarest_word_ignoring_case() -> None:
    training = ["Hund!"] * 10 + ["ein"] * 999 + ["EIN", "Ja, ja"]
    refs = ["Ein Hund.", "ein", "Eine", "Ja", "... !", ""]
    assert slices.by_rarity(refs, "de", training) == [
        "10 to 99", "1,000 or more", "never", "1 to 9", "no words", "no words",
    ]  # fmt: skip


def test_slices_of_a_kind_add_up_to_the_test_set() -> None:
    corpora = ["news", "talks", "news", "talks"] * 2
    labels = {
        "length": slices.by_length(REFS, "de"),
        "rarity": slices.by_rarity(REFS, "de", ["Ein Hund"]),
        "corpus": corpora,
    }
    [whole] = cut({"corpus": ["all"] * 8})
    found = cut(labels)
    assert {part.kind for part in found} == set(slices.KINDS)
    for kind in slices.KINDS:
        parts = [part for part in found if part.kind == kind]
        assert len(parts) > 1
        assert sum(part.num_segments for part in parts) == whole.num_segments == 8
        assert sum(part.num_ref_tokens for part in parts) == whole.num_ref_tokens


def test_a_slice_is_scored_like_a_test_set() -> None:
    """Line in, line out (nmt/README.md, Guarantees)."""
    [first, _] = cut({"corpus": ["a", "b", "b", "b"] * 2})
    alone = scores.score(HYPS[::4], [REFS[::4]], "de", test_set="t", system="s", num_resamples=1)
    assert (first.bleu, first.chrf) == (alone.scores[0].value, alone.scores[1].value)


def test_slices_are_in_the_order_of_their_names() -> None:
    found = cut({"length": slices.by_length(REFS, "de"), "corpus": ["z", "a", "z", "a"] * 2})
    names = [(part.kind, part.name) for part in found]
    assert names == [
        ("length", "0"), ("length", "1 to 9"), ("length", "30 to 39"), ("corpus", "z"),
        ("corpus", "a"),
    ]  # fmt: skip


def test_tables_have_systems_side_by_side() -> None:
    part = Slice("corpus", "news", 1200, 9000, 39.5, 60.25)
    other = Slice("corpus", "news", 1200, 9000, 40.0, 61.0)
    assert slices.text(["old", "new"], [[part], [other]]).split("\n") == [
        "by corpus: corpus of the segment",
        "        segments  old BLEU  old chrF2  new BLEU  new chrF2",
        "  news     1,200     39.50      60.25     40.00      61.00",
    ]


def test_training_text_is_a_file_or_a_prepared_folder(make_corpus, tmp_path: Path) -> None:
    experiment = make_corpus({"train": [("A dog.", "Ein Hund."), ("A cat.", "Eine Katze.")]})
    prepare(experiment)
    lines = ["Ein Hund.", "Eine Katze."]
    assert list(slices.read_training_lines(tmp_path / "prepared")) == lines
    assert list(slices.read_training_lines(tmp_path / "raw/train.de")) == lines


def test_corpora_are_read_line_by_line(tmp_path: Path) -> None:
    file = tmp_path / "corpora"
    file.write_text("news\ntalks \n")
    assert slices.by_corpus(file, 2) == ["news", "talks"]


def test_corpora_need_one_line_per_segment(tmp_path: Path) -> None:
    """Actionable errors (nmt/README.md, Guarantees)."""
    file = tmp_path / "corpora"
    file.write_text("news\n")
    with pytest.raises(DataError) as error:
        slices.by_corpus(file, 2)
    assert str(error.value) == (
        f"{file} has 1 lines, the test set has 2 segments: it needs the name of a corpus for each "
        "segment"
    )
