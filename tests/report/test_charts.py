"""Charts: round ticks, curves inside the frame, same values in the table."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nmt.report import charts

NUMBERS = st.floats(-1e9, 1e9, allow_nan=False)


@pytest.mark.parametrize(
    ("low", "high", "expected"),
    [
        (0, 11200, [0, 2500, 5000, 7500, 10000, 12500]),
        (23.3, 39.1, [20, 25, 30, 35, 40]),
        (0, 0.003, [0, 0.001, 0.002, 0.003]),
        (5, 5, [5, 6]),
        (0, 0, [0, 0.2]),
    ],
)
def test_ticks_are_round_numbers(low: float, high: float, expected: list[float]) -> None:
    assert charts.ticks(low, high) == pytest.approx(expected)


@given(NUMBERS, NUMBERS)
def test_ticks_enclose_all_values(one: float, other: float) -> None:
    low, high = sorted((one, other))
    ticks = charts.ticks(low, high)
    slack = 1e-6 * max(abs(low), abs(high), 1e-90)
    assert 2 <= len(ticks) <= 9
    assert ticks[0] <= low + slack
    assert ticks[-1] >= high - slack


@pytest.mark.parametrize(
    ("value", "text"), [(0.0, "0"), (12500, "12,500"), (39.0845, "39.08"), (0.000025, "2.5e-05")]
)
def test_numbers_have_about_four_digits(value: float, text: str) -> None:
    assert charts.number_text(value) == text


def test_curve_spans_the_frame() -> None:
    chart = charts.chart("Loss", "nats", [("a", [(0.0, 10.0), (100.0, 0.0)])])
    assert chart is not None
    [curve] = chart.curves
    right, bottom = charts.WIDTH - charts.RIGHT, charts.HEIGHT - charts.BOTTOM
    corners = [tuple(map(float, point.split(","))) for point in curve.path.split()]
    assert corners == [(charts.LEFT, charts.TOP), (right, bottom)]
    assert [text for _, _, text in curve.marks] == [
        "a, update 0: 10 nats", "a, update 100: 0 nats",
    ]  # fmt: skip


def test_long_curve_is_thinned_to_means() -> None:
    points = [(float(n), float(n % 2)) for n in range(1000)]
    thin = charts.thin_out(points)
    assert len(thin) == 200
    assert {y for _, y in thin} <= {0.4, 0.6}
    assert thin[-1][0] == 999.0
    chart = charts.chart("Loss", "", [("a", points)])
    assert chart is not None
    assert chart.is_thinned
    assert chart.curves[0].marks == []
    assert len(chart.rows) == charts.MAX_ROWS


def test_table_has_a_column_per_run() -> None:
    chart = charts.chart("BLEU", "", [("a", [(1.0, 5.0), (2.0, 6.0)]), ("b", [(1.0, 7.0)])])
    assert chart is not None
    assert chart.rows == [("1", ["5", "7"]), ("2", ["6", "–"])]


def test_restart_is_marked() -> None:
    points = [(0.0, 1.0), (100.0, 2.0)]
    chart = charts.chart("BLEU", "", [("a", points), ("b", points)], [[], [50.0, 900.0]])
    assert chart is not None
    middle = (charts.LEFT + charts.WIDTH - charts.RIGHT) / 2
    assert chart.breaks == [(middle, 1, "b: restart at 50")]


def test_no_values_give_no_chart() -> None:
    assert charts.chart("BLEU", "", [("a", [])]) is None
