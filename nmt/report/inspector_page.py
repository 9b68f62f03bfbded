"""Page of `nmt inspect`: one self-contained HTML file in the style of the report of runs.

No script, no network, and every text is escaped. Each figure is accompanied by a table.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import metadata
from statistics import fmean

from nmt.report.charts import HeatMap, number_text, ticks, top_margin
from nmt.report.inspection import (
    GATES,
    QUANTITIES,
    InspectedLine,
    Inspection,
    LayerPositions,
    Spread,
)
from nmt.report.templates import load_template

STEP = 22
"""Width of a position in pixels."""
ROW, GAP, LEFT = 64, 18, 112
"""Height of the chart of a quantity, space below it, and width of its labels, in pixels."""
HEAD_CELL = 16
"""Size of a cell in the attention of one head, in pixels."""


@dataclass(frozen=True)
class QuantityChart:
    """Chart of a gate or state of one layer: a column per position."""

    name: str
    top: float
    """y of the largest value."""
    labels: list[tuple[float, str]]
    """y and text of the limits of the axis."""
    mean: str
    """Points of the polyline through the means."""
    quartiles: str
    """Path of a bar per position from the first to the third quartile."""
    below: str
    """Path of bars from the bottom: share of units below the lower limit."""
    above: str
    """Path of bars from the top: share of units above the upper limit."""
    texts: list[str]
    """Values of each position."""


@dataclass(frozen=True)
class LayerFigure:
    """Charts of one LSTM layer, one below the other."""

    layer: LayerPositions
    top: int
    """Height of the rotated tokens in pixels."""
    charts: list[QuantityChart]

    @property
    def height(self) -> int:
        """Height in pixels."""
        return self.top + len(self.charts) * (ROW + GAP)


@dataclass(frozen=True)
class AttentionFigure:
    """Attention of one decoder layer: the mean over its heads, and each head."""

    name: str
    mean: HeatMap
    heads: list[HeatMap]
    """Empty if there is one head."""


def render_inspection(inspection: Inspection) -> str:
    """Return the HTML page."""
    corpus = inspection.checkpoint.experiment.corpus
    return load_template("inspector.html", percent=_percent).render(
        page=inspection,
        languages=(corpus.src, corpus.tgt),
        facts=facts(inspection),
        lines=[(line, attention_figures(line), layer_figures(line)) for line in inspection.lines],
        gates=GATES,
        quantities=QUANTITIES,
        size={"STEP": STEP, "ROW": ROW, "LEFT": LEFT},
        exp=math.exp,
        version=metadata.version("nmt"),
    )


def summary_lines(inspection: Inspection) -> list[str]:
    """Return the facts and the notes as lines for the terminal."""
    found = [
        f"note: line {number}: {note}"
        for number, line in enumerate(inspection.lines, start=1) for note in line.notes
    ]  # fmt: skip
    return [*facts(inspection), *found]


def facts(inspection: Inspection) -> list[str]:
    """Return sentences about tokens, gates, attention and probabilities."""
    lines = inspection.lines
    num_src, num_tgt = (
        sum(map(len, texts))
        for texts in zip(*((line.src_tokens, line.tgt_tokens) for line in lines), strict=True)
    )
    number = "1 line" if len(lines) == 1 else f"{len(lines)} lines"
    origin = "given targets" if inspection.is_forced else "translated by the model"
    return [
        f"{number}, {origin}: {num_src} source and {num_tgt} target tokens",
        *(_mean_gate(inspection, name) for name in GATES),
        _saturation(inspection, list(GATES), "saturated gates (below 0.1 or above 0.9)"),
        _mostly_saturated(inspection),
        _saturation(inspection, ["candidate"], "saturated candidates (beyond -0.9 or 0.9)"),
        _saturation(inspection, ["cell state"], "cell states whose tanh is beyond -0.9 or 0.9"),
        _attention_fact(lines),
        _probability_fact(lines),
    ]


def _mean_gate(inspection: Inspection, name: str) -> str:
    means = {layer: spreads[name].mean for layer, spreads in inspection.layers.items()}
    low, high = min(means, key=means.__getitem__), max(means, key=means.__getitem__)
    return (
        f"{name}: {fmean(means.values()):.2f} on average, from {means[low]:.2f} ({low}) to "
        f"{means[high]:.2f} ({high})"
    )


def _saturation(inspection: Inspection, names: list[str], title: str) -> str:
    shares = {
        f"{layer}, {name}": spreads[name].saturated
        for layer, spreads in inspection.layers.items() for name in names
    }  # fmt: skip
    most = max(shares, key=shares.__getitem__)
    return (
        f"{title}: {_percent(fmean(shares.values()))} on average over layers; most in "
        f"{most}: {_percent(shares[most])}"
    )


def _mostly_saturated(inspection: Inspection) -> str:
    found = [
        f"{layer}, {name} ({_percent(share)} {side})"
        for layer, spreads in inspection.layers.items()
        for name, limits in GATES.items()
        for share, side in (
            (spreads[name].below, f"below {limits.low:g}"),
            (spreads[name].above, f"above {limits.high:g}"),
        )
        if share > 0.5
    ]
    return f"gates with more than half of their values on one side: {', '.join(found) or 'none'}"


def _attention_fact(lines: Sequence[InspectedLine]) -> str:
    layers = []
    for number, of_lines in enumerate(zip(*(line.attentions for line in lines), strict=True)):
        rows = [row for weights in of_lines for row in weights.mean(dim=0).tolist()]
        largest, end = fmean(map(max, rows)), fmean(row[-1] for row in rows)
        layers.append(f"decoder {number + 1} {largest:.2f} ({end:.2f} on the end of the source)")
    return f"largest attention weight of a target token, on average: {', '.join(layers)}"


def _probability_fact(lines: Sequence[InspectedLine]) -> str:
    choices = [choice for line in lines for choice in line.choices]
    num_best = sum(choice.rank == 1 for choice in choices)
    worst = min(choices, key=lambda choice: choice.log_prob)
    return (
        f"log-probability of a target token: {fmean(each.log_prob for each in choices):.3f} on "
        f"average; {num_best} of {len(choices)} are the most probable token; lowest: "
        f"{worst.log_prob:.3f} of {worst.token}"
    )


def attention_figures(line: InspectedLine) -> list[AttentionFigure]:
    """Return a figure per attention layer."""
    figures = []
    for number, weights in enumerate(line.attentions, start=1):

        def heat_map(matrix: list[list[float]], cell: int) -> HeatMap:
            return HeatMap(line.tgt_tokens, line.src_tokens, matrix, cell)

        mean = heat_map(weights.mean(dim=0).tolist(), STEP)
        heads = [heat_map(of_head.tolist(), HEAD_CELL) for of_head in weights]
        figures.append(AttentionFigure(f"decoder {number}", mean, heads if len(heads) > 1 else []))
    return figures


def layer_figures(line: InspectedLine) -> list[LayerFigure]:
    """Return a figure per LSTM layer."""
    return [
        LayerFigure(
            layer,
            top_margin(layer.tokens),
            [
                quantity_chart(
                    name, layer.tokens, layer.spreads[name],
                    top_margin(layer.tokens) + number * (ROW + GAP),
                )
                for number, name in enumerate(QUANTITIES)
            ],
        )
        for layer in line.layers
    ]  # fmt: skip


def quantity_chart(
    name: str, tokens: Sequence[str], spreads: Sequence[Spread], top: float
) -> QuantityChart:
    """Lay out the values of a gate or state over the positions.

    Args:
        name: key of QUANTITIES.
        tokens: tokens of the positions.
        spreads: values of the positions.
        top: y of the largest value.
    """
    low, high = _axis(name, spreads)
    limits = QUANTITIES[name]
    centres = [LEFT + STEP * (number + 0.5) for number in range(len(spreads))]

    def down(value: float) -> float:
        return round(top + ROW * (high - value) / (high - low), 1)

    bars = list(zip(centres, spreads, strict=True))
    return QuantityChart(
        name,
        top,
        [(top + 4, number_text(high)), (top + ROW + 4, number_text(low))],
        " ".join(f"{x:g},{down(each.mean)}" for x, each in bars),
        "".join(_bar(x, 8, down(each.high), down(each.low)) for x, each in bars),
        "".join(
            _bar(x, STEP - 4, top + ROW * (1 - each.below), top + ROW) for x, each in bars
        ),
        "".join(_bar(x, STEP - 4, top, top + ROW * each.above) for x, each in bars),
        [
            f"{token}: {name} {each.mean:.2f}, quartiles {each.low:.2f} and {each.high:.2f}; "
            f"{_percent(each.below)} below {limits.low:.2g}, {_percent(each.above)} above "
            f"{limits.high:.2g}"
            for token, each in zip(tokens, spreads, strict=True)
        ],
    )  # fmt: skip


def _axis(name: str, spreads: Sequence[Spread]) -> tuple[float, float]:
    """Return smallest and largest value of the axis."""
    if name in GATES:
        return 0.0, 1.0
    # Candidates are between -1 and 1; cell states have no limit.
    largest = max(abs(value) for each in spreads for value in (each.mean, each.low, each.high))
    bound = ticks(0.0, max(1.0, largest))[-1]
    return -bound, bound


def _bar(centre: float, width: float, top: float, bottom: float) -> str:
    """Return the path of a rectangle."""
    height = f"{bottom - top:.1f}"
    return f"M{centre - width / 2:g} {top:.1f}h{width:g}v{height}h-{width:g}z"


def _percent(share: float) -> str:
    return f"{100 * share:.1f} %"
