"""Line charts and heat maps: coordinates, ticks and labels, which the templates draw as SVG.

No drawing library is used: the available ones add scripts, fonts or megabytes, and none provides
the table that accompanies each chart for screen readers. A curve of more than MAX_POINTS values is
drawn through the means of equal parts.
"""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

WIDTH, HEIGHT = 560, 280
LEFT, RIGHT, TOP, BOTTOM = 64, 28, 12, 48
"""Margins for ticks and labels, in pixels."""
MAX_POINTS = 240
MAX_MARKED = 40
"""Curves with at most this number of points have a marker at each."""
MAX_ROWS = 12
"""Rows of the table of a chart."""

MIN_WEIGHT = 0.02
"""Smaller weights of a heat map are not drawn."""

Points = Sequence[tuple[float, float]]


@dataclass(frozen=True)
class HeatMap:
    """Attention weights between the tokens of two texts."""

    rows: list[str]
    """Target tokens."""
    columns: list[str]
    """Source tokens."""
    weights: list[list[float]]
    """Weights, 0 to 1, by row and column."""
    cell: int = 22
    """Size of a cell in pixels."""

    @property
    def left(self) -> int:
        """Width of the target tokens in pixels."""
        return 16 + 8 * max(map(len, self.rows))

    @property
    def top(self) -> int:
        """Height of the rotated source tokens in pixels."""
        return top_margin(self.columns)

    @property
    def cells(self) -> list[tuple[int, int, float]]:
        """Row, column and weight of the cells to draw."""
        return [
            (row, column, weight)
            for row, of_row in enumerate(self.weights)
            for column, weight in enumerate(of_row)
            if weight >= MIN_WEIGHT
        ]

    @property
    def strongest(self) -> list[tuple[str, str, float]]:
        """Target token, source token with the largest weight, and the weight: rows of the table."""
        return [
            (token, self.columns[weights.index(max(weights))], max(weights))
            for token, weights in zip(self.rows, self.weights, strict=True)
        ]


def top_margin(tokens: Sequence[str]) -> int:
    """Return the height of rotated tokens in pixels."""
    return 24 + 6 * max(map(len, tokens))


@dataclass(frozen=True)
class Curve:
    """Curve of one run."""

    run: int
    """Index of the run, which selects colour and dash pattern."""
    name: str
    path: str
    """Points of an SVG polyline."""
    marks: list[tuple[float, float, str]]
    """x, y and text of each marker."""


@dataclass(frozen=True)
class Chart:
    """Chart and its table."""

    title: str
    unit: str
    curves: list[Curve]
    x_ticks: list[tuple[float, str]]
    y_ticks: list[tuple[float, str]]
    breaks: list[tuple[float, int, str]]
    """x, index of the run and text of each restart."""
    rows: list[tuple[str, list[str]]]
    """Table: update, and the latest value of each run up to it."""
    is_thinned: bool
    """True if points are means of several values."""


def chart(
    title: str,
    unit: str,
    series: Sequence[tuple[str, Points]],
    restarts: Sequence[Sequence[float]] = (),
) -> Chart | None:
    """Lay out the curves of all runs in one chart.

    Args:
        title: name of the value.
        unit: unit of the value; may be empty.
        series: name and (update, value) in order of each run; the points may be empty.
        restarts: updates after which each run was restarted.

    Returns:
        None if no run has a value.
    """
    thin = [(name, thin_out(points)) for name, points in series]
    all_points = [point for _, points in thin for point in points]
    if not all_points:
        return None
    # Runs share the axes: update 0 to the last update, smallest to largest value.
    x_ticks = ticks(0.0, max(x for x, _ in all_points))
    y_ticks = ticks(min(y for _, y in all_points), max(y for _, y in all_points))
    right, low, high = x_ticks[-1], y_ticks[0], y_ticks[-1]

    def locate(point: tuple[float, float]) -> tuple[float, float]:
        across = LEFT + (WIDTH - LEFT - RIGHT) * point[0] / right
        down = TOP + (HEIGHT - TOP - BOTTOM) * (high - point[1]) / (high - low)
        # A tenth of a pixel: more digits only enlarge the page.
        return round(across, 1), round(down, 1)

    curves = []
    for number, (name, points) in enumerate(thin):
        located = [locate(point) for point in points]
        marks = [
            (*at, f"{name}, update {x:,.0f}: {number_text(y)} {unit}".rstrip())
            for at, (x, y) in zip(located, points, strict=True)
        ]
        path = " ".join(f"{x},{y}" for x, y in located)
        curves.append(Curve(number, name, path, marks if len(marks) <= MAX_MARKED else []))
    return Chart(
        title,
        unit,
        curves,
        [(locate((x, low))[0], number_text(x)) for x in x_ticks],
        [(locate((0.0, y))[1], number_text(y)) for y in y_ticks],
        [
            (locate((update, low))[0], number, f"{series[number][0]}: restart at {update:,.0f}")
            for number, updates in enumerate(restarts)
            for update in updates
            if update <= right
        ],
        _rows([points for _, points in thin]),
        any(len(points) > MAX_POINTS for _, points in series),
    )


def thin_out(points: Points) -> Points:
    """Reduce to at most MAX_POINTS: means of equal parts, at the last update of each."""
    size = -(-len(points) // MAX_POINTS)
    if size <= 1:
        return points
    parts = [points[start : start + size] for start in range(0, len(points), size)]
    return [(part[-1][0], sum(y for _, y in part) / len(part)) for part in parts]


def ticks(low: float, high: float, max_ticks: int = 6) -> list[float]:
    """Return at least two evenly spaced round numbers that enclose `low` and `high`."""
    size = max(abs(low), abs(high))
    # Differences below the displayed precision count as equal.
    span = high - low if high - low > 1e-6 * size else size
    raw = (span if span > 1e-100 else 1.0) / (max_ticks - 1)
    power = 10.0 ** math.floor(math.log10(raw))
    step = next(power * factor for factor in (1, 2, 2.5, 5, 10, 20) if power * factor >= raw)
    # Tolerance: a limit that equals a tick up to rounding adds no further tick.
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return [number * step for number in range(first, max(last, first + 1) + 1)]


def number_text(value: float) -> str:
    """Format a number with about four digits: 12,500, 39.08 or 2.5e-05."""
    if value == 0 or abs(value) >= 1000:
        return f"{value:,.0f}"
    return f"{value:.4g}"


def _rows(series: Sequence[Points]) -> list[tuple[str, list[str]]]:
    """Return evenly spaced updates with the value of each run."""
    updates = sorted({x for points in series for x, _ in points})
    count = min(MAX_ROWS, len(updates))
    chosen = _spaced(updates, count)
    return [
        (f"{update:,.0f}", [_value_at(points, update) for points in series]) for update in chosen
    ]


def _spaced(values: Sequence[float], count: int) -> Iterable[float]:
    last = len(values) - 1
    return [values[round(last * n / max(1, count - 1))] for n in range(count)]


def _value_at(points: Points, update: float) -> str:
    # No value after the end of a run: it would look like a measurement.
    before = [y for x, y in points if x <= update]
    has_ended = not points or update > points[-1][0]
    return "–" if has_ended or not before else number_text(before[-1])
