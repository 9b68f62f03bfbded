"""Contents of run directories."""

from collections.abc import Callable
from pathlib import Path

import pytest

from nmt.errors import DataError
from nmt.report.runs import read_runs

MakeRun = Callable[..., Path]


def test_run_without_a_model_is_read(make_run: MakeRun) -> None:
    [run] = read_runs([make_run("a")])
    assert (run.name, run.checkpoint, run.corpora) == ("a", None, [])
    assert len(run.notes) == 1
    assert run.notes[0].startswith("model not loaded: ")
    assert run.best is not None
    assert run.best["dev_bleu"] == 39.0


def test_incomplete_last_line_is_ignored(make_run: MakeRun) -> None:
    [run] = read_runs([make_run("a")])
    assert [each["update"] for each in run.records_of("train")] == [100, 200, 300]
    assert [each["kind"] for each in run.events] == ["skipped", "restart"]
    assert run.last["update"] == 300


def test_run_with_a_model_has_corpus_statistics(here: Path) -> None:
    [run] = read_runs([Path("runs/tiny")])
    assert run.notes == []
    assert run.checkpoint is not None
    log = Path("runs/tiny/train.log").read_text()
    assert f" {run.num_parameters:,} parameters | fp32" in log
    assert [(each.name, each.read, each.kept) for each in run.corpora] == [("train", 100, 100)]


def test_missing_corpus_is_noted(here: Path) -> None:
    Path("prepared").rename("elsewhere")
    [run] = read_runs([Path("runs/tiny")])
    assert run.checkpoint is not None
    assert run.notes[0].startswith("prepared corpus not read: prepared/tiny: ")


def test_runs_with_equal_names_get_unique_names(make_run: MakeRun) -> None:
    runs = read_runs([make_run("x/run"), make_run("y/run")])
    assert [run.name for run in runs] == ["x/run", "y/run"]


def test_folder_that_is_no_run_is_refused(tmp_path: Path) -> None:
    """Actionable errors (nmt/README.md, Guarantees)."""
    with pytest.raises(DataError) as error:
        read_runs([tmp_path])
    assert str(error.value) == (
        f"{tmp_path} is not a run directory: it has no metrics.jsonl; name a folder written by "
        "`nmt train`"
    )


def test_run_given_twice_is_refused(make_run: MakeRun) -> None:
    """Actionable errors (nmt/README.md, Guarantees)."""
    folder = make_run("a")
    with pytest.raises(DataError) as error:
        read_runs([folder, folder / ".." / "a"])
    assert str(error.value) == f"{folder} is given twice: name each run once"


@pytest.mark.parametrize("line", ["{", "[1]", '{"kind": "train"}', ""])
def test_corrupt_record_is_refused(line: str, make_run: MakeRun) -> None:
    """Actionable errors (nmt/README.md, Guarantees)."""
    path = make_run("a") / "metrics.jsonl"
    path.write_text(f'{{"kind": "train", "update": 1}}\n{line}\n')
    with pytest.raises(DataError) as error:
        read_runs([path.parent])
    assert str(error.value) == (f"{path}, line 2: corrupt: not a record of a run; remove it")


@pytest.mark.parametrize(
    ("name", "command"),
    [("flickr.metrics.json", "nmt evaluate"), ("flickr.comparison.json", "nmt compare")],
)
@pytest.mark.parametrize("text", ["{", "[1]", '{"test_set": "flickr"}', "\xff"])
def test_corrupt_evaluation_is_refused(
    name: str, command: str, text: str, make_run: MakeRun
) -> None:
    """Actionable errors (nmt/README.md, Guarantees)."""
    path = make_run("a") / "evaluation" / name
    path.write_bytes(text.encode("latin-1"))
    with pytest.raises(DataError) as error:
        read_runs([path.parents[1]])
    assert str(error.value) == (
        f"{path}: corrupt: not written by `{command}`; run `{command}` again"
    )
