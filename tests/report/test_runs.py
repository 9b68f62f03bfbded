"""What is read from the folder of a run."""

from collections.abc import Callable
from pathlib import Path

import pytest

from nmt.errors import DataError
from nmt.report.runs import read_runs

MakeRun = Callable[..., Path]


def test_a_run_without_a_model_is_read_and_says_what_is_missing(make_run: MakeRun) -> None:
    [run] = read_runs([make_run("a")])
    assert (run.name, run.bundle, run.corpora) == ("a", None, [])
    assert len(run.notes) == 1
    assert run.notes[0].startswith("its model cannot be loaded: ")
    assert run.best is not None
    assert run.best["dev_bleu"] == 39.0


def test_a_torn_last_line_is_one_that_is_being_written(make_run: MakeRun) -> None:
    [run] = read_runs([make_run("a")])
    assert [each["update"] for each in run.of_kind("train")] == [100, 200, 300]
    assert [each["kind"] for each in run.events] == ["skipped", "restart"]
    assert run.last["update"] == 300


def test_a_model_brings_its_corpus_and_examples(here: Path) -> None:
    [run] = read_runs([Path("runs/tiny")])
    assert run.notes == []
    assert run.bundle is not None
    log = Path("runs/tiny/train.log").read_text()
    assert f" {run.num_parameters:,} parameters, fp32" in log
    assert [(each.name, each.read, each.kept) for each in run.corpora] == [("train", 100, 100)]


def test_a_model_whose_corpus_is_gone_is_still_reported(here: Path) -> None:
    Path("prepared").rename("elsewhere")
    [run] = read_runs([Path("runs/tiny")])
    assert run.bundle is not None
    assert run.notes[0].startswith("its prepared corpus cannot be read: prepared/tiny: ")


def test_runs_of_one_name_are_told_apart(make_run: MakeRun) -> None:
    runs = read_runs([make_run("x/run"), make_run("y/run")])
    assert [run.name for run in runs] == ["x/run", "y/run"]


def test_what_is_no_run(tmp_path: Path) -> None:
    """P9."""
    with pytest.raises(DataError) as error:
        read_runs([tmp_path])
    assert str(error.value) == (
        f"{tmp_path} is no run: it has no metrics.jsonl; name a folder that `nmt train` wrote"
    )


def test_a_run_that_is_given_twice(make_run: MakeRun) -> None:
    """P9."""
    folder = make_run("a")
    with pytest.raises(DataError) as error:
        read_runs([folder, folder / ".." / "a"])
    assert str(error.value) == f"{folder} is given twice; once is enough"


@pytest.mark.parametrize("line", ["{", "[1]", '{"kind": "train"}', ""])
def test_a_damaged_record(line: str, make_run: MakeRun) -> None:
    """P9."""
    path = make_run("a") / "metrics.jsonl"
    path.write_text(f'{{"kind": "train", "update": 1}}\n{line}\n')
    with pytest.raises(DataError) as error:
        read_runs([path.parent])
    assert str(error.value) == (
        f"{path}, line 2: damaged: it is no record of a run; remove the line"
    )


@pytest.mark.parametrize("name", ["flickr.metrics.json", "flickr.comparison.json"])
@pytest.mark.parametrize("text", ["{", "[1]", '{"test_set": "flickr"}', "\xff"])
def test_a_damaged_evaluation(name: str, text: str, make_run: MakeRun) -> None:
    """P9."""
    path = make_run("a") / "evaluation" / name
    path.write_bytes(text.encode("latin-1"))
    with pytest.raises(DataError) as error:
        read_runs([path.parents[1]])
    assert str(error.value) == (
        f"{path}: damaged: it is not what `nmt evaluate` wrote; run that again"
    )
