"""Audit of runs, and of ledgers that were changed."""

import json
import re
import shutil
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from toy_runs import Run, go

from nmt.checkpoint.run_directory import list_checkpoints
from nmt.cli.audit import _lines
from nmt.errors import NmtError
from nmt.training import ledger, run_manifest
from nmt.training.audit import WorkerSpan, audit_run
from nmt.training.ledger import LedgerEntry, chain_digest, pack_rows, read_ledger, unpack_rows

Nmt = Callable[..., Any]
Change = Callable[[list[LedgerEntry]], list[LedgerEntry]]


@pytest.fixture
def run(one: Path, tmp_path: Path) -> Path:
    """Copy of a run: 20 updates, 40 pairs per epoch in 6 updates."""
    return Path(shutil.copytree(one, tmp_path / "run"))


def rewrite(run: Path, change: Change, link_again: bool = False) -> None:
    """Change the entries of a ledger, with a new chain or with the old one."""
    entries = change(list(read_ledger(run)))
    if link_again:
        chain = ""
        for number, entry in enumerate(entries):
            rows = unpack_rows(entry.rows)
            chain = chain_digest(chain, entry.update, entry.tgt_tokens, entry.is_skipped, rows)
            entries[number] = replace(entry, pairs=len(rows), chain=chain)
    lines = [json.dumps(asdict(entry)) + "\n" for entry in entries]
    (run / ledger.NAME).write_text("".join(lines))


def with_rows(entry: LedgerEntry, change: Callable[[list[int]], list[int]]) -> LedgerEntry:
    return replace(
        entry, rows=pack_rows(np.array(change(unpack_rows(entry.rows).tolist()), dtype=np.int64))
    )


def changed(number: int, change: Callable[[LedgerEntry], LedgerEntry]) -> Change:
    return lambda entries: [change(entry) if entry.update == number else entry for entry in entries]


@pytest.mark.parametrize("folder", ["two", "three", "two-stopped", "one-then-two"])
def test_any_world_size_and_resume_is_proven(one: Path, gloo: Path, folder: str) -> None:
    """Pure schedule, world-size independence, exact resume (nmt/README.md, Guarantees)."""
    found = audit_run(gloo / folder)
    assert found.is_proven, found.findings
    assert (found.updates, found.full_epochs, found.pairs) == (20, 3, 40)
    assert found.is_corpus_here
    assert found.checkpoints >= 2
    assert found.chain == audit_run(one).chain


def test_world_sizes_and_starts_are_listed(gloo: Path) -> None:
    found = audit_run(gloo / "one-then-two")
    assert found.workers == [WorkerSpan(1, 7, 1), WorkerSpan(8, 20, 2)]
    starts = [(start.reason, start.update, start.workers) for start in found.starts]
    assert starts == [("begun", 0, 1), ("continued", 7, 2)]


def test_skipped_updates_are_listed(faulty: Path) -> None:
    found = audit_run(faulty / "skips")
    assert (found.is_proven, found.skipped) == (True, [3])


def test_starts_are_described(gloo: Path) -> None:
    lines = "\n".join(_lines(audit_run(gloo / "one-then-two")))
    assert re.search(r"Z new run \| workers 1 on ", lines)
    assert re.search(r"Z resumed from update 7 \| workers 2 on ", lines)


def test_an_unfinished_run_is_proven_so_far(stopped: Path) -> None:
    found = audit_run(stopped)
    assert (found.is_proven, found.updates, found.full_epochs) == (True, 7, 1)


def test_a_run_with_subword_dropout_is_proven(toy_file: Path) -> None:
    run = Run("subword-dropout", overrides=["training.subword_dropout=0.1", "training.updates=8"])
    go(toy_file, run)
    found = audit_run(toy_file.parent / run.folder)
    assert (found.is_proven, found.full_epochs, found.findings) == (True, 1, [])


def test_without_the_corpus_pairs_are_counted(run: Path) -> None:
    manifest = json.loads((run / "manifest.json").read_text())
    (run / "manifest.json").write_text(json.dumps(manifest | {"prepared": "/not/here"}))
    found = audit_run(run)
    assert (found.is_proven, found.is_corpus_here) == (True, False)
    rewrite(run, changed(2, lambda entry: with_rows(entry, lambda rows: rows[1:])), True)
    assert "epoch 1: 39 pairs used, expected 40" in audit_run(run).findings


def test_updates_after_the_newest_complete_do_not_count(run: Path) -> None:
    """A resumed run trains them again."""
    (list_checkpoints(run)[-1] / "weights.safetensors").write_bytes(b"corrupt")
    found = audit_run(run)
    assert (found.is_proven, found.updates, found.full_epochs) == (True, 10, 1)


@pytest.mark.parametrize("link_again", [False, True])
def test_a_repeated_pair_is_found(run: Path, link_again: bool) -> None:
    first = unpack_rows(next(read_ledger(run)).rows).tolist()
    rewrite(
        run, changed(2, lambda entry: with_rows(entry, lambda rows: [*rows, first[0]])), link_again
    )
    found = audit_run(run)
    assert f"epoch 1: pair {first[0]} used more than once, in updates 1, 2" in found.findings
    assert ("update 2: the entry was changed" in found.findings) != link_again
    expected = {
        f"{folder.name}: its hash chain differs from the ledger" for folder in list_checkpoints(run)
    }
    assert expected <= set(found.findings) or not link_again


@pytest.mark.parametrize(
    ("change", "finding"),
    [
        (
            changed(2, lambda entry: with_rows(entry, lambda rows: rows[1:])),
            "update 2: its pairs are not those of the schedule",
        ),
        (
            changed(2, lambda entry: replace(entry, tgt_tokens=1)),
            "update 2: 1 target tokens, expected 156",
        ),
        (
            changed(2, lambda entry: replace(entry, is_skipped=True)),
            "update 2: the entry was changed",
        ),
        (
            lambda entries: [entry for entry in entries if entry.update != 5],
            "update 5 is not in the ledger",
        ),
        (
            lambda entries: [entry for entry in entries if not 5 <= entry.update <= 7],
            "updates 5 to 7 are not in the ledger",
        ),
        (
            lambda entries: [*entries[:6], entries[5], *entries[6:]],
            "update 6 is in the ledger twice",
        ),
        (
            lambda entries: entries[:-2],
            "the ledger ends after update 18, but the newest checkpoint has 20",
        ),
        (
            changed(4, lambda entry: replace(entry, rows="???")),
            "ledger.jsonl cannot be read after update 3: ",
        ),
    ],
)
def test_a_changed_ledger_is_found(run: Path, change: Any, finding: str) -> None:
    rewrite(run, change)
    found = audit_run(run)
    assert not found.is_proven
    assert any(line.startswith(finding) for line in found.findings), found.findings


def test_a_forged_chain_is_found(run: Path) -> None:
    """A forged chain differs from the one in the checkpoints."""
    rewrite(run, changed(20, lambda entry: replace(entry, is_skipped=True)), link_again=True)
    assert audit_run(run).findings == ["update-00000020: its hash chain differs from the ledger"]


# `nmt audit`.


def test_the_command_prints_what_is_proven(gloo: Path, nmt: Nmt) -> None:
    run = gloo / "one-then-two"
    answer = nmt(f"audit {run}")
    assert answer.status == 0
    lines = answer.out.splitlines()
    assert lines[:2] == [
        f"{run}: 20 updates up to the newest complete checkpoint | 40 pairs and 6 updates per "
        "epoch",
        "complete epochs: 3 | then 2 updates, 11 pairs",
    ]
    assert "updates 1 to 7 | workers 1" in lines
    assert "updates 8 to 20 | workers 2" in lines
    assert lines[-1] == (
        "verified: each pair used once in each complete epoch, at most once afterwards"
    )


def test_epochs_of_several_lengths_are_not_counted(toy_file: Path, nmt: Nmt) -> None:
    """Honest numbers (nmt/README.md, Guarantees)."""
    stages = "stages=[{from_update: 3, weights: {train: 0.5}}]"
    run = Run("staged", overrides=[stages, "training.updates=8"])
    go(toy_file, run)
    folder = toy_file.parent / run.folder
    answer = nmt(f"audit {folder}")
    assert answer.status == 0, answer.out
    first, second, *_ = answer.out.splitlines()
    assert first.endswith("6 updates per epoch of the first stage")
    assert second.startswith("compared with: prepared corpus")
    assert json.loads(nmt(f"audit {folder} --json").out)["full_epochs"] == 0


def test_the_claim_follows_corpus_weights(toy_file: Path, nmt: Nmt) -> None:
    settings = ["corpus.train.0.weight=1.5", "training.updates=8"]
    run = Run("weighted", overrides=settings)
    go(toy_file, run)
    answer = nmt(f"audit {toy_file.parent / run.folder}")
    assert answer.status == 0, answer.out
    assert answer.out.splitlines()[-1] == (
        "verified: each update used the pairs selected by the corpus weights"
    )


def test_the_command_exits_with_1_if_not_proven(run: Path, nmt: Nmt) -> None:
    rewrite(run, lambda entries: [entry for entry in entries if entry.update != 5])
    answer = nmt(f"audit {run}")
    assert answer.status == 1
    assert "ERROR: update 5 is not in the ledger" in answer.out.splitlines()
    assert answer.out.splitlines()[-1].startswith("NOT verified: ")
    as_json = nmt(f"audit {run} --json")
    assert as_json.status == 1
    found = json.loads(as_json.out)
    assert (found["is_proven"], found["updates"], found["full_epochs"]) == (False, 20, 2)


def test_a_run_that_cannot_be_audited_is_an_error(
    run: Path, toy_file: Path, tmp_path: Path, nmt: Nmt
) -> None:

    def refused(words: str) -> str:
        answer = nmt(f"audit {words}")
        assert (answer.status, answer.out) == (2, "")
        return str(answer.err)

    assert refused("gone") == "nmt: gone: no such directory; name a run\n"
    for folder in (tmp_path, toy_file.parent / "prepared"):
        assert refused(f"{folder}") == (
            f"nmt: {folder}: ledger.jsonl is missing, which a run writes before its first "
            "checkpoint; name the directory of a run\n"
        )
    assert refused(f"{run} --prepared {run}") == (
        f"nmt: {run}/manifest.json: manifest of a run, not of a prepared corpus; name the folder "
        "that `nmt prepare` wrote\n"
    )
    (run / run_manifest.NAME).rename(run / "elsewhere")
    assert refused(f"{run}") == (
        f"nmt: {run}/manifest.json: cannot be read: No such file or directory; name the directory "
        "of a run\n"
    )
    (run / "elsewhere").rename(run / run_manifest.NAME)
    shutil.rmtree(run / "checkpoints")
    assert refused(f"{run}") == (f"nmt: {run} has no complete checkpoint: nothing to audit yet\n")
    with pytest.raises(NmtError):
        audit_run(run)


def test_another_corpus_is_refused(run: Path, tmp_path: Path, toy_file: Path, nmt: Nmt) -> None:
    other = tmp_path / "other"
    shutil.copytree(toy_file.parent / "prepared", other)
    text = (other / "manifest.json").read_text()
    (other / "manifest.json").write_text(text.replace('"src": "en"', '"src": "fr"'))
    answer = nmt(f"audit {run} --prepared {other}")
    assert (answer.status, answer.err) == (
        2,
        f"nmt: {other} is not the corpus of the run: name the one that was at "
        f"{toy_file.parent}/prepared\n",
    )
