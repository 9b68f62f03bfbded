"""`nmt translate --workers N`: a file over many workers on Ray, resumable.

`nmt translate`.
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

from nmt.cli.models import about, check_inputs, load_bundle, load_others, make_translator, pace
from nmt.cli.options import again, number, one_of, search_options
from nmt.errors import ConfigError

if TYPE_CHECKING:
    from nmt.checkpoint.load import Checkpoint
    from nmt.config.cluster import Cluster
    from nmt.console import Console
    from nmt.decoding.requests import Request
    from nmt.decoding.translator import Translator

HERE = ("source", "output", "workers", "cluster", "device", "threads")
"""Options that may change before all is done; the input counts by what is in it."""


def cluster_of(
    source: str, output: str, cluster: str | None, workers: int | None, how: dict[str, Any]
) -> "Cluster":
    """Where to translate.

    Raises:
        ConfigError: input or output is no file, or there is no such device.
    """
    from nmt.config.cluster import Workers
    from nmt.config.files import load_cluster

    is_fit = {"--input": Path(source).is_file(), "--output": output != "-"}
    for option, given in (("--input", source), ("--output", output)):
        if not is_fit[option]:
            rule = "with --workers or --cluster it must be a file, to go on after a stop"
            raise ConfigError(option, given, rule)
    where = load_cluster(cluster, [])
    device = how["device"]
    if device not in (None, "cpu", "cuda"):
        raise ConfigError("--device", device, "it must be cpu or cuda")
    asked = {
        "workers": workers and Workers(min=workers, max=workers),
        "cpus_per_worker": how["threads"],
        "gpus_per_worker": None if device is None else int(device == "cuda"),
    }
    return where.model_copy(update={key: one for key, one in asked.items() if one is not None})


def check_numbers(cluster: "Cluster", precisions: Iterable[str]) -> None:
    """Raise ConfigError where workers with GPUs were to compute in int8."""
    if cluster.gpus_per_worker and "int8" in precisions:
        rule = "its products are for CPUs: say --precision bf16, or --device cpu"
        raise ConfigError("--precision", "int8", rule)


def translate_big(
    translator: "Translator", requests: Callable[[], Iterable["Request"]], total: int, form: str,
    num_best: int, output: Path, begun: dict[str, str], cluster: "Cluster", console: "Console",
) -> None:  # fmt: skip
    """Translate a file of that many lines, or what is missing of it."""
    from nmt.decoding.output_formats import OutputCounts
    from nmt.decoding.resumable_output import open_resumable, work_folder
    from nmt.jobs.ray_session import connect
    from nmt.jobs.translate import format_chunk, make_chunks, translate_on_ray

    def show(num_done: int) -> None:
        console.progress("translating", num_done, total, "lines")

    with open_resumable(output, begun) as unfinished:
        before, started = unfinished.num_lines, time.monotonic()
        if unfinished.num_chunks:
            console.print(f"{before:,} of {total:,} lines were translated before: going on")
        show(before)
        try:
            if before < total:
                with connect(
                    cluster.workers.min * cluster.cpus_per_worker, work_folder(output) / "ray.log"
                ):
                    translate_on_ray(
                        translator, make_chunks(translator, requests()),
                        partial(format_chunk, form, num_best), unfinished, cluster, show,
                    )  # fmt: skip
        except KeyboardInterrupt:
            console.print(f"to go on after line {unfinished.num_lines:,} of {total:,}: {again()}")
            raise
        console.clear()
        console.print(pace(unfinished.num_lines - before, started))
        if told := OutputCounts(**unfinished.counts).summary():
            console.print(told)


def begun_with(bundles: Iterable["Checkpoint"], files: Iterable[str]) -> dict[str, str]:
    """All that the output depends on: models, files, and the options of this command line."""
    from nmt.checkpoint.format import INFO

    found = {}
    context = click.get_current_context()
    for option in context.command.params:
        name = option.name or ""
        if isinstance(option, click.Option) and name not in HERE:
            found[option.opts[-1]] = str(context.params[name])
    for place, bundle in enumerate(bundles, start=1):
        found[f"model {place}"] = f"{bundle.path.name} {_digest(bundle.path / INFO)}"
    for place, file in enumerate(files, start=1):
        found[f"file {place}"] = f"{Path(file).name} {_digest(Path(file))}"
    return found


def _digest(file: Path) -> str:
    with file.open("rb") as stream:
        return f"of SHA-256 {hashlib.file_digest(stream, 'sha256').hexdigest()[:16]}"


if TYPE_CHECKING:
    from nmt.console import Console
    from nmt.decoding.requests import Glossary, Request
    from nmt.decoding.translator import Translator


@click.command()
@click.argument("run")
@click.option("-i", "--input", "source", default="-", metavar="FILE",
              help="Default: standard input.")  # fmt: skip
@click.option("-o", "--output", default="-", metavar="FILE", help="Default: standard output.")
@click.option("--format", "form", default="text", show_default=True, metavar="NAME",
              callback=one_of("text", "scored", "moses", "pharaoh", "soft", "jsonl"),
              help="text; scored: score, tab, translation; moses: n-best; pharaoh: translation and "
              "word alignment; soft: and attention; jsonl: all in an object.")  # fmt: skip
@click.option("--n-best", "num_best", default="1", show_default=True, metavar="NUMBER",
              callback=number(int, 0, "a whole number, 1 or more"),
              help="Translations of each line; with moses and jsonl.")  # fmt: skip
@click.option("--json-input", is_flag=True,
              help="A line is an object: text, constraints, avoid, target_prefix; other keys are "
              "passed through to jsonl.")  # fmt: skip
@click.option("--terms", metavar="FILE",
              help="TSV: where the source term stands, the target term must.")  # fmt: skip
@click.option("--avoid", multiple=True, metavar="WORDS",
              help="Words that no translation may have; repeatable.")  # fmt: skip
@click.option("--ensemble", multiple=True, metavar="RUN",
              help="Another model, whose probabilities are averaged in; repeatable.")  # fmt: skip
@click.option("--workers", metavar="NUMBER",
              callback=number(int, 0, "a whole number, 1 or more"),
              help="Workers on Ray: a file of any size, that goes on after a stop.")  # fmt: skip
@click.option("--cluster", metavar="FILE", help="Where they run; default: this machine.")
@search_options
def translate(
    run: str, source: str, output: str, form: str, num_best: int, json_input: bool,
    terms: str | None, avoid: tuple[str, ...], ensemble: tuple[str, ...],
    workers: int | None, cluster: str | None, **how: Any,
) -> None:  # fmt: skip
    """Translate lines: n lines in, n lines out, in order. RUN is a run's folder or a checkpoint.

    UTF-8 in and out; .gz, .xz and .zst by the name of the file. What is typed at a terminal is
    answered line by line. Scores are natural logarithms; words of alignments are what spaces part.
    """
    from nmt.console import Console
    from nmt.corpus.text import open_output
    from nmt.decoding.requests import Glossary

    check_inputs([*([source] if source != "-" else []), *([terms] if terms else [])])
    check_output(source, output)
    where = None
    if workers or cluster:
        where = cluster_of(source, output, cluster, workers, how)
        how |= {"device": "cpu", "threads": None}
    glossary = Glossary.read(Path(terms)) if terms else Glossary({})
    bundle = load_bundle(run)
    others = load_others(bundle, ensemble)
    if where is not None:
        check_numbers(where, [how["precision"] or each.precision for each in (bundle, *others)])
    translator = make_translator(bundle, others=others, **how)
    check_format(form, num_best, translator.decoding.protect)
    translator.check(num_best)
    is_typed = source == "-" and sys.stdin.isatty()
    requests = partial(read_requests, source, json_input, glossary, avoid)
    # A file is read twice: what is wrong at its end shows before anything is translated.
    total = 0
    if Path(source).is_file():
        for request in requests():
            translator.check(num_best, [request])
            total += 1
    if where is not None:
        begun = begun_with([bundle, *others], [source, *([terms] if terms else [])])
        with Console() as console:
            for each in (bundle, *others):
                console.print(about(each))
            translate_big(
                translator, requests, total, form, num_best, Path(output), begun, where, console
            )
        return
    lines: Iterable[Request] = requests()
    with Console() as console, open_output(output) as file:
        if not is_typed:
            # What is wrong at the start of a stream is all that is said then.
            first = list(islice(lines, 1))
            translator.check(num_best, first)
            lines = chain(first, lines)
        for each in (bundle, *others):
            console.print(about(each))
        if is_typed:
            console.print("type a line to have it translated; Ctrl-D ends")
        write_translations(
            translator, lines, form, num_best, file, total, is_typed, output == "-", console
        )


def write_translations(
    translator: "Translator", lines: Iterable["Request"], form: str, num_best: int, file: TextIO,
    total: int, is_typed: bool, is_stream: bool, console: "Console",
) -> None:  # fmt: skip
    """Translate lines as they come, with progress on the console.

    Args:
        total: lines in all; 0: not known.
        is_typed: each line is answered before the next is read.
        is_stream: what is written is read as it comes.
    """
    from nmt.decoding.output_formats import (
        FORMATS_WITH_ATTENTION,
        OutputCounts,
        format_translation,
    )

    # On a terminal a bar would cut lines apart, and those of a program that we write to.
    has_bar = not is_stream or Path("/dev/stdout").is_file()
    started, num_lines, tally = time.monotonic(), 0, OutputCounts()

    def show(num_done: int) -> None:
        if has_bar:
            console.progress("translating", num_done, total, "lines")

    asked, same = tee(lines)
    for request, translation in zip(same, translator.stream(
        asked, num_best=num_best, with_attention=form in FORMATS_WITH_ATTENTION, progress=show,
        window_lines=1 if is_typed else None,
    ), strict=False):  # fmt: skip
        file.write(format_translation(form, request, translation, num_lines))
        num_lines += 1
        tally.add(translation)
        if is_stream:
            file.flush()
    if has_bar:
        console.clear()
        console.print(pace(num_lines, started))
    if told := tally.summary():
        console.print(told)


def read_requests(
    source: str, json_input: bool, glossary: "Glossary", avoid: tuple[str, ...]
) -> Iterator["Request"]:
    """What is asked for each line of a file or of standard input."""
    from nmt.corpus.io import source_name
    from nmt.corpus.text import read_lines
    from nmt.decoding.requests import Request, read_json_lines

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


def check_format(form: str, num_best: int, protect: Sequence[str]) -> None:
    """Raise ConfigError where a format has no room for what is asked, or no meaning with it."""
    from nmt.decoding.output_formats import FORMATS_WITH_N_BEST

    if num_best > 1 and form not in FORMATS_WITH_N_BEST:
        rule = f"--format {form} has one translation a line: use {' or '.join(FORMATS_WITH_N_BEST)}"
        raise ConfigError("--n-best", num_best, rule)
    if protect and form in ("pharaoh", "soft"):
        rule = "with --protect the words of the line are not those that the model saw"
        raise ConfigError("--format", form, rule)


def check_output(source: str, output: str) -> None:
    """Raise ConfigError where a translation could not be written, or would replace its source."""
    given, path = Path("/dev/stdin" if source == "-" else source), Path(output)
    if output == "-":
        return
    if not path.parent.is_dir():
        raise ConfigError("--output", output, f"there is no folder {path.parent}: make it first")
    if given.is_file() and path.exists() and path.samefile(given):
        raise ConfigError("--output", output, "that is the input: name another file")
