"""Charts: numbers in, the places of lines, ticks and words out; the template draws them as SVG.

Six plain line charts need no drawing library: the ones at hand bring scripts, fonts or megabytes,
and none has a table beside each picture for those who cannot see it. So this is arithmetic alone.
A curve of more than MAX_POINTS numbers is drawn through the means of even parts of it.
"""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

WIDTH, HEIGHT = 560, 280
LEFT, RIGHT, TOP, BOTTOM = 64, 28, 12, 48
"""Space around the curves, for the ticks."""
MAX_POINTS = 240
MAX_MARKED = 40
"""Curves of no more points than this have each of them marked."""
MAX_ROWS = 12
"""Rows of the table beside a chart."""

Points = Sequence[tuple[float, float]]


@dataclass(frozen=True)
class Curve:
    """What one run did."""

    run: int
    """Number of the run: its colour and its dashes."""
    name: str
    path: str
    """The points of an SVG polyline."""
    marks: list[tuple[float, float, str]]
    """Where points are marked, and what they say."""


@dataclass(frozen=True)
class Chart:
    """One picture, and the same as a table."""

    title: str
    unit: str
    curves: list[Curve]
    x_ticks: list[tuple[float, str]]
    y_ticks: list[tuple[float, str]]
    breaks: list[tuple[float, int, str]]
    """Where a run was restarted: the place, the number of the run, and what to say."""
    rows: list[tuple[str, list[str]]]
    """Of the table: an update, and the value of each run there or shortly before."""
    is_thinned: bool
    """Some points are means of several numbers."""


def chart(
    title: str,
    unit: str,
    series: Sequence[tuple[str, Points]],
    restarts: Sequence[Sequence[float]] = (),
) -> Chart | None:
    """Put the curves of all runs in one picture.

    Args:
        title, unit: of the numbers.
        series: of each run, its name and (update, value) in order; may be empty.
        restarts: of each run, the updates after which it was restarted.

    Returns:
        Nothing where no run has a number.
    """
    thin = [(name, thinned(points)) for name, points in series]
    every = [point for _, points in thin for point in points]
    if not every:
        return None
    x_ticks = ticks(0.0, max(x for x, _ in every))
    y_ticks = ticks(min(y for _, y in every), max(y for _, y in every))
    right, low, high = x_ticks[-1], y_ticks[0], y_ticks[-1]

    def place(point: tuple[float, float]) -> tuple[float, float]:
        across = LEFT + (WIDTH - LEFT - RIGHT) * point[0] / right
        down = TOP + (HEIGHT - TOP - BOTTOM) * (high - point[1]) / (high - low)
        return round(across, 1), round(down, 1)

    curves = []
    for number, (name, points) in enumerate(thin):
        placed = [place(point) for point in points]
        marks = [
            (*at, f"{name}, update {x:,.0f}: {number_text(y)} {unit}".rstrip())
            for at, (x, y) in zip(placed, points, strict=True)
        ]
        path = " ".join(f"{x},{y}" for x, y in placed)
        curves.append(Curve(number, name, path, marks if len(marks) <= MAX_MARKED else []))
    return Chart(
        title,
        unit,
        curves,
        [(place((x, low))[0], number_text(x)) for x in x_ticks],
        [(place((0.0, y))[1], number_text(y)) for y in y_ticks],
        [
            (place((update, low))[0], number, f"{series[number][0]}: restart at {update:,.0f}")
            for number, updates in enumerate(restarts)
            for update in updates
            if update <= right
        ],
        _rows([points for _, points in thin]),
        any(len(points) > MAX_POINTS for _, points in series),
    )


def thinned(points: Points) -> Points:
    """No more than MAX_POINTS: means of even parts, the last update of each."""
    size = -(-len(points) // MAX_POINTS)
    if size <= 1:
        return points
    parts = [points[start : start + size] for start in range(0, len(points), size)]
    return [(part[-1][0], sum(y for _, y in part) / len(part)) for part in parts]


def ticks(low: float, high: float, most: int = 6) -> list[float]:
    """Round numbers from at or below `low` to at or above `high`, two or more and even."""
    size = max(abs(low), abs(high))
    # Numbers that differ by less than can be shown are one number.
    span = high - low if high - low > 1e-6 * size else size
    raw = (span if span > 1e-100 else 1.0) / (most - 1)
    power = 10.0 ** math.floor(math.log10(raw))
    step = next(power * factor for factor in (1, 2, 2.5, 5, 10, 20) if power * factor >= raw)
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return [number * step for number in range(first, max(last, first + 1) + 1)]


def number_text(value: float) -> str:
    """A number with as many digits as people read: 12,500 or 39.08 or 2.5e-05."""
    if value == 0 or abs(value) >= 1000:
        return f"{value:,.0f}"
    return f"{value:.4g}"


def _rows(series: Sequence[Points]) -> list[tuple[str, list[str]]]:
    """Some updates, evenly chosen from those of all runs, and what each run had reached there."""
    updates = sorted({x for points in series for x, _ in points})
    count = min(MAX_ROWS, len(updates))
    chosen = _evenly(updates, count)
    return [
        (f"{update:,.0f}", [_value_at(points, update) for points in series]) for update in chosen
    ]


def _evenly(values: Sequence[float], count: int) -> Iterable[float]:
    last = len(values) - 1
    return [values[round(last * n / max(1, count - 1))] for n in range(count)]


def _value_at(points: Points, update: float) -> str:
    before = [y for x, y in points if x <= update]
    is_over = not points or update > points[-1][0]
    return "–" if is_over or not before else number_text(before[-1])
