"""`nmt backtranslate`."""

import os
import time
from pathlib import Path

import click

from nmt.cli.models import about, check_inputs, load_bundle, pace
from nmt.cli.options import again
from nmt.cli.settings import cluster_option
from nmt.errors import ConfigError


@click.command()
@click.argument("run")
@click.argument("mono")
@click.argument("out")
@click.argument("overrides", metavar="[decoding.KEY=VALUE]...", nargs=-1)
@click.option("--ensemble", multiple=True, metavar="RUN",
              help="Another model, to translate together with RUN; repeatable.")  # fmt: skip
@click.option("--experiment", metavar="FILE", help="What will be trained; default: that of RUN.")
@cluster_option
def backtranslate(
    run: str, mono: str, out: str, overrides: tuple[str, ...], ensemble: tuple[str, ...],
    experiment: str | None, cluster: str | None,
) -> None:  # fmt: skip
    """Make training pairs of text in one language.

    RUN translates the lines of the file MONO, on Ray; OUT.<language> become the two sides of a
    corpus. With a RUN from the target language to the source language that is back-translation;
    with one, or several, of the same direction and the source side of the training data, it is
    distillation. Lines of the dev and test sets of the experiment are refused, and duplicates and
    what its cleaning rules drop are left out, all counted. Samples instead of beam search:
    decoding.method=sample.
    """
    from nmt.config.files import load_cluster, load_experiment, override
    from nmt.console import Console
    from nmt.corpus.clean import format_tally, held_out_digests
    from nmt.jobs.backtranslate import backtranslate as make
    from nmt.jobs.backtranslate import check_models

    for text in overrides:
        if not text.startswith("decoding."):
            rule = "only decoding.KEY=VALUE can be set here"
            raise ConfigError("the override", repr(text), rule)
    check_inputs([mono])
    bundles = [load_bundle(Path(name)) for name in (run, *ensemble)]
    check_models(bundles)
    ours = override(bundles[0].experiment, overrides)
    corpus = (load_experiment(experiment) if experiment else ours).corpus
    where = load_cluster(cluster)
    language, other = ours.corpus.src, ours.corpus.tgt
    held_out_digests(corpus, language)  # what is wrong there shows before a cluster is touched
    path = Path(os.path.abspath(out))
    if not path.parent.is_dir():
        raise ConfigError("OUT", out, f"there is no folder {path.parent}: make it first")
    from nmt.jobs.ray_session import connect
    from nmt.jobs.tasks import run_on_ray

    started = time.monotonic()
    with Console() as console:
        for bundle in bundles:
            console.print(about(bundle))
        try:
            with connect(where.workers.max, path.with_name(f"{path.name}.log")):
                lines, pairs = make(
                    bundles, ours.decoding, Path(mono), corpus, path,
                    run_on_ray, console.progress,
                )  # fmt: skip
        except KeyboardInterrupt:
            console.print(f"to go on with what is left to translate: {again()}")
            raise
        console.clear()
        console.print(f"{mono}: {format_tally(lines)}")
        console.print(f"pairs: {format_tally(pairs)}; {pace(pairs.total(), started)}")
        entry = f"src: {out}.{corpus.src}, tgt: {out}.{corpus.tgt}"
        mark = ", tag: 1" if language == corpus.tgt else ""
        console.print(
            f"wrote {out}.{language} and {out}.{other}; to train on them, in corpus.train:"
        )
        console.print(f"  - {{name: {path.name}, {entry}{mark}}}")
