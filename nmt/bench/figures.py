"""Benchmark figures and reports: table lines, JSON files, and comparison of two reports."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from nmt.config.settings import Count, Number, parse_record
from nmt.errors import DataError

FORMAT = 1
"""Version of the JSON report."""
NOISE = 0.05
"""Relative change that any figure may have between two runs of the same code."""
QUIET = 0.9
"""Lowest share of a core at which a wall-clock figure is shown without a note."""


@dataclass(frozen=True)
class Figure:
    """One measured value. Field names are keys of the JSON report."""

    name: str
    """part/case/figure."""
    value: Number
    """Median of the repeats."""
    unit: str
    counts: str
    """Description of the amount that is counted or timed."""
    is_better_high: bool = True
    spread: Number = 0.0
    """Interquartile range of the repeats over their median."""
    repeats: Count = 1
    busy: Number | None = None
    """CPU seconds over wall seconds; 1 for a thread with a core of its own."""
    ratio: Number | None = None
    """Value relative to a baseline."""
    ratio_to: str = ""
    """Description of the baseline."""


@dataclass(frozen=True)
class BenchReport:
    """Figures of one run on one machine."""

    machine: Mapping[str, Any]
    figures: Sequence[Figure]

    def save(self, path: Path) -> None:
        """Write the report as JSON.

        Raises:
            DataError: the file cannot be written.
        """
        figures = [asdict(figure) for figure in self.figures]
        tree = {"format": FORMAT, "machine": dict(self.machine), "figures": figures}
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(json.dumps(tree, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
        except OSError as error:
            reason = f"cannot be written: {error.strerror}; name another file"
            raise DataError(f"{path}: {reason}") from None

    @classmethod
    def load(cls, path: Path) -> "BenchReport":
        """Read a report.

        Raises:
            DataError: the file is missing, unreadable, or no report of this format.
        """
        try:
            data = path.read_bytes()
            found = parse_record(dict[str, Any], data)["format"]
            if found != FORMAT:
                reason = f"report format {found}, expected {FORMAT}; run `nmt bench` again"
                raise DataError(f"{path}: {reason}")
            return parse_record(cls, data)
        except FileNotFoundError:
            reason = f"file not found; `nmt bench -o {path}` writes one"
        except OSError as error:
            reason = f"cannot be read: {error.strerror}; name another file"
        except (ValueError, KeyError):
            reason = "not a report of `nmt bench`; run `nmt bench` again"
        raise DataError(f"{path}: {reason}")


def format_figure(figure: Figure) -> str:
    """Return a line of the table."""
    ratio = "" if figure.ratio is None else f"{figure.ratio:.2f} of {figure.ratio_to}"
    spread = f"± {figure.spread / 2:.0%}" if figure.repeats > 1 else ""
    note = ""
    if figure.busy is not None and figure.busy < QUIET:
        note = f" (had {figure.busy:.0%} of a core)"
    value = f"{format_value(figure.value)} {figure.unit}"
    return f"{figure.name:<36} {value:>24} {spread:>6}  {ratio:<40} {figure.counts}{note}"


def format_value(value: float) -> str:
    """Return a number with three significant digits, or as an integer from 100."""
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"


def compare_reports(before: BenchReport, after: BenchReport) -> list[str]:
    """Return a line per figure that changed by more than noise, worst first, and a summary."""
    lines = []
    for key in ("cores", "processor", "threads", "torch"):
        was, now = before.machine.get(key), after.machine.get(key)
        if was != now:
            lines.append(f"{key}: {was} before, {now} after; this may explain changes below")
    old = {figure.name: figure for figure in before.figures}
    changes: list[tuple[float, str]] = []
    num_same = 0
    for figure in after.figures:
        # What remains in `old` at the end was removed.
        was_figure = old.pop(figure.name, None)
        if was_figure is None:
            lines.append(f"{figure.name}: new, {format_value(figure.value)} {figure.unit}")
            continue
        gain = relative_gain(was_figure, figure)
        # The spread of the repeats bounds the error of each median.
        noise = max(NOISE, was_figure.spread + figure.spread)
        if abs(gain) <= noise:
            num_same += 1
            continue
        word = "better" if gain > 0 else "WORSE"
        values = f"{format_value(was_figure.value)} to {format_value(figure.value)} {figure.unit}"
        text = f"{figure.name}: {word} by {abs(gain):.0%}, {values}; noise {noise:.0%}"
        changes.append((gain, text))
    lines += [text for _, text in sorted(changes)]
    lines += [f"{name}: removed" for name in old]
    lines.append(f"{num_same} {'figure' if num_same == 1 else 'figures'} within noise")
    return lines


def relative_gain(before: Figure, after: Figure) -> float:
    """Return the improvement: 1 is twice as good, -0.5 half as good.

    Values of 0 or less, such as the rest of an update, have no ratio: 1 if better, -1 if worse.
    """
    if before.value <= 0 or after.value <= 0:
        change = (after.value > before.value) - (after.value < before.value)
        return float(change if after.is_better_high else -change)
    ratio = after.value / before.value
    return ratio - 1 if after.is_better_high else 1 / ratio - 1
