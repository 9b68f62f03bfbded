import threading
import time
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

from nmt.batching.loader import Loader, split_by_length
from nmt.batching.schedule import Schedule
from nmt.config.experiment import BatchingConfig
from nmt.corpus.subword import EOS

SCHEDULE = Schedule(
    [3] * 20, [3] * 20, BatchingConfig(max_length=4, max_tokens=4, micro_batches=3), seed=1
)


class FakeShards:
    """Pair n is ([n, n, n], [n, n, n]); reading row `broken` fails."""

    def __init__(self, broken: int = -1) -> None:
        self.broken = broken

    def pairs(self, rows: Any) -> list[tuple[Any, Any]]:
        if self.broken in rows:
            raise OSError("disk error")
        return [(np.full(3, row), np.full(3, row)) for row in rows]


@pytest.fixture(autouse=True)
def _no_thread_remains() -> Iterator[None]:
    yield
    assert not loader_threads()


def loader_threads() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name == "loader"]


def load(updates: range, **options: Any) -> list[tuple[int, list[tuple[int, list[int], Any]]]]:
    """Return (number, [(index, rows, sources) of each micro-batch]) of each update."""
    loader = Loader(FakeShards(), SCHEDULE, updates, **options)  # type: ignore[arg-type]
    loaded = [
        (update.number, [(m.index, m.rows.tolist(), m.batch.src.tolist()) for m in micro_batches])
        for update, micro_batches in loader
    ]
    loader.close()
    return loaded


def test_batches_follow_the_schedule() -> None:
    for number, micro_batches in load(range(10)):
        expected = [rows.tolist() for rows in SCHEDULE.update(number).micro_batches]
        assert [rows for _, rows, _ in micro_batches] == expected
        for _, rows, src in micro_batches:
            assert [ids[0] for ids in src] == (rows or [EOS])


@pytest.mark.parametrize("prefetch", [1, 2, 50])
def test_batches_do_not_depend_on_the_prefetch(prefetch: int) -> None:
    assert load(range(10), prefetch=prefetch) == load(range(10))


def test_loading_starts_at_any_update() -> None:
    """Exact resume (nmt/README.md, Guarantees)."""
    assert load(range(6, 10)) == load(range(10))[6:]


@pytest.mark.parametrize("num_workers", [2, 3])
def test_rank_loads_its_own_micro_batches(num_workers: int) -> None:
    """World-size independence (nmt/README.md, Guarantees)."""
    alone = load(range(10))
    for rank in range(num_workers):
        shared = load(range(10), rank=rank, num_workers=num_workers)
        expected = [(number, parts[rank::num_workers]) for number, parts in alone]
        assert shared == expected


def test_no_updates_end_at_once() -> None:
    assert load(range(0)) == []


def test_error_of_the_thread_is_raised_by_the_iterator() -> None:
    broken = FakeShards(broken=int(SCHEDULE.update(2).micro_batches[0][0]))
    loader = Loader(broken, SCHEDULE, range(4))  # type: ignore[arg-type]
    seen = []
    with pytest.raises(OSError, match="disk error"):
        seen.extend(update.number for update, _ in loader)
    loader.close()
    assert seen in ([], [0, 1])


class Lengthen:
    """Noise that makes the source of row n have `lengths[n]` tokens."""

    def __init__(self, lengths: dict[int, int]) -> None:
        self.lengths = lengths

    def apply(self, pairs: Any, rows: Any, epoch: int, max_length: int) -> list[tuple[Any, Any]]:
        return [
            (np.full(self.lengths.get(row, 3), row), tgt)
            for row, (_, tgt) in zip(rows.tolist(), pairs, strict=True)
        ]


@pytest.mark.parametrize(("length", "parts"), [(3, [[0, 1]]), (5, [[0, 1]]), (6, [[0], [1]])])
def test_sources_that_grow_much_come_in_a_part_of_their_own(
    length: int, parts: list[list[int]]
) -> None:
    # Two pairs of 4 tokens, EOS included: a source may grow to 6 beside the other.
    config = BatchingConfig(max_length=8, max_tokens=8, micro_batches=1)
    loader = Loader(
        FakeShards(), Schedule([3, 3], [3, 3], config, seed=1), range(5),  # type: ignore[arg-type]
        noise=Lengthen({1: length}),  # type: ignore[arg-type]
    )  # fmt: skip
    for _, micro_batches in loader:
        assert sorted(sorted(each.rows.tolist()) for each in micro_batches) == parts
        assert {each.index for each in micro_batches} == {0}
        for each in micro_batches:
            lengths = {1: length + 1}
            assert each.batch.src_lengths.tolist() == [lengths.get(n, 4) for n in each.rows]


def test_close_ends_the_thread() -> None:
    loader = Loader(FakeShards(), SCHEDULE, range(10**9), prefetch=2)  # type: ignore[arg-type]
    next(iter(loader))
    assert loader_threads()
    started = time.perf_counter()
    loader.close()
    assert not loader_threads()
    assert time.perf_counter() - started < 5


def test_close_is_idempotent() -> None:
    loader = Loader(FakeShards(), SCHEDULE, range(10), prefetch=1)  # type: ignore[arg-type]
    loader.close()
    loader.close()


def test_long_pairs_get_parts_within_the_budget() -> None:
    # 4 pairs of at most 4 tokens, EOS included, in 16; noise has lengthened three of them.
    parts = split_by_length([3, 9, 5, 3, 6], longest=3, max_tokens=16)
    assert parts == [[0, 3], [1], [4, 2]]
    assert split_by_length([3, 2], longest=3, max_tokens=16) == [[0, 1]]
    assert split_by_length([7], longest=3, max_tokens=4) == [[0]]
