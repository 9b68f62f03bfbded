"""`nmt tune EXPERIMENT --search ...`: settings of training, tried by training with them.

`nmt tune`.
"""

import hashlib
import json
import math
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from nmt.cli.models import about, load_bundle, make_translator
from nmt.cli.options import again, compute_options, number, one_of, program, shown
from nmt.cli.settings import check_folder, cluster_option, load_settings, overrides_argument
from nmt.cli.train import prepare_corpus
from nmt.errors import ConfigError

if TYPE_CHECKING:
    from nmt.config.experiment import Experiment
    from nmt.config.search_space import Trial
    from nmt.jobs.tune import Metric, Outcome


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
    from nmt.config.search_space import draw_trials, read_space
    from nmt.console import Console
    from nmt.corpus.prepared import is_prepared, open_prepared, resolve_auto_preset
    from nmt.jobs.ray_session import connect, lock_run_directory
    from nmt.jobs.tune import format_table
    from nmt.storage import is_address

    ours, theirs = load_settings(experiment, cluster, overrides)
    space = read_space(search)
    ours = resolve_auto_preset(ours)
    drawn = [_placed(trial, ours) for trial in draw_trials(ours, space, trials, search_seed)]
    if is_address(theirs.storage):
        rule = "trials are kept in a folder that every host sees: name one"
        raise ConfigError("cluster.storage", theirs.storage, rule)
    folder = Path(theirs.storage).expanduser().resolve() / f"{ours.name}.tune"
    check_folder("cluster.storage", folder)
    least = least or max(1, ours.training.updates // 4)
    corpora = {trial.experiment.prepared: trial.experiment for trial in drawn}
    if ours.prepared in corpora:
        open_prepared(ours)
    with Console() as console:
        from nmt.jobs.tune import tune_on_ray

        num_cpus = max(theirs.workers.max, min(trials, theirs.workers.max) * theirs.cpus_per_worker)
        try:
            with lock_run_directory(folder), connect(num_cpus, folder / "ray.log"):
                for each in corpora.values():
                    if not is_prepared(each):
                        console.print(f"preparing the corpus of some trials in {each.prepared}")
                        prepare_corpus(each, theirs, console)
                outcomes = tune_on_ray(drawn, folder, theirs, console, metric, least)
        except KeyboardInterrupt:
            console.print(f"to go on with this search: {again()}")
            raise
        click.echo(format_table(outcomes, metric))
        for line in _advice(outcomes[0], metric, folder, ours.name):
            console.print(line)


def _placed(trial: "Trial", base: "Experiment") -> "Trial":
    """The trial with the folder of its prepared corpus, which is its own if it needs other text."""
    from nmt.corpus.prepared import corpus_settings

    prepared, settings = base.prepared, corpus_settings(trial.experiment)
    if settings != corpus_settings(base):
        text = json.dumps(settings, sort_keys=True)
        prepared += f".{hashlib.sha256(text.encode()).hexdigest()[:8]}"
    corpus = trial.experiment.corpus.model_copy(update={"prepared": prepared})
    return replace(trial, experiment=trial.experiment.model_copy(update={"corpus": corpus}))


def _advice(best: "Outcome", metric: "Metric", folder: Path, name: str) -> list[str]:
    """What to type next; the best settings as an experiment file."""
    from nmt.config.files import dump
    from nmt.corpus.io import atomic_write

    found = best.best(metric)
    if found is None:
        return ["no trial came to a validation: widen the search, or look at the reasons above"]
    file = folder / "best.yaml"
    tuned = best.trial.experiment.model_copy(update={"name": f"{name}.tuned"})
    with atomic_write(file) as scratch:
        scratch.write_text(dump(tuned), encoding="utf-8")
    return [
        f"dev BLEU {found['dev_bleu']:.2f}, {found['signature']}; the best settings: "
        f"{' '.join(best.trial.overrides)}",
        f"to train with them: {program()} train {shown(file)}; the model of the best trial: "
        f"{shown(best.run_dir)}",
    ]


OF_TRAINING = ("search", "trials", "metric", "least", "search_seed", "cluster")
"""Options of a search among models that are trained."""

_count = number(int, 0, "a whole number, 1 or more")


@click.command()
@click.argument("run", metavar="RUN|EXPERIMENT")
@overrides_argument
@click.option("--beams", default="1,4,5,8", show_default=True, metavar="NUMBERS",
              help="Beams to try.")  # fmt: skip
@click.option("--penalties", default="0.6,0.8,1.0,1.2,1.4", show_default=True, metavar="NUMBERS",
              help="Length penalties to try.")  # fmt: skip
@compute_options
@click.option("--search", multiple=True, metavar="KEY=RANGE|FILE",
              help="Train with values of a setting: choice(a, b, ...), uniform(low, high), "
              "loguniform(low, high), integers(low, high); or a YAML file.")  # fmt: skip
@click.option("--trials", callback=_count, default="8", show_default=True, metavar="NUMBER",
              help="Most models to train.")  # fmt: skip
@click.option("--metric", callback=one_of("bleu", "loss"), default="bleu", show_default=True,
              metavar="[bleu|loss]", help="Of the dev set: what is compared.")  # fmt: skip
@click.option("--least", callback=_count, metavar="NUMBER",
              help="Updates before a trial may be stopped; default: a quarter of all.")  # fmt: skip
@click.option("--search-seed", callback=number(int, -1, "a whole number, 0 or more"), default="1",
              show_default=True, metavar="NUMBER", help="Of what is drawn.")  # fmt: skip
@cluster_option
def tune(run: str, overrides: tuple[str, ...], **options: Any) -> None:
    """Find the settings best on the dev set.

    With a RUN, a run's folder or a checkpoint, nothing is trained: its dev set is translated with
    each beam and each length penalty. With an EXPERIMENT and --search, models are trained with
    values drawn for the settings named, each on one worker of the cluster file and as many at once
    as it has workers; at a quarter and at half of its updates the worse ones are stopped. The same
    command goes on with a search that was interrupted. The table goes to standard output, the best
    first.
    """
    ctx = click.get_current_context()
    given = [
        name
        for name in options
        if ctx.get_parameter_source(name) == click.core.ParameterSource.COMMANDLINE
    ]
    is_search = bool(options["search"])
    for name in given:
        if (name in OF_TRAINING) != is_search:
            rule = "is of the search for translations: leave it out with --search"
            if not is_search:
                rule = "is of a search that trains: give --search too, with an experiment file"
            raise ConfigError.from_message(f"--{name.replace('_', '-')} {rule}")
    if is_search:
        search_training(run, overrides, **{name: options[name] for name in OF_TRAINING})
        return
    if run.endswith((".yaml", ".yml")):
        raise ConfigError.from_message(
            f"{run} is an experiment: say what to search for, such as "
            "--search 'training.learning_rate=loguniform(1e-3, 1e-2)', or name a run instead"
        )
    if overrides:
        raise ConfigError.from_message(
            f"{overrides[0]!r} cannot be set here: only with --search models are trained"
        )
    tune_decoding(run, **{name: options[name] for name in options if name not in OF_TRAINING})


def tune_decoding(run: str, beams: str, penalties: str, **how: Any) -> None:
    """Try beams and length penalties on the dev set of a model."""
    from nmt.config.decoding import DecodingConfig
    from nmt.console import Console
    from nmt.corpus.text import read_pairs
    from nmt.evaluation import tuning

    widths = [int(width) for width in numbers("--beams", beams, 1, is_whole=True)]
    alphas = numbers("--penalties", penalties, 0, is_whole=False)
    bundle = load_bundle(Path(run))
    corpus, decoding = bundle.experiment.corpus, bundle.experiment.decoding
    if decoding.method != "beam":
        rule = "only beam search has a beam and a length penalty to tune"
        raise ConfigError("decoding.method", decoding.method, rule)
    srcs, refs = zip(*read_pairs(corpus.dev, corpus.root), strict=True)
    translator = make_translator(bundle, **how)
    decoding = decoding.model_copy(update={"batch_sentences": translator.decoding.batch_sentences})

    def translate(changed: DecodingConfig) -> list[str]:
        translator.decoding = changed
        return translator.translate(srcs)

    with Console() as console:
        console.print(about(bundle))
        trials = tuning.tune(
            translate, decoding, widths, alphas, refs, corpus.tgt,
            lambda done, total: console.progress("tuning", done, total, "searches"),
        )  # fmt: skip
        console.clear()
        click.echo(tuning.table(trials, decoding))
        best = trials[0]
        console.print(
            f"{len(refs):,} lines of {corpus.dev.name}, BLEU|{best.bleu.signature}; to use the "
            f"best: {program()} translate {run} --beam {best.beam} "
            f"--length-penalty {best.length_penalty:g}"
        )


def numbers(option: str, text: str, least: int, *, is_whole: bool) -> list[float]:
    """Numbers parted by commas; ConfigError for anything else."""
    kind = "whole numbers" if is_whole else "numbers"
    try:
        found = [float(word) for word in text.split(",")]
    except ValueError:
        found = [math.nan]
    is_good = all(least <= x < math.inf and (not is_whole or x == int(x)) for x in found)
    if not is_good:
        raise ConfigError(option, text, f"it must be {kind}, each {least} or more, like 1,4,8")
    return found
