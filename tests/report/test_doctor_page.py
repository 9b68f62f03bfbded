"""Examination of a corpus and its page."""

from typing import Any

import pytest
from report_files import HOSTILE

from nmt.corpus.doctor import Diagnosis, examine
from nmt.report.doctor_page import render_diagnosis, summary_lines

PAIRS = [
    *((f"The dog has {n} bones.", f"Der Hund hat {n} Knochen.") for n in range(6)),
    ("A dog for you.", "Ein Hund fÃ¼r dich."),
    ("Two dogs run in the park.", "Deux chiens courent au parc."),
    (HOSTILE, f"{HOSTILE} Hund"),
    ("A cat sleeps.", "Eine Katze schläft."),
]


@pytest.fixture
def diagnosis(make_corpus: Any) -> Diagnosis:
    return examine(make_corpus({"toy": PAIRS}, dev=[("a cat sleeps", "eine Katze schläft")]))


def test_rules_count_and_have_samples(diagnosis: Diagnosis, tmp_path: Any) -> None:
    found = {each.rule: each for each in diagnosis.findings if each.count}
    counts = {rule: (each.action, each.count) for rule, each in found.items()}
    assert counts == {
        "empty": ("dropped", 1),
        "language": ("dropped", 1),
        "leaks": ("dropped", 1),
        "encoding": ("repaired", 1),
    }
    assert (diagnosis.pairs, diagnosis.kept) == (10, 7)
    assert found["encoding"].samples == [
        {
            "corpus": "toy",
            "line": 7,
            "src": "A dog for you.",
            "tgt": "Ein Hund fÃ¼r dich.",
            "new_src": "A dog for you.",
            "new_tgt": "Ein Hund für dich.",
        }
    ]
    assert diagnosis.templates[0]["pairs"] == 6
    assert not list(tmp_path.glob("*.doctor"))


def test_lost_characters_in_the_file_are_valid_utf8(make_corpus: Any) -> None:
    diagnosis = examine(make_corpus({"toy": [("A dog.", "Ein H\ufffdnd."), *PAIRS[:1]]}))
    assert diagnosis.encodings == {"ascii": 3, "other": 1, "invalid": 0}


def test_small_corpus_has_a_small_share_of_languages(
    make_corpus: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Honest numbers (nmt/README.md, Guarantees): a sampled line stands for its corpus."""
    monkeypatch.setattr("nmt.corpus.doctor.LANGUAGE_LINES", 1)
    french = ("Two dogs run in the park.", "Deux chiens courent dans le parc.")
    german = ("Two dogs run in the park.", "Zwei Hunde rennen durch den Park.")
    diagnosis = examine(make_corpus({"large": [german] * 9, "small": [french]}))
    assert diagnosis.identified[1] == {"de": 0.9, "fr": 0.1}


def test_template_in_two_corpora_is_one_template(make_corpus: Any) -> None:
    bones = [(f"The dog has {n} bones.", f"Der Hund hat {n} Knochen.") for n in range(10)]
    diagnosis = examine(make_corpus({"one": bones[:5], "two": bones[5:]}))
    assert [each["pairs"] for each in diagnosis.templates] == [10]


def test_the_summary_suggests_settings(diagnosis: Diagnosis) -> None:
    lines = summary_lines(diagnosis)
    assert lines[0].startswith("tiny: 10 pairs, en to de | ")
    assert " dropped         1  10.0 %  leaks (off in the experiment)" in lines
    assert lines[-1] == (
        "suggested settings: corpus.cleaning.language=true corpus.cleaning.leaks=true "
        "corpus.cleaning.encoding=true"
    )


def test_text_of_the_corpus_is_escaped(diagnosis: Diagnosis) -> None:
    page = render_diagnosis(diagnosis)
    assert "<script" not in page
    assert "&lt;script&gt;" in page
    assert "http" not in page.replace("http-equiv", "")
