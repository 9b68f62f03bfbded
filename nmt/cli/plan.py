"""`nmt plan`: what a run will take, before it is begun."""

import click

from nmt.cli.options import number
from nmt.cli.settings import experiment_argument, load_settings, overrides_argument

_positive = number(float, 0, "a number above 0")


@click.command()
@experiment_argument
@click.argument("cluster", metavar="CLUSTER")
@overrides_argument
@click.option("--workers-per-node", metavar="NUMBER",
              callback=number(int, 0, "a whole number, 1 or more"),
              help="Default: all workers of CLUSTER; with GPUs 8 at most.")  # fmt: skip
@click.option("--link", callback=_positive, metavar="GBIT/S",
              help="Between two nodes, each way. Default: 10; with GPUs 400.")  # fmt: skip
@click.option("--link-inside", callback=_positive, metavar="GBIT/S",
              help="Between two workers of a node. Default: 10; with GPUs 2400.")  # fmt: skip
@click.option("--tflops", callback=_positive, metavar="NUMBER",
              help="Useful TFLOP/s of a worker. Default: as this machine's probe.")  # fmt: skip
def plan(
    experiment: str,
    cluster: str,
    overrides: tuple[str, ...],
    workers_per_node: int | None,
    link: float | None,
    link_inside: float | None,
    tflops: float | None,
) -> None:
    """Say what a run will take in memory, disk and time.

    The corpus must be prepared. Twenty updates are made on this machine, without a GPU; the rest is
    counted from the schedule and from what the links carry.
    """
    ours, theirs = load_settings(experiment, cluster, overrides)
    from nmt.corpus.prepared import resolve_auto_preset
    from nmt.planning.plan import Wishes, lines_of, make_plan

    ours = resolve_auto_preset(ours, lambda line: click.echo(line, err=True))
    wishes = Wishes(workers_per_node, link, link_inside, tflops)
    for line in lines_of(make_plan(ours, theirs, wishes)):
        click.echo(line)
