"""What `nmt evaluate` and `nmt compare` share: their options, slices, comparisons, the gate."""

import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import click

from nmt.cli.models import check_inputs
from nmt.cli.options import number
from nmt.errors import ConfigError

if TYPE_CHECKING:
    from nmt.evaluation.comparison import Comparison, Gate
    from nmt.evaluation.scores import ScoreReport

Labels = dict[str, Sequence[str]]
"""For each kind of slice, the name of the slice of each segment."""


def comparison_options(command: Callable[..., None]) -> Callable[..., None]:
    """The options of a verb that scores systems; `read_options` reads them."""
    a_number = number(float, -math.inf, "a number")
    count = number(int, -1, "a whole number, 0 or more")
    for name, settings in (
        ("--json", {"is_flag": True, "help": "Print JSON with everything, an object a line."}),
        ("--max-p", {"callback": a_number, "metavar": "NUMBER",
                     "help": "Gate: highest p-value of the difference to the baseline."}),
        ("--min-gain", {"callback": a_number, "metavar": "NUMBER",
                        "help": "Gate: fewest points over the baseline in the first metric."}),
        ("--changed", {"callback": count, "metavar": "NUMBER", "default": "3",
                       "show_default": True,
                       "help": "Segments shown that gained most, and that lost most."}),
        ("--paired", {"metavar": "TEST", "default": "bs", "show_default": True,
                      "help": "Test against the baseline: bs (bootstrap), "
                              "ar (approximate randomisation) or none."}),
        ("--train-text", {"metavar": "PATH",
                          "help": "Target side of the training text, or a prepared folder: "
                                  "adds slices by the rarest word."}),
        ("--slices", {"is_flag": True, "help": "Print scores by length and other slices too."}),
        ("--metrics", {"default": "bleu,chrf,ter,bleu-lc", "show_default": True,
                       "metavar": "NAMES", "help": "Of bleu, chrf, ter, bleu-lc, bleu-lc-intl."}),
    ):  # fmt: skip
        command = click.option(name, **settings)(command)
    return command


@dataclass(frozen=True)
class Asked:
    """What the options ask for, checked."""

    metrics: tuple[str, ...]
    paired: str
    gate: "Gate | None"
    train_text: Path | None
    has_slices: bool
    num_changed: int
    has_json: bool

    def show(self, report: "ScoreReport") -> None:
        """Print the scores of one system on one test set."""
        if self.has_json:
            click.echo(json.dumps(json.loads(report.json()), ensure_ascii=False))
        else:
            click.echo(report.text(width=2))

    def show_slices(self, reports: Sequence["ScoreReport"]) -> None:
        """Print the slices of all systems on one test set beside each other."""
        from nmt.evaluation import slices

        if self.has_slices and not self.has_json:
            names = [report.system for report in reports]
            click.echo(f"{reports[0].test_set}, slices:")
            click.echo(slices.text(names, [report.slices for report in reports]))

    def show_comparison(self, comparison: "Comparison") -> bool:
        """Print what differs from the baseline; whether all systems may pass the gate."""
        verdicts, is_open = [], True
        for against in comparison.systems if self.gate else ():
            assert self.gate
            first = against.differences[0]
            is_open &= self.gate.is_open(first)
            verdicts.append(self.gate.verdict(comparison.test_set, against.system, first))
        if self.has_json:
            gate = {"gate": {"is_open": is_open, "verdicts": verdicts}} if self.gate else {}
            click.echo(json.dumps(comparison.tree() | gate, ensure_ascii=False))
        else:
            click.echo("\n".join([comparison.text(self.num_changed), *verdicts]))
        return is_open


def read_options(
    tgt_language: str, baseline: str | None, *, metrics: str, train_text: str | None, slices: bool,
    paired: str, changed: int, min_gain: float | None, max_p: float | None, json: bool,
) -> Asked:  # fmt: skip
    """Check the options before anything slow is done."""
    from nmt.evaluation.comparison import Gate, check_test
    from nmt.evaluation.metrics import check_metrics

    names = tuple(name.strip() for name in metrics.split(",") if name.strip())
    check_metrics(names, tgt_language)
    check_test(paired)
    gate = None
    if min_gain is not None or max_p is not None:
        option = "--max-p" if min_gain is None else "--min-gain"
        if baseline is None:
            raise ConfigError.from_message(
                f"{option} is given, but nothing to compare with: --baseline"
            )
        if max_p is not None and paired == "none":
            raise ConfigError("--max-p", max_p, "--paired none makes no test: choose bs or ar")
        gate = Gate(min_gain, max_p)
        gate.check()
    check_inputs([train_text] if train_text else [])
    path = Path(train_text) if train_text else None
    return Asked(names, paired, gate, path, slices, changed, json)


def label(
    references: Mapping[str, Sequence[str]], tgt_language: str, train_text: Path | None
) -> dict[str, Labels]:
    """The slices of the segments of each test set; the training text is read once for all."""
    from nmt.evaluation import slices

    labels: dict[str, Labels] = {
        name: {"length": slices.by_length(refs, tgt_language)} for name, refs in references.items()
    }
    if train_text:
        every = [ref for refs in references.values() for ref in refs]
        rest = iter(slices.by_rarity(every, tgt_language, slices.training_lines(train_text)))
        for name, refs in references.items():
            labels[name]["rarity"] = [next(rest) for _ in refs]
    return labels
