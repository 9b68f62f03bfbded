"""The files of an evaluation."""

import json
from pathlib import Path

from nmt.evaluation import results, scores, test_sets


def test_an_evaluation_writes_texts_and_scores(tmp_path: Path) -> None:
    """Honest numbers (nmt/README.md, Guarantees)."""
    test_set = test_sets.TestSet("sacrebleu:wmt16/B", ("a\u2028", ""), (("A", ""), ("Ä", "")))
    report = scores.score(
        ["Ä", ""],
        test_set.references,
        "de",
        test_set=test_set.name,
        system="run",
        checkpoint="update-00000500",
        metrics=["chrf"],
    )
    files = results.write(tmp_path / "new", test_set, ["Ä", ""], report, "en", "de")
    assert {file.name: file.read_text(encoding="utf-8") for file in files} == {
        "sacrebleu_wmt16_B.en": "a\u2028\n\n",
        "sacrebleu_wmt16_B.de": "Ä\n\n",
        "sacrebleu_wmt16_B.de.ref": "A\n\n",
        "sacrebleu_wmt16_B.de.ref1": "Ä\n\n",
        "sacrebleu_wmt16_B.metrics": report.text() + "\n",
        "sacrebleu_wmt16_B.metrics.json": report.json() + "\n",
    }
    assert sorted(files) == sorted((tmp_path / "new").iterdir())
    assert json.loads(files[-1].read_text())["checkpoint"] == "update-00000500"


def test_sources_of_the_target_language_have_their_own_file(tmp_path: Path) -> None:
    test_set = test_sets.TestSet("news", ("a",), (("A",),))
    report = scores.score(["Ä"], test_set.references, "en", test_set="news", system="run")
    files = results.write(tmp_path, test_set, ["Ä"], report, "en", "en")
    names = ["news.en.src", "news.en", "news.en.ref", "news.metrics", "news.metrics.json"]
    assert [file.name for file in files] == names
    assert [file.read_text() for file in files[:3]] == ["a\n", "Ä\n", "A\n"]


def test_comparison_of_other_translations_is_removed(tmp_path: Path) -> None:
    """Honest numbers (nmt/README.md, Guarantees)."""
    test_set = test_sets.TestSet("flickr", ("a", "b"), (("A", "B"),))
    comparison = tmp_path / "flickr.comparison.json"

    def write(hyps: list[str]) -> None:
        report = scores.score(hyps, test_set.references, "de", test_set="flickr", system="run")
        results.write(tmp_path, test_set, hyps, report, "en", "de")

    write(["A", "C"])
    comparison.write_text("{}")
    write(["A", "C"])
    assert comparison.exists()
    write(["A", "B"])
    assert not comparison.exists()


def test_references_of_an_earlier_evaluation_are_removed(tmp_path: Path) -> None:
    """Honest numbers (nmt/README.md, Guarantees)."""

    def write(num_references: int) -> list[str]:
        test_set = test_sets.TestSet("flickr", ("a",), (("A",),) * num_references)
        report = scores.score(["A"], test_set.references, "de", test_set="flickr", system="run")
        results.write(tmp_path, test_set, ["A"], report, "en", "de")
        return sorted(path.name for path in tmp_path.glob("*.ref*"))

    own = tmp_path / "flickr.de.ref2"
    own.write_text("of the user\n")
    assert write(1) == ["flickr.de.ref", "flickr.de.ref2"]
    own.unlink()
    assert write(3) == ["flickr.de.ref", "flickr.de.ref1", "flickr.de.ref2"]
    (tmp_path / "flickr.comparison.json").write_text("{}")
    assert write(2) == ["flickr.de.ref", "flickr.de.ref1"]
    assert not (tmp_path / "flickr.comparison.json").exists()
    assert write(1) == ["flickr.de.ref"]
