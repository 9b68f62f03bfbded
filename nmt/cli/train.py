"""`nmt prepare`, `nmt train`, `nmt average` and `nmt export`."""

from pathlib import Path
from typing import TYPE_CHECKING

import click

from nmt.cli import options
from nmt.cli.models import checkpoint_dir, describe
from nmt.config.cluster import Cluster
from nmt.config.experiment import Experiment
from nmt.console import Console
from nmt.corpus.prepare import check_raw
from nmt.corpus.prepare import prepare as check_complete
from nmt.corpus.prepared import format_summary, is_prepared, prepared_folder, resolve_auto_preset

if TYPE_CHECKING:
    from nmt.model.quantise import Precision


@click.command()
@options.experiment_argument
@options.overrides_argument
@options.cluster_option
def prepare(experiment: str, overrides: tuple[str, ...], cluster: str | None) -> None:
    """Clean a corpus, learn its subwords, write shards."""
    settings = options.load_settings(experiment, cluster, overrides)
    with Console() as console:
        prepare_corpus(*settings, console)


@click.command()
@options.experiment_argument
@options.overrides_argument
@options.cluster_option
def train(experiment: str, overrides: tuple[str, ...], cluster: str | None) -> None:
    """Train a model, or resume its run."""
    settings = options.load_settings(experiment, cluster, overrides)
    with Console() as console:
        run = options.display_path(train_model(*settings, console))
        console.print(f"next: {options.program()} evaluate {run}")


@click.command()
@click.argument("checkpoints", nargs=-1, required=True, metavar="CHECKPOINT...")
@click.option("-o", "--output", required=True, metavar="DIR", help="Directory to write.")
def average(checkpoints: tuple[str, ...], output: str) -> None:
    """Average the weights of checkpoints.

    A run directory stands for its best checkpoint.
    """
    from nmt.checkpoint.convert import average_checkpoints

    paths = [checkpoint_dir(name) for name in checkpoints]
    click.echo(describe(average_checkpoints(paths, Path(output))), err=True)


@click.command()
@click.argument("run")
@click.option("-o", "--output", required=True, metavar="DIR", help="Directory to write.")
@options.precision_option("Dtype of large matrices; default: unchanged.")
def export(run: str, output: str, precision: "Precision | None") -> None:
    """Export a model for translation.

    The result has no optimizer state; int8 and bf16 make it smaller and faster on CPUs. RUN is a
    run directory or a checkpoint.
    """
    from nmt.checkpoint.convert import export_checkpoint

    click.echo(describe(export_checkpoint(checkpoint_dir(run), Path(output), precision)), err=True)


def prepare_corpus(experiment: Experiment, cluster: Cluster, console: Console) -> None:
    """Prepare the corpus on Ray, unless it is prepared, and print a summary."""
    if is_prepared(experiment):
        # Without tasks to run this checks settings and raw files only.
        manifest = check_complete(experiment)
        console.print(f"{prepared_folder(experiment)}: already prepared")
    else:
        # Raw files and target directory are checked before Ray starts.
        check_raw(experiment)
        options.check_writable("corpus.prepared", prepared_folder(experiment))
        from nmt.jobs.ray_session import connect
        from nmt.jobs.tasks import prepare_on_ray

        ray_session = connect(cluster.workers.max, preparation_log(experiment))
        with options.resumable(console), ray_session:
            manifest = prepare_on_ray(experiment, console.progress)
        console.clear()
    for line in format_summary(manifest):
        console.print(line)
    resolve_auto_preset(experiment, console.print)


def train_model(experiment: Experiment, cluster: Cluster, console: Console) -> str | Path:
    """Train on Ray and return the run: its directory, or its address in an object store."""
    from nmt.jobs.train import get_run_address, get_run_dir, train_on_ray

    # A run in an object store has a working copy in cluster.scratch.
    address = get_run_address(experiment, cluster)
    directory = get_run_dir(experiment, cluster)
    options.check_writable("cluster.scratch" if address else "cluster.storage", directory)
    result = train_on_ray(experiment, cluster, console)
    # The first Ctrl-C ends training regularly, with a checkpoint; it still counts as interrupted.
    if result.end_reason == "interrupted":
        with options.resumable(console, lambda: f" after update {result.update:,}"):
            raise KeyboardInterrupt
    return address or directory


def preparation_log(experiment: Experiment) -> Path:
    """Return the file for Ray's output during preparation, next to the prepared corpus."""
    directory = Path(experiment.prepared)
    return directory.with_name(f"{directory.name}.ray.log")
