import json
import re
import subprocess
from pathlib import Path
from typing import Any

import pytest
import torch

import nmt
from nmt.errors import DataError
from nmt.training import run_manifest
from nmt.training.run_manifest import Origin


def tree_of(run: Path) -> Any:
    return json.loads((run / "manifest.json").read_text())


def test_a_manifest_has_settings_data_and_versions(one: Path, toy_file: Path) -> None:
    """Honest numbers (nmt/README.md, Guarantees)."""
    tree = tree_of(one)
    assert (tree["format"], tree["seed"], tree["pairs"], tree["left_out"]) == (1, 3, 40, 0)
    assert tree["experiment"]["batching"]["micro_batches"] == 3
    assert tree["prepared"] == str(toy_file.parent / "prepared")
    assert all(
        re.fullmatch(r"[0-9a-f]{64}", tree[f"{name}_sha256"]) for name in ("corpus", "tokenizer")
    )
    [start] = tree["starts"]
    assert (start["reason"], start["update"], start["workers"]) == ("begun", 0, 1)
    assert start["devices"] == "cpu"
    assert start["packages"]["torch"] == torch.__version__
    assert start["origin"]["code_sha256"] == run_manifest.code_sha256()
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ", start["time"])


def test_each_start_is_recorded(gloo: Path) -> None:
    starts = run_manifest.read_run_manifest(gloo / "two-stopped").starts
    assert [(start.reason, start.update) for start in starts] == [("begun", 0), ("continued", 8)]


def test_a_restart_differs_from_a_resume(stopped: Path, tmp_path: Path, toy: Any) -> None:
    from toy_runs import corpus_of

    from nmt.batching.schedule import Schedule
    from nmt.training.distributed import World

    shards = corpus_of(toy).shards
    schedule = Schedule(shards.src_lengths, shards.tgt_lengths, toy.batching, toy.seed)
    for update, launched in ((0, "1.0"), (7, "1.0"), (9, "2.0")):
        origin = Origin(launched, "host", "", "")
        run_manifest.add_start(tmp_path, toy, shards, schedule, World(), update, origin)
    starts = run_manifest.read_run_manifest(tmp_path).starts
    assert [start.reason for start in starts] == ["begun", "restarted", "continued"]


def test_environment_and_command_line_are_not_stored(one: Path) -> None:
    """Safe by default (nmt/README.md, Guarantees)."""
    import os
    import sys

    text = (one / "manifest.json").read_text()
    assert not any(value in text for value in (os.environ["PATH"], " ".join(sys.argv)))
    assert {"env", "environ", "argv", "command"}.isdisjoint(re.findall(r'"(\w+)":', text))


def test_a_corrupt_manifest_does_not_stop_a_run(toy_file: Path, stopped: Path) -> None:
    import shutil

    from toy_runs import Run, go

    run = toy_file.parent / "corrupt-manifest"
    shutil.copytree(stopped, run)
    (run / "manifest.json").write_text("{")
    with pytest.raises(DataError) as error:
        run_manifest.read_run_manifest(run)
    assert str(error.value) == (
        f"{run}/manifest.json: corrupt, not the manifest of a run: Invalid JSON: EOF while parsing "
        "an object at line 1 column 1; the next start of the run replaces it"
    )
    go(toy_file, Run(run.name))
    assert [start.update for start in run_manifest.read_run_manifest(run).starts] == [7]
    assert (run / "manifest.json.damaged").read_text() == "{"


def test_a_full_disk_does_not_stop_a_run(
    toy_file: Path, stopped: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import errno
    import os
    import shutil

    from toy_runs import Run, go

    def full(self: Path, *_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    run = toy_file.parent / "full-disk"
    shutil.copytree(stopped, run)
    with monkeypatch.context() as patch:
        patch.setattr(run_manifest, "asdict", lambda _: full(run))
        reason, _ = go(toy_file, Run(run.name, overrides=["training.updates=8"]))
    assert reason == "finished"
    assert [start.update for start in run_manifest.read_run_manifest(run).starts] == [0]


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        ({"pairs": "40"}, "pairs: Input should be a valid integer"),
        ({"updates_per_epoch": 0}, "updates_per_epoch: Input should be greater than or equal to 1"),
        ({"experiment": []}, "experiment: Input should be an object"),
        ({"starts": [{}]}, "starts.0.time: Field required"),
        (
            {"prepared": "a\0"},
            "prepared: Value error, it must be text without NUL bytes and lone surrogates",
        ),
        ({"format": "1"}, "format: Input should be a valid integer"),
    ],
)
def test_values_of_another_type_are_refused(
    change: dict[str, Any], problem: str, one: Path, tmp_path: Path
) -> None:
    tree = json.loads((one / "manifest.json").read_text())
    (tmp_path / "manifest.json").write_text(json.dumps(tree | change))
    with pytest.raises(DataError) as error:
        run_manifest.read_run_manifest(tmp_path)
    assert str(error.value) == (
        f"{tmp_path}/manifest.json: corrupt, not the manifest of a run: {problem}; the next start "
        "of the run replaces it"
    )


def test_a_manifest_of_another_format_is_refused(tmp_path: Path) -> None:
    (tmp_path / "manifest.json").write_text('{"format": 9}')
    with pytest.raises(DataError) as error:
        run_manifest.read_run_manifest(tmp_path)
    assert str(error.value) == (
        f"{tmp_path}/manifest.json: format 9, but this version reads format 1; use the version of "
        "nmt that wrote it"
    )


def test_the_code_digest_covers_names_and_contents(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(nmt, "__file__", str(tmp_path / "nmt/__init__.py"))
    (tmp_path / "nmt").mkdir()
    seen = set()
    for name, text in (("a.py", "1"), ("a.py", "2"), ("b.py", "2")):
        for old in (tmp_path / "nmt").iterdir():
            old.unlink()
        (tmp_path / "nmt" / name).write_text(text)
        seen.add(run_manifest.code_sha256())
    assert len(seen) == 3


def test_the_revision_is_from_git_or_the_job(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(nmt, "__file__", str(tmp_path / "nmt/__init__.py"))
    (tmp_path / "nmt").mkdir()
    assert run_manifest.revision() == ""
    git = ["git", "-C", str(tmp_path), "-c", "user.name=n", "-c", "user.email=e"]
    for words in (["init", "-q"], ["commit", "-q", "--allow-empty", "-m", "first"]):
        subprocess.run([*git, *words], check=True)
    head = run_manifest.revision()
    assert re.fullmatch(r"[0-9a-f]{40}", head)
    (tmp_path / "nmt/new.py").write_text("")
    assert run_manifest.revision() == f"{head}+changes"
    (tmp_path / "REVISION").write_text("abc\n")
    assert run_manifest.revision() == "abc"
