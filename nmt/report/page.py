"""Report of runs as one self-contained HTML file.

Style and charts are inline and there is no script: the file opens from disk or mail without a
network, and text of translations cannot run. jinja2 escapes every text; nothing in this package
marks text as safe. Each chart is accompanied by a table of the same values.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib import metadata

from nmt.errors import shorten
from nmt.evaluation.failure_rules import RULES
from nmt.evaluation.failures import rate
from nmt.evaluation.slices import KINDS
from nmt.report import charts
from nmt.report.charts import Chart, number_text
from nmt.report.examples import Example
from nmt.report.runs import Run, StoredEvaluation, StoredScore, StoredSlice, Tree
from nmt.report.templates import load_template

CURVES = (
    ("loss: training loss", "nats/token", "train", "loss"),
    ("risk: 1 - sentence BLEU of sampled translations", "", "train", "risk"),
    ("dev_loss: dev set loss", "nats/token", "validation", "dev_loss"),
    ("dev_bleu: dev set BLEU", "", "validation", "dev_bleu"),
    ("lr: learning rate", "", "train", "lr"),
    ("gnorm: gradient norm", "", "train", "gnorm"),
    ("tgt_tokens_per_s: speed", "target tokens/s", "train", "tgt_tokens_per_s"),
)
"""Title, unit, kind of record, key. A curve without records is left out."""
MAX_EVENTS = 100
"""Events shown per run, the newest."""
_MAX_ITEMS = 8
"""Longer lists are shown by their length only."""


@dataclass(frozen=True)
class ScoreRow:
    """Scores of one run on one test set."""

    test_set: str
    run: str
    evaluation: StoredEvaluation
    cells: dict[str, str]
    """Score and interval by column: metric, or metric and label."""

    @property
    def checkpoint(self) -> str:
        """Name of the checkpoint; "update 7,000" for one of a run."""
        name = self.evaluation.checkpoint
        number = name.removeprefix("update-")
        return f"update {int(number):,}" if re.fullmatch("[0-9]{1,16}", number) else name


@dataclass(frozen=True)
class SliceTable:
    """Scores by slice of one test set and one kind of slices."""

    test_set: str
    meaning: str
    runs: list[str]
    rows: list[tuple[str, int, list[StoredSlice | None]]]


def render(runs: Sequence[Run], examples: Sequence[Sequence[Example]]) -> str:
    """Return the HTML page.

    Args:
        runs: one or more.
        examples: examples of each run.
    """
    rows = score_rows(runs)
    return load_template("page.html", number=number_text, score=_score, when=_when).render(
        runs=runs,
        as_of=max((run.last.get("time", 0.0) for run in runs), default=0.0),
        charts=[each for each in map(_chart, CURVES, [runs] * len(CURVES)) if each],
        size=charts,
        score_rows=rows,
        columns=list(dict.fromkeys(name for row in rows for name in row.cells)),
        signatures=signatures(rows),
        warnings=warnings(rows),
        slice_tables=slice_tables(runs),
        examples=[(run, some) for run, some in zip(runs, examples, strict=True) if some],
        details=event_details,
        max_events=MAX_EVENTS,
        rules=RULES,
        rate=rate,
        version=metadata.version("nmt"),
    )


def score_rows(runs: Sequence[Run]) -> list[ScoreRow]:
    """Return all scores, grouped by test set."""
    rows = []
    for number, run in enumerate(runs):
        for result in run.evaluations:
            cells = {_column(score): _score(score) for score in [*result.scores, *result.extras]}
            row = ScoreRow(result.test_set, run.name, result, cells)
            rows.append(((result.test_set, number), row))
    # By test set, then in the order of the runs on the command line.
    return [row for _, row in sorted(rows, key=lambda each: each[0])]


def signatures(rows: Sequence[ScoreRow]) -> list[tuple[str, str, list[str]]]:
    """Return metric, signature and the test sets scored with it."""
    sets_of: dict[tuple[str, str], list[str]] = {}
    for row in rows:
        for score in [*row.evaluation.scores, *row.evaluation.extras]:
            sets_of.setdefault((_column(score), score.signature), []).append(row.test_set)
    return [(*key, list(dict.fromkeys(sets))) for key, sets in sets_of.items()]


def warnings(rows: Sequence[ScoreRow]) -> list[str]:
    """Return warnings of the evaluations and of different signatures, each with its test sets."""
    metrics: dict[tuple[str, str], set[str]] = {}
    sets_of: dict[str, list[str]] = {}
    for row in rows:
        for score in row.evaluation.scores:
            metrics.setdefault((score.name, row.test_set), set()).add(score.signature)
        for text in row.evaluation.warnings:
            sets_of.setdefault(f"{row.run}: {text}", []).append(row.test_set)
    # Scores with different tokenisers or references must not be compared.
    for (metric, test_set), different in metrics.items():
        if len(different) > 1:
            text = f"{metric} was computed with different signatures: the scores are not comparable"
            sets_of.setdefault(text, []).append(test_set)
    return [f"{text} ({', '.join(sets)})" for text, sets in sorted(sets_of.items())]


def slice_tables(runs: Sequence[Run]) -> list[SliceTable]:
    """Return the slices of all test sets except variants of another test set."""
    slices: dict[tuple[str, str], dict[str, dict[str, StoredSlice]]] = {}
    for run in runs:
        names = [evaluation.test_set for evaluation in run.evaluations]
        for evaluation in run.evaluations:
            name = evaluation.test_set
            # A variant such as news+lowercase has the slices of its test set.
            if name.partition("+")[0] in names and "+" in name:
                continue
            for part in evaluation.slices:
                table = slices.setdefault((name, part.kind), {})
                table.setdefault(part.slice, {})[run.name] = part
    tables = []
    for (test_set, kind), parts in slices.items():
        names = [run.name for run in runs if any(run.name in part for part in parts.values())]
        rows = [
            (name, next(iter(by_run.values())).segments, [by_run.get(run) for run in names])
            for name, by_run in parts.items()
        ]
        tables.append(SliceTable(test_set, f"by {kind}: {KINDS.get(kind, kind)}", names, rows))
    return tables


def event_details(record: Tree) -> str:
    """Return all values of a record except kind, update and time, as text."""
    details = []
    for key, value in record.items():
        if key not in ("kind", "update", "time"):
            is_number = isinstance(value, int | float) and abs(value) < 2**63
            text = number_text(value) if is_number else shorten(str(value), 1000)
            is_long = isinstance(value, list) and len(value) > _MAX_ITEMS
            details.append(f"{key} {f'{len(value)} items' if is_long else text}")
    return " | ".join(details)


def _chart(curve: tuple[str, str, str, str], runs: Sequence[Run]) -> Chart | None:
    title, unit, kind, key = curve

    def points(run: Run) -> charts.Points:
        records = [record for record in run.records_of(kind) if _has(record, key)]
        return [(record["update"], record[key]) for record in records]

    series = [(run.name, points(run)) for run in runs]
    # A value can be null in a record, for example a loss that was not finite.
    restarts = [[each["update"] for each in run.records_of("restart")] for run in runs]
    return charts.chart(title, unit, series, restarts)


def _has(record: Tree, key: str) -> bool:
    return isinstance(record.get(key), int | float)


def _column(score: StoredScore) -> str:
    return f"{score.name}, {score.label}" if score.label else score.name


def _score(score: StoredScore) -> str:
    interval = f" ± {score.confidence_var:.2f}" if score.confidence_var is not None else ""
    return f"{score.score:.2f}{interval}"


def _when(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%d %H:%M UTC")
