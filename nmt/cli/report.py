"""`nmt report`."""

from pathlib import Path

import click

from nmt.cli.models import run_folder
from nmt.cli.options import number
from nmt.errors import ConfigError


@click.command()
@click.argument("runs", nargs=-1, required=True, metavar="RUN...")
@click.option("-o", "--output", default="report.html", show_default=True, metavar="FILE",
              help="The page.")  # fmt: skip
@click.option("--examples", default="3", show_default=True, metavar="NUMBER",
              callback=number(int, -1, "a whole number, 0 or more"),
              help="Translations shown with attention, 3 at most; 0: no model is run.")  # fmt: skip
def report(runs: tuple[str, ...], output: str, examples: int) -> None:
    """Write a page about runs: curves, scores, examples.

    One HTML file that needs nothing else. Scores and examples are of what `nmt evaluate` has kept.
    """
    path = Path(output)
    if not path.parent.is_dir():
        raise ConfigError("--output", output, f"there is no folder {path.parent}: make it first")
    if path.is_dir():
        raise ConfigError("--output", output, "that is a folder: name a file in it")
    from nmt.console import Console
    from nmt.corpus.text import open_output
    from nmt.report.examples import choose
    from nmt.report.page import render
    from nmt.report.runs import read_runs

    found = read_runs([run_folder(run) for run in runs])
    with Console() as console:
        page = render(found, [choose(run, examples) for run in found])
        with open_output(output) as file:
            file.write(page)
        console.print(f"{output}: {len(page) / 1024:,.0f} KiB, open it in a browser")
