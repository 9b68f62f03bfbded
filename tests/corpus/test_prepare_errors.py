"""Raw text that is refused, and lines of it that are dropped."""

from pathlib import Path

import pytest
from toy_corpora import CLEAN, Make, error_of, write

from nmt.config.experiment import Experiment
from nmt.corpus.prepare import check_raw, prepare
from nmt.corpus.task_cache import run_locally


def test_a_missing_raw_file_is_reported_first(make_corpus: Make) -> None:
    experiment = make_corpus({"train": CLEAN})
    Path(experiment.corpus.root, "train.de").unlink()
    message = (
        "raw/train.de: there is no such file; check corpus.root and the names in the experiment"
    )
    assert error_of(experiment, check_raw) == message
    assert error_of(experiment) == message
    assert not Path(experiment.prepared).exists()


@pytest.mark.parametrize(
    ("files", "message"),
    [
        pytest.param(
            {"train.de": b"eins\n" * 99},
            "corpus train: raw/train.en has 100 lines, raw/train.de has 99: the two files must "
            "be line-parallel; find the first pair that does not match, or download both again",
            id="sides of different length",
        ),
        pytest.param(
            {"train.en": b"", "train.de": b""},
            "raw/train.en: no lines; expected a corpus to train on",
            id="an empty corpus",
        ),
        pytest.param(
            {"dev.en": b"", "dev.de": b""},
            "raw/dev.en: no lines; expected a set of pairs",
            id="an empty dev set",
        ),
        pytest.param(
            {"dev.de": b"sch\xf6n\n"},
            "raw/dev.de, line 1: byte 0xF6 at position 4 is not UTF-8; convert the file from its "
            "encoding (`iconv -f ISO-8859-1 -t UTF-8` if it is Western European; `iconv -l` lists "
            "others) or fix the line",
            id="a dev set that is not UTF-8",
        ),
        pytest.param(
            {"train.de": b"eins\nzw\0ei\n"},
            "raw/train.de, line 2: a NUL byte: the file is damaged or not UTF-8; download it "
            "again, or delete the NUL bytes (`tr -d '\\000'`) if the lines are complete",
            id="a NUL byte",
        ),
    ],
)
def test_invalid_raw_files_are_refused(
    files: dict[str, bytes], message: str, make_corpus: Make
) -> None:
    """Actionable errors (nmt/README.md, Guarantees)."""
    experiment = make_corpus({"train": CLEAN})
    for name, data in files.items():
        write(experiment, name, data)
    assert error_of(experiment) == message


def test_a_tsv_row_without_a_tab_is_reported(make_corpus: Make) -> None:
    settings = make_corpus({"train": CLEAN}).model_dump()
    settings["corpus"]["train"] = [{"name": "train", "tsv": "t.tsv"}]
    experiment = Experiment.model_validate(settings)
    write(experiment, "t.tsv", "one\teins\ntwo zwei\n")
    assert error_of(experiment) == (
        "raw/t.tsv, line 2: no tab; expected source, tab, target: fix or delete the line"
    )


def test_an_invalid_line_is_dropped_and_counted(make_corpus: Make) -> None:
    experiment = make_corpus({"train": CLEAN[:3]}, cleaning={"max_dropped": 0.5})
    write(experiment, "train.de", b"Gut.\nSch\xf6n.\nBesser.\n")
    manifest = prepare(experiment)
    assert (manifest.corpora[0].kept, manifest.corpora[0].dropped["invalid_utf8"]) == (2, 1)


def test_an_invalid_line_is_an_error_with_the_rule_off(make_corpus: Make) -> None:
    experiment = make_corpus({"train": CLEAN[:3]}, cleaning={"invalid_utf8": False})
    write(experiment, "train.de", b"Gut.\nSch\xf6n.\nBesser.\n")
    assert error_of(experiment) == (
        "raw/train.de, line 2: byte 0xF6 at position 4 is not UTF-8; convert the file from its "
        "encoding (`iconv -f ISO-8859-1 -t UTF-8` if it is Western European; `iconv -l` lists "
        "others) or fix the line"
    )


ALL_NEW = ["subwords 0/1", "subwords 1/1", "encoding 0/1", "encoding 1/1"]


def test_dropping_too_many_pairs_is_an_error(make_corpus: Make) -> None:
    pairs = [*CLEAN[:2], *[("1", "2")] * 3, ("", "")]
    experiment = make_corpus({"train": pairs})
    assert error_of(experiment) == (
        "cleaning dropped 4 of 6 pairs (1 empty, 3 no_letters), more than "
        "corpus.cleaning.max_dropped (50%) allows; check the corpus, or raise the limit and run "
        "`nmt prepare` again"
    )
    settings = experiment.model_dump()
    settings["corpus"]["cleaning"]["max_dropped"] = 0.7
    done: list[str] = []
    prepare(
        Experiment.model_validate(settings),
        run_locally,
        lambda stage, now, total: done.append(f"{stage} {now}/{total}"),
    )
    assert done == ["reading 3/3", "cleaning 1/1", *ALL_NEW]


def test_dropping_all_pairs_is_always_an_error(make_corpus: Make) -> None:
    experiment = make_corpus({"train": [("1", "2")]}, cleaning={"max_dropped": 1.0})
    assert error_of(experiment) == (
        "cleaning dropped all 1 pairs (1 no_letters): nothing is left to train on; check the "
        "corpus and corpus.cleaning"
    )


def test_an_impossible_folder_is_reported(make_corpus: Make, tmp_path: Path) -> None:
    (tmp_path / "prepared").write_text("a file")
    assert error_of(make_corpus({"train": CLEAN[:9]})) == (
        "prepared: cannot be written: Not a directory; set corpus.prepared to another folder"
    )
