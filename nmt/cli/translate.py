"""`nmt translate`: a stream or file in this process, or a file on Ray workers.

On Ray the output is written chunk by chunk, and the same command resumes an interrupted one.
"""

import hashlib
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from itertools import chain, islice, tee
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

import click

from nmt.cli.models import (
    check_precision,
    describe,
    load_ensemble,
    make_translator,
    open_checkpoint,
    speed,
)
from nmt.cli.options import COUNT, check_files, check_output, resume_hint, search_options
from nmt.config.cluster import Cluster, Workers
from nmt.config.files import load_cluster
from nmt.console import Console
from nmt.corpus.io import source_name
from nmt.corpus.text import open_output, read_lines
from nmt.decoding.requests import Glossary, Request, read_json_lines
from nmt.errors import ConfigError

if TYPE_CHECKING:
    from nmt.checkpoint.load import Checkpoint
    from nmt.decoding.translator import Translator

FORMATS = ("text", "scored", "moses", "pharaoh", "soft", "jsonl")
"""Output formats; equal to those of nmt.decoding.output_formats, which imports torch."""
CHANGEABLE_OPTIONS = ("source", "output", "workers", "cluster", "device", "threads")
"""Parameters that may differ between an interrupted command and the one that resumes it."""


@click.command()
@click.argument("run")
@click.option("-i", "--input", "source", default="-", metavar="FILE",
              help="Input; default: standard input.")  # fmt: skip
@click.option("-o", "--output", default="-", metavar="FILE",
              help="Output; default: standard output.")  # fmt: skip
@click.option("--format", "form", type=click.Choice(FORMATS), default="text", show_default=True,
              help="text; scored: score, tab, translation; moses: n-best list; pharaoh: with word "
              "alignment; soft: with attention; jsonl: everything, an object per line.",
              )  # fmt: skip
@click.option("--n-best", "num_best", type=COUNT, default=1, show_default=True,
              help="Translations per line, for moses and jsonl.")  # fmt: skip
@click.option("--json-input", is_flag=True,
              help="Read an object per line: text, constraints, avoid, target_prefix; other keys "
              "are copied to jsonl output.")  # fmt: skip
@click.option("--terms", metavar="FILE",
              help="Glossary (TSV): translation required for each source term.")  # fmt: skip
@click.option("--avoid", multiple=True, metavar="WORDS",
              help="Words excluded from translations; repeatable.")  # fmt: skip
@click.option("--ensemble", multiple=True, metavar="RUN",
              help="Another model of the ensemble; repeatable.")  # fmt: skip
@click.option("--workers", type=COUNT, help="Translate on this number of Ray workers, resumable.")
@click.option("--cluster", metavar="FILE", help="Cluster file of the workers; default: local.")
@search_options
def translate(
    run: str, source: str, output: str, form: str, num_best: int, json_input: bool,
    terms: str | None, avoid: tuple[str, ...], ensemble: tuple[str, ...],
    workers: int | None, cluster: str | None, **search: Any,
) -> None:  # fmt: skip
    """Translate text line by line.

    n lines in, n lines out, in order. RUN is a run directory or a checkpoint.

    Input and output are UTF-8, compressed if the file name ends in .gz, .xz or .zst. On a terminal
    each line is translated as it is typed. Scores are natural logarithms; alignments count words
    separated by spaces.
    """
    check_files([*([source] if source != "-" else []), *([terms] if terms else [])])
    check_output(output, [source])
    on_ray = None
    if workers or cluster:
        on_ray = worker_cluster(source, output, cluster, workers, search)
        # This process only sends the model to the workers.
        search |= {"device": "cpu", "threads": None}
    glossary = Glossary.read(Path(terms)) if terms else Glossary({})
    checkpoint = open_checkpoint(run)
    others = load_ensemble(checkpoint, ensemble)
    checkpoints = [checkpoint, *others]
    if on_ray is not None:
        precisions = [search["precision"] or each.precision for each in checkpoints]
        check_precision(precisions, has_gpu=bool(on_ray.gpus_per_worker))
    translator = make_translator(checkpoint, ensemble=others, **search)
    check_format(form, num_best, translator.decoding.protect)
    translator.check(num_best)
    requests = partial(read_requests, source, json_input, glossary, avoid)
    # A file is read twice: an error in its last line is found before the first is translated.
    total = 0
    if Path(source).is_file():
        for request in requests():
            translator.check(num_best, [request])
            total += 1
    with Console() as console:
        if on_ray is not None:
            for each in checkpoints:
                console.print(describe(each))
            key = resume_key(checkpoints, [source, *([terms] if terms else [])])
            translate_on_workers(
                translator, requests, total, form, num_best, Path(output), key, on_ray, console
            )
            return
        is_typed = source == "-" and sys.stdin.isatty()
        lines: Iterable[Request] = requests()
        with open_output(output) as file:
            if not is_typed:
                # An error in the first line of a stream is reported before any other output.
                first = list(islice(lines, 1))
                translator.check(num_best, first)
                lines = chain(first, lines)
            for each in checkpoints:
                console.print(describe(each))
            if is_typed:
                console.print("type a line to translate; Ctrl-D ends")
            write_translations(
                translator, lines, form, num_best, file, total, is_typed, output == "-", console
            )


def check_format(form: str, num_best: int, protect: Sequence[str]) -> None:
    """Raise ConfigError if the format cannot hold an n-best list or protected text."""
    from nmt.decoding.output_formats import FORMATS_WITH_N_BEST

    if num_best > 1 and form not in FORMATS_WITH_N_BEST:
        rule = (
            f"--format {form} has one translation per line: use {' or '.join(FORMATS_WITH_N_BEST)}"
        )
        raise ConfigError("--n-best", num_best, rule)
    if protect and form in ("pharaoh", "soft"):
        rule = "--protect replaces words, so there is no alignment for them: use text or jsonl"
        raise ConfigError("--format", form, rule)


def read_requests(
    source: str, json_input: bool, glossary: Glossary, avoid: tuple[str, ...]
) -> Iterator[Request]:
    """Yield a request for each line of a file or of standard input ("-")."""
    stream = sys.stdin.buffer if source == "-" else Path(source)
    lines = read_lines(stream)
    name = source_name(stream)
    if json_input:
        requests = read_json_lines(lines, name)
    else:
        numbered = enumerate(lines, start=1)
        requests = (Request(line, where=f"{name}, line {n}") for n, line in numbered)
    for request in requests:
        yield glossary.apply(replace(request, avoid=(*request.avoid, *avoid)))


def write_translations(
    translator: "Translator", lines: Iterable[Request], form: str, num_best: int, file: TextIO,
    total: int, is_typed: bool, is_stdout: bool, console: Console,
) -> None:  # fmt: skip
    """Translate in this process and write line by line.

    Args:
        total: number of lines; 0 if unknown.
        is_typed: translate each line before reading the next.
        is_stdout: flush after each line, for the reader of a pipe.
    """
    from nmt.decoding.output_formats import FORMATS_WITH_ATTENTION, OutputCounts, format_translation

    # A progress bar would break lines on a terminal, and those of a program in the same pipe.
    has_bar = not is_stdout or Path("/dev/stdout").is_file()
    started, num_lines, counts = time.monotonic(), 0, OutputCounts()

    def progress(num_done: int) -> None:
        if has_bar:
            console.progress("translating", num_done, total, "lines")

    lines, same = tee(lines)
    translations = translator.stream(
        lines, num_best=num_best, with_attention=form in FORMATS_WITH_ATTENTION, progress=progress,
        window_lines=1 if is_typed else None,
    )  # fmt: skip
    for request, translation in zip(same, translations, strict=False):
        file.write(format_translation(form, request, translation, num_lines))
        num_lines += 1
        counts.add(translation)
        if is_stdout:
            file.flush()
    if has_bar:
        console.clear()
        console.print(speed(num_lines, started))
    if text := counts.summary():
        console.print(text)


# On Ray workers.


def worker_cluster(
    source: str, output: str, cluster: str | None, workers: int | None, search: dict[str, Any]
) -> Cluster:
    """Return the cluster settings of the workers, with the options of the command line.

    Raises:
        ConfigError: input or output is not a file, so the command could not be resumed.
    """
    is_file = {"--input": Path(source).is_file(), "--output": output != "-"}
    for option, value in (("--input", source), ("--output", output)):
        if not is_file[option]:
            rule = "--workers and --cluster need a file, to resume after an interruption"
            raise ConfigError(option, value, rule)
    settings = load_cluster(cluster, [])
    device = search["device"]
    changes = {
        "workers": workers and Workers(min=workers, max=workers),
        "cpus_per_worker": search["threads"],
        "gpus_per_worker": None if device is None else int(device == "cuda"),
    }
    changes = {key: value for key, value in changes.items() if value is not None}
    return settings.model_copy(update=changes)


def resume_key(checkpoints: Iterable["Checkpoint"], files: Iterable[str]) -> dict[str, str]:
    """Return everything the output depends on: models, input files and options."""
    from nmt.checkpoint.format import INFO

    key = {}
    context = click.get_current_context()
    for option in context.command.params:
        name = option.name or ""
        if isinstance(option, click.Option) and name not in CHANGEABLE_OPTIONS:
            key[option.opts[-1]] = str(context.params[name])
    for number, checkpoint in enumerate(checkpoints, start=1):
        digest = _digest(checkpoint.path / INFO)
        key[f"model {number}"] = f"{checkpoint.path.name} {digest}"
    for number, file in enumerate(files, start=1):
        key[f"file {number}"] = f"{Path(file).name} {_digest(Path(file))}"
    return key


def _digest(file: Path) -> str:
    with file.open("rb") as stream:
        return f"of SHA-256 {hashlib.file_digest(stream, 'sha256').hexdigest()[:16]}"


def translate_on_workers(
    translator: "Translator", requests: Callable[[], Iterable[Request]], total: int, form: str,
    num_best: int, output: Path, key: dict[str, str], cluster: Cluster, console: Console,
) -> None:  # fmt: skip
    """Translate the remaining lines of a file on Ray.

    Args:
        total: number of lines of the file.
        key: see `resume_key`; an unfinished output with another key is refused.
    """
    from nmt.decoding.output_formats import OutputCounts
    from nmt.decoding.resumable_output import open_resumable, work_folder
    from nmt.jobs.ray_session import connect
    from nmt.jobs.translate import format_chunk, make_chunks, translate_on_ray

    def progress(num_done: int) -> None:
        console.progress("translating", num_done, total, "lines")

    with open_resumable(output, key) as unfinished:
        num_before, started = unfinished.num_lines, time.monotonic()
        if unfinished.num_chunks:
            console.print(f"resumed after line {num_before:,} of {total:,}")
        progress(num_before)
        num_cpus = cluster.workers.min * cluster.cpus_per_worker
        try:
            if num_before < total:
                with connect(num_cpus, work_folder(output) / "ray.log"):
                    translate_on_ray(
                        translator, make_chunks(translator, requests()),
                        partial(format_chunk, form, num_best), unfinished, cluster, progress,
                    )  # fmt: skip
        except KeyboardInterrupt:
            num_lines = f"{unfinished.num_lines:,} of {total:,}"
            console.print(f"interrupted after line {num_lines}; to resume: {resume_hint()}")
            raise
        console.clear()
        console.print(speed(unfinished.num_lines - num_before, started))
        if text := OutputCounts(**unfinished.counts).summary():
            console.print(text)
