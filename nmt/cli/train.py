"""`nmt prepare`, `nmt train`, `nmt average` and `nmt export`."""

from pathlib import Path

import click

from nmt.api import train_model
from nmt.checkpoint.location import checkpoint_dir
from nmt.cli import options
from nmt.config.cluster import Cluster
from nmt.config.decoding import Precision
from nmt.config.experiment import Experiment
from nmt.console import Console
from nmt.errors import ConfigError
from nmt.jobs.preparation import prepare_corpus


@click.command()
@options.experiment_argument
@options.overrides_argument
@options.cluster_option
@click.option("--force", is_flag=True,
              help="Prepare a prepared corpus again, beside it, then replace it.")  # fmt: skip
@click.option("--dropped", metavar="FILE",
              help="TSV file for all pairs dropped or repaired, with line and rule.")  # fmt: skip
def prepare(
    experiment: str,
    overrides: tuple[str, ...],
    cluster: str | None,
    force: bool,
    dropped: str | None,
) -> None:
    """Clean a corpus, learn its subwords, write shards."""
    settings = options.load_settings(experiment, cluster, overrides)
    if dropped is not None:
        from nmt.corpus.prepare import raw_paths

        inputs = [experiment, *map(str, raw_paths(settings[0]))]
        options.check_output(dropped, inputs, option="--dropped")
    with Console() as console, options.resumable(console):
        file = Path(dropped) if dropped is not None else None
        prepare_corpus(*settings, console, is_forced=force, dropped=file)


@click.command()
@options.experiment_argument
@options.overrides_argument
@options.cluster_option
def train(experiment: str, overrides: tuple[str, ...], cluster: str | None) -> None:
    """Train a model, or resume its run.

    A corpus that is not prepared is prepared first.
    """
    settings = options.load_settings(experiment, cluster, overrides)
    with Console() as console:
        run = options.display_path(train_run(*settings, console))
        console.print(f"next: {options.next_command('evaluate')} {run}")


@click.command()
@click.argument("checkpoints", nargs=-1, required=True, metavar="CHECKPOINT...")
@click.option("-o", "--output", required=True, metavar="DIR", help="Directory to write.")
def average(checkpoints: tuple[str, ...], output: str) -> None:
    """Average the weights of checkpoints.

    A run directory stands for its best checkpoint.
    """
    from nmt.checkpoint.convert import average_checkpoints

    paths = [checkpoint_dir(name) for name in checkpoints]
    with Console() as console:
        console.print(options.describe(average_checkpoints(paths, Path(output))))


@click.command()
@click.argument("run")
@click.option("-o", "--output", required=True, metavar="DIR", help="Directory to write.")
@click.option("--format", "form", type=click.Choice(["checkpoint", "onnx"]), default="checkpoint",
              help="checkpoint; onnx: graphs for ONNX Runtime, which need no PyTorch.")  # fmt: skip
@options.precision_option("Dtype of large matrices; default: unchanged.")
@click.option("--shortlist", is_flag=True,
              help="Add a shortlist, which `translate --shortlist` uses; onnx only.")  # fmt: skip
def export(
    run: str, output: str, form: str, precision: "Precision | None", shortlist: bool
) -> None:
    """Export a model for translation.

    The result has no optimizer state; int8 and bf16 make it smaller and faster on CPUs. RUN is a
    run directory or a checkpoint.
    """
    source = checkpoint_dir(run)
    if form == "checkpoint":
        if shortlist:
            raise ConfigError("--shortlist", "given", "it needs --format onnx")
        from nmt.checkpoint.convert import export_checkpoint

        text = options.describe(export_checkpoint(source, Path(output), precision))
    else:
        from nmt.checkpoint.load import load_checkpoint
        from nmt.decoding.onnx_export import export_onnx
        from nmt.training.run_manifest import find_prepared

        prepared = None
        if shortlist:
            checkpoint = load_checkpoint(source)
            prepared = find_prepared(checkpoint.path, checkpoint.experiment)
        text = export_onnx(source, Path(output), precision, prepared).describe()
    with Console() as console:
        console.print(text)


def train_run(experiment: Experiment, cluster: Cluster, console: Console) -> str:
    """Train and return the run; where it is interrupted, print the command that resumes it."""
    position = ""
    with options.resumable(console, lambda: position):
        result = train_model(experiment, cluster, console)
        # The first Ctrl-C ends training regularly, with a checkpoint; it counts as interrupted.
        if result.end_reason == "interrupted":
            position = f" after update {result.update:,}"
            raise KeyboardInterrupt
    return result.run
