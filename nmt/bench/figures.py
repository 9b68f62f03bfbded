"""Figures, and the report that they make: a table for people, JSON for `nmt bench compare`."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from nmt.errors import DataError

FORMAT = 1
"""Version of the JSON."""
NOISE = 0.05
"""Share that any figure may move by itself, besides what its repeats differ."""
QUIET = 0.9
"""Share of its core that a work must have had for its wall-clock figure to be taken at its word."""


@dataclass(frozen=True)
class Figure:
    """One number, and all that is needed to read it (P11)."""

    name: str
    """part/what/how."""
    value: float
    """The median where it was repeated."""
    unit: str
    counts: str
    """What is counted or timed."""
    is_better_high: bool = True
    spread: float = 0.0
    """Middle half of the repeats over the median."""
    repeats: int = 1
    busy: float | None = None
    """Processor seconds over wall seconds; 1 for one thread that had a core for itself."""
    ratio: float | None = None
    ratio_to: str = ""
    """What `ratio` is a share or a multiple of."""


@dataclass(frozen=True)
class BenchReport:
    """All figures of one run on one machine."""

    machine: Mapping[str, Any]
    figures: Sequence[Figure]

    def save(self, path: Path) -> None:
        """Write as JSON; DataError where that cannot be done."""
        tree = {
            "format": FORMAT,
            "machine": dict(self.machine),
            "figures": [*map(asdict, self.figures)],
        }
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(json.dumps(tree, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
        except OSError as error:
            raise DataError(
                f"{path}: cannot be written: {error.strerror}; name another file"
            ) from None

    @classmethod
    def load(cls, path: Path) -> "BenchReport":
        """Read what `save` wrote; DataError if it is anything else."""
        try:
            tree = json.loads(path.read_text(encoding="utf-8"))
            if tree["format"] != FORMAT:
                raise DataError(
                    f"{path}: format {tree['format']}, but this nmt reads format {FORMAT}; "
                    "run `nmt bench` again"
                )
            return cls(tree["machine"], [Figure(**figure) for figure in tree["figures"]])
        except FileNotFoundError:
            raise DataError(
                f"{path}: there is no such file; `nmt bench -o {path}` writes one"
            ) from None
        except OSError as error:
            raise DataError(
                f"{path}: cannot be read: {error.strerror}; name another file"
            ) from None
        except (ValueError, KeyError, TypeError):
            raise DataError(f"{path}: not a report of `nmt bench`; run `nmt bench` again") from None


def line_of(figure: Figure) -> str:
    """A figure as a line of the table."""
    ratio = ""
    if figure.ratio is not None:
        ratio = f"{figure.ratio:.2f} of {figure.ratio_to}"
    spread = f"± {figure.spread / 2:.0%}" if figure.repeats > 1 else ""
    starved = ""
    if figure.busy is not None and figure.busy < QUIET:
        starved = f" (had {figure.busy:.0%} of a core)"
    value = f"{shown(figure.value)} {figure.unit}"
    return f"{figure.name:<36} {value:>24} {spread:>6}  {ratio:<40} {figure.counts}{starved}"


def shown(value: float) -> str:
    """Three digits that count, or all before the point."""
    if abs(value) >= 100:
        return f"{value:,.0f}"
    return f"{value:.3g}"


def compare(before: BenchReport, after: BenchReport) -> list[str]:
    """What moved by more than noise, a line each, the worst first; then how many stayed."""
    lines = []
    for key in before.machine.keys() | after.machine.keys():
        was, now = before.machine.get(key), after.machine.get(key)
        if was != now and key in ("processor", "cores", "threads", "torch"):
            lines.append(f"not the same {key}: {was}, then {now}; what follows may come from that")
    lines.sort()
    theirs = {figure.name: figure for figure in before.figures}
    moved: list[tuple[float, str]] = []
    same = 0
    for figure in after.figures:
        was_figure = theirs.pop(figure.name, None)
        if was_figure is None:
            lines.append(f"{figure.name}: new, {shown(figure.value)} {figure.unit}")
            continue
        gain = gain_of(was_figure, figure)
        # The repeats of each say how far its median can be trusted.
        noise = max(NOISE, was_figure.spread + figure.spread)
        if abs(gain) <= noise:
            same += 1
            continue
        word = "better" if gain > 0 else "WORSE"
        values = f"{shown(was_figure.value)} to {shown(figure.value)} {figure.unit}"
        moved.append(
            (gain, f"{figure.name}: {word} by {abs(gain):.0%}, {values}; noise {noise:.0%}")
        )
    lines += [line for _, line in sorted(moved)]
    lines += [f"{name}: gone" for name in theirs]
    lines.append(f"{same} {'figure' if same == 1 else 'figures'} within noise")
    return lines


def gain_of(before: Figure, after: Figure) -> float:
    """How much better the later figure is: 1 is twice as good, -0.5 half as good."""
    if not before.value or not after.value:
        return 0.0 if before.value == after.value else 1.0
    ratio = after.value / before.value
    return ratio - 1 if after.is_better_high else 1 / ratio - 1
