"""Contents of run directories."""

import json
import math
from collections.abc import Callable, Iterator
from pathlib import Path
from random import Random
from typing import Any

import pytest
from report_files import record

from nmt.errors import DataError
from nmt.report.page import render
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
    Path("runs/tiny/manifest.json").unlink()
    [run] = read_runs([Path("runs/tiny")])
    assert run.checkpoint is not None
    assert run.notes[0].startswith("prepared corpus not read: prepared/tiny: ")


def test_runs_with_equal_names_get_unique_names(make_run: MakeRun) -> None:
    runs = read_runs([make_run("x/run"), make_run("y/run")])
    assert [run.name for run in runs] == ["x/run", "y/run"]


def test_late_validation_is_not_the_last_update(make_run: MakeRun) -> None:
    """Scores of asynchronous validations arrive some updates later."""
    folder = make_run("a")
    late = record("validation", 200, known_at=300, dev_bleu=20.0, dev_loss=1.0, train_s=31.0)
    lines = (folder / "metrics.jsonl").read_text().splitlines()[:-1]
    text = "\n".join([*lines, json.dumps(late)])
    (folder / "metrics.jsonl").write_text(f"{text}\n")
    [run] = read_runs([folder])
    assert (run.last["kind"], run.last["update"]) == ("validation", 300)


def test_updates_are_those_of_the_last_start(here: Path) -> None:
    """The best checkpoint of an extended run has the number of updates of its own start."""
    file = Path("runs/tiny/manifest.json")
    file.write_text(file.read_text().replace('"updates": 60', '"updates": 90'))
    [run] = read_runs([Path("runs/tiny")])
    assert run.num_updates == 90
    assert ">60 of 90<" in render([run], [[]])
    file.unlink()
    assert read_runs([Path("runs/tiny")])[0].num_updates == 60


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


def test_unreadable_records_are_counted(make_run: MakeRun) -> None:
    folder = make_run("a")
    with (folder / "metrics.jsonl").open("a") as file:
        file.write('ain"}\n{"kind": "train", "update": "1"}\n')
    [run] = read_runs([folder])
    assert run.notes[0] == "metrics.jsonl: 2 unreadable records left out, first in line 7"
    assert [each["update"] for each in run.records_of("train")] == [100, 200, 300]


@pytest.mark.parametrize("name", ["flickr.metrics.json", "flickr.comparison.json"])
@pytest.mark.parametrize("text", ["{", "[1]", '{"test_set": "flickr"}', "\xff"])
def test_unreadable_evaluation_is_left_out(name: str, text: str, make_run: MakeRun) -> None:
    path = make_run("a") / "evaluation" / name
    path.write_bytes(text.encode("latin-1"))
    [run] = read_runs([path.parents[1]])
    assert len(run.evaluations) + len(run.comparisons) == 1
    assert run.notes[-1].startswith(f"evaluation/{name} left out: ")
    assert run.notes[-1].endswith("; run `nmt evaluate` again")


def test_scores_before_another_dev_set_are_not_the_best(make_run: MakeRun) -> None:
    """Honest numbers (nmt/README.md, Guarantees)."""
    folder = make_run("a", bleu=90.0)
    later = [record("dev_set", 400), record("validation", 500, dev_bleu=20.0, dev_loss=1.0)]
    lines = (folder / "metrics.jsonl").read_text().splitlines()[:-1]
    text = "\n".join([*lines, *map(json.dumps, later)])
    (folder / "metrics.jsonl").write_text(f"{text}\n")
    [run] = read_runs([folder])
    assert run.best is not None
    assert run.best["update"] == 500
    assert run.notes[-1] == (
        "another dev set since update 400: dev_bleu and dev_loss before and after it are not "
        "comparable; the best dev_bleu is that of the newest dev set"
    )


@pytest.mark.parametrize(
    ("scores", "best"),
    [
        ([(0.0, 3.0), (0.0, 2.0), (0.0, 2.5)], 2),
        ([(5.0, 2.0), (5.0, 2.0), (4.0, 1.0)], 1),
        ([(5.0, None), (5.0, 9.0), (5.0, None)], 2),
    ],
)
def test_of_equal_dev_bleu_the_lower_loss_is_best(
    scores: list[tuple[float, float | None]], best: int, make_run: MakeRun
) -> None:
    folder = make_run("a")
    validations = [
        record("validation", update, dev_bleu=bleu, dev_loss=loss)
        for update, (bleu, loss) in enumerate(scores, start=1)
    ]
    (folder / "metrics.jsonl").write_text("".join(f"{json.dumps(v)}\n" for v in validations))
    [run] = read_runs([folder])
    assert run.best is not None
    assert run.best["update"] == best


def test_another_prepared_dev_set_is_noted(here: Path) -> None:
    """Honest numbers (nmt/README.md, Guarantees)."""
    path = Path("prepared/tiny/manifest.json")
    tree = json.loads(path.read_text())
    [dev] = [file for file in tree["files"] if file["name"] == "dev.src"]
    dev["sha256"] = "0" * 64
    path.write_text(json.dumps(tree))
    [run] = read_runs([Path("runs/tiny")])
    assert run.notes == [
        "the dev set of prepared/tiny is not the one that the model was scored with"
    ]


VALUES = (None, True, -1, 0, 1.5, 1e308, math.inf, -math.inf, math.nan, 10**400, "", "x", [], {},
          [[1]], {"a": 1}, "\ud83d", "\x1b[31m", "9" * 5000)  # fmt: skip


def places(tree: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    yield path
    if isinstance(tree, dict | list):
        for key, value in tree.items() if isinstance(tree, dict) else enumerate(tree):
            yield from places(value, (*path, key))


def mutate(text: str, random: Random) -> bytes:
    """Damage a JSON text: another value or none at a place, or bytes lost or overwritten."""
    tree = json.loads(text)
    *path, key = random.choice([place for place in places(tree) if place])
    parent = tree
    for each in path:
        parent = parent[each]
    match random.randrange(4):
        case 0:
            del parent[key]
        case 1:
            data = bytearray(text.encode())
            data[random.randrange(len(data))] = random.randrange(256)
            return bytes(data)
        case 2:
            return text.encode()[: random.randrange(len(text))]
        case _:
            parent[key] = random.choice(VALUES)
    return json.dumps(tree).encode()


def test_mutated_files_give_a_report(make_run: MakeRun, capsys: pytest.CaptureFixture[str]) -> None:
    folder, random = make_run("a"), Random(1)
    files = [folder / "metrics.jsonl", *sorted(folder.glob("evaluation/*.json"))]
    texts = [file.read_text() for file in files]
    num_noted = 0
    for number in range(72):
        for file, text in zip(files, texts, strict=True):
            file.write_text(text)
        file, text = files[number % 3], texts[number % 3]
        if file.suffix == ".jsonl":
            lines = text.splitlines(keepends=True)[:-1]
            row = random.randrange(len(lines))
            lines[row] = mutate(lines[row], random).decode("latin-1") + "\n"
            file.write_bytes("".join(lines).encode("latin-1"))
        else:
            file.write_bytes(mutate(text, random))
        runs = read_runs([folder])
        assert render(runs, [[]]).encode()
        num_noted += len(runs[0].notes) > 1
    assert num_noted > 33
