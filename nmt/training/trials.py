"""What the trials of a search have reached, from what their runs wrote down, as a table.

A trial is a run of its own, in a folder named after what is tried: the same settings are trained
once, whatever the search that they are in.
"""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from nmt.config.experiment import Experiment
from nmt.config.search import Trial
from nmt.training.metrics import read_records

Metric = Literal["bleu", "loss"]
NAMES: dict[Metric, str] = {"bleu": "dev BLEU", "loss": "dev loss"}


@dataclass(frozen=True)
class Outcome:
    """A trial and what its run wrote down."""

    trial: Trial
    run_dir: Path
    validations: list[dict[str, Any]]
    failed: str = ""
    """Why it came to no end; empty: it did, or was stopped."""

    def best(self, metric: Metric) -> dict[str, Any] | None:
        """Its best validation; None: it had none."""
        if metric == "bleu":
            return max(self.validations, key=lambda each: each["bleu"], default=None)
        return min(self.validations, key=lambda each: each["nll"], default=None)

    @property
    def end(self) -> str:
        """How it ended, for people."""
        if self.failed:
            return f"failed: {self.failed}"
        updates = self.trial.experiment.training.updates
        done = self.validations[-1]["update"] if self.validations else 0
        return "finished" if done == updates else f"stopped after {done:,} of {updates:,} updates"


def run_name(experiment: Experiment) -> str:
    """The name of a trial's run: 12 hexadecimal digits of all that is tried in it."""
    tree = experiment.model_dump(mode="json", exclude={"name"})
    return hashlib.sha256(json.dumps(tree, sort_keys=True).encode()).hexdigest()[:12]


def validations_of(run_dir: Path) -> list[dict[str, Any]]:
    """What a run wrote down of its validations, in order."""
    return [each for each in read_records(run_dir) if each["kind"] == "validation"]


def ranked(outcomes: Sequence[Outcome], metric: Metric) -> list[Outcome]:
    """The best first; those without a validation last, in the order of their numbers."""

    def key(outcome: Outcome) -> tuple[float, int]:
        best = outcome.best(metric)
        if best is None:
            return float("inf"), outcome.trial.number
        return -best["bleu"] if metric == "bleu" else best["nll"], outcome.trial.number

    return sorted(outcomes, key=key)


def table(outcomes: Sequence[Outcome], metric: Metric) -> str:
    """Lines for people, in the order given; settings in columns, the run's folder last."""
    head = [f"best {NAMES[metric]}", NAMES["loss" if metric == "bleu" else "bleu"], "at update"]
    keys = list(outcomes[0].trial.settings)
    rows = [["trial", *head, "minutes", *keys, "end", "run"]]
    for outcome in outcomes:
        best, settings = outcome.best(metric), outcome.trial.settings
        facts = ["-"] * 4
        if best is not None:
            bleu, loss = f"{best['bleu']:.2f}", f"{best['nll']:.3f}"
            minutes = f"{outcome.validations[-1]['train_s'] / 60:.1f}"
            first, second = (bleu, loss) if metric == "bleu" else (loss, bleu)
            facts = [first, second, f"{best['update']:,}", minutes]
        values = [_shown(settings[key]) for key in keys]
        number, end = str(outcome.trial.number), outcome.end
        rows.append([number, *facts, *values, end, outcome.run_dir.name])
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    num_right = 5 + len(keys)
    return "\n".join(
        "  ".join(
            cell.rjust(width) if place < num_right else cell.ljust(width)
            for place, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    )


def _shown(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
