"""Trials of a search as a Ray Tune run: several at once, the worse ones stopped early.

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

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

# Ctrl-C ends the command, which can be given again, rather than this search in good order.
os.environ.setdefault("TUNE_DISABLE_SIGINT_HANDLER", "1")
# A trial is a run of ours, with its own records, and has paths from where the command was given.
os.environ.setdefault("TUNE_DISABLE_AUTO_CALLBACK_LOGGERS", "1")
os.environ.setdefault("RAY_CHDIR_TO_TRIAL_DIR", "0")
# The new one prints a box of its own even where it is asked to be silent.
os.environ.setdefault("RAY_AIR_NEW_OUTPUT", "0")

import torch
from ray import tune
from ray.tune.schedulers import ASHAScheduler

from nmt.config.cluster import Cluster
from nmt.config.experiment import Experiment
from nmt.config.search import Trial
from nmt.console import Console
from nmt.errors import NmtError
from nmt.jobs.session import connect
from nmt.jobs.train import check_resources, open_corpus
from nmt.training.loop import train
from nmt.training.manifest import Origin
from nmt.training.process import settle
from nmt.training.trials import NAMES, Metric, Outcome, ranked, run_name, validations_of
from nmt.training.world import World

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
    console.say(f"{len(trials)} trials in {folder}; what Ray and torch say goes to {chatter}")
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
        teller = _Teller(trials, console.say)
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
    settle()
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
            at_update=report.at_update,
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
                values = {"update": self._told, "bleu": record["bleu"], "loss": record["nll"]}
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
