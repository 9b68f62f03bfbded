"""The page: what the runs have left, as one HTML file that needs nothing else.

The file has its style and its pictures inside, and no script at all: it opens from a disk, from a
mail or behind a wall, and what a translation contains cannot run. jinja2 writes every text escaped;
nothing in this room marks a text as safe. Each picture has the same numbers in a table beside it.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from nmt.evaluation.slices import KINDS
from nmt.report import charts
from nmt.report.charts import Chart, number_text
from nmt.report.examples import Example
from nmt.report.runs import Run, Tree

CURVES = (
    ("Training loss", "nats/token", "train", "loss"),
    ("Dev loss", "nats/token", "validation", "dev_loss"),
    ("Dev BLEU", "", "validation", "dev_bleu"),
    ("Learning rate", "", "train", "lr"),
    ("Gradient norm", "", "train", "gnorm"),
    ("Speed", "target tokens/s", "train", "tgt_tokens_per_s"),
)
"""Title, unit, kind of record and its key."""
MAX_EVENTS = 100
"""Most restarts, skipped updates and the like shown of a run: the newest."""
_LONG = 8
"""A list of more items than this is counted, not shown."""


@dataclass(frozen=True)
class ScoreRow:
    """One run on one test set."""

    test_set: str
    run: str
    evaluation: Tree
    cells: dict[str, str]
    """Score and interval by metric; of a labelled extra with its label."""

    @property
    def checkpoint(self) -> str:
        """Short where it is one of a run: update 7,000."""
        name = str(self.evaluation["checkpoint"])
        number = name.removeprefix("update-")
        return f"update {int(number):,}" if number.isdecimal() else name


@dataclass(frozen=True)
class SliceTable:
    """One way of slicing one test set: a row a slice, with the scores of each run."""

    test_set: str
    meaning: str
    runs: list[str]
    rows: list[tuple[str, int, list[Tree | None]]]


def render(runs: Sequence[Run], examples: Sequence[Sequence[Example]]) -> str:
    """The whole page.

    Args:
        runs: one or more.
        examples: of each run.
    """
    here = Path(__file__).parent
    environment = Environment(
        loader=FileSystemLoader(here), autoescape=True, undefined=StrictUndefined,
        trim_blocks=True, lstrip_blocks=True,
    )  # fmt: skip
    environment.filters.update(count=_count, number=number_text, score=_score, when=_when)
    rows = score_rows(runs)
    return environment.get_template("page.html").render(
        runs=runs,
        charts=[each for each in map(_chart, CURVES, [runs] * len(CURVES)) if each],
        size=charts,
        score_rows=rows,
        columns=list(dict.fromkeys(name for row in rows for name in row.cells)),
        signatures=signatures(rows),
        warnings=warnings(rows),
        slice_tables=slice_tables(runs),
        examples=[(run, of_run) for run, of_run in zip(runs, examples, strict=True) if of_run],
        details=event_details,
        max_events=MAX_EVENTS,
        version=metadata.version("nmt"),
    )


def score_rows(runs: Sequence[Run]) -> list[ScoreRow]:
    """All scores, those of one test set together."""
    rows = []
    for number, run in enumerate(runs):
        for found in run.evaluations:
            scores = [*found["scores"], *found.get("extras", [])]
            cells = {_column(score): _score(score) for score in scores}
            rows.append(
                ((found["test_set"], number), ScoreRow(found["test_set"], run.name, found, cells))
            )
    return [row for _, row in sorted(rows, key=lambda each: each[0])]


def signatures(rows: Sequence[ScoreRow]) -> list[tuple[str, str, list[str]]]:
    """Each metric and signature, and the test sets that were scored so."""
    found: dict[tuple[str, str], list[str]] = {}
    for row in rows:
        for score in [*row.evaluation["scores"], *row.evaluation.get("extras", [])]:
            found.setdefault((_column(score), score["signature"]), []).append(row.test_set)
    return [(*key, list(dict.fromkeys(sets))) for key, sets in found.items()]


def warnings(rows: Sequence[ScoreRow]) -> list[str]:
    """What must not be compared, and what the evaluations warned of; each once for all its sets."""
    metrics: dict[tuple[str, str], set[str]] = {}
    found: dict[str, list[str]] = {}
    for row in rows:
        for score in row.evaluation["scores"]:
            metrics.setdefault((score["name"], row.test_set), set()).add(score["signature"])
        for text in row.evaluation.get("warnings", []):
            found.setdefault(f"{row.run}: {text}", []).append(row.test_set)
    for (metric, test_set), signatures_of in metrics.items():
        if len(signatures_of) > 1:
            text = f"{metric} of the runs has different signatures: do not compare these numbers"
            found.setdefault(text, []).append(test_set)
    return [f"{text} ({', '.join(sets)})" for text, sets in sorted(found.items())]


def slice_tables(runs: Sequence[Run]) -> list[SliceTable]:
    """All slices of all test sets that are not variants of another."""
    found: dict[tuple[str, str], dict[str, dict[str, Tree]]] = {}
    for run in runs:
        names = [evaluation["test_set"] for evaluation in run.evaluations]
        for evaluation in run.evaluations:
            name = evaluation["test_set"]
            if name.partition("+")[0] in names and "+" in name:
                continue
            for part in evaluation.get("slices", []):
                table = found.setdefault((name, part["kind"]), {})
                table.setdefault(part["slice"], {})[run.name] = part
    tables = []
    for (test_set, kind), parts in found.items():
        names = [run.name for run in runs if any(run.name in part for part in parts.values())]
        rows = [
            (name, next(iter(by_run.values()))["segments"], [by_run.get(run) for run in names])
            for name, by_run in parts.items()
        ]
        tables.append(SliceTable(test_set, f"by {kind}: {KINDS.get(kind, kind)}", names, rows))
    return tables


def event_details(record: Tree) -> str:
    """What a record of a restart or a skipped update says beside its kind, update and time."""
    told = []
    for key, value in record.items():
        if key not in ("kind", "update", "time"):
            is_long = isinstance(value, list) and len(value) > _LONG
            shown = f"{len(value)} of them" if is_long else _plain(value)
            told.append(f"{key.replace('_', ' ')}: {shown}")
    return "; ".join(told)


def _chart(curve: tuple[str, str, str, str], runs: Sequence[Run]) -> Chart | None:
    title, unit, kind, key = curve
    series = [
        (run.name, [(each["update"], each[key]) for each in run.of_kind(kind) if _has(each, key)])
        for run in runs
    ]
    restarts = [[each["update"] for each in run.of_kind("restart")] for run in runs]
    return charts.chart(title, unit, series, restarts)


def _has(record: Tree, key: str) -> bool:
    return isinstance(record.get(key), int | float)


def _column(score: Tree) -> str:
    return f"{score['name']}, {score['label']}" if "label" in score else str(score["name"])


def _score(score: Tree) -> str:
    interval = f" ± {score['confidence_var']:.2f}" if "confidence_var" in score else ""
    return f"{score['score']:.2f}{interval}"


def _plain(value: Any) -> str:
    return number_text(value) if isinstance(value, int | float) else str(value)


def _count(value: float) -> str:
    return f"{value:,.0f}"


def _when(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%d %H:%M UTC")
