"""`nmt translate`: a stream or file in this process, or a file on Ray workers.

On Ray the output is written chunk by chunk, and the same command resumes an interrupted one.
"""

import hashlib
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import chain, islice, tee
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

import click

from nmt.cli import options
from nmt.config.cluster import Cluster, Workers
from nmt.config.files import load_cluster
from nmt.console import Console
from nmt.corpus.io import check_files, source_name
from nmt.corpus.text import follow_lines, open_output
from nmt.decoding.interface import GPU_BATCH_SENTENCES
from nmt.decoding.loading import make_translator, open_ensemble, open_model
from nmt.decoding.requests import Request, parse_json_line
from nmt.errors import ConfigError, DataError

if TYPE_CHECKING:
    from nmt.decoding.engines import Model
    from nmt.decoding.output_formats import OutputCounts
    from nmt.decoding.translator import Translator

FORMATS = ("text", "scored", "moses", "pharaoh", "soft", "jsonl")
"""Output formats: those of nmt.decoding.output_formats, which need not be imported for --help."""
CHANGEABLE_OPTIONS = ("source", "output", "workers", "cluster", "device", "threads")
"""Parameters that may differ between an interrupted command and the one that resumes it."""


@dataclass(frozen=True)
class TranslationTask:
    """Lines to translate, and the form of the output."""

    translator: "Translator"
    requests: Callable[[], Iterator[Request | None]]
    """Reads the input from its start; None: no further line is available yet."""
    num_lines: int
    """Number of input lines; 0 if unknown."""
    form: str
    num_best: int


@click.command()
@click.argument("run")
@click.option("-i", "--input", "source", default="-", metavar="FILE", help="Input file; -: stdin.")
@click.option("-o", "--output", default="-", metavar="FILE", help="Output file; -: stdout.")
@click.option("--format", "form", type=click.Choice(FORMATS), default="text",
              help="text; scored: score, tab, translation; moses: n-best list; pharaoh: with "
              "alignment; soft: with attention; jsonl: an object per line.")  # fmt: skip
@click.option("--n-best", "num_best", type=options.COUNT, default=1,
              help="Translations per line, for moses and jsonl.")  # fmt: skip
@click.option("--json-input", is_flag=True,
              help="Read an object per line: text, constraints, avoid, target_prefix; other keys "
              "are copied to jsonl output.")  # fmt: skip
@options.request_options
@click.option("--workers", type=options.COUNT, help="Number of Ray workers; resumable.")
@click.option(
    "--cluster", metavar="FILE", help="Cluster file of the workers; default: this machine."
)
@options.search_options
def translate(
    run: str, source: str, output: str, form: str, num_best: int, json_input: bool,
    terms: str | None, avoid: tuple[str, ...], ensemble: tuple[str, ...],
    workers: int | None, cluster: str | None, **search: Any,
) -> None:  # fmt: skip
    """Translate text line by line.

    n lines in, n lines out, in order. RUN is a run directory, a checkpoint or an exported model.

    Input and output are UTF-8, compressed if the file name ends in .gz, .xz, .zst or .bz2. Lines of
    a terminal or pipe are translated as they arrive. Scores are natural logarithms; alignments
    count words separated by spaces, those of the input line as it is.
    """
    from nmt.decoding.engines import check_precision

    check_files([*([source] if source != "-" else []), *([terms] if terms else [])])
    options.check_output(output, [source, *([terms] if terms else [])])
    on_ray = None
    if workers or cluster:
        on_ray = worker_cluster(source, output, cluster, workers, search)
        has_gpu = bool(on_ray.num_gpus)
        if has_gpu and search["engine"] == "onnx":
            rule = "the workers have GPUs, and ONNX Runtime is used on CPUs: use torch"
            raise ConfigError("--engine", "onnx", rule)
        if has_gpu:
            search["batch_sentences"] = search["batch_sentences"] or GPU_BATCH_SENTENCES
        # This process only sends the model to the workers.
        engine = "torch" if has_gpu else search["engine"]
        search |= {"device": "cpu", "threads": None, "engine": engine}
    checkpoint = open_model(run)
    others = open_ensemble(checkpoint, ensemble)
    checkpoints = [checkpoint, *others]
    if on_ray is not None:
        precisions = [search["precision"] or each.precision for each in checkpoints]
        check_precision(precisions, has_gpu=bool(on_ray.num_gpus))
    translator = make_translator(checkpoint, ensemble=others, **search)
    check_format(form, num_best, translator.decoding.protect)
    translator.check(num_best)
    constrain = options.constraints_of(translator, terms, avoid)
    requests = partial(read_requests, source, json_input, constrain)
    # A file is read twice: an error in its last line is found before the first is translated.
    num_lines, is_stdin = 0, source == "-"
    if Path("/dev/stdin" if is_stdin else source).is_file():
        start = sys.stdin.buffer.tell() if is_stdin else 0
        for request in filter(None, requests()):
            translator.check(num_best, [request])
            num_lines += 1
        if is_stdin:
            sys.stdin.buffer.seek(start)
    task = TranslationTask(translator, requests, num_lines, form, num_best)
    models_text = "\n".join(options.describe(each) for each in checkpoints)
    with Console() as console:
        if on_ray is None:
            is_typed = is_stdin and sys.stdin.isatty()
            translate_here(task, output, is_typed, models_text, console)
        else:
            translator.build_engine()
            console.print(models_text)
            key = resume_key(checkpoints, [source, *([terms] if terms else [])])
            translate_on_workers(task, Path(output), key, on_ray, console)


def check_format(form: str, num_best: int, protect: Sequence[str]) -> None:
    """Raise ConfigError if the format cannot hold an n-best list or protected text."""
    from nmt.decoding.output_formats import FORMATS_WITH_N_BEST

    if num_best > 1 and form not in FORMATS_WITH_N_BEST:
        rule = f"--format {form} has one translation per line: use "
        raise ConfigError("--n-best", num_best, rule + " or ".join(FORMATS_WITH_N_BEST))
    if protect and form in ("pharaoh", "soft"):
        rule = "--protect replaces words, so there is no alignment for them: use text or jsonl"
        raise ConfigError("--format", form, rule)


def read_requests(
    source: str, json_input: bool, constrain: Callable[[Request], Request]
) -> Iterator[Request | None]:
    """Yield a request for each line of a file or of standard input ("-"); None as `follow_lines`.

    Args:
        source: file name, or "-".
        json_input: read an object per line.
        constrain: see `constraints_of`.

    Raises:
        DataError: see `follow_lines` and `parse_json_line`.
    """
    stream = sys.stdin.buffer if source == "-" else Path(source)
    name, number = source_name(stream), 0
    for line in follow_lines(stream):
        if line is None:
            yield None
            continue
        number += 1
        where = f"{name}, line {number}"
        request = parse_json_line(line, where) if json_input else Request(line, where=where)
        yield constrain(request)


def translate_here(
    task: TranslationTask, output: str, is_typed: bool, models_text: str, console: Console
) -> None:
    """Translate in this process and write line by line.

    Args:
        output: file name, or "-" for standard output; it and pipes are flushed after each line.
        is_typed: a user types the lines.
        models_text: lines about the checkpoints; printed after the first line is checked, unless
            a user waits for them.

    Raises:
        DataError: a line of a pipe is invalid; the output has the lines before it.
    """
    from nmt.decoding.output_formats import OutputCounts

    # A progress bar would break lines on a terminal, and those of a program in the same pipe.
    has_bar = output != "-" or Path("/dev/stdout").is_file()
    counts, lines = OutputCounts(), task.requests()
    is_stream = output == "-" or (Path(output).exists() and not Path(output).is_file())

    def progress(num_done: int) -> None:
        if has_bar:
            console.progress("translating", num_done, task.num_lines, "lines")

    with open_output(output) as file:
        if is_typed:
            task.translator.build_engine()
            console.print(f"{models_text}\ntype a line to translate; Ctrl-D ends")
        else:
            # An error in the first line of a stream is reported before any other output.
            first = list(islice(filter(None, lines), 1))
            task.translator.check(task.num_best, first)
            lines = chain(first, lines)
            task.translator.build_engine()
            console.print(models_text)
        started = time.monotonic()
        num_lines, error = write_translations(task, lines, file, counts, is_stream, progress)
    if has_bar:
        console.clear()
        console.print(options.speed(num_lines, started))
    if text := counts.summary():
        console.print(text)
    if error is not None:
        raise error


def write_translations(
    task: TranslationTask, lines: Iterable[Request | None], file: TextIO, counts: "OutputCounts",
    is_stream: bool, progress: Callable[[int], None],
) -> tuple[int, DataError | None]:  # fmt: skip
    """Translate and write line by line, up to the first line of the input that is invalid.

    Args:
        lines: requests; None: no further line is available yet.
        counts: receives the counts of the output.
        is_stream: flush the output after each line.
        progress: as in `Translator.stream`.

    Returns:
        Number of lines written, and the error of the invalid line or None.
    """
    from nmt.decoding.output_formats import FORMATS_WITH_ATTENTION, format_translation

    num_lines = 0
    lines, same = tee(lines)
    translations = task.translator.stream(
        lines, num_best=task.num_best, progress=progress,
        with_attention=task.form in FORMATS_WITH_ATTENTION,
    )  # fmt: skip
    try:
        # Translations first: they end with the error of an invalid line.
        for translation, request in zip(translations, filter(None, same), strict=False):
            text = format_translation(task.form, request, translation, num_lines, task.num_best)
            file.write(text)
            num_lines += 1
            counts.add(translation)
            if is_stream:
                file.flush()
    except DataError as error:
        return num_lines, error
    return num_lines, None


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
        "gpus_per_worker": {"cpu": 0, "cuda": 1}.get(device),  # auto: as in the cluster file
    }
    changes = {key: value for key, value in changes.items() if value is not None}
    from nmt.jobs.ray_session import resolve_auto

    resolved = resolve_auto(settings.model_copy(update=changes), sys.maxsize)
    # The engine is chosen here: without a connection auto means no GPUs.
    return resolved.resolve(0, sys.maxsize)


def resume_key(models: Iterable["Model"], files: Iterable[str]) -> dict[str, str]:
    """Return everything the output depends on: models, input files and options."""
    from nmt.decoding.engines import info_file

    context = click.get_current_context()
    key = {
        option.opts[-1]: str(context.params[option.name or ""])
        for option in context.command.params
        if isinstance(option, click.Option) and option.name not in CHANGEABLE_OPTIONS
    }
    for number, model in enumerate(models, start=1):
        key[f"model {number}"] = f"{model.path.name} {_digest(info_file(model))}"
    for number, file in enumerate(files, start=1):
        key[f"file {number}"] = f"{Path(file).name} {_digest(Path(file))}"
    return key


def _digest(file: Path) -> str:
    with file.open("rb") as stream:
        return f"of SHA-256 {hashlib.file_digest(stream, 'sha256').hexdigest()[:16]}"


def translate_on_workers(
    task: TranslationTask, output: Path, key: dict[str, str], cluster: Cluster, console: Console
) -> None:
    """Translate the remaining lines of a file on Ray.

    Args:
        key: see `resume_key`; an unfinished output with another key is refused.
    """
    from nmt.decoding.output_formats import OutputCounts
    from nmt.decoding.resumable_output import open_resumable, work_folder
    from nmt.jobs.ray_session import connect
    from nmt.jobs.translate import format_chunk, translate_on_ray

    def progress(num_done: int) -> None:
        console.progress("translating", num_done, task.num_lines, "lines")

    def position() -> str:
        return f" after line {unfinished.num_lines:,} of {task.num_lines:,}"

    with open_resumable(output, key) as unfinished:
        num_before, started = unfinished.num_lines, time.monotonic()
        if unfinished.num_chunks:
            console.print(f"resumed{position()}")
        progress(num_before)
        if num_before < task.num_lines:
            num_cpus = cluster.workers.min * cluster.cpus_per_worker
            ray_session = connect(num_cpus, work_folder(output) / "ray.log")
            with options.resumable(console, position), ray_session:
                translate_on_ray(
                    task.translator, task.translator.windows(task.requests()),
                    partial(format_chunk, task.form, task.num_best), unfinished, cluster, progress,
                )  # fmt: skip
        console.clear()
        console.print(options.speed(unfinished.num_lines - num_before, started))
        if text := OutputCounts.of_chunks(unfinished.counts).summary():
            console.print(text)
