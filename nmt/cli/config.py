"""`nmt config`: show and explain settings."""

import click

from nmt.cli import options
from nmt.config.explain import explain as explain_key
from nmt.config.files import dump
from nmt.config.preset import dump_experiment
from nmt.corpus.prepared import is_prepared, resolve_by_prepared


@click.group()
def config() -> None:
    """Show and explain settings."""


@config.command()
@options.experiment_argument
@options.overrides_argument
@options.cluster_option
def show(experiment: str, overrides: tuple[str, ...], cluster: str | None) -> None:
    """Print the resolved settings.

    Sizes of preset auto are included if the corpus is prepared.
    """
    settings, cluster_settings = options.load_settings(experiment, cluster, overrides)
    if settings.preset == "auto" and is_prepared(settings):
        settings = resolve_by_prepared(settings, lambda line: click.echo(f"# {line}"))
    comment = "".join(f"# {line}\n" for line in dump(cluster_settings).splitlines())
    click.echo(f"{dump_experiment(settings)}\n# cluster\n{comment}")


@config.command()
@click.argument("key", default="")
def explain(key: str) -> None:
    """Explain a setting or a section; without KEY, list the sections.

    Prints description, type and default. KEY is, for example, training.patience, cluster.workers,
    decoding or beam.
    """
    click.echo(explain_key(key))
