"""`nmt backtranslate`: training pairs from monolingual text."""

import os
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import click

from nmt.cli.options import (
    check_output,
    cluster_option,
    describe,
    engine_option,
    resumable,
    speed,
)
from nmt.config.decoding import DecodingConfig, EngineName
from nmt.config.files import format_value, load_cluster, load_experiment, override
from nmt.console import Console
from nmt.corpus.clean import format_tally, held_out_digests
from nmt.corpus.detect import make_name
from nmt.corpus.io import check_regular_files
from nmt.corpus.old_pairs import replace_missing_sets
from nmt.decoding.engines import Model, choose_engine
from nmt.decoding.loading import check_search, open_ensemble, open_model
from nmt.errors import ConfigError
from nmt.training.run_manifest import find_prepared


@click.command()
@click.argument("run")
@click.argument("mono")
@click.argument("out")
@click.argument("overrides", metavar="[decoding.KEY=VALUE]...", nargs=-1)
@click.option("--ensemble", multiple=True, metavar="RUN", help="Ensemble member; repeatable.")
@click.option("--ref", metavar="FILE", help="References of MONO: keep the nearest of each beam.")
@click.option("--experiment", metavar="FILE", help="Experiment to train; default: that of RUN.")
@engine_option
@cluster_option
def backtranslate(
    run: str, mono: str, out: str, overrides: tuple[str, ...], ensemble: tuple[str, ...],
    ref: str | None, experiment: str | None, engine: EngineName, cluster: str | None,
) -> None:  # fmt: skip
    """Translate monolingual text.

    Translates the file MONO with the model RUN on Ray and writes both sides to OUT.<language>, as
    training pairs.

    With a model of the reverse direction this is back-translation; with one or more models of the
    same direction and the source side of the training data, it is distillation; --ref names the
    target side. Excluded and counted: lines of the dev and test sets of the experiment, duplicates,
    and pairs dropped by its cleaning rules. decoding.method=sample samples instead of beam search.
    """
    for text in overrides:
        if not text.startswith("decoding."):
            raise ConfigError.from_message(f"{text!r}: only decoding.KEY=VALUE can be set here")
    texts = [mono, ref] if ref else [mono]
    check_regular_files(texts)
    from nmt.jobs.backtranslate import backtranslate as create_pairs
    from nmt.jobs.backtranslate import check_reference
    from nmt.jobs.ray_session import connect, resolve_auto
    from nmt.jobs.tasks import run_on_ray

    model = open_model(run)
    checkpoints = [model, *open_ensemble(model, ensemble)]
    settings = override(model.experiment, overrides)
    _check_search(checkpoints, settings.decoding, overrides, engine)
    language, other = settings.corpus.src, settings.corpus.tgt
    _check_outputs(out, (language, other), texts)
    if ref:
        check_reference(Path(mono), Path(ref), settings.decoding)
    if experiment:
        corpus = load_experiment(experiment).corpus
    else:
        prepared = find_prepared(model.path, model.experiment)
        corpus = replace_missing_sets(settings.corpus, prepared)
    # In another folder than that of the training a relative corpus.root is of no use.
    is_here = bool(experiment) or corpus == settings.corpus
    cluster_settings = load_cluster(cluster)
    # Read now to report errors in the held-out sets before a cluster is used.
    held_out_digests(corpus, language)
    path = Path(os.path.abspath(out))
    started = time.monotonic()
    with Console() as console:
        for checkpoint in checkpoints:
            console.print(describe(checkpoint))

        def run_tasks(function: Callable[..., Any], tasks: Sequence[Any]) -> Iterator[Any]:
            # Ray starts only now: the text has been read, and its errors have been reported.
            if tasks:
                output = path.with_name(f"{path.name}.log")
                with connect(cluster_settings.workers.max, output):
                    num_gpus = resolve_auto(cluster_settings, sys.maxsize).num_gpus
                    yield from run_on_ray(function, tasks, num_gpus)

        with resumable(console):
            lines, pairs = create_pairs(
                checkpoints, settings.decoding, Path(mono), corpus, path, engine,
                run_tasks, console.progress, Path(ref) if ref else None,
            )  # fmt: skip
        console.clear()
        console.print(f"{mono}: {format_tally(lines)}")
        console.print(f"pairs: {format_tally(pairs)}")
        console.print(speed(pairs.total(), started))
        console.print(f"wrote {out}.{language} and {out}.{other}")
        directions = [(corpus.src, corpus.tgt)]
        if not (experiment or ref):
            # Either use is possible: distillation, or back-translation for the reverse model.
            directions.append((corpus.tgt, corpus.src))
        for src, tgt in directions:
            console.print(f"entry for corpus.train of a model from {src} to {tgt}:")
            root = Path(os.path.abspath(corpus.root)) if is_here else None
            console.print(f"  - {_entry(path, root, src, tgt, other)}")


def _check_search(
    models: Sequence[Model], decoding: DecodingConfig, overrides: Sequence[str], engine: EngineName
) -> None:
    """Raise ConfigError for settings without effect, or an engine that cannot run the models."""
    keys = {text.partition("=")[0].removeprefix("decoding.") for text in overrides}
    check_search(decoding, decoding.model_dump(include=keys), models[0].subword.num_pieces)
    # On any device: the workers choose theirs.
    choose_engine(models, engine, "cpu", None)


def _entry(path: Path, root: Path | None, src: str, tgt: str, translated: str) -> str:
    """Format the pairs `path`.<language> as an entry of corpus.train.

    `translated` is the language of the translations.
    """
    # As an experiment reads it: below corpus.root, or absolute.
    base = path.relative_to(root) if root and path.is_relative_to(root) else path
    entry = {"name": make_name(path.name), "src": f"{base}.{src}", "tgt": f"{base}.{tgt}"}
    # Back-translated sources are tagged (Caswell et al. 2019); distilled ones are real text.
    return format_value(entry | ({"tag": 1} if translated == src else {}))


def _check_outputs(out: str, languages: Sequence[str], inputs: Sequence[str]) -> None:
    """Raise ConfigError if the files of the pairs cannot be created."""
    if os.path.basename(out) in ("", ".", ".."):
        rule = f"it is a directory: name files in it, such as {Path(out, 'bt')}"
        raise ConfigError("OUT", out, rule)
    for language in languages:
        check_output(f"{out}.{language}", inputs, option="OUT")
