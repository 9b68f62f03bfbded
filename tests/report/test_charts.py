"""Charts: ticks people can read, curves inside the frame, the same numbers in a table."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nmt.report import charts

NUMBERS = st.floats(-1e9, 1e9, allow_nan=False)


@pytest.mark.parametrize(
    ("low", "high", "wanted"),
    [
        (0, 11200, [0, 2500, 5000, 7500, 10000, 12500]),
        (23.3, 39.1, [20, 25, 30, 35, 40]),
        (0, 0.003, [0, 0.001, 0.002, 0.003]),
        (5, 5, [5, 6]),
        (0, 0, [0, 0.2]),
    ],
)
def test_ticks_are_round_numbers(low: float, high: float, wanted: list[float]) -> None:
    assert charts.ticks(low, high) == pytest.approx(wanted)


@given(NUMBERS, NUMBERS)
def test_ticks_span_all_numbers(one: float, other: float) -> None:
    low, high = sorted((one, other))
    found = charts.ticks(low, high)
    slack = 1e-6 * max(abs(low), abs(high), 1e-90)
    assert 2 <= len(found) <= 9
    assert found[0] <= low + slack
    assert found[-1] >= high - slack


@pytest.mark.parametrize(
    ("value", "text"), [(0.0, "0"), (12500, "12,500"), (39.0845, "39.08"), (0.000025, "2.5e-05")]
)
def test_numbers_as_people_read_them(value: float, text: str) -> None:
    assert charts.number_text(value) == text


def test_a_curve_goes_from_corner_to_corner() -> None:
    found = charts.chart("Loss", "nats", [("a", [(0.0, 10.0), (100.0, 0.0)])])
    assert found is not None
    [curve] = found.curves
    right, bottom = charts.WIDTH - charts.RIGHT, charts.HEIGHT - charts.BOTTOM
    corners = [tuple(map(float, point.split(","))) for point in curve.path.split()]
    assert corners == [(charts.LEFT, charts.TOP), (right, bottom)]
    assert [text for _, _, text in curve.marks] == [
        "a, update 0: 10 nats", "a, update 100: 0 nats",
    ]  # fmt: skip


def test_a_long_curve_is_means_of_even_parts_and_says_so() -> None:
    points = [(float(n), float(n % 2)) for n in range(1000)]
    thin = charts.thinned(points)
    assert len(thin) == 200
    assert {y for _, y in thin} <= {0.4, 0.6}
    assert thin[-1][0] == 999.0
    found = charts.chart("Loss", "", [("a", points)])
    assert found is not None
    assert found.is_thinned
    assert found.curves[0].marks == []
    assert len(found.rows) == charts.MAX_ROWS


def test_the_table_has_a_column_for_each_run_and_a_dash_where_one_has_nothing() -> None:
    found = charts.chart("BLEU", "", [("a", [(1.0, 5.0), (2.0, 6.0)]), ("b", [(1.0, 7.0)])])
    assert found is not None
    assert found.rows == [("1", ["5", "7"]), ("2", ["6", "–"])]


def test_a_restart_is_marked_where_it_was() -> None:
    points = [(0.0, 1.0), (100.0, 2.0)]
    found = charts.chart("BLEU", "", [("a", points), ("b", points)], [[], [50.0, 900.0]])
    assert found is not None
    middle = (charts.LEFT + charts.WIDTH - charts.RIGHT) / 2
    assert found.breaks == [(middle, 1, "b: restart at 50")]


def test_no_numbers_are_no_chart() -> None:
    assert charts.chart("BLEU", "", [("a", [])]) is None
