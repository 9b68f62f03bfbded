"""`nmt bench`: how fast it is here, and what moved between two reports."""

from collections.abc import Sequence
from pathlib import Path

import click

from nmt.cli.options import POSITIVE, check_writable
from nmt.errors import ConfigError

SECONDS = 5.0
"""For one comparison: most are steady to 2 % by then."""


@click.command()
@click.argument("parts", nargs=-1, metavar="[PART]... | compare BEFORE.json AFTER.json")
@click.option("-o", "--output", metavar="FILE", help="Where the figures go as JSON.")
@click.option(
    "--seconds",
    type=POSITIVE,
    default=SECONDS,
    show_default=True,
    help="What one comparison may take; more: steadier figures.",
)
def bench(parts: tuple[str, ...], output: str | None, seconds: float) -> None:
    """Measure training and translation speed.

    Parts: lstm, batching, update, train, peer, memory, decode, precision, checkpoint, workers,
    gpu, startup; all of them if none is named. The peaks of the machine are measured first, in the
    same process. Or `compare` two reports.
    """
    from nmt.bench.figures import BenchReport, compare, line_of

    if parts[:1] == ("compare",):
        before, after = _two(parts[1:])
        for line in compare(BenchReport.load(before), BenchReport.load(after)):
            click.echo(line)
        return
    from nmt.bench import suite

    if output is not None:
        check_writable("--output", Path(output).resolve().parent)
    report = suite.run(
        parts,
        seconds,
        show=lambda line: click.echo(line, err=True),
        take=lambda figure: click.echo(line_of(figure)),
    )
    if output is not None:
        report.save(Path(output))
        click.echo(f"written: {output}; `nmt bench compare {output} OTHER` compares", err=True)


def _two(files: Sequence[str]) -> tuple[Path, Path]:
    if len(files) != 2:
        raise ConfigError.from_message(
            f"compare needs two reports, and was given {len(files)}: "
            "nmt bench compare BEFORE.json AFTER.json"
        )
    return Path(files[0]), Path(files[1])
