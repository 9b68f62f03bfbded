"""Hyperparameter search with Ray Tune: trials are training runs, the worse ones stop early.

A trial is a run of one worker with the resources of a worker of the cluster file; as many trials
run at once as it has workers. One worker trains the same model as several (world-size
independence), and trials do not wait for each other. After each validation a trial reports its
score, and ASHA (Li et al. 2020, "A System for Massively Parallel Hyperparameter Tuning") keeps the
better half of the trials at each rung. The result of a trial depends on its settings only;
which trials are stopped early also depends on the order in which they report.

The state that Ray Tune keeps is pickled and never read. An interrupted search is started again: its
trials report the validations in their run directories and resume from their newest checkpoints.
"""

import hashlib
import json
import math
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal

import torch
from ray import tune
from ray.tune.schedulers import ASHAScheduler

from nmt.checkpoint.run_directory import dev_score_key
from nmt.config.cluster import Cluster
from nmt.config.experiment import Experiment
from nmt.config.search_space import Trial
from nmt.console import Console
from nmt.errors import NmtError
from nmt.jobs.driver import get_last_line
from nmt.jobs.ray_session import connect, fit_workers, resolve_auto
from nmt.jobs.tasks import task_device
from nmt.jobs.train import load_training_data
from nmt.model.mkl import set_strict_mode
from nmt.training.distributed import World
from nmt.training.loop import train
from nmt.training.memory import UpdateOutOfMemoryError, configure_memory, worker_environment
from nmt.training.resume import check_run
from nmt.training.run_log import read_records
from nmt.training.run_manifest import Origin
from nmt.training.stop_control import RunHooks
from nmt.training.warm_start import with_absolute_source

# Ctrl-C ends the command at once: a search can be resumed.
os.environ.setdefault("TUNE_DISABLE_SIGINT_HANDLER", "1")
# Trials have our own logs, and paths relative to the folder of the command.
os.environ.setdefault("TUNE_DISABLE_AUTO_CALLBACK_LOGGERS", "1")
os.environ.setdefault("RAY_CHDIR_TO_TRIAL_DIR", "0")
# Ray's new output prints a table even with verbose=0.
os.environ.setdefault("RAY_AIR_NEW_OUTPUT", "0")

Metric = Literal["bleu", "loss"]
_METRICS: dict[Metric, tuple[str, int]] = {"bleu": ("dev_bleu", -1), "loss": ("dev_loss", 1)}
"""Key in the records of a run, and the sign that makes a smaller value better."""
_FAILED = {"dev_bleu": 0.0, "dev_loss": 1e9}
"""Scores reported for a trial that failed: the worst."""
REDUCTION_FACTOR = 2
"""ASHA keeps one of so many trials at each rung."""


@dataclass(frozen=True)
class Outcome:
    """A trial and the validations of its run."""

    trial: Trial
    run_dir: Path
    validations: list[dict[str, Any]]
    failure: str = ""
    """Error that ended the trial; empty if it finished or was stopped early."""

    def best(self, metric: Metric) -> dict[str, Any] | None:
        """Return the best validation; None if there is none."""
        return max(self.validations, key=partial(_score_key, metric), default=None)

    def rank(self, metric: Metric) -> tuple[bool, float, float, int]:
        """Return a sort key: best first, those without a validation later, failed ones last."""
        best = self.best(metric)
        first, second = _score_key(metric, best) if best is not None else (-math.inf, -math.inf)
        return bool(self.failure), -first, -second, self.trial.number

    def describe_end(self) -> str:
        """Describe the end of the trial in a few words."""
        if self.failure:
            return f"failed: {self.failure}"
        updates = self.trial.experiment.training.updates
        done = self.validations[-1]["update"] if self.validations else 0
        return "finished" if done == updates else f"stopped after {done:,} of {updates:,} updates"


def _score_key(metric: Metric, validation: Mapping[str, Any]) -> tuple[float, float]:
    """Return a sort key of validations, the best last; the other metric breaks ties."""
    bleu, loss = dev_score_key(validation["dev_bleu"], validation["dev_loss"])
    return (bleu, loss) if metric == "bleu" else (loss, bleu)


def tune_on_ray(
    trials: Sequence[Trial], folder: Path, cluster: Cluster, console: Console, metric: Metric,
    least: int,
) -> list[Outcome]:  # fmt: skip
    """Train all trials, each to its end or until ASHA stops it; return outcomes, best first.

    Args:
        trials: experiments with prepared corpora.
        folder: directory of the search, shared by all hosts; contains the run directories.
        cluster: resources of a trial and number of trials at once.
        console: receives log lines.
        metric: score of the dev set to compare.
        least: updates of each trial before it can be stopped.

    Raises:
        NmtError: the cluster cannot hold a trial.
    """
    output = folder / "ray.log"
    console.log(f"{len(trials)} trials in {folder}")
    console.log(f"Ray and torch output: {output}")
    cluster = resolve_auto(cluster, len(trials))
    # Trials beyond this number would block each other's resources.
    max_concurrent = min(len(trials), cluster.workers.max)
    runs = [folder / make_run_name(trial.experiment) for trial in trials]
    jobs = []
    for trial, run in zip(trials, runs, strict=True):
        named = trial.experiment.model_copy(update={"name": run.name})
        experiment = with_absolute_source(named)
        jobs.append((experiment, Path(experiment.prepared).resolve(), run))
        # A finished trial on other data would be compared by its old scores.
        check_run(experiment, run, same_dev=True)
    with connect(max_concurrent * cluster.cpus_per_worker, output):
        cluster = resolve_auto(cluster, len(trials))
        max_concurrent = min(len(trials), cluster.workers.max)
        fit_workers(cluster, at_least=1)
        tuner = tune.Tuner(
            tune.with_resources(
                tune.with_parameters(_run_trial, jobs=jobs, cluster=cluster, origin=Origin.here()),
                {"CPU": cluster.cpus_per_worker, "GPU": cluster.num_gpus},
            ),
            param_space={"job": tune.grid_search(list(range(len(jobs))))},
            tune_config=tune.TuneConfig(
                scheduler=_make_scheduler(trials, metric, least),
                max_concurrent_trials=max_concurrent,
                reuse_actors=True,
                trial_dirname_creator=lambda trial: f"trial-{trial.config['job'] + 1}",
            ),
            run_config=tune.RunConfig(
                name="ray",
                storage_path=str(folder),
                failure_config=tune.FailureConfig(max_failures=cluster.max_failures),
                callbacks=[_TrialLogger(trials, console.log)],
                verbose=0,
            ),
        )
        results = tuner.fit()
    failures = {}
    for result in results:
        error = get_last_line(str(result.error)) if result.error else ""
        failures[result.config["job"]] = error or (result.metrics or {}).get("failure", "")
    outcomes = [
        Outcome(trial, run, read_validations(run), failures[number])
        for number, (trial, run) in enumerate(zip(trials, runs, strict=True))
    ]
    return sorted(outcomes, key=lambda outcome: outcome.rank(metric))


def make_run_name(experiment: Experiment) -> str:
    """Return 12 hexadecimal digits of a hash of the settings, without the name of the experiment.

    Equal settings share a run, in any search.
    """
    tree = experiment.model_dump(mode="json", exclude={"name"})
    return hashlib.sha256(json.dumps(tree, sort_keys=True).encode()).hexdigest()[:12]


def read_validations(run_dir: Path) -> list[dict[str, Any]]:
    """Return the validation records of a run, oldest first."""
    records, _ = read_records(run_dir)
    validations = [each for each in records if each["kind"] == "validation"]
    # A dev loss that is not finite is null in the record.
    return [each for each in validations if each["dev_loss"] is not None]


def format_table(outcomes: Sequence[Outcome], metric: Metric) -> str:
    """Format outcomes as lines of a table, in the order given."""
    keys = list(outcomes[0].trial.settings)
    head = ["trial", "dev_bleu", "dev_loss", "update", "minutes", *keys, "end", "run"]
    rows = [head]
    for outcome in outcomes:
        best, settings = outcome.best(metric), outcome.trial.settings
        numbers = ["-"] * 4
        if best is not None:
            minutes = outcome.validations[-1].get("train_s", 0.0) / 60
            numbers = [f"{best['dev_bleu']:.2f}", f"{best['dev_loss']:.3f}"]
            numbers += [f"{best['update']:,}", f"{minutes:.1f}"]
        values = [
            value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
            for value in map(settings.__getitem__, keys)
        ]
        end = [outcome.describe_end(), outcome.run_dir.name]
        rows.append([str(outcome.trial.number), *numbers, *values, *end])
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    align = [*[str.rjust] * (len(head) - 2), str.ljust, str.ljust]
    lines = (
        "  ".join(pad(cell, width) for pad, cell, width in zip(align, row, widths, strict=True))
        for row in rows
    )
    return "\n".join(line.rstrip() for line in lines)


def _make_scheduler(trials: Sequence[Trial], metric: Metric, least: int) -> ASHAScheduler:
    key, sign = _METRICS[metric]
    max_updates = max(trial.experiment.training.updates for trial in trials)
    return ASHAScheduler(
        time_attr="update",
        metric=key,
        mode="min" if sign > 0 else "max",
        # One more than the last update: ASHA would stop a trial there before its last checkpoint.
        max_t=max_updates + 1,
        grace_period=min(least, max_updates),
        reduction_factor=REDUCTION_FACTOR,
    )


def _run_trial(
    config: dict[str, int],
    jobs: list[tuple[Experiment, Path, Path]],
    cluster: Cluster,
    origin: Origin,
) -> None:
    """Trainable of Ray Tune: one trial in a process; Ray ends it inside a report."""
    experiment, prepared, run_dir = jobs[config["job"]]
    os.environ.update(worker_environment(cluster))
    configure_memory()
    set_strict_mode()
    torch.set_num_threads(cluster.cpus_per_worker)
    world = World(device=torch.device(task_device()))
    reporter = _Reporter(run_dir, experiment.training.validate_every)
    try:
        reporter.report()
        data = load_training_data(experiment, prepared)
        min_split = 1
        while True:
            try:
                train(
                    experiment, data, world, run_dir, should_stop=reporter.after_update,
                    origin=origin, hooks=RunHooks(min_split=min_split),
                )  # fmt: skip
                break
            except UpdateOutOfMemoryError as error:
                # From the last checkpoint, as `nmt train` restarts its workers.
                min_split = 2 * error.split
        reporter.report()
    except NmtError as error:
        # For example non-finite gradients: a property of the settings, not of the machine.
        tune.report({"update": experiment.training.updates, "failure": str(error), **_FAILED})


class _Reporter:
    """Reports each validation record of a run to Ray Tune once."""

    def __init__(self, run_dir: Path, validate_every: int) -> None:
        self._run_dir = run_dir
        self._validate_every = validate_every
        self._reported = 0

    def after_update(self, update: int) -> bool:
        """Report after a validation; never request a stop."""
        if update % self._validate_every == 0:
            self.report()
        return False

    def report(self) -> None:
        for record in read_validations(self._run_dir):
            # ASHA expects each rung once; a resumed run repeats its records.
            if record["update"] > self._reported:
                self._reported = record["update"]
                scores = {key: record[key] for key in _FAILED}
                tune.report({"update": self._reported, "failure": "", **scores})


class _TrialLogger(tune.Callback):  # type: ignore[misc]
    """Logs a line for each report."""

    def __init__(self, trials: Sequence[Trial], log: Callable[[str], None]) -> None:
        self._trials = trials
        self._log = log

    def __getstate__(self) -> dict[str, Any]:
        # Ray saves its callbacks to disk; nothing reads them.
        return {}

    def on_trial_result(
        self, iteration: int, trials: Any, trial: Any, result: Mapping[str, Any], **_: Any
    ) -> None:
        """Log a report; called by Ray."""
        line = f"update {result['update']:,} | dev_bleu {result['dev_bleu']:.2f}"
        line += f" | dev_loss {result['dev_loss']:.3f}"
        if result["failure"]:
            line = f"failed: {result['failure']}"
        self._log(f"{self._describe(trial)} | {line}")

    def on_trial_error(self, iteration: int, trials: Any, trial: Any, **_: Any) -> None:
        """Log a trial whose process was lost too often; called by Ray."""
        self._log(f"{self._describe(trial)} | lost")

    def _describe(self, trial: Any) -> str:
        planned = self._trials[trial.config["job"]]
        return f"trial {planned.number} ({' '.join(planned.overrides)})"
