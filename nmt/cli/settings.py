"""The two config files on a command line, and the verbs that show and explain settings."""

from pathlib import Path
from typing import TYPE_CHECKING

import click

from nmt.cli.options import Verbs
from nmt.errors import ConfigError

if TYPE_CHECKING:
    from nmt.config.cluster import Cluster
    from nmt.config.experiment import Experiment

experiment_argument = click.argument("experiment", metavar="EXPERIMENT")
overrides_argument = click.argument("overrides", metavar="[KEY=VALUE]...", nargs=-1)
cluster_option = click.option(
    "--cluster", metavar="FILE", help="Where to run; default: this machine."
)


def load_settings(
    experiment: str, cluster: str | None, overrides: tuple[str, ...]
) -> tuple["Experiment", "Cluster"]:
    """What to train and where, from their files and the overrides; ConfigError if one is wrong."""
    from nmt.config.files import load_cluster, load_experiment, split_overrides

    for text in overrides:
        if "=" not in text and text.endswith((".yaml", ".yml")):
            raise ConfigError.from_message(f"{text} is one file too many: write --cluster {text}")
    ours, theirs = split_overrides(overrides)
    return load_experiment(experiment, ours), load_cluster(cluster, theirs)


def check_folder(key: str, folder: Path) -> None:
    """Raise ConfigError where a folder that a setting names cannot be written to."""
    from nmt.corpus.io import is_writable

    if not is_writable(folder):
        raise ConfigError(key, folder, "it cannot be written to: name another folder")


def chatter_of(experiment: "Experiment") -> Path:
    """Where Ray talks while a corpus is prepared: beside the folder, which holds data alone."""
    folder = Path(experiment.prepared)
    return folder.with_name(f"{folder.name}.ray.log")


@click.group(cls=Verbs)
def config() -> None:
    """Show and explain settings."""


@config.command()
@experiment_argument
@overrides_argument
@cluster_option
def show(experiment: str, overrides: tuple[str, ...], cluster: str | None) -> None:
    """Print the resolved settings; of preset auto those of the corpus, where it is prepared."""
    from nmt.config.files import dump

    ours, theirs = load_settings(experiment, cluster, overrides)
    if ours.preset == "auto":
        from nmt.corpus.prepared import is_prepared, resolve_auto_preset

        ours = (
            resolve_auto_preset(ours, lambda line: click.echo(f"# {line}"))
            if is_prepared(ours)
            else ours
        )
    click.echo(
        f"{dump(ours)}\n# cluster\n" + "".join(f"# {x}\n" for x in dump(theirs).splitlines())
    )


@config.command()
@click.argument("key")
def explain(key: str) -> None:
    """Say what a setting means: training.patience, cluster.workers, or a whole section."""
    from nmt.config.explain import explain as explained

    click.echo(explained(key))
