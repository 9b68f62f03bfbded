"""`nmt demo`: prepare, train, translate and score on the built-in corpus."""

import time
from pathlib import Path

import click

from nmt.cli.evaluate import System, find_test_sets, score_and_write, translate_set
from nmt.cli.options import display_path, load_settings, overrides_argument, program
from nmt.cli.train import train_run
from nmt.console import Console
from nmt.corpus.builtin import generator
from nmt.decoding.loading import make_translator, open_model
from nmt.evaluation import results
from nmt.evaluation.sacrebleu_metrics import DEFAULT_METRICS
from nmt.jobs.preparation import preparation_log, prepare_corpus


@click.command()
@click.option("--experiment", default="configs/demo.yaml", metavar="FILE",
              help="Experiment file.")  # fmt: skip
@overrides_argument
def demo(experiment: str, overrides: tuple[str, ...]) -> None:
    """Train and score a model on the built-in corpus.

    Writes the corpus, trains on it with two workers, translates the test set and scores it.
    """
    from nmt.jobs.ray_session import connect, resolve_auto

    started = time.monotonic()
    config, cluster = load_settings(experiment, "configs/clusters/local.yaml", overrides)
    num_parts = config.batching.micro_batches
    cluster = resolve_auto(cluster, num_parts)
    root = Path(config.corpus.root)
    with Console() as console:
        console.log(f"1/4 write the built-in corpus (English-German) to {root}/")
        generator.write(root)
        num_cpus = cluster.workers.max * cluster.cpus_per_worker
        # One Ray session for preparing and training: starting it takes seconds.
        with connect(num_cpus, preparation_log(config)):
            console.log(
                f"2/4 prepare it in {config.prepared}/: clean, learn subwords, write shards"
            )
            prepare_corpus(config, cluster, console)
            cluster = resolve_auto(cluster, num_parts)
            workers = f"{cluster.workers} worker{'s' * (cluster.workers.max > 1)}"
            console.log(f"3/4 train an LSTM translation model with {workers}")
            run = train_run(config, cluster, console)
        console.log("4/4 translate test sentences with word combinations unseen in training")
        checkpoint = open_model(run)
        system = System(config.name, checkpoint, results.default_folder(checkpoint.path))
        translator = make_translator(checkpoint)
        for test_set in find_test_sets(checkpoint, (), (), ()):
            hyps = translate_set(translator, test_set, console)
            report = score_and_write(system, test_set, hyps, DEFAULT_METRICS, {})
            click.echo(report.text(width=2))
            # Four examples, spread over the test set.
            for n in range(0, len(hyps), max(1, len(hyps) // 4)):
                click.echo(f"\n  source       {test_set.src[n]}\n  translation  {hyps[n]}")
                click.echo(f"  reference    {test_set.references[0][n]}")
        console.print(f"\ntranslations and scores: {system.directory}/")
        console.print(f"total time {(time.monotonic() - started) / 60:.1f} min; next commands:")
        nmt, path = program(), display_path(run)
        for command in (
            f"echo 'My sister calls the doctor.' | {nmt} translate {path}",
            f"{nmt} evaluate {path} --src FILE --ref FILE",
            f"{nmt} report {path} -o report.html",
            f"{program('tensorboard')} --logdir {path}/tensorboard",
            f"{nmt} config explain training",
            f"{nmt} prepare configs/multi30k_en_de.yaml corpus.root=DIR",
        ):
            console.print(f"  {command}")
