"""What the trials of a search have reached, from what their runs wrote down, as a table.

A trial is a run of its own, in a folder named after what is tried: the same settings are trained
once, whatever the search that they are in.

Trials of a search as a Ray Tune run: several at once, the worse ones stopped early.

A trial is a training run of one worker in a process of its own, with what the cluster file gives to
a worker; as many run at once as it has workers. That is the same model as any number of workers
would train (P3), and trials beside each other use a cluster better than workers that wait for one
another. After each validation a trial tells its score, and Ray's ASHA scheduler (Li et al. 2020)
lets it go on if it is in the better half of those that came so far. What a trial learns depends on
its settings alone; which ones are stopped depends, where several run at once, on who comes first.

Nothing is read back of what Ray keeps of a search, which is pickled (P10): a search that was
interrupted is given again. Its trials then tell what their runs had written down, and go on from
their newest checkpoints.
"""

import hashlib
import json
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from ray import tune
from ray.tune.schedulers import ASHAScheduler

from nmt.config.cluster import Cluster
from nmt.config.experiment import Experiment
from nmt.config.search_space import Trial
from nmt.config.settings import drop_legacy_values
from nmt.console import Console
from nmt.errors import NmtError
from nmt.jobs.ray_session import connect
from nmt.jobs.train import check_resources, open_corpus
from nmt.training.distributed import World
from nmt.training.loop import train
from nmt.training.malloc import configure_malloc
from nmt.training.run_log import read_records
from nmt.training.run_manifest import Origin

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
            return max(self.validations, key=lambda each: each["dev_bleu"], default=None)
        return min(self.validations, key=lambda each: each["dev_loss"], default=None)

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
    # Without legacy values: settings added by a later version do not rename earlier trials.
    tree = drop_legacy_values(
        type(experiment), experiment.model_dump(mode="json", exclude={"name"})
    )
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
        return -best["dev_bleu"] if metric == "bleu" else best["dev_loss"], outcome.trial.number

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
            bleu, loss = f"{best['dev_bleu']:.2f}", f"{best['dev_loss']:.3f}"
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


# Ctrl-C ends the command, which can be given again, rather than this search in good order.
os.environ.setdefault("TUNE_DISABLE_SIGINT_HANDLER", "1")
# A trial is a run of ours, with its own records, and has paths from where the command was given.
os.environ.setdefault("TUNE_DISABLE_AUTO_CALLBACK_LOGGERS", "1")
os.environ.setdefault("RAY_CHDIR_TO_TRIAL_DIR", "0")
# The new one prints a box of its own even where it is asked to be silent.
os.environ.setdefault("RAY_AIR_NEW_OUTPUT", "0")


HALVING = 2
"""Of the trials that have come so far, one in so many goes on."""
WORST = {"bleu": 0.0, "loss": 1e9}
"""What a trial tells that came to no end."""


def tune_on_ray(
    trials: Sequence[Trial],
    folder: Path,
    cluster: Cluster,
    console: Console,
    metric: Metric,
    least: int,
) -> list[Outcome]:
    """Train all trials, each to its end or until it is among the worse ones; the best first.

    Args:
        trials: their corpora are prepared.
        folder: of the search, seen by all hosts; each trial's run is in it.
        least: updates that each trial has before it may be stopped.

    Raises:
        NmtError: the cluster cannot hold a trial.
    """
    chatter = folder / "ray.log"
    console.log(f"{len(trials)} trials in {folder}; what Ray and torch say goes to {chatter}")
    at_once = min(len(trials), cluster.workers.max)
    runs = [folder / run_name(trial.experiment) for trial in trials]
    jobs = [
        {
            "experiment": trial.experiment.model_copy(update={"name": run.name}).model_dump_json(),
            "prepared": str(Path(trial.experiment.prepared).resolve()),
            "run_dir": str(run),
            "cpus": cluster.cpus_per_worker,
            "gpus": cluster.gpus_per_worker,
            "env": cluster.env,
            "origin": asdict(Origin.here()),
        }
        for trial, run in zip(trials, runs, strict=True)
    ]
    with connect(at_once * cluster.cpus_per_worker, chatter):
        check_resources(cluster, num_workers=1)
        teller = _Teller(trials, console.log)
        tuner = tune.Tuner(
            tune.with_resources(
                tune.with_parameters(_trial, jobs=jobs),
                {"CPU": cluster.cpus_per_worker, "GPU": cluster.gpus_per_worker},
            ),
            param_space={"job": tune.grid_search(list(range(len(jobs))))},
            tune_config=tune.TuneConfig(
                scheduler=_scheduler(trials, metric, least),
                max_concurrent_trials=at_once,
                reuse_actors=True,
                trial_dirname_creator=lambda trial: f"trial-{trial.config['job'] + 1}",
            ),
            run_config=tune.RunConfig(
                name="ray",
                storage_path=str(folder),
                failure_config=tune.FailureConfig(max_failures=cluster.max_failures),
                callbacks=[teller],
                verbose=0,
            ),
        )
        results = tuner.fit()
    failed = {result.config["job"]: _reason(result) for result in results}
    return ranked(
        [
            Outcome(trial, run, validations_of(run), failed[number])
            for number, (trial, run) in enumerate(zip(trials, runs, strict=True))
        ],
        metric,
    )


def _scheduler(trials: Sequence[Trial], metric: Metric, least: int) -> ASHAScheduler:
    most = max(trial.experiment.training.updates for trial in trials)
    return ASHAScheduler(
        time_attr="update",
        metric=metric,
        mode="max" if metric == "bleu" else "min",
        # One more than there are: it would stop a trial before its last checkpoint.
        max_t=most + 1,
        grace_period=min(least, most),
        reduction_factor=HALVING,
    )


def _trial(config: Mapping[str, Any], jobs: Sequence[Mapping[str, Any]]) -> None:
    """What runs in the process of a trial; Ray ends it from within a report."""
    job = jobs[config["job"]]
    os.environ.update(job["env"])
    configure_malloc()
    torch.set_num_threads(job["cpus"])
    experiment = Experiment.model_validate_json(job["experiment"])
    world = World(device=torch.device("cuda" if job["gpus"] else "cpu"))
    report = _Report(Path(job["run_dir"]), experiment.training.validate_every)
    try:
        report.tell()
        corpus = open_corpus(experiment, Path(job["prepared"]))
        train(
            experiment,
            corpus,
            world,
            report.run_dir,
            should_stop=report.at_update,
            origin=Origin(**job["origin"]),
        )
        report.tell()
    except NmtError as error:
        # Such as a gradient that stays not finite: it says something about the settings.
        tune.report({"update": experiment.training.updates, "failed": str(error), **WORST})


class _Report:
    """Tells Ray of each validation of a run once, from what the run writes down."""

    def __init__(self, run_dir: Path, every: int) -> None:
        self.run_dir = run_dir
        self._every = every
        self._told = 0

    def at_update(self, update: int) -> bool:
        if update % self._every == 0:
            self.tell()
        return False

    def tell(self) -> None:
        for record in validations_of(self.run_dir):
            if record["update"] > self._told:
                self._told = record["update"]
                values = {
                    "update": self._told,
                    "bleu": record["dev_bleu"],
                    "loss": record["dev_loss"],
                }
                tune.report({**values, "failed": ""})


class _Teller(tune.Callback):  # type: ignore[misc]
    """Prints a line for each report."""

    def __init__(self, trials: Sequence[Trial], say: Callable[[str], None]) -> None:
        self._trials = trials
        self._say = say

    def __getstate__(self) -> dict[str, Any]:
        # Ray keeps what it was given on the disk too; nobody reads it back.
        return {}

    def on_trial_result(
        self, iteration: int, trials: Any, trial: Any, result: Mapping[str, Any], **_: Any
    ) -> None:
        """Called by Ray."""
        ours = self._trials[trial.config["job"]]
        what = f"trial {ours.number} ({' '.join(ours.overrides)})"
        if result["failed"]:
            self._say(f"{what} failed: {result['failed']}")
        else:
            self._say(
                f"{what}: update {result['update']:,}: {NAMES['bleu']} {result['bleu']:.2f}, "
                f"{NAMES['loss']} {result['loss']:.3f} nats/token"
            )

    def on_trial_error(self, iteration: int, trials: Any, trial: Any, **_: Any) -> None:
        """Called by Ray; the process was lost too often."""
        ours = self._trials[trial.config["job"]]
        self._say(f"trial {ours.number} ({' '.join(ours.overrides)}) was lost")


def _reason(result: Any) -> str:
    """Why a trial came to no end, in a line; empty: it did."""
    if result.error is not None:
        lines = [line.strip() for line in str(result.error).splitlines() if line.strip()]
        return lines[-1][:200] if lines else type(result.error).__name__
    return str((result.metrics or {}).get("failed", ""))
