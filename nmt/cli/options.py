"""Arguments, options and checks that several commands share."""

import math
import os
import shlex
import shutil
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

import click

from nmt import api
from nmt.config.cluster import Cluster
from nmt.config.decoding import MAX_THREADS, EngineName, Precision, Protected
from nmt.config.experiment import Experiment
from nmt.config.settings import is_address
from nmt.console import Console
from nmt.corpus.io import is_writable
from nmt.errors import ConfigError

if TYPE_CHECKING:
    from nmt.decoding.engines import Model
    from nmt.decoding.requests import Request
    from nmt.decoding.translator import Translator

PROTECTED = get_args(Protected)


class Integer(click.IntRange):
    """Integer within a range."""

    name = "integer"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        number: int = super().convert(value, param, ctx)
        if number >= 2**63:
            self.fail(f"{value} is not less than 2^63.", param, ctx)
        return number


class FiniteFloat(click.FloatRange):
    """Number within a range; NaN and infinity are refused."""

    name = "float"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> float:
        number = super().convert(value, param, ctx)
        # NaN compares false with both limits, so click lets it pass.
        if not math.isfinite(number):
            self.fail(f"{value} is not a finite number.", param, ctx)
        return number


def comma_list(item: Any) -> Callable[[click.Context, click.Parameter, str | None], Any]:
    """Return a callback that splits a value at commas and converts each item with a click type."""

    def convert(ctx: click.Context, param: click.Parameter, value: str | None) -> Any:
        if value is None:
            return None
        items = [item.convert(word.strip(), param, ctx) for word in value.split(",")]
        return list(dict.fromkeys(items))

    return convert


def protected_kinds(ctx: click.Context, param: click.Parameter, value: str | None) -> Any:
    """Convert the value of --protect; none, or nothing, is an empty list."""
    return [] if value in ("", "none") else comma_list(click.Choice(PROTECTED))(ctx, param, value)


COUNT = Integer(min=1)
COUNT_OR_0 = Integer(min=0)
THREADS = Integer(min=1, max=MAX_THREADS)
BEAM = Integer(min=1, max=1000)
LENGTH_PENALTY = FiniteFloat(min=0, max=10)
RERANK = click.Choice(["none", "bleu", "chrf"])
POSITIVE = FiniteFloat(min=0, min_open=True)
POSITIVE_OR_0 = FiniteFloat(min=0)

experiment_argument = click.argument("experiment", metavar="EXPERIMENT")
overrides_argument = click.argument("overrides", metavar="[KEY=VALUE]...", nargs=-1)
cluster_option = click.option(
    "--cluster", metavar="FILE", help="Cluster file; default: one worker on this machine."
)


def precision_option(text: str) -> Callable[..., Any]:
    """Return the option --precision with a help text."""
    return click.option("--precision", type=click.Choice(get_args(Precision)), help=text)


def engine_option(command: Callable[..., None]) -> Callable[..., None]:
    """Add the option --engine."""
    return click.option("--engine", type=click.Choice(get_args(EngineName)), default="auto",
                        help="PyTorch or ONNX Runtime; auto: onnx on a CPU.")(command)  # fmt: skip


def compute_options(command: Callable[..., None]) -> Callable[..., None]:
    """Add the options of a command that runs a model: engine, dtype, device, threads, batch."""
    command = precision_option("Dtype of large matrix products; default: as stored; GPU: bf16.")(
        command
    )
    command = click.option("--device", type=click.Choice(["auto", "cpu", "cuda"]), default="auto",
                           help="Device; auto: cuda if available.")(command)  # fmt: skip
    command = engine_option(command)
    command = click.option("--threads", type=THREADS, help="CPU threads; default: all cores.")(
        command
    )
    return click.option("--batch", "batch_sentences", type=COUNT, help="Sentences per batch.")(
        command
    )


def search_options(command: Callable[..., None]) -> Callable[..., None]:
    """Add the options of a command that translates, named like the settings of `decoding`."""
    options: tuple[tuple[str, Any, str], ...] = (
        ("--max-source-length", COUNT_OR_0,
         "Split longer lines, in tokens, into sentences; default: the limit of training."),
        ("--seed", COUNT_OR_0, "Sampling seed."),
        ("--rerank-scale", POSITIVE_OR_0, "Weight exp(scale * score) of a candidate in --rerank."),
        ("--rerank", RERANK, "Choose from the beam by expected sentence BLEU or chrF2 (MBR)."),
        ("--samples", COUNT, "Number of samples for mbr."),
        ("--top-p", FiniteFloat(min=0, max=1, min_open=True),
         "Nucleus sampling: probability mass to sample from."),
        ("--top-k", COUNT_OR_0, "Number of most likely tokens to sample from; 0: all."),
        ("--temperature", POSITIVE, "Sampling temperature; below 1: closer to greedy."),
        ("--diversity", POSITIVE_OR_0, "Diversity penalty between groups, in nats."),
        ("--diverse-groups", COUNT, "Groups of diverse beam search; 1: off."),
        ("--max-length-ratio", POSITIVE, "Maximum translation tokens per source token."),
        ("--max-length", COUNT_OR_0, "Maximum tokens of a translation; 0: no limit."),
        ("--min-length", COUNT_OR_0, "Minimum tokens of a translation."),
        ("--coverage-penalty", POSITIVE_OR_0, "Coverage penalty beta of GNMT; 0: off."),
        ("--length-norm", click.Choice(["gnmt", "average"]), "Length normalisation."),
        ("--length-penalty", POSITIVE_OR_0, "Exponent alpha of the normalisation; 0: off."),
        ("--beam", COUNT, "Beam size; 1: greedy."),
        ("--method", click.Choice(["beam", "sample", "mbr"]),
         "Beam search, sampling, or minimum Bayes risk over samples."),
    )  # fmt: skip
    # Decorators add options from the last to the first; the table is in that order.
    for name, kind, text in options:
        command = click.option(name, type=kind, help=text)(command)
    command = click.option(
        "--protect", metavar="KINDS", callback=protected_kinds,
        help=f"Comma-separated kinds of text copied unchanged: {','.join(PROTECTED)}; or none.",
    )(command)  # fmt: skip
    command = click.option(
        "--shortlist", is_flag=True,
        help="Restrict each line to candidates; needs `nmt export --shortlist`.",
    )(command)  # fmt: skip
    return compute_options(command)


def _unicode_words(
    ctx: click.Context, param: click.Parameter, value: tuple[str, ...]
) -> tuple[str, ...]:
    """Refuse --avoid with bytes that are not UTF-8."""
    from nmt.decoding.requests import Request

    Request("", avoid=value, where="--avoid")
    return value


def request_options(command: Callable[..., None]) -> Callable[..., None]:
    """Add the options of a command that translates requests: --terms, --avoid, --ensemble."""
    for name, keywords in (
        ("--ensemble", {"multiple": True, "metavar": "RUN",
                        "help": "Ensemble member; repeatable."}),
        ("--avoid", {"multiple": True, "metavar": "WORDS", "callback": _unicode_words,
                     "help": "Excluded words; repeatable."}),
        ("--terms", {"metavar": "FILE", "help": "Glossary (TSV) of source and target terms."}),
    ):  # fmt: skip
        command = click.option(name, **keywords)(command)
    return command


def constraints_of(
    translator: "Translator", terms: str | None, avoid: tuple[str, ...]
) -> Callable[["Request"], "Request"]:
    """Return a function that adds the terms of a glossary and excluded words to a request.

    Raises:
        DataError: the glossary cannot be read.
    """
    from nmt.decoding.requests import Glossary

    glossary = Glossary({}, translator.cleaning)
    if terms:
        glossary = Glossary.read(Path(terms), translator.cleaning, translator.decoding.protect)
    return lambda request: glossary.apply(replace(request, avoid=(*request.avoid, *avoid)))


def load_settings(
    experiment: str, cluster: str | None, overrides: tuple[str, ...]
) -> tuple[Experiment, Cluster]:
    """Load both settings files and apply the overrides.

    Raises:
        ConfigError: a file or an override is invalid.
    """
    # A cluster file without --cluster is the most frequent mistake.
    for text in overrides:
        if "=" not in text and text.endswith((".yaml", ".yml")):
            hint = f"use --cluster {text}" if cluster is None else "remove it"
            raise ConfigError.from_message(f"{text}: one file too many; {hint}")
    return api.load_settings(experiment, cluster, overrides)


def describe(model: "Model") -> str:
    """Return a line about a checkpoint: path, update, dtype and dev BLEU with its signature.

    For an exported model: its difference from PyTorch instead of the dev BLEU.
    """
    from nmt.decoding.exported_model import ExportedModel

    if isinstance(model, ExportedModel):
        return model.describe()
    info = model.info
    facts = [f"update {info.update:,}"]
    if info.averaged:
        number = len(info.averaged)
        facts.insert(0, f"average of {number} checkpoint{'s' * (number != 1)}")
    if model.precision != "fp32":
        facts.append(f"{model.precision} weights")
    known = info.bleu is not None
    facts.append(f"dev_bleu {info.bleu:.2f} {info.bleu_signature}" if known else "dev_bleu unknown")
    return f"{model.path}: {' | '.join(facts)}"


def speed(num_lines: int, started: float) -> str:
    """Return a log line about the translation speed since `started` (time.monotonic)."""
    seconds = max(time.monotonic() - started, 1e-9)
    unit = "line" if num_lines == 1 else "lines"
    return f"translated {num_lines:,} {unit} | {seconds:.1f} s | {num_lines / seconds:,.1f} lines/s"


def unpaired(option: str, number: int, num_sources: int) -> ConfigError:
    """Return the error for an option that is not given as often as --src."""

    def given(times: int) -> str:
        return f"given {times} time{'s' * (times != 1)}"

    rule = f"--src is {given(num_sources)}: give one {option} per --src"
    return ConfigError(option, given(number), rule)


def check_output(output: str, inputs: Iterable[str] = (), option: str = "--output") -> None:
    """Raise ConfigError if an output file cannot be created or would overwrite an input."""
    path = Path(output)
    if output == "-":
        return
    if not path.parent.is_dir():
        rule = f"directory {path.parent} does not exist: create it first"
        raise ConfigError(option, output, rule)
    if path.is_dir():
        raise ConfigError(option, output, "it is a directory: give a file name")
    # Files are replaced by a new one in their directory; devices and pipes are written to.
    if (path.is_file() or not path.exists()) and not is_writable(path.resolve().parent):
        rule = f"directory {path.resolve().parent} is not writable: use another one"
        raise ConfigError(option, output, rule)
    # Standard input may be redirected from the output file.
    for source in inputs:
        file = Path("/dev/stdin" if source == "-" else source)
        if file.is_file() and path.exists() and path.samefile(file):
            raise ConfigError(option, output, "it is the input: give another file name")


def check_page(output: str, runs: Iterable[str]) -> None:
    """Raise ConfigError if an HTML page would replace a file of a run that is no page."""
    target = Path(output).resolve()
    folders = [run for run in runs if target.is_relative_to(Path(run).resolve())]
    if target.exists() and target.suffix != ".html" and folders:
        rule = f"it is a file of {folders[0]}: give the name of an HTML file"
        raise ConfigError("--output", output, rule)


def program(other: str = "") -> str:
    """Return the command that started this program, as the user would type it.

    Args:
        other: name of another program that is installed beside this one.
    """
    script = Path(sys.argv[0])
    if script.name == "__main__.py":
        return other or "python -m nmt"
    script = script.with_name(other) if other else script
    # The bare name only if the shell would find this script under it.
    is_found = shutil.which(script.name) == str(script)
    return shlex.quote(script.name if is_found else str(script))


def next_command(verb: str) -> str:
    """Return the command of another verb, started in the same way as this program.

    For `tools/train.py` that is `tools/VERB.py`.
    """
    script = Path(sys.argv[0])
    other = script.with_name(f"{verb}.py")
    if script.suffix == ".py" and other.is_file():
        return shlex.quote(str(other))
    return f"{program()} {verb}"


@contextmanager
def resumable(console: Console, position: Callable[[], str] = lambda: "") -> Iterator[None]:
    """Print the command that resumes this one if it is interrupted.

    Args:
        position: text such as " after line 5", evaluated at the interruption.
    """
    try:
        yield
    except KeyboardInterrupt:
        # The command line of a job names paths of the cluster, not of the user's machine.
        is_job = "RAY_JOB_CONFIG_JSON_ENV_VAR" in os.environ
        command = f"{program()} {shlex.join(sys.argv[1:])}"
        hint = "submit the job again" if is_job else command
        console.print(f"interrupted{position()}; to resume: {hint}")
        raise


def display_path(location: str | Path) -> str:
    """Quote a path or an address for a shell; paths inside the working directory are relative."""
    if not is_address(str(location)):
        path, here = Path(location), Path.cwd()
        location = path.relative_to(here) if path.is_relative_to(here) else path
    return shlex.quote(str(location))
