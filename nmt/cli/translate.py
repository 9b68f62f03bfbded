"""`nmt translate`."""

import sys
import time
from collections.abc import Iterable
from itertools import chain, islice
from pathlib import Path
from typing import Any

import click

from nmt.cli.models import about, check_inputs, load_bundle, make_translator, pace
from nmt.cli.verbs import search_options
from nmt.errors import ConfigError


@click.command()
@click.argument("run")
@click.option("-i", "--input", "source", default="-", metavar="FILE",
              help="Default: standard input.")  # fmt: skip
@click.option("-o", "--output", default="-", metavar="FILE", help="Default: standard output.")
@search_options
def translate(run: str, source: str, output: str, **how: Any) -> None:
    """Translate lines: n lines in, n lines out, in order. RUN is a run's folder or a checkpoint.

    UTF-8 in and out; .gz, .xz and .zst by the name of the file. What is typed at a terminal is
    answered line by line.
    """
    from nmt.console import Console
    from nmt.corpus.text import open_output, read_lines

    check_inputs([source] if source != "-" else [])
    check_output(source, output)
    bundle = load_bundle(Path(run))
    translator = make_translator(bundle, **how)
    is_typed = source == "-" and sys.stdin.isatty()
    # A file is read twice: what is wrong at its end shows before anything is translated.
    total = sum(1 for _ in read_lines(Path(source))) if Path(source).is_file() else 0
    lines: Iterable[str] = read_lines(sys.stdin.buffer if source == "-" else Path(source))
    with Console() as console, open_output(output) as file:
        if not is_typed:
            # What is wrong at the start of a stream is all that is said then.
            lines = chain(list(islice(lines, 1)), lines)
        console.say(about(bundle))
        if is_typed:
            console.say("type a line to have it translated; Ctrl-D ends")
        # On a terminal a bar would cut lines apart, and those of a program that we write to.
        has_bar = output != "-" or Path("/dev/stdout").is_file()
        started, num_lines = time.monotonic(), 0

        def show(num_done: int) -> None:
            if has_bar:
                console.progress("translating", num_done, total, "lines")

        for translation in translator.translate(
            lines, progress=show, window_lines=1 if is_typed else None
        ):
            file.write(translation.text + "\n")
            num_lines += 1
            if output == "-":
                file.flush()
        if has_bar:
            console.clear()
            console.say(pace(num_lines, started))


def check_output(source: str, output: str) -> None:
    """Raise ConfigError where a translation could not be written, or would replace its source."""
    given, path = Path("/dev/stdin" if source == "-" else source), Path(output)
    if output == "-":
        return
    if not path.parent.is_dir():
        raise ConfigError("--output", output, f"there is no folder {path.parent}: make it first")
    if given.is_file() and path.exists() and path.samefile(given):
        raise ConfigError("--output", output, "that is the input: name another file")
