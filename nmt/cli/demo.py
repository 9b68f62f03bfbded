"""`nmt demo`: the whole road on the built-in corpus."""

import time
from pathlib import Path

import click

from nmt.cli.evaluate import find_test_sets, score_and_keep, translate_set
from nmt.cli.models import load_bundle, make_translator
from nmt.cli.options import program, shown
from nmt.cli.settings import chatter_of, load_settings, overrides_argument
from nmt.cli.systems import System
from nmt.cli.train import prepare_corpus, train_model


@click.command()
@click.option("--experiment", default="configs/demo.yaml", show_default=True, metavar="FILE",
              help="What to train.")  # fmt: skip
@overrides_argument
def demo(experiment: str, overrides: tuple[str, ...]) -> None:
    """Train and score a model on a built-in corpus.

    It writes the corpus, trains on it with two workers, translates its test set and scores that.
    """
    from nmt.console import Console
    from nmt.corpus.builtin import generate
    from nmt.evaluation import results
    from nmt.evaluation.metrics import DEFAULT_METRICS
    from nmt.jobs.ray_session import connect

    started = time.monotonic()
    config, cluster = load_settings(experiment, "configs/clusters/local.yaml", overrides)
    root = Path(config.corpus.root)
    with Console() as console:
        console.print(f"1/4 writing the built-in English-German corpus to {root}/")
        generate.write(root)
        with connect(cluster.workers.max * cluster.cpus_per_worker, chatter_of(config)):
            console.print(
                f"2/4 preparing it: cleaning, subwords, Arrow shards in {config.prepared}/"
            )
            prepare_corpus(config, cluster, console)
            console.print(f"3/4 training an LSTM translation model with {cluster.workers} workers")
            trained = train_model(config, cluster, console)
            run = shown(trained)
        console.print(
            "4/4 translating test sentences that have combinations never seen in training"
        )
        bundle = load_bundle(trained)
        translator, folder = make_translator(bundle), results.folder_of(bundle.path)
        for test_set in find_test_sets(bundle, (), (), ()):
            hyps = translate_set(translator, test_set, console)
            system = System(config.name, bundle, folder)
            report = score_and_keep(system, test_set, hyps, DEFAULT_METRICS, {})
            click.echo(report.text(width=2))
            for n in range(0, len(hyps), max(1, len(hyps) // 4)):
                click.echo(f"\n  source       {test_set.src[n]}\n  translation  {hyps[n]}")
                click.echo(f"  reference    {test_set.references[0][n]}")
        console.print(f"\nall translations and scores: {folder}/")
        minutes, nmt = (time.monotonic() - started) / 60, program()
        console.print(f"done in {minutes:.1f} minutes. What to type next:")
        for command in (
            f"echo 'My sister calls the doctor.' | {nmt} translate {run}",
            f"{nmt} evaluate {run} --src FILE --ref FILE",
            f"{nmt} report {run} -o report.html",
            f"{Path(nmt).with_name('tensorboard')} --logdir {run}/tensorboard",
            f"{nmt} config explain training",
            f"{nmt} prepare configs/multi30k_en_de.yaml corpus.root=FOLDER",
        ):
            console.print(f"  {command}")
