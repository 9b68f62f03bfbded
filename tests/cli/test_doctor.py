"""`nmt doctor`, with tasks in this process instead of on Ray."""

import json
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest
import yaml
from click.testing import CliRunner, Result

from nmt.cli.main import main
from nmt.corpus.doctor import examine

PAIRS = [(f"The dog has {n} bones.", f"Der Hund hat {n} Knochen.") for n in range(9)]


@pytest.fixture
def doctor(
    make_corpus: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Callable[..., Result]:
    """Return a function that examines nine good pairs and an empty one."""
    monkeypatch.setattr("nmt.jobs.ray_session.connect", lambda *_: nullcontext())
    monkeypatch.setattr("nmt.jobs.tasks.examine_on_ray", lambda experiment, _: examine(experiment))
    experiment = make_corpus({"toy": [*PAIRS, ("Nothing", "")]}).model_dump(mode="json")
    tree = {"name": "tiny", "corpus": experiment["corpus"]}
    (tmp_path / "tiny.yaml").write_text(yaml.safe_dump(tree), encoding="utf-8")

    def run(*options: str) -> Result:
        words = ["doctor", str(tmp_path / "tiny.yaml"), "-o", str(tmp_path / "page.html")]
        return CliRunner().invoke(main, [*words, *options])

    return run


@pytest.mark.parametrize(("share", "status"), [("0.1", 0), ("0.05", 1)])
def test_a_bad_corpus_fails_above_a_share(
    doctor: Callable[..., Result], share: str, status: int
) -> None:
    assert doctor("--fail-above", share).exit_code == status


def test_json_has_the_figures_of_the_page(doctor: Callable[..., Result], tmp_path: Path) -> None:
    answer = doctor("--json")
    tree = json.loads(answer.stdout)
    assert (tree["pairs"], tree["kept"], tree["bad_share"]) == (10, 9, 0.1)
    assert [each["count"] for each in tree["findings"] if each["rule"] == "empty"] == [1]
    assert "<h1>tiny</h1>" in (tmp_path / "page.html").read_text(encoding="utf-8")


@pytest.mark.parametrize(
    "setting",
    ["empty=false", "max_ratio=0", "no_letters=false", "lost_characters=false", "max_chars=0"],
)
def test_rules_that_are_off_are_counted(setting: str, doctor: Callable[..., Result]) -> None:
    tree = json.loads(doctor("--json", f"corpus.cleaning.{setting}").stdout)
    rule = setting.partition("=")[0]
    findings = {each["rule"]: each for each in tree["findings"]}
    assert (tree["kept"], findings["empty"]["count"]) == (9, 1)
    assert not findings[rule]["is_on"]
    assert tree["suggestions"] == ["corpus.cleaning.empty=true"] * (rule == "empty")


@pytest.mark.parametrize("language", ["en", "eng", "en_US", "en-GB", "xx"])
def test_the_right_language_has_no_note(language: str, doctor: Callable[..., Result]) -> None:
    tree = json.loads(doctor("--json", f"corpus.src={language}").stdout)
    assert [note for note in tree["notes"] if "look like" in note] == []


def test_blank_lines_have_no_language_and_no_words(
    doctor: Callable[..., Result], tmp_path: Path
) -> None:
    for side in ("en", "de"):
        (tmp_path / f"raw/toy.{side}").write_text("\n" * 50)
    options = ("corpus.cleaning.empty=false", "corpus.src=ja")
    tree = json.loads(doctor("--json", *options).stdout)
    assert (tree["words"], tree["identified"]) == ([0, 0], [{}, {}])
    assert [note for note in tree["notes"] if "look like" in note] == []


def test_a_reversed_dev_set_has_a_note(doctor: Callable[..., Result], tmp_path: Path) -> None:
    paths = [tmp_path / f"raw/dev.{side}" for side in ("en", "de")]
    texts = [path.read_text() for path in paths]
    for path, text in zip(paths, reversed(texts), strict=True):
        path.write_text(text)
    note = "dev: the text looks like de to en: check the order of the sides"
    assert note in json.loads(doctor("--json").stdout)["notes"]


def test_another_language_has_a_note(doctor: Callable[..., Result]) -> None:
    tree = json.loads(doctor("--json", "corpus.src=fr").stdout)
    assert "corpus.src is fr, but most lines of that side look like en" in tree["notes"]


def test_the_terminal_shows_the_clean_share(doctor: Callable[..., Result]) -> None:
    assert "estimated clean share: 90.0 % (9 of 10 pairs pass all rules)" in doctor().stdout
