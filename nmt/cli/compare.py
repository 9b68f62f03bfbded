"""`nmt compare`: score translation files; the scoring options shared with `nmt evaluate`."""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click

from nmt.cli.options import Integer
from nmt.corpus.io import check_files
from nmt.corpus.text import read_lines
from nmt.errors import ConfigError, DataError
from nmt.evaluation import scores, slices, test_sets
from nmt.evaluation.comparison import MAX_CHANGED, Comparison, Gate, check_test
from nmt.evaluation.comparison import compare as compare_systems
from nmt.evaluation.sacrebleu_metrics import DEFAULT_METRICS, METRICS, check_metrics
from nmt.evaluation.scores import ScoreReport

SliceLabels = dict[str, Sequence[str]]
"""Slice name of each segment, by kind of slice."""


def scoring_options(command: Callable[..., None]) -> Callable[..., None]:
    """Add the options of a command that scores systems; `ScoringOptions` checks them."""
    options: tuple[tuple[str, Any, Any, str], ...] = (
        ("--max-p", float, None, "Gate: maximum p-value of the difference."),
        ("--min-gain", float, None, "Gate: minimum gain in the first metric."),
        ("--changed", Integer(min=0, max=MAX_CHANGED), 3,
         "Number of most improved and most degraded segments shown."),
        ("--paired", click.Choice(["bs", "ar", "none"]), "bs",
         "Significance test: bootstrap, approximate randomisation or none."),
        ("--metrics", None, ",".join(DEFAULT_METRICS), f"Metrics: {', '.join(METRICS)}."),
    )  # fmt: skip
    for name, kind, default, text in options:
        command = click.option(name, type=kind, default=default, help=text)(command)
    command = click.option("--train-text", metavar="FILE",
                           help="Target training text or prepared corpus: adds slices by word "
                           "rarity.")(command)  # fmt: skip
    command = click.option("--slices", is_flag=True, help="Print scores by slice.")(command)
    return click.option("--json", is_flag=True, help="Print a JSON object per line.")(command)


@dataclass(frozen=True)
class ScoringOptions:
    """Checked options of `scoring_options`, and printing of results accordingly."""

    metrics: tuple[str, ...]
    paired: str
    gate: Gate | None
    train_text: Path | None
    has_slices: bool
    num_changed: int
    has_json: bool

    @classmethod
    def read(
        cls, tgt_language: str, baseline: str | None, values: dict[str, Any]
    ) -> "ScoringOptions":
        """Remove the options of `scoring_options` from `values` and check them."""
        metrics = tuple(name.strip() for name in values.pop("metrics").split(",") if name.strip())
        # Unknown metrics and unusable tests are reported before anything is translated.
        check_metrics(metrics, tgt_language)
        paired, min_gain, max_p = (values.pop(key) for key in ("paired", "min_gain", "max_p"))
        check_test(paired)
        gate = None
        if min_gain is not None or max_p is not None:
            if baseline is None:
                raise ConfigError.from_message("--min-gain and --max-p need a --baseline")
            if max_p is not None and paired == "none":
                rule = "it needs a significance test: --paired bs or ar"
                raise ConfigError("--max-p", max_p, rule)
            gate = Gate(min_gain, max_p)
            gate.check()
        train_text = values.pop("train_text")
        check_files([train_text] if train_text else [])
        path = Path(train_text) if train_text else None
        others = (values.pop(key) for key in ("slices", "changed", "json"))
        return cls(metrics, paired, gate, path, *others)

    def print_report(self, report: ScoreReport) -> None:
        """Print the scores of a system on a test set."""
        if self.has_json:
            click.echo(json.dumps(json.loads(report.json()), ensure_ascii=False))
        else:
            click.echo(report.text(width=2))

    def print_slices(self, reports: Sequence[ScoreReport]) -> None:
        """Print the slices of all systems on a test set in one table."""
        if self.has_slices and not self.has_json:
            names = [report.system for report in reports]
            click.echo(f"{reports[0].test_set}, slices:")
            click.echo(slices.text(names, [report.slices for report in reports]))

    def print_comparison(self, comparison: Comparison) -> bool:
        """Print the differences to the baseline; return True if all systems pass the gate."""
        verdicts, is_open = [], True
        for against in comparison.systems if self.gate else ():
            assert self.gate
            # The gate is about the first metric of --metrics.
            first = against.differences[0]
            is_open &= self.gate.passes(first)
            verdicts.append(self.gate.verdict(comparison.test_set, against.system, first))
        if self.has_json:
            gate = {"gate": {"is_open": is_open, "verdicts": verdicts}} if self.gate else {}
            click.echo(json.dumps(comparison.tree() | gate, ensure_ascii=False))
        else:
            click.echo("\n".join([comparison.text(self.num_changed), *verdicts]))
        return is_open


def slice_labels(
    references: Mapping[str, Sequence[str]], tgt_language: str, train_text: Path | None
) -> dict[str, SliceLabels]:
    """Return the slices of the segments of each test set, by length and by word rarity.

    Args:
        references: reference lines by test set.
        train_text: target training text, read once for all test sets; None: no slices by rarity.
    """
    labels: dict[str, SliceLabels] = {
        name: {"length": slices.by_length(refs, tgt_language)} for name, refs in references.items()
    }
    if train_text:
        lines = [ref for refs in references.values() for ref in refs]
        rarity = iter(slices.by_rarity(lines, tgt_language, slices.read_training_lines(train_text)))
        for name, refs in references.items():
            labels[name]["rarity"] = [next(rarity) for _ in refs]
    return labels


@click.command()
@click.argument("hyps", nargs=-1, required=True, metavar="TRANSLATION...")
@click.option("--ref", required=True, multiple=True, metavar="FILE", help="Reference; repeatable.")
@click.option("--src", metavar="FILE", help="Source, printed with changed segments.")
@click.option("--baseline", metavar="FILE", help="Translation to compare the others with.")
@click.option("--language", default="", metavar="CODE",
              help="Target language; it selects the BLEU tokenizer: zh, ja, ko, th.")  # fmt: skip
@click.option("--labels", metavar="FILE", help="Corpus name per line: adds slices by corpus.")
@scoring_options
def compare(
    hyps: tuple[str, ...], ref: tuple[str, ...], src: str | None, baseline: str | None,
    language: str, labels: str | None, **scoring: Any,
) -> None:  # fmt: skip
    """Score translation files and compare them.

    Exit status: 0; 1 if a system fails --min-gain or --max-p; 2 for invalid input.
    """
    options = ScoringOptions.read(language, baseline, scoring)
    check_files([*hyps, *ref, *(name for name in (src, baseline, labels) if name)])
    for option, value in (("--labels", labels), ("--train-text", options.train_text)):
        if value and not (options.has_slices or options.has_json):
            rule = "it needs --slices or --json: add one, or omit it"
            raise ConfigError(option, value, rule)
    # The baseline may be one of the files or another one; it is scored once.
    names = list(hyps) if baseline is None or baseline in hyps else [baseline, *hyps]
    if len(set(names)) < len(names):
        duplicate = max(names, key=names.count)
        raise ConfigError.from_message(f"{duplicate} is given twice: remove one")
    if baseline is not None and len(names) == 1:
        raise ConfigError("--baseline", baseline, "it is the only translation: give another one")
    references = [read_file(ref[0])]
    num_lines = len(references[0])
    references += [read_file(name, ref[0], num_lines) for name in ref[1:]]
    lines = {name: read_file(name, ref[0], num_lines) for name in names}
    src_lines = read_file(src, ref[0], num_lines) if src else ()
    test_set = test_sets.name_of(Path(ref[0]))
    segments = slice_labels({test_set: references[0]}, language, options.train_text)[test_set]
    if labels:
        segments["corpus"] = slices.by_corpus(Path(labels), num_lines)
    reports = [
        scores.score(
            lines[name], references, language, test_set=test_set, system=name,
            metrics=options.metrics, labels=segments,
        )
        for name in names
    ]  # fmt: skip
    for report in reports:
        options.print_report(report)
    options.print_slices(reports)
    if baseline is not None:
        comparison = compare_systems(
            lines, baseline, references, language, test_set=test_set, metrics=options.metrics,
            test=options.paired, src=src_lines,
        )  # fmt: skip
        if not options.print_comparison(comparison):
            raise click.exceptions.Exit(1)


def read_file(name: str, ref: str = "", num_lines: int = 0) -> tuple[str, ...]:
    """Return the lines of a file.

    Raises:
        DataError: the file is empty, or has another number of lines than `ref`.
    """
    lines = tuple(read_lines(Path(name)))
    if not lines:
        raise DataError(f"{name} is empty: a score needs at least one line")
    if ref and len(lines) != num_lines:
        raise DataError(
            f"{name} has {len(lines):,} lines, {ref} has {num_lines:,}: the files must be "
            "line-parallel"
        )
    return lines
