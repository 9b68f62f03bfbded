import json
import resource
import time
from pathlib import Path

import numpy as np
import pytest
from toy_runs import corpus_of

from nmt.batching.schedule import Schedule
from nmt.config.experiment import Experiment
from nmt.training import ledger
from nmt.training.distributed import World
from nmt.training.ledger import Ledger, pack_rows, read_ledger, unpack_rows


def rows_of(run: Path) -> dict[int, list[int]]:
    return {entry.update: unpack_rows(entry.rows).tolist() for entry in read_ledger(run)}


def add_update(into: Ledger, update: int, rows: list[int], tgt_tokens: int = 5) -> None:
    into.add(update, [np.array(rows)], tgt_tokens, is_skipped=False)


@pytest.mark.parametrize("rows", [[], [0], [7, 3, 3, 70_000], list(range(500))])
def test_packed_rows_are_unpacked_sorted(rows: list[int]) -> None:
    assert unpack_rows(pack_rows(np.array(rows, dtype=np.int64))).tolist() == sorted(rows)


@pytest.mark.parametrize("packed", ["???", "AAAA", "eJxj"])
def test_invalid_packed_rows_are_a_value_error(packed: str) -> None:
    with pytest.raises(ValueError, match=r".+"):
        unpack_rows(packed)


def test_packed_rows_cannot_expand_without_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    packed = pack_rows(np.zeros(11, dtype=np.int64))
    monkeypatch.setattr(ledger, "MAX_PAIRS", 10)
    with pytest.raises(ValueError, match=r"^incomplete, or more than 10 rows$"):
        unpack_rows(packed)


ENTRY = {"update": 1, "pairs": 1, "tgt_tokens": 2, "is_skipped": False, "rows": "", "workers": 1,
         "chain": ""}  # fmt: skip


@pytest.mark.parametrize(
    ("line", "problem"),
    [
        (json.dumps(ENTRY | {"update": "1"}), "update: Input should be a valid integer"),
        (json.dumps(ENTRY | {"pairs": -1}), "pairs: Input should be greater than or equal to 0"),
        (json.dumps(ENTRY | {"is_skipped": 0}), "is_skipped: Input should be a valid boolean"),
        ("[]", "Input should be an object"),
        ("\udcff", "Invalid JSON: expected value at line 1 column 1"),
    ],
)
def test_entries_of_another_type_are_refused(line: str, problem: str, tmp_path: Path) -> None:
    file = tmp_path / ledger.NAME
    file.write_bytes(line.encode(errors="surrogateescape") + b"\n")
    with pytest.raises(ValueError, match=f"^line 1 is not a ledger entry: {problem}$"):
        list(read_ledger(tmp_path))
    # A run that resumes removes it.
    Ledger(tmp_path, 1, "", World())
    assert file.read_bytes() == b""


def test_the_ledger_equals_schedule_and_loader(toy: Experiment, one: Path) -> None:
    """Pure schedule (nmt/README.md, Guarantees)."""
    shards = corpus_of(toy).shards
    schedule = Schedule(shards.src_lengths, shards.tgt_lengths, toy.batching, toy.seed)
    planned = [np.sort(np.concatenate(schedule.update(n).micro_batches)) for n in range(20)]
    assert rows_of(one) == {n + 1: rows.tolist() for n, rows in enumerate(planned)}
    seen = json.loads((one / "seen-0.json").read_text())["rows"]
    assert rows_of(one) == {
        int(number) + 1: sorted(row for _, rows in parts for row in rows)
        for number, parts in seen.items()
    }


@pytest.mark.parametrize("folder", ["two", "three", "two-stopped", "one-then-two"])
def test_world_size_and_resume_do_not_change_the_ledger(one: Path, gloo: Path, folder: str) -> None:
    """Pure schedule, world-size independence, exact resume (nmt/README.md, Guarantees)."""
    first, second = list(read_ledger(one)), list(read_ledger(gloo / folder))
    assert [entry.chain for entry in first] == [entry.chain for entry in second]
    assert [entry.rows for entry in first] == [entry.rows for entry in second]


def test_the_ledger_has_the_world_size(gloo: Path) -> None:
    workers = [entry.workers for entry in read_ledger(gloo / "one-then-two")]
    assert workers == [1] * 7 + [2] * 13


def test_a_skipped_update_is_marked(faulty: Path) -> None:
    assert [entry.update for entry in read_ledger(faulty / "skips") if entry.is_skipped] == [3]


def test_resuming_removes_later_entries(tmp_path: Path) -> None:
    """Exact resume (nmt/README.md, Guarantees)."""
    first = Ledger(tmp_path, 0, "", World())
    for update, rows in ((1, [3, 1]), (2, [2])):
        add_update(first, update, rows)
    chain = first.write()
    add_update(first, 3, [9])
    first.write()
    again = Ledger(tmp_path, 2, chain, World())
    assert rows_of(tmp_path) == {1: [1, 3], 2: [2]}
    add_update(again, 3, [4])
    again.write()
    assert rows_of(tmp_path) == {1: [1, 3], 2: [2], 3: [4]}


def test_a_torn_line_is_removed(tmp_path: Path) -> None:
    """Exact resume (nmt/README.md, Guarantees)."""
    first = Ledger(tmp_path, 0, "", World())
    add_update(first, 1, [1])
    chain = first.write()
    with (tmp_path / ledger.NAME).open("a") as file:
        file.write('{"update": 2, "pa')
    Ledger(tmp_path, 1, chain, World())
    assert rows_of(tmp_path) == {1: [1]}


def test_the_ledger_is_fast(tmp_path: Path) -> None:
    """An update of 150 pairs costs well below 1 % of 0.1 s."""
    ledger_ = Ledger(tmp_path, 0, "", World())
    rows = list(range(0, 30_000, 200))
    started = time.process_time()
    for update in range(1, 201):
        add_update(ledger_, update, rows)
    ledger_.write()
    assert (time.process_time() - started) / 200 < 0.001


def test_entries_refused_by_a_full_disk_are_written_later(tmp_path: Path) -> None:
    """Exact resume (nmt/README.md, Guarantees)."""
    kept = Ledger(tmp_path, 0, "", World())
    add_update(kept, 1, [4, 2])
    kept.write()
    limit = (tmp_path / ledger.NAME).stat().st_size + 20
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    add_update(kept, 2, [7])
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, before[1]))
    try:
        with pytest.raises(OSError, match=r"No space left|File too large"):
            kept.write()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert rows_of(tmp_path) == {1: [2, 4]}
    add_update(kept, 3, [1])
    kept.write()
    assert rows_of(tmp_path) == {1: [2, 4], 2: [7], 3: [1]}
