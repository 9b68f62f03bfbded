import pytest

from nmt.bench.timing import Timing, relative_iqr, take_turns


def test_functions_take_turns_after_a_warm_up() -> None:
    done: list[str] = []
    timings = take_turns({name: lambda name=name: done.append(name) for name in "ab"}, 0, 2)
    assert "".join(done) == "ababab"
    assert [len(timing.walls_s) for timing in timings.values()] == [2, 2]


def test_median_and_spread_of_repeats() -> None:
    timing = Timing((1.0, 2.0, 3.0, 4.0, 100.0), (1.0, 1.0, 1.0, 1.0, 7.0))
    assert (timing.wall_s, timing.cpu_s) == (3.0, 1.0)
    assert timing.spread == pytest.approx(2 / 3)
    assert timing.busy == pytest.approx(0.1)


def test_single_value_has_no_spread() -> None:
    assert relative_iqr((5.0,)) == 0.0
