"""`nmt tune`."""

import math
from pathlib import Path
from typing import Any

import click

from nmt.cli.models import about, load_bundle, make_translator
from nmt.cli.searching import search_training
from nmt.cli.settings import cluster_option, overrides_argument
from nmt.cli.verbs import compute_options, number, one_of, program
from nmt.errors import ConfigError

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
            raise ConfigError.saying(f"--{name.replace('_', '-')} {rule}")
    if is_search:
        search_training(run, overrides, **{name: options[name] for name in OF_TRAINING})
        return
    if run.endswith((".yaml", ".yml")):
        raise ConfigError.saying(
            f"{run} is an experiment: say what to search for, such as "
            "--search 'training.learning_rate=loguniform(1e-3, 1e-2)', or name a run instead"
        )
    if overrides:
        raise ConfigError.saying(
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
        return [found.text for found in translator.translate(srcs)]

    with Console() as console:
        console.say(about(bundle))
        trials = tuning.tune(
            translate, decoding, widths, alphas, refs, corpus.tgt,
            lambda done, total: console.progress("tuning", done, total, "searches"),
        )  # fmt: skip
        console.clear()
        click.echo(tuning.table(trials, decoding))
        best = trials[0]
        console.say(
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
