"""`nmt tune`: search settings of decoding (RUN) or of training (EXPERIMENT --search ...)."""

import hashlib
import json
import os
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from nmt.checkpoint.run_directory import list_checkpoints
from nmt.cli import options
from nmt.cli.options import BEAM, COUNT, COUNT_OR_0, LENGTH_PENALTY, RERANK, comma_list
from nmt.config.decoding import DecodingConfig
from nmt.config.experiment import Experiment
from nmt.config.files import dump
from nmt.config.search_space import KINDS, Trial, draw_trials, read_space
from nmt.config.settings import is_address
from nmt.console import Console
from nmt.corpus.io import atomic_write, check_writable
from nmt.corpus.old_pairs import replace_missing_sets
from nmt.corpus.pair_files import PairFiles
from nmt.corpus.prepared import corpus_settings, is_prepared, open_prepared, resolve_by_prepared
from nmt.decoding.loading import check_search, make_translator, open_model
from nmt.errors import ConfigError
from nmt.evaluation import tuning
from nmt.evaluation.scores import check_dev_set
from nmt.jobs.preparation import prepare_corpus
from nmt.training.run_manifest import find_prepared

if TYPE_CHECKING:
    from nmt.jobs.tune import Metric, Outcome

TRAINING_OPTIONS = ("search", "trials", "metric", "least", "search_seed", "cluster")
"""Parameters that need --search; the others tune decoding."""


@click.command()
@click.argument("run", metavar="RUN|EXPERIMENT")
@options.overrides_argument
@click.option("--beams", default="1,4,5,8", metavar="NUMBERS",
              callback=comma_list(BEAM), help="Beam sizes to try.")  # fmt: skip
@click.option("--penalties", default="0.6,1.0,1.4,1.8,2.2", metavar="NUMBERS",
              callback=comma_list(LENGTH_PENALTY), help="Length penalties to try.")  # fmt: skip
@click.option("--rerank", "reranks", metavar="NAMES", callback=comma_list(RERANK),
              help="Values of decoding.rerank to try; default: that of RUN.")  # fmt: skip
@options.compute_options
@click.option("--search", multiple=True, metavar="KEY=RANGE|FILE",
              help=f"Setting to search: {KINDS}; or a YAML file; repeatable.")  # fmt: skip
@click.option("--trials", type=COUNT, default=8, help="Maximum trials.")
@click.option("--metric", type=click.Choice(["bleu", "loss"]), default="bleu",
              help="Dev metric that ranks the trials.")  # fmt: skip
@click.option("--least", type=COUNT, help="Minimum updates of a trial; default: a quarter.")
@click.option("--search-seed", type=COUNT_OR_0, default=1, help="Search seed.")
@options.cluster_option
def tune(run: str, overrides: tuple[str, ...], **values: Any) -> None:
    """Search for the settings with the best dev score.

    With a RUN (run directory or checkpoint), the dev set is translated with each combination of
    beam size, length penalty and --rerank; nothing is trained.

    With an EXPERIMENT and --search, models are trained with values drawn for the given settings,
    each on one worker of the cluster file. The worse ones are stopped at a quarter and at half of
    the updates. The same command resumes an interrupted search. The table, best first, goes to
    standard output.
    """
    # Only explicit options count: each mode ignores the defaults of the other.
    context = click.get_current_context()
    command_line = click.core.ParameterSource.COMMANDLINE
    given = [name for name in values if context.get_parameter_source(name) == command_line]
    is_search = bool(values["search"])
    if wrong := [name for name in given if (name in TRAINING_OPTIONS) != is_search]:
        rule = "cannot be combined with --search" if is_search else "needs --search"
        names = {each.name: each.opts[0] for each in context.command.params}
        raise ConfigError.from_message(f"{names[wrong[0]]} {rule}")
    if is_search:
        search_training(run, overrides, **{name: values[name] for name in TRAINING_OPTIONS})
        return
    if run.endswith((".yaml", ".yml")):
        example = "--search 'training.learning_rate=loguniform(1e-3, 1e-2)'"
        raise ConfigError.from_message(f"{run} is an experiment: add {example}, or give a run")
    if overrides:
        raise ConfigError.from_message(f"{overrides[0]!r}: settings can be set only with --search")
    tune_decoding(run, **{key: values[key] for key in values if key not in TRAINING_OPTIONS})


def tune_decoding(
    run: str, beams: list[int], penalties: list[float], reranks: list[str] | None, **compute: Any
) -> None:
    """Translate the dev set of a run with all combinations of values; print the table."""
    checkpoint = open_model(run)
    experiment = checkpoint.experiment
    decoding = experiment.decoding
    if decoding.method != "beam":
        rule = "only beam search has a beam and a length penalty to tune"
        raise ConfigError("decoding.method", decoding.method, rule)
    prepared = find_prepared(checkpoint.path, experiment)
    corpus = replace_missing_sets(experiment.corpus, prepared)
    pairs = list(PairFiles.of(corpus.dev, corpus).read())
    srcs, refs = [src for src, _ in pairs], [ref for _, ref in pairs]
    check_dev_set(corpus.tgt, refs)
    translator = make_translator(checkpoint, **compute)
    # --batch applies to the trials too; it does not change translations.
    decoding = decoding.model_copy(update={"batch_sentences": translator.decoding.batch_sentences})
    largest = decoding.model_copy(update={"beam": max(beams)})
    check_search(largest, {}, checkpoint.subword.num_pieces)

    def translate(settings: DecodingConfig) -> list[str]:
        translator.decoding = settings
        return translator.translate(srcs)

    with Console() as console:
        console.print(options.describe(checkpoint))
        trials = tuning.tune(
            translate, decoding, beams, penalties, reranks or [decoding.rerank], refs, corpus.tgt,
            lambda done, total: console.progress("tuning", done, total, "searches"),
        )  # fmt: skip
        console.clear()
        click.echo(tuning.table(trials, decoding))
        best = trials[0]
        console.print(f"{corpus.dev.name}: {len(refs):,} lines | BLEU|{best.bleu.signature}")
        search = f"--beam {best.beam} --length-penalty {best.length_penalty:g}"
        search += f" --rerank {best.rerank}" if best.rerank != decoding.rerank else ""
        console.print(
            f"next: {options.next_command('translate')} {options.display_path(run)} {search}"
        )
        for name, value, tried in (
            ("beams", best.beam, beams), ("penalties", best.length_penalty, penalties)
        ):  # fmt: skip
            if len(tried) > 1 and value == max(tried):
                console.print(f"{value:g} is the largest value tried: try larger ones (--{name})")


def search_training(
    path: str, overrides: tuple[str, ...], search: tuple[str, ...], trials: int,
    metric: "Metric", least: int | None, search_seed: int, cluster: str | None,
) -> None:  # fmt: skip
    """Train a model per trial on Ray and print the table, best first.

    Args:
        path: experiment file.
        search: search space, as for `read_space`.
        least: updates before a trial may be stopped; None: a quarter of all.
    """
    from nmt.jobs.ray_session import connect, lock_run_directory, resolve_auto
    from nmt.jobs.tune import format_table, make_run_name, tune_on_ray
    from nmt.training.warm_start import check_warm_start

    experiment, cluster_settings = options.load_settings(path, cluster, overrides)
    space = read_space(search)
    experiment = resolve_by_prepared(experiment)
    drawn = draw_trials(experiment, space, trials, search_seed)
    drawn = [_with_corpus(trial, experiment) for trial in drawn]
    if is_address(cluster_settings.storage):
        rule = "trials need a directory that every host sees"
        raise ConfigError("cluster.storage", cluster_settings.storage, rule)
    storage = Path(cluster_settings.storage).resolve()
    directory = storage / f"{experiment.name}.tune"
    check_writable("cluster.storage", directory)
    least = least or max(1, experiment.training.updates // 4)
    subword = open_prepared(experiment)[1] if is_prepared(experiment) else None
    for trial in drawn:
        # The source of a resumed trial is not read again.
        if not list_checkpoints(directory / make_run_name(trial.experiment)):
            is_same = trial.experiment.prepared == experiment.prepared
            check_warm_start(trial.experiment, subword if is_same else None)
    # Trials with other cleaning or subword settings need their own prepared corpus.
    corpora = {trial.experiment.prepared: trial.experiment for trial in drawn}
    if experiment.prepared in corpora:
        open_prepared(experiment)[0].verify()
    cluster_settings = resolve_auto(cluster_settings, trials)
    # Preparation uses one core per worker, each trial the cores of one worker.
    max_workers = cluster_settings.workers.max
    num_cpus = max(max_workers, min(trials, max_workers) * cluster_settings.cpus_per_worker)
    with Console() as console:
        ray_session = connect(num_cpus, directory / "ray.log")
        with options.resumable(console), lock_run_directory(directory), ray_session:
            for each in corpora.values():
                if not is_prepared(each):
                    console.print(f"{each.prepared}: prepare the corpus of some trials")
                    prepare_corpus(each, cluster_settings, console)
            outcomes = tune_on_ray(drawn, directory, cluster_settings, console, metric, least)
        click.echo(format_table(outcomes, metric))
        for line in _best_lines(outcomes[0], metric, directory, experiment.name):
            console.print(line)


def _with_corpus(trial: Trial, base: Experiment) -> Trial:
    """Set the prepared corpus of a trial: that of the base, or its own if the text differs."""
    prepared, settings = base.prepared, corpus_settings(trial.experiment)
    if settings != corpus_settings(base):
        text = json.dumps(settings, sort_keys=True)
        prepared += f".{hashlib.sha256(text.encode()).hexdigest()[:8]}"
    experiment = trial.experiment.with_settings("corpus", prepared=prepared)
    return replace(trial, experiment=experiment)


def _best_lines(best: "Outcome", metric: "Metric", directory: Path, name: str) -> list[str]:
    """Write the best settings as an experiment file; return lines about them."""
    validation = best.best(metric)
    if validation is None or best.failure:
        return ["every trial failed or ended before its first validation: see the reasons above"]
    file = directory / "best.yaml"
    # Absolute: the file is in another folder than that of the experiment.
    root = os.path.abspath(best.trial.experiment.corpus.root)
    tuned = best.trial.experiment.with_settings("corpus", root=root)
    # A name has at most 100 characters.
    tuned = tuned.model_copy(update={"name": f"{name[:94]}.tuned"})
    with atomic_write(file) as scratch:
        scratch.write_text(dump(tuned), encoding="utf-8")
    return [
        f"best: {' '.join(best.trial.overrides)}",
        f"dev_bleu {validation['dev_bleu']:.2f} {validation['signature']} | model "
        f"{options.display_path(best.run_dir)}",
        f"next: {options.next_command('train')} {options.display_path(file)}",
    ]
