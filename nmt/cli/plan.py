"""`nmt plan`: estimate memory, disk and time of a run."""

import click

from nmt.cli import options
from nmt.cli.options import COUNT, FiniteFloat
from nmt.console import Console
from nmt.corpus.prepared import resolve_by_prepared

SPEED = FiniteFloat(min=1e-6, max=1e6)


@click.command()
@options.experiment_argument
@click.argument("cluster", metavar="CLUSTER")
@options.overrides_argument
@click.option("--workers-per-node", type=COUNT, help="Default: all workers, with GPUs at most 8.")
@click.option("--link", type=SPEED, metavar="GBIT/S",
              help="Bandwidth between nodes, per direction; default: 10, GPUs 400.")  # fmt: skip
@click.option("--link-inside", type=SPEED, metavar="GBIT/S",
              help="Bandwidth between workers of a node; default: 10, GPUs 2400.")  # fmt: skip
@click.option("--tflops", type=SPEED, help="TFLOP/s per worker; default: measured here.")
def plan(
    experiment: str, cluster: str, overrides: tuple[str, ...], workers_per_node: int | None,
    link: float | None, link_inside: float | None, tflops: float | None,
) -> None:  # fmt: skip
    """Estimate memory, disk and time of a run.

    The corpus must be prepared. Twenty updates run on this machine's CPU; everything else is
    estimated from the schedule and the bandwidths.
    """
    settings, cluster_settings = options.load_settings(experiment, cluster, overrides)
    from nmt.planning.plan import PlanOptions, format_plan, make_plan

    with Console() as console:
        settings = resolve_by_prepared(settings, console.print)
    plan_options = PlanOptions(workers_per_node, link, link_inside, tflops)
    for line in format_plan(make_plan(settings, cluster_settings, plan_options)):
        click.echo(line)
