"""`nmt prepare`, `nmt train` and `nmt average`: from raw text to a trained model."""

from pathlib import Path
from typing import TYPE_CHECKING

import click

from nmt.cli.models import about, bundle_folder
from nmt.cli.options import again, precision_option, program, shown
from nmt.cli.settings import (
    chatter_of,
    check_folder,
    cluster_option,
    experiment_argument,
    load_settings,
    overrides_argument,
)

if TYPE_CHECKING:
    from nmt.config.cluster import Cluster
    from nmt.config.experiment import Experiment
    from nmt.console import Console
    from nmt.model.quantise import Precision


@click.command()
@experiment_argument
@overrides_argument
@cluster_option
def prepare(experiment: str, overrides: tuple[str, ...], cluster: str | None) -> None:
    """Clean a corpus, learn its subwords, write shards."""
    from nmt.console import Console

    settings = load_settings(experiment, cluster, overrides)
    with Console() as console:
        prepare_corpus(*settings, console)


@click.command()
@experiment_argument
@overrides_argument
@cluster_option
def train(experiment: str, overrides: tuple[str, ...], cluster: str | None) -> None:
    """Train a model, or go on where its run was stopped."""
    from nmt.console import Console

    settings = load_settings(experiment, cluster, overrides)
    with Console() as console:
        run = shown(train_model(*settings, console))
        console.print(f"to score it on its test sets: {program()} evaluate {run}")


@click.command()
@click.argument("checkpoints", nargs=-1, required=True, metavar="CHECKPOINT...")
@click.option("-o", "--output", required=True, metavar="FOLDER", help="Where the model goes.")
def average(checkpoints: tuple[str, ...], output: str) -> None:
    """Write a model that is the mean of several checkpoints.

    A run's folder stands for its best one.
    """
    from nmt.checkpoint.convert import average_checkpoints as mean_of

    made = mean_of([bundle_folder(name) for name in checkpoints], Path(output))
    click.echo(about(made), err=True)


@click.command()
@click.argument("run")
@click.option("-o", "--output", required=True, metavar="FOLDER", help="Where the model goes.")
@precision_option("Numbers of its large matrices; default: as they are.")
def export(run: str, output: str, precision: "Precision | None") -> None:
    """Write a model that only translates, in a small folder.

    RUN is a run's folder or a checkpoint. int8 and bf16 make it smaller still, and quicker on CPUs.
    """
    from nmt.checkpoint.convert import export_checkpoint as write

    made = write(bundle_folder(run), Path(output), precision)
    click.echo(about(made), err=True)


def prepare_corpus(experiment: "Experiment", cluster: "Cluster", console: "Console") -> None:
    """Prepare on Ray, unless that is done, and say what became of each corpus."""
    from nmt.corpus.prepare import check_raw, prepare
    from nmt.corpus.prepared import (
        format_summary,
        is_prepared,
        prepared_folder,
        resolve_auto_preset,
    )

    if is_prepared(experiment):
        manifest = prepare(experiment)
        console.print(f"{prepared_folder(experiment)} is prepared already")
    else:
        check_raw(experiment)
        check_folder("corpus.prepared", prepared_folder(experiment))
        from nmt.jobs.ray_session import connect
        from nmt.jobs.tasks import prepare_on_ray

        try:
            with connect(cluster.workers.max, chatter_of(experiment)):
                manifest = prepare_on_ray(experiment, console.progress)
        except KeyboardInterrupt:
            console.print(f"to go on with what is left to prepare: {again()}")
            raise
        console.clear()
    for line in format_summary(manifest):
        console.print(line)
    resolve_auto_preset(experiment, console.print)


def train_model(experiment: "Experiment", cluster: "Cluster", console: "Console") -> str | Path:
    """Train; returns the run: its folder, or its address in an object store."""
    from nmt.jobs.train import get_run_address, get_run_dir, train_on_ray

    address, folder = get_run_address(experiment, cluster), get_run_dir(experiment, cluster)
    check_folder("cluster.scratch" if address else "cluster.storage", folder)
    ended = train_on_ray(experiment, cluster, console)
    if ended.end_reason == "interrupted":
        console.print(f"to go on after update {ended.update:,}: {again()}")
        raise KeyboardInterrupt
    return address or folder
