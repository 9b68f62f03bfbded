import gzip
import re
import tracemalloc
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nmt.batching.schedule import Schedule, Update
from nmt.config.experiment import BatchingConfig
from nmt.errors import DataError

Lengths = npt.NDArray[np.int64]
slow_settings = settings(deadline=None, max_examples=50)


class Case(NamedTuple):
    """Lengths without EOS and batching config; at least one pair is short enough."""

    src: list[int]
    tgt: list[int]
    config: BatchingConfig
    seed: int

    def schedule(self) -> Schedule:
        return Schedule(self.src, self.tgt, self.config, self.seed)

    def longer(self, row: int) -> int:
        return max(self.src[row], self.tgt[row]) + 1

    def kept(self) -> list[int]:
        return [row for row in range(len(self.src)) if self.longer(row) <= self.config.max_length]


@st.composite
def cases(draw: st.DrawFn) -> Case:
    max_length = draw(st.integers(2, 12))
    config = BatchingConfig(
        max_length=max_length,
        max_tokens=draw(st.integers(max_length, 40)),
        micro_batches=draw(st.integers(1, 4)),
        window=draw(st.integers(1, 20)),
    )
    pair = st.tuples(st.integers(0, 12), st.integers(0, 12))
    pairs = [(1, 1), *draw(st.lists(pair, max_size=60))]
    return Case([s for s, _ in pairs], [t for _, t in pairs], config, draw(st.integers(0, 3)))


def epoch_of(schedule: Schedule, epoch: int) -> list[Update]:
    per_epoch = schedule.updates_per_epoch
    return [schedule.update(number) for number in range(epoch * per_epoch, (epoch + 1) * per_epoch)]


def rows_of(update: Update) -> list[int]:
    return [int(row) for rows in update.micro_batches for row in rows]


def content(update: Update) -> tuple[int, int, list[list[int]], int]:
    parts = [rows.tolist() for rows in update.micro_batches]
    return update.number, update.epoch, parts, update.num_tgt_tokens


@slow_settings
@given(cases())
@pytest.mark.parametrize("num_workers", [1, 2, 3])
def test_each_epoch_uses_every_pair_once(num_workers: int, case: Case) -> None:
    """Pure schedule (nmt/README.md, Guarantees)."""
    for epoch in (0, 1):
        trained = [
            int(row)
            for update in epoch_of(case.schedule(), epoch)
            for rank in range(num_workers)
            for _, rows in update.share_of(rank, num_workers)
            for row in rows
        ]
        assert sorted(trained) == case.kept()


@slow_settings
@given(cases())
def test_micro_batches_stay_within_the_token_budget(case: Case) -> None:
    for update in epoch_of(case.schedule(), 0):
        for rows in update.micro_batches:
            longest = max((case.longer(row) for row in rows), default=0)
            assert len(rows) * longest <= case.config.max_tokens


@slow_settings
@given(cases())
def test_no_update_is_empty(case: Case) -> None:
    assert all(update.num_tgt_tokens > 0 for update in epoch_of(case.schedule(), 0))


def test_shorter_windows_have_one_update_fewer() -> None:
    config = BatchingConfig(max_length=4, max_tokens=4, micro_batches=1, window=2)
    schedule = Schedule([3, 3, 3, 3, 3], [3, 3, 3, 3, 3], config, seed=1)
    assert schedule.updates_per_epoch == 5
    assert sorted(rows_of(update)[0] for update in epoch_of(schedule, 0)) == [0, 1, 2, 3, 4]


@slow_settings
@given(cases())
def test_update_sizes_are_equal_in_all_epochs(case: Case) -> None:
    schedule = case.schedule()
    sizes = [sorted(len(rows_of(update)) for update in epoch_of(schedule, n)) for n in range(3)]
    assert sizes[0] == sizes[1] == sizes[2]


@slow_settings
@given(cases(), st.data())
def test_seeking_gives_the_same_update(case: Case, data: st.DataObject) -> None:
    """Pure schedule (nmt/README.md, Guarantees)."""
    one_by_one = case.schedule()
    last = 3 * one_by_one.updates_per_epoch - 1
    expected = [content(one_by_one.update(number)) for number in range(last + 1)]
    numbers = data.draw(st.lists(st.integers(0, last), min_size=1, max_size=5))
    seeking = case.schedule()
    assert [content(seeking.update(number)) for number in numbers] == [
        expected[number] for number in numbers
    ]


@slow_settings
@given(cases())
def test_ranks_share_the_micro_batches_of_an_update(case: Case) -> None:
    """World-size independence (nmt/README.md, Guarantees)."""
    update = case.schedule().update(0)
    complete = list(update.share_of(0, 1))
    for num_workers in (2, 3):
        parts = [pair for rank in range(num_workers) for pair in update.share_of(rank, num_workers)]
        assert [index for index, _ in sorted(parts, key=lambda pair: pair[0])] == [
            index for index, _ in complete
        ]
        for index, rows in parts:
            assert rows.tolist() == complete[index][1].tolist()


@slow_settings
@given(cases())
def test_target_tokens_include_eos(case: Case) -> None:
    for update in epoch_of(case.schedule(), 0):
        assert update.num_tgt_tokens == sum(case.tgt[row] + 1 for row in rows_of(update))


@slow_settings
@given(cases())
def test_pairs_left_out_are_counted(case: Case) -> None:
    """Line in, line out (nmt/README.md, Guarantees)."""
    schedule = case.schedule()
    assert schedule.num_pairs == len(case.kept())
    assert schedule.num_left_out == len(case.src) - len(case.kept())


@slow_settings
@given(cases())
def test_micro_batches_differ_by_at_most_one_pair(case: Case) -> None:
    for update in epoch_of(case.schedule(), 0):
        sizes = {len(rows) for rows in update.micro_batches}
        assert len(update.micro_batches) == case.config.micro_batches
        assert max(sizes) - min(sizes) <= 1


def test_rank_takes_every_nth_micro_batch() -> None:
    config = BatchingConfig(max_length=4, max_tokens=4, micro_batches=5)
    update = Schedule([3] * 5, [3] * 5, config, seed=1).update(0)
    assert [index for index, _ in update.share_of(0, 2)] == [0, 2, 4]
    assert [index for index, _ in update.share_of(1, 2)] == [1, 3]


def uniform(seed: int = 1) -> Schedule:
    config = BatchingConfig(max_length=10, max_tokens=40, micro_batches=2, window=50)
    return Schedule([5] * 200, [5] * 200, config, seed)


def test_epochs_differ() -> None:
    schedule = uniform()
    first, second = ([rows_of(update) for update in epoch_of(schedule, epoch)] for epoch in (0, 1))
    assert first != second


def test_seeds_differ() -> None:
    assert content(uniform(1).update(0)) != content(uniform(2).update(0))


def test_updates_are_numbered_across_epochs() -> None:
    schedule = uniform()
    update = schedule.update(schedule.updates_per_epoch + 3)
    assert (update.number, update.epoch) == (schedule.updates_per_epoch + 3, 1)


def test_corpus_of_only_long_pairs_is_refused() -> None:
    """Actionable errors (nmt/README.md, Guarantees)."""
    with pytest.raises(DataError) as error:
        Schedule([4, 9], [2, 3], BatchingConfig(max_length=4), seed=1)
    assert str(error.value) == (
        "none of the 2 prepared pairs has at most batching.max_length (4) tokens including EOS: "
        "increase it, or check the corpus"
    )


def test_pair_of_maximum_length_is_kept() -> None:
    schedule = Schedule([3, 4], [3, 3], BatchingConfig(max_length=4), seed=1)
    assert rows_of(schedule.update(0)) == [0]


def efficiency(src: Lengths, tgt: Lengths) -> float:
    """Tokens over padded positions of both sides, in the first epoch of the default config."""
    padded = 0
    for update in epoch_of(Schedule(src, tgt, BatchingConfig(), seed=1), 0):
        for rows in update.micro_batches:
            padded += len(rows) * int(src[rows].max() + tgt[rows].max() + 2)
    return float(src.sum() + tgt.sum() + 2 * len(src)) / padded


def test_padding_is_under_10_percent_for_captions() -> None:
    random = np.random.default_rng(1)
    src = random.normal(15, 6, 20_000).clip(3, 45).astype(int)
    tgt = (src + random.normal(0.5, 2, 20_000)).clip(3, 45).astype(int)
    assert efficiency(src, tgt) >= 0.9


def test_padding_is_under_10_percent_on_multi30k(shared_data: Path) -> None:
    """Lengths in words and punctuation, about as many as subwords."""
    lengths = []
    for side in ("en", "de"):
        with gzip.open(
            shared_data / "multi30k" / f"train.{side}.gz", "rt", encoding="utf-8"
        ) as text:
            lengths.append(np.array([len(re.findall(r"\w+|[^\w\s]", line)) for line in text]))
    assert efficiency(*lengths) >= 0.9


# Corpus weights: rows 0 to 39 are the first corpus, 40 to 99 the second.

CORPORA = [0] * 40 + [1] * 60
LENGTHS = [5 + (7 * row) % 13 for row in range(100)]
WEIGHTED = BatchingConfig(max_length=20, max_tokens=60, micro_batches=2, window=30)


def weighted(*weights: float, seed: int = 1) -> Schedule:
    return Schedule(LENGTHS, LENGTHS, WEIGHTED, seed, CORPORA, weights)


def count_rows(schedule: Schedule, epoch: int) -> list[int]:
    rows = [row for update in epoch_of(schedule, epoch) for row in rows_of(update)]
    return np.bincount(rows, minlength=100).tolist()


def test_weights_of_1_change_nothing() -> None:
    """Pure schedule (nmt/README.md, Guarantees)."""
    plain = Schedule(LENGTHS, LENGTHS, WEIGHTED, 1)
    for actual, expected in zip(epoch_of(weighted(1, 1), 1), epoch_of(plain, 1), strict=True):
        assert content(actual) == content(expected)


def test_weight_2_uses_each_pair_twice() -> None:
    """Pure schedule (nmt/README.md, Guarantees)."""
    for epoch in range(3):
        assert count_rows(weighted(2, 1), epoch) == [2] * 40 + [1] * 60


def test_weight_0_leaves_a_corpus_out() -> None:
    """Pure schedule (nmt/README.md, Guarantees)."""
    assert count_rows(weighted(1, 0), 0) == [1] * 40 + [0] * 60


def test_weight_one_half_draws_another_half_each_epoch() -> None:
    """Pure schedule (nmt/README.md, Guarantees)."""
    schedule = weighted(1, 0.5)
    epochs = [count_rows(schedule, epoch) for epoch in range(40)]
    for times in epochs:
        assert times[:40] == [1] * 40
        assert sum(times[40:]) == 30
        assert max(times[40:]) == 1
    assert epochs[0] != epochs[1]
    share = np.mean(epochs, axis=0)[40:]
    assert (abs(share - 0.5) < 0.35).all()
    assert count_rows(weighted(1, 0.5), 7) == epochs[7]


def test_weights_keep_the_token_budget() -> None:
    """Pure schedule (nmt/README.md, Guarantees)."""
    schedule = weighted(1.5, 0.3)
    assert schedule.num_pairs == 60 + 18
    for update in (update for epoch in range(5) for update in epoch_of(schedule, epoch)):
        for rows in update.micro_batches:
            assert len(rows) * max((LENGTHS[row] + 1 for row in rows), default=0) <= 60
        assert update.num_tgt_tokens == sum(LENGTHS[row] + 1 for row in rows_of(update))


@pytest.mark.parametrize("later", [None, 30])
def test_largest_bounds_all_micro_batches(later: int | None) -> None:
    other = WEIGHTED.model_copy(update={"max_tokens": 150})
    stages = [(later, Schedule(LENGTHS, LENGTHS, other, 2))] if later else []
    schedule = Schedule(LENGTHS, LENGTHS, WEIGHTED, 1, CORPORA, (1.5, 0.3), stages)
    num_pairs, length = schedule.largest
    assert num_pairs * length <= (150 if later else 60)
    sizes = [
        len(rows) * max((LENGTHS[row] + 1 for row in rows), default=0)
        for number in range(100)
        for rows in schedule.update(number).micro_batches
    ]
    assert max(sizes) <= num_pairs * length < 1.2 * max(sizes)


def test_weights_that_leave_no_pair_are_refused() -> None:
    """Actionable errors (nmt/README.md, Guarantees)."""
    with pytest.raises(DataError) as caught:
        weighted(0.001, 0.002)
    assert str(caught.value) == (
        "the weights of corpus.train (0.001, 0.002) leave none of 100 prepared pairs in an epoch: "
        "increase one of them"
    )


def test_later_schedule_starts_at_its_update() -> None:
    """Pure schedule (nmt/README.md, Guarantees)."""
    later = weighted(0.5, 1, seed=2)
    both = Schedule(LENGTHS, LENGTHS, WEIGHTED, 1, CORPORA, [1, 1], [(7, later)])
    for number in (0, 6):
        assert content(both.update(number)) == content(weighted(1, 1).update(number))
    for number in (200, 7, 8):
        update, expected = both.update(number), weighted(0.5, 1, seed=2).update(number - 7)
        assert update.number == number
        assert content(update)[2:] == content(expected)[2:]


def test_epochs_count_on_over_later_schedules() -> None:
    """Noise and other draws by epoch would repeat otherwise."""
    first, *others = [weighted(1, 1, seed=seed) for seed in (1, 2, 3)]
    length = first.updates_per_epoch
    starts = [length + 1, 3 * length]  # in the second epoch; in the second epoch of its own
    later = list(zip(starts, others, strict=True))
    schedule = Schedule(LENGTHS, LENGTHS, WEIGHTED, 1, CORPORA, [1, 1], later)
    found = [schedule.update(number).epoch for number in range(5 * length)]
    own = [number // length for number in range(2 * length)]
    expected = [
        *own[: length + 1],
        *(2 + epoch for epoch in own[:-1]),
        *(4 + epoch for epoch in own),
    ]
    assert found == expected[: 5 * length]


def test_epochs_have_the_length_of_their_stage() -> None:
    first, half = weighted(1, 1), weighted(0.5, 0)
    one, other = first.updates_per_epoch, half.updates_per_epoch
    assert other < one
    schedule = Schedule(LENGTHS, LENGTHS, WEIGHTED, 1, CORPORA, [1, 1], [(one, half), (99, first)])
    assert [schedule.epochs_at(update) for update in (0, one, one + other)] == [0, 1, 2]
    assert schedule.epochs_at(99 + 3 * one) == pytest.approx(4 + (99 - one) / other)


@pytest.mark.parametrize(
    ("max_length", "weights", "limit"), [(128, (), 16), (1000, (), 18), (128, (1.5, 0.5), 28)]
)
def test_a_schedule_holds_few_bytes_per_pair(
    max_length: int, weights: tuple[float, ...], limit: int
) -> None:
    """Bounded memory (nmt/README.md, Guarantees)."""
    num = 100_000
    lengths = np.random.default_rng(1).integers(1, 127, num, dtype=np.int32)
    config = BatchingConfig(max_length=max_length)
    corpora = np.arange(num) % 2
    tracemalloc.start()
    schedule = Schedule(lengths, lengths, config, 1, corpora, weights)
    for epoch in range(2):
        schedule.update(epoch * schedule.updates_per_epoch)
    found, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    # The cuts that all epochs share take memory besides, which does not grow with the corpus.
    assert found < limit * num
    assert peak < 3 * limit * num


def test_pairs_of_equal_length_meet_others_in_each_epoch() -> None:
    config = BatchingConfig(max_length=10, max_tokens=40, micro_batches=1, window=200)
    schedule = Schedule([5] * 200, [5] * 200, config, 1)
    first, second = (
        {frozenset(rows_of(update)) for update in epoch_of(schedule, epoch)} for epoch in (0, 1)
    )
    assert not first & second


def test_updates_of_an_epoch_are_not_sorted_by_length() -> None:
    lengths = np.arange(200) % 20 + 1
    config = BatchingConfig(max_length=30, max_tokens=60, micro_batches=1, window=200)
    schedule = Schedule(lengths, lengths, config, 1)
    found = [int(lengths[rows_of(update)].max()) for update in epoch_of(schedule, 0)]
    assert found != sorted(found)
