"""The file of dropped and repaired pairs, and preparing again with --force."""

import errno
import fcntl
import logging
import os
import shutil
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import IO, Any

import pytest
from toy_corpora import CLEAN, Make, error_of, text_of, write

from nmt.config.experiment import Experiment
from nmt.corpus.doctor import examine
from nmt.corpus.folder_lock import lock_alone
from nmt.corpus.prepare import prepare
from nmt.corpus.prepared import open_prepared

ROWS = [
    ("A dog\trun\x07s.", "Ein Hund rennt."),
    ("", "Nichts."),
    ("A cat &amp; a dog.", "Eine Katze &amp; ein Hund."),
    CLEAN[0],
    CLEAN[0],
]


@pytest.mark.parametrize("shard_pairs", [3, 100])
def test_each_dropped_or_repaired_pair_is_listed(
    make_corpus: Make, tmp_path: Path, shard_pairs: int
) -> None:
    """Line in, line out (nmt/README.md, Guarantees)."""
    file = tmp_path / "dropped.tsv"
    experiment = make_corpus(
        {"toy": ROWS}, cleaning={"html_entities": True}, shard_pairs=shard_pairs
    )
    prepare(experiment, dropped=file)
    assert file.read_text(encoding="utf-8").splitlines() == [
        "corpus\tline\trule\taction\tsrc\ttgt",
        "toy\t1\tcontrol_characters\trepaired\tA dog\\trun\\x07s.\tEin Hund rennt.",
        "toy\t2\tempty\tdropped\t\tNichts.",
        "toy\t3\thtml_entities\trepaired\tA cat &amp; a dog.\tEine Katze &amp; ein Hund.",
        f"toy\t5\tduplicates\tdropped\t{CLEAN[0][0]}\t{CLEAN[0][1]}",
    ]


def test_the_file_needs_a_new_preparation(make_corpus: Make, tmp_path: Path) -> None:
    experiment = make_corpus({"toy": ROWS})
    prepare(experiment)

    def again(experiment: Experiment) -> None:
        prepare(experiment, dropped=tmp_path / "dropped.tsv")

    assert error_of(experiment, again) == (
        "prepared: prepared already, so no pair is dropped now; add --force to prepare again, or "
        "leave out --dropped"
    )


def test_force_replaces_the_folder(make_corpus: Make, tmp_path: Path) -> None:
    experiment = make_corpus({"toy": CLEAN[:3]})
    prepare(experiment)
    write(experiment, "toy.en", "One dog.\n")
    write(experiment, "toy.de", "Ein Hund.\n")
    manifest = prepare(experiment, is_forced=True)
    assert manifest.pairs == 1
    assert text_of(experiment) == [("toy", 1, "One dog.", "Ein Hund.")]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["prepared", "raw"]
    assert not (tmp_path / "prepared/work").exists()


@pytest.mark.parametrize("ending", ["new", "old", "doctor"])
@pytest.mark.parametrize("call", [partial(prepare, is_forced=True), examine])
def test_the_corpus_of_another_experiment_stays(
    make_corpus: Make, tmp_path: Path, ending: str, call: Callable[[Experiment], object]
) -> None:
    """Safe by default (nmt/README.md, Guarantees)."""
    other = make_corpus({"toy": CLEAN[:2]}, prepared=f"prepared.{ending}")
    prepare(other)
    experiment = make_corpus({"toy": CLEAN[:3]})
    prepare(experiment)
    call(experiment)
    assert len(text_of(other)) == 2
    assert len(text_of(experiment)) == 3


def test_preparing_renames_no_other_corpus(make_corpus: Make) -> None:
    for name in ("prepared.old", "prepared.new"):
        prepare(make_corpus({"toy": CLEAN[:2]}, prepared=name))
    assert prepare(make_corpus({"toy": CLEAN[:3]})).pairs == 3


def test_an_interrupted_replacement_is_finished(make_corpus: Make, tmp_path: Path) -> None:
    experiment = make_corpus({"toy": CLEAN[:3]})
    prepare(experiment)
    shutil.copytree(tmp_path / "prepared", tmp_path / ".prepared.old")
    (tmp_path / "prepared").rename(tmp_path / ".prepared.new")
    assert prepare(experiment).pairs == 3
    assert sorted(path.name for path in tmp_path.iterdir()) == ["prepared", "raw"]


@pytest.mark.parametrize("folder", ["prepared", ".prepared.old"])
def test_force_deletes_no_other_files(make_corpus: Make, tmp_path: Path, folder: str) -> None:
    experiment = make_corpus({"toy": CLEAN[:3]})
    prepare(experiment)
    (tmp_path / folder).mkdir(exist_ok=True)
    (tmp_path / folder / "notes.txt").write_text("mine")
    error = error_of(experiment, lambda experiment: prepare(experiment, is_forced=True))
    assert error == (
        f"{folder}: holds other files (notes.txt), which --force would delete; move them, or set "
        "corpus.prepared to another folder"
    )
    assert (tmp_path / folder / "notes.txt").read_text() == "mine"


@pytest.mark.parametrize("file", ["tests/test_mine.py", "shards/0.bin", "notes.txt"])
def test_other_folders_are_not_used(make_corpus: Make, tmp_path: Path, file: str) -> None:
    """Unfinished work is emptied: folders of the same names must not be."""
    experiment = make_corpus({"toy": CLEAN[:3]})
    path = tmp_path / "prepared" / file
    path.parent.mkdir(parents=True)
    path.write_text("mine")
    assert error_of(experiment, prepare) == (
        f"prepared: holds other files ({file.partition('/')[0]}), which preparing could replace; "
        "set corpus.prepared to a new or empty folder"
    )
    assert path.read_text() == "mine"
    path.unlink()


def test_force_is_refused_while_a_run_reads(make_corpus: Make, tmp_path: Path) -> None:
    experiment = make_corpus({"toy": CLEAN[:3]})
    prepare(experiment)
    shards, _ = open_prepared(experiment)
    error = error_of(experiment, lambda experiment: prepare(experiment, is_forced=True))
    assert error == (
        "prepared: in use by a run or another command; wait for it to finish or stop it, then run "
        "the same command again"
    )
    assert len(shards) == 3
    del shards
    assert prepare(experiment, is_forced=True).pairs == 3


def force_error(experiment: Experiment) -> str:
    return error_of(experiment, lambda experiment: prepare(experiment, is_forced=True))


@pytest.mark.parametrize(
    ("prepared", "link", "target"),
    [("prepared", "prepared", "disk/corpus"), ("parent/prepared", "parent", "disk")],
)
def test_force_replaces_the_folder_behind_a_link(
    prepared: str, link: str, target: str, make_corpus: Make, tmp_path: Path
) -> None:
    (tmp_path / "disk").mkdir()
    (tmp_path / link).symlink_to(target)
    experiment = make_corpus({"toy": CLEAN[:3]}, prepared=prepared)
    prepare(experiment)
    for number in (1, 2):
        write(experiment, "toy.en", "One dog.\n" * number)
        write(experiment, "toy.de", "Ein Hund.\n" * number)
        assert prepare(experiment, is_forced=True).corpora[0].read == number
        assert text_of(experiment) == [("toy", 1, "One dog.", "Ein Hund.")]
        assert (tmp_path / link).is_symlink()
        assert len(list((tmp_path / "disk").iterdir())) == 1
    assert sorted(path.name for path in tmp_path.iterdir()) == ["disk", link, "raw"]


def test_force_is_refused_on_a_mount_point_before_work(
    make_corpus: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Actionable errors (nmt/README.md, Guarantees)."""
    experiment = make_corpus({"toy": CLEAN[:3]})
    prepare(experiment)
    monkeypatch.setattr(os.path, "ismount", lambda path: Path(path).name == "prepared")
    assert force_error(experiment) == (
        "prepared: a mount point, which --force cannot replace; set corpus.prepared to a folder in "
        "it"
    )
    assert not (tmp_path / ".prepared.new").exists()


@pytest.mark.parametrize("code", [errno.EBUSY, errno.EXDEV, errno.ENOTDIR])
def test_a_folder_that_cannot_be_renamed_stays(
    code: int, make_corpus: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Actionable errors (nmt/README.md, Guarantees)."""
    experiment = make_corpus({"toy": CLEAN[:3]})
    prepare(experiment)
    rename = Path.rename

    def refuse(path: Path, target: Path) -> Path:
        if path.name == "prepared":
            raise OSError(code, os.strerror(code))
        return rename(path, target)

    monkeypatch.setattr(Path, "rename", refuse)
    assert force_error(experiment) == (
        f"prepared: cannot be renamed to .prepared.old: {os.strerror(code)}; set corpus.prepared "
        "to another folder"
    )
    assert len(text_of(experiment)) == 3


def test_exclusive_locks_work_on_nfs(
    make_corpus: Make,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """NFS grants them only on files that are open for writing (flock(2))."""
    prepare(make_corpus({"toy": CLEAN[:3]}))
    manifest = tmp_path / "prepared/manifest.json"
    before = manifest.read_bytes()
    flock = fcntl.flock

    def lock_as_nfs(file: IO[Any], operation: int) -> None:
        if operation & fcntl.LOCK_EX and not file.writable():
            raise OSError(errno.EBADF, os.strerror(errno.EBADF))
        flock(file, operation)

    monkeypatch.setattr(fcntl, "flock", lock_as_nfs)
    with caplog.at_level(logging.WARNING), lock_alone(manifest.parent):
        assert not caplog.messages
    assert manifest.read_bytes() == before


@pytest.mark.parametrize("code", [errno.EACCES, errno.EROFS])
def test_a_read_only_manifest_is_locked(
    code: int, make_corpus: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    experiment = make_corpus({"toy": CLEAN[:3]})
    prepare(experiment)
    open_file = Path.open

    def refuse(path: Path, mode: str = "r", *args: Any, **options: Any) -> Any:
        if mode == "rb+":
            raise OSError(code, os.strerror(code))
        return open_file(path, mode, *args, **options)

    monkeypatch.setattr(Path, "open", refuse)
    with lock_alone(tmp_path / "prepared"):
        assert "in use by a run or another command" in force_error(experiment)
