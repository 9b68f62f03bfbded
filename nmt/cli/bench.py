"""`nmt bench`: measure speed, or compare two reports."""

from pathlib import Path

import click

from nmt.cli.options import POSITIVE, display_path
from nmt.console import Console
from nmt.corpus.io import check_writable
from nmt.errors import ConfigError

SECONDS = 5.0
"""Time limit of one comparison; most figures are stable to 2 % by then."""


@click.command()
@click.argument("parts", nargs=-1, metavar="[PART]... | compare BEFORE.json AFTER.json")
@click.option("-o", "--output", metavar="FILE", help="Write the figures as JSON to FILE.")
@click.option(
    "--seconds",
    type=POSITIVE,
    default=SECONDS,
    show_default=True,
    help="Time limit of one comparison; longer is more stable.",
)
def bench(parts: tuple[str, ...], output: str | None, seconds: float) -> None:
    """Measure training and translation speed.

    Parts: update, train, peer, sustained, memory, decode, workers, gpu, startup; default: all.
    The peak of the machine is measured first. `compare` lists what changed between two reports.
    """
    from nmt.bench.figures import BenchReport, compare_reports, format_figure

    if parts[:1] == ("compare",):
        context, given = click.get_current_context(), click.core.ParameterSource.COMMANDLINE
        for name in ("output", "seconds"):
            if context.get_parameter_source(name) == given:
                raise ConfigError.from_message(f"compare measures nothing: remove --{name}")
        if len(parts) != 3:
            raise ConfigError.from_message(
                f"compare takes two reports, got {len(parts) - 1}: "
                "nmt bench compare BEFORE.json AFTER.json"
            )
        before, after = (BenchReport.load(Path(file)) for file in parts[1:])
        for line in compare_reports(before, after):
            click.echo(line)
        return
    from nmt.bench.suite import run_bench

    if output is not None:
        if Path(output).is_dir():
            raise ConfigError("--output", output, "it is a directory: give a file name")
        check_writable("--output", Path(output).resolve().parent)

    def save(report: BenchReport) -> None:
        if output is not None:
            report.save(Path(output))

    with Console() as console:
        run_bench(
            parts,
            seconds,
            log=console.print,
            report=lambda figure: click.echo(format_figure(figure)),
            save=save,
        )
        if output is not None:
            command = f"nmt bench compare {display_path(output)} OTHER"
            console.print(f"written: {output}; compare: {command}")
