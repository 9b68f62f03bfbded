"""Preparing is deterministic and resumes."""

import fcntl
import logging
import shutil
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from toy_corpora import CLEAN, DIRTY, Make, error_of, text_of, write

from nmt.config.experiment import Experiment
from nmt.corpus.prepare import prepare
from nmt.corpus.prepared import open_prepared
from nmt.corpus.task_cache import run_locally


class PowerCutError(Exception):
    pass


def files_of(folder: Path) -> dict[str, bytes]:
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def test_preparing_twice_gives_the_same_bytes(make_corpus: Make, tmp_path: Path) -> None:
    """Pure schedule (nmt/README.md, Guarantees)."""
    for name in ("one", "two"):
        prepare(make_corpus({"a": CLEAN, "b": DIRTY}, prepared=name, shard_pairs=20))
    assert files_of(tmp_path / "one") == files_of(tmp_path / "two")
    assert sorted(files_of(tmp_path / "one"))[:3] == ["dev.src", "dev.tgt", "manifest.json"]


def run_reversed(function: Callable[..., Any], tasks: Sequence[tuple[Any, ...]]) -> Iterator[Any]:
    return run_locally(function, list(reversed(tasks)))


def test_task_order_does_not_change_the_bytes(make_corpus: Make, tmp_path: Path) -> None:
    """Pure schedule (nmt/README.md, Guarantees)."""
    prepare(make_corpus({"a": CLEAN, "b": DIRTY}, prepared="one", shard_pairs=20))
    prepare(make_corpus({"a": CLEAN, "b": DIRTY}, prepared="two", shard_pairs=20), run_reversed)
    assert files_of(tmp_path / "one") == files_of(tmp_path / "two")


@pytest.mark.parametrize("num_done", [0, 4, 8, 12, 13, 16])
def test_a_resumed_prepare_gives_the_same_bytes(
    make_corpus: Make, tmp_path: Path, num_done: int
) -> None:
    """Exact resume (nmt/README.md, Guarantees)."""
    prepare(make_corpus({"a": CLEAN, "b": DIRTY}, prepared="complete", shard_pairs=20))
    remaining = num_done

    def run_until_power_cut(
        function: Callable[..., Any], tasks: Sequence[tuple[Any, ...]]
    ) -> Iterator[Any]:
        nonlocal remaining
        for task in tasks:
            if not remaining:
                raise PowerCutError
            remaining -= 1
            yield function(*task)

    experiment = make_corpus({"a": CLEAN, "b": DIRTY}, prepared="cut", shard_pairs=20)
    for _ in range(2):  # writing the corpus again would change its files
        with pytest.raises(PowerCutError):
            prepare(experiment, run_until_power_cut)
        remaining = 1
    calls = 0

    def count(function: Callable[..., Any], tasks: Sequence[tuple[Any, ...]]) -> Iterator[Any]:
        nonlocal calls
        calls += len(tasks)
        return run_locally(function, tasks)

    prepare(experiment, count)
    assert files_of(tmp_path / "cut") == files_of(tmp_path / "complete")
    num_tasks = 5 + 6 + 1 + 1 + 6  # reading, cleaning, duplicates, subwords, encoding
    assert calls == num_tasks - num_done - 1


@pytest.mark.parametrize(
    ("name", "content", "problem"),
    [
        ("results/reading/dev.json", b'{"files": [1]}', "damaged: files.0: Input should be an "
         "object"),
        ("results/cleaning/000-00000.json", b"{", "damaged: Invalid JSON: EOF while parsing an "
         "object at line 1 column 1"),
        ("clean/000-00000.src.zst", b"x", "cannot be read: zstd decompressor error: Unknown frame "
         "descriptor"),
    ],
)  # fmt: skip
def test_damaged_unfinished_work_is_named(
    make_corpus: Make, tmp_path: Path, name: str, content: bytes, problem: str
) -> None:
    """Actionable errors (nmt/README.md, Guarantees)."""

    def cut(function: Callable[..., Any], tasks: Sequence[tuple[Any, ...]]) -> Iterator[Any]:
        if (tmp_path / "prepared/work/results/cleaning").exists():
            raise PowerCutError
        return run_locally(function, tasks)

    experiment = make_corpus({"a": CLEAN})
    with pytest.raises(PowerCutError):
        prepare(experiment, cut)
    (tmp_path / "prepared/work" / name).write_bytes(content)
    assert error_of(experiment) == (
        f"prepared/work/{name}: {problem}; remove the folder and run `nmt prepare` again"
    )


def test_an_incomplete_corpus_is_refused(make_corpus: Make) -> None:
    """Actionable errors (nmt/README.md, Guarantees)."""

    def cut(function: Callable[..., Any], tasks: Sequence[tuple[Any, ...]]) -> Iterator[Any]:
        raise PowerCutError

    experiment = make_corpus({"train": CLEAN})
    with pytest.raises(PowerCutError):
        prepare(experiment, cut)
    assert error_of(experiment, open_prepared) == (
        "prepared: not completely prepared; run `nmt prepare` again to resume"
    )


@pytest.mark.parametrize("change", ["settings", "files"])
def test_unfinished_work_of_other_inputs_is_discarded(
    make_corpus: Make, tmp_path: Path, change: str
) -> None:
    def cut_before_encoding(
        function: Callable[..., Any], tasks: Sequence[tuple[Any, ...]]
    ) -> Iterator[Any]:
        if (tmp_path / "prepared" / "tokenizer.json").exists():
            raise PowerCutError
        return run_locally(function, tasks)

    experiment = make_corpus({"train": CLEAN + DIRTY}, shard_pairs=50)
    with pytest.raises(PowerCutError):
        prepare(experiment, cut_before_encoding)
    if change == "settings":
        settings = experiment.model_dump()
        settings["corpus"]["cleaning"]["copies"] = False
        experiment = Experiment.model_validate(settings)
        num_kept = 104
    else:
        write(experiment, "train.en", "".join(f"{src}!\n" for src, _ in CLEAN + DIRTY))
        num_kept = 104  # CLEAN[3]! and CLEAN[99]! again; "!" is not empty
    manifest = prepare(experiment)
    assert (manifest.pairs, len(text_of(experiment))) == (num_kept, num_kept)


def test_preparing_a_complete_corpus_does_nothing(
    make_corpus: Make, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    experiment = make_corpus({"train": CLEAN})
    manifest = prepare(experiment)
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "prepared").rglob("*")}

    def refuse(function: Callable[..., Any], tasks: Sequence[tuple[Any, ...]]) -> Iterator[Any]:
        raise AssertionError

    with caplog.at_level(logging.INFO):
        assert prepare(experiment, refuse) == manifest
    assert caplog.messages == [f"{tmp_path}/prepared is prepared already: nothing to do"]
    assert {p: p.stat().st_mtime_ns for p in (tmp_path / "prepared").rglob("*")} == before


def test_a_prepared_corpus_needs_no_raw_files(make_corpus: Make) -> None:
    experiment = make_corpus({"train": CLEAN})
    manifest = prepare(experiment)
    shutil.rmtree(experiment.corpus.root)
    assert prepare(experiment) == manifest


def test_a_corpus_that_another_command_finished_stays(
    make_corpus: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    experiment = make_corpus({"a": CLEAN})

    def check_slowly(experiment: Experiment) -> list[str]:
        monkeypatch.undo()
        prepare(experiment)
        return []

    monkeypatch.setattr("nmt.corpus.prepare.check_raw", check_slowly)
    assert error_of(experiment) == (
        "prepared: prepared by another command meanwhile; run the same command again"
    )
    folder = Path(experiment.prepared)
    assert not (folder / "work").exists()
    before = files_of(folder)
    prepare(experiment)
    assert files_of(folder) == before


def test_an_interrupted_reset_starts_over(
    make_corpus: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Exact resume (nmt/README.md, Guarantees)."""
    first = make_corpus({"a": CLEAN}, prepared="first")
    prepare(first)

    # Stopped after cleaning, then while the folder is emptied for other settings.
    folder = str(tmp_path / "cut")
    corpus = first.corpus.model_copy(update={"prepared": folder})
    experiment = first.model_copy(update={"corpus": corpus})
    cleaning = corpus.cleaning.model_copy(update={"max_chars": 99})
    corpus = corpus.model_copy(update={"cleaning": cleaning})
    other = first.model_copy(update={"corpus": corpus})
    remove, removed = shutil.rmtree, []

    def fail(*_: Any) -> None:
        raise PowerCutError

    def remove_two(path: Path) -> None:
        if len(removed) == 2:
            raise PowerCutError
        removed.append(path)
        remove(path)

    for name, function, each in (
        ("nmt.corpus.prepare_tasks.train_subword", fail, experiment),
        ("shutil.rmtree", remove_two, other),
    ):
        monkeypatch.setattr(name, function)
        with pytest.raises(PowerCutError):
            prepare(each)
        monkeypatch.undo()
    prepare(experiment)
    assert files_of(Path(folder)) == files_of(tmp_path / "first")


def test_a_locked_corpus_is_refused(make_corpus: Make, tmp_path: Path) -> None:
    experiment = make_corpus({"train": CLEAN[:9]})
    (tmp_path / "prepared" / "work").mkdir(parents=True)
    with (tmp_path / "prepared" / "work" / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        assert error_of(experiment) == (
            "prepared: locked by another `nmt prepare`; wait for it to finish, or stop it"
        )
    prepare(experiment)


def test_one_process_sees_a_changed_dev_set(make_corpus: Make, tmp_path: Path) -> None:
    """A worker of Ray outlives a preparation."""
    found = []
    for leaked in (0, 2):
        experiment = make_corpus({"a": CLEAN[:4]}, dev=[CLEAN[leaked]], cleaning={"leaks": True})
        shutil.rmtree(tmp_path / "prepared", ignore_errors=True)
        prepare(experiment)
        found.append([(src, tgt) for *_, src, tgt in text_of(experiment)])
    assert found == [CLEAN[1:4], [*CLEAN[:2], CLEAN[3]]]
