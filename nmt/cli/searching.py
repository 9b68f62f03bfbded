"""`nmt tune EXPERIMENT --search ...`: settings of training, tried by training with them."""

import hashlib
import json
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import click

from nmt.cli.settings import check_folder, load_settings
from nmt.cli.train import prepare_corpus
from nmt.cli.verbs import again, program, shown
from nmt.errors import ConfigError

if TYPE_CHECKING:
    from nmt.config.experiment import Experiment
    from nmt.config.search import Trial
    from nmt.training.trials import Metric, Outcome


def search_training(
    experiment: str,
    overrides: tuple[str, ...],
    search: tuple[str, ...],
    trials: int,
    metric: "Metric",
    least: int | None,
    search_seed: int,
    cluster: str | None,
) -> None:
    """Train a model for each trial and print the table, the best first."""
    from nmt.config.search import draw_trials, read_space
    from nmt.console import Console
    from nmt.corpus.prepared import check_prepared, is_prepared, sized
    from nmt.jobs.alone import alone
    from nmt.jobs.session import connect
    from nmt.storage import is_address
    from nmt.training.trials import table

    ours, theirs = load_settings(experiment, cluster, overrides)
    space = read_space(search)
    ours = sized(ours)
    drawn = [_placed(trial, ours) for trial in draw_trials(ours, space, trials, search_seed)]
    if is_address(theirs.storage):
        rule = "trials are kept in a folder that every host sees: name one"
        raise ConfigError("cluster.storage", theirs.storage, rule)
    folder = Path(theirs.storage).expanduser().resolve() / f"{ours.name}.tune"
    check_folder("cluster.storage", folder)
    least = least or max(1, ours.training.updates // 4)
    corpora = {trial.experiment.prepared: trial.experiment for trial in drawn}
    if ours.prepared in corpora:
        check_prepared(ours)
    with Console() as console:
        from nmt.jobs.tune import tune_on_ray

        num_cpus = max(theirs.workers.max, min(trials, theirs.workers.max) * theirs.cpus_per_worker)
        try:
            with alone(folder), connect(num_cpus, folder / "ray.log"):
                for each in corpora.values():
                    if not is_prepared(each):
                        console.say(f"preparing the corpus of some trials in {each.prepared}")
                        prepare_corpus(each, theirs, console)
                outcomes = tune_on_ray(drawn, folder, theirs, console, metric, least)
        except KeyboardInterrupt:
            console.say(f"to go on with this search: {again()}")
            raise
        click.echo(table(outcomes, metric))
        for line in _advice(outcomes[0], metric, folder, ours.name):
            console.say(line)


def _placed(trial: "Trial", base: "Experiment") -> "Trial":
    """The trial with the folder of its prepared corpus, which is its own if it needs other text."""
    from nmt.corpus.prepared import settings_of

    prepared, settings = base.prepared, settings_of(trial.experiment)
    if settings != settings_of(base):
        text = json.dumps(settings, sort_keys=True)
        prepared += f".{hashlib.sha256(text.encode()).hexdigest()[:8]}"
    corpus = trial.experiment.corpus.model_copy(update={"prepared": prepared})
    return replace(trial, experiment=trial.experiment.model_copy(update={"corpus": corpus}))


def _advice(best: "Outcome", metric: "Metric", folder: Path, name: str) -> list[str]:
    """What to type next; the best settings as an experiment file."""
    from nmt.config.files import dump
    from nmt.corpus.files import replacing

    found = best.best(metric)
    if found is None:
        return ["no trial came to a validation: widen the search, or look at the reasons above"]
    file = folder / "best.yaml"
    tuned = best.trial.experiment.model_copy(update={"name": f"{name}.tuned"})
    with replacing(file) as scratch:
        scratch.write_text(dump(tuned), encoding="utf-8")
    return [
        f"dev BLEU {found['bleu']:.2f}, {found['signature']}; the best settings: "
        f"{' '.join(best.trial.overrides)}",
        f"to train with them: {program()} train {shown(file)}; the model of the best trial: "
        f"{shown(best.run_dir)}",
    ]
