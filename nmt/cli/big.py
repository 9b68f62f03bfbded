"""`nmt translate --workers N`: a file over many workers on Ray, resumable."""

import hashlib
import time
from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from nmt.cli.models import pace
from nmt.cli.verbs import again
from nmt.errors import ConfigError

if TYPE_CHECKING:
    from nmt.checkpoint.loading import Bundle
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
    from nmt.decoding.formats import Tally
    from nmt.decoding.unfinished import folder_of, open_unfinished
    from nmt.jobs.session import connect
    from nmt.jobs.translate import chunks_of, render, translate_on_ray

    def show(num_done: int) -> None:
        console.progress("translating", num_done, total, "lines")

    with open_unfinished(output, begun) as unfinished:
        before, started = unfinished.num_lines, time.monotonic()
        if unfinished.num_chunks:
            console.say(f"{before:,} of {total:,} lines were translated before: going on")
        show(before)
        try:
            if before < total:
                with connect(
                    cluster.workers.min * cluster.cpus_per_worker, folder_of(output) / "ray.log"
                ):
                    translate_on_ray(
                        translator, chunks_of(translator, requests()),
                        partial(render, form, num_best), unfinished, cluster, show,
                    )  # fmt: skip
        except KeyboardInterrupt:
            console.say(f"to go on after line {unfinished.num_lines:,} of {total:,}: {again()}")
            raise
        console.clear()
        console.say(pace(unfinished.num_lines - before, started))
        if told := Tally(**unfinished.counts).text():
            console.say(told)


def begun_with(bundles: Iterable["Bundle"], files: Iterable[str]) -> dict[str, str]:
    """All that the output depends on: models, files, and the options of this command line."""
    from nmt.checkpoint.bundle import INFO

    found = {}
    context = click.get_current_context()
    for option in context.command.params:
        name = option.name or ""
        if isinstance(option, click.Option) and name not in HERE:
            found[option.opts[-1]] = str(context.params[name])
    for number, bundle in enumerate(bundles, start=1):
        found[f"model {number}"] = f"{bundle.path.name} {_digest(bundle.path / INFO)}"
    for number, file in enumerate(files, start=1):
        found[f"file {number}"] = f"{Path(file).name} {_digest(Path(file))}"
    return found


def _digest(file: Path) -> str:
    with file.open("rb") as stream:
        return f"of SHA-256 {hashlib.file_digest(stream, 'sha256').hexdigest()[:16]}"
