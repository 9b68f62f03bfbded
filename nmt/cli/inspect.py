"""`nmt inspect`: attention, gates and probabilities of a model on a few lines."""

import sys
from collections.abc import Iterable, Iterator
from itertools import islice
from pathlib import Path

import click

from nmt.cli.options import check_output, check_page, describe
from nmt.console import Console
from nmt.corpus.io import check_files, source_name
from nmt.corpus.text import open_output, read_lines
from nmt.decoding.exported_model import ExportedModel
from nmt.decoding.loading import open_model
from nmt.decoding.requests import Request
from nmt.errors import ConfigError


@click.command()
@click.argument("run")
@click.argument("text", required=False)
@click.option("-i", "--input", "source", metavar="FILE", help="Input file; -: stdin.")
@click.option("--tgt", multiple=True, metavar="TEXT",
              help="Target of a line, instead of its translation; one per line.")  # fmt: skip
@click.option("-o", "--output", default="inspect.html", metavar="FILE",
              help="HTML file to write.")  # fmt: skip
def inspect(
    run: str, text: str | None, source: str | None, tgt: tuple[str, ...], output: str
) -> None:
    """Show attention and LSTM gates of a model on a page.

    Translates TEXT, or the lines of a file, at most 5. The HTML file is self-contained. It shows
    attention weights, gates and cell states of each layer, and the probability of each target token
    with its alternatives. A summary is printed. RUN is a run directory or a checkpoint; the model
    runs on the CPU.
    """
    check_output(output, [source] if source else [])
    check_page(output, [run])
    check_files([source] if source not in (None, "-") else [])
    if (text is None) == (source is None):
        given = "no text" if text is None else "TEXT and --input"
        raise ConfigError.from_message(f"{given}: give either TEXT or --input FILE")
    targets = [Request(each, where="--tgt") for each in tgt]
    checkpoint = open_model(run)
    if isinstance(checkpoint, ExportedModel):
        rule = "it is an ONNX model without gates: give the run or checkpoint it was exported from"
        raise ConfigError("RUN", run, rule)
    # After the checks that need no torch.
    from nmt.report.inspection import MAX_LINES, inspect_lines
    from nmt.report.inspector_page import render_inspection, summary_lines

    # One line more than a page shows is an error.
    requests = list(islice(_read(text, source), MAX_LINES + 1))
    with Console() as console:
        inspection = inspect_lines(checkpoint, requests, targets)
        console.print(describe(checkpoint))
        page = render_inspection(inspection)
        with open_output(output) as file:
            file.write(page)
        lines = summary_lines(inspection)
        if output != "-":
            lines.append(f"wrote {output} ({len(page) / 1024:,.0f} KiB)")
        click.echo("\n".join(lines), err=output == "-")


def _read(text: str | None, source: str | None) -> Iterator[Request]:
    """Yield the lines of the command line, or of a file or standard input ("-")."""
    if text is not None:
        lines: Iterable[str] = text.split("\n")
        name = "TEXT"
    else:
        stream = sys.stdin.buffer if source == "-" else Path(source or "")
        name, lines = source_name(stream), read_lines(stream)
    for number, line in enumerate(lines, start=1):
        yield Request(line, where=f"{name}, line {number}")
