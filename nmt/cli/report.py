"""`nmt report`: HTML report of runs."""

import click

from nmt.checkpoint.location import run_dir
from nmt.cli.options import COUNT_OR_0, check_output, check_page
from nmt.console import Console
from nmt.corpus.text import open_output


@click.command()
@click.argument("runs", nargs=-1, required=True, metavar="RUN...")
@click.option("-o", "--output", default="report.html", metavar="FILE",
              help="HTML file to write.")  # fmt: skip
@click.option("--examples", type=COUNT_OR_0, default=3,
              help="Translations with attention, at most 3; 0: none.")  # fmt: skip
def report(runs: tuple[str, ...], output: str, examples: int) -> None:
    """Write an HTML report of runs.

    The file is self-contained. It shows curves, and scores and examples written by `nmt evaluate`.
    RUN is a run directory.
    """
    check_output(output)
    check_page(output, runs)
    from nmt.report.examples import choose
    from nmt.report.page import render
    from nmt.report.runs import read_runs

    contents = read_runs([run_dir(run) for run in runs])
    with Console() as console:
        for run in contents:
            for note in run.notes:
                console.print(f"warning: {run.name}: {note}")
        page = render(contents, [choose(run, examples) for run in contents])
        with open_output(output) as file:
            file.write(page)
        console.print(f"wrote {output} ({len(page) / 1024:,.0f} KiB)")
