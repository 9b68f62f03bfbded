"""How a command line is read: verbs, numbers, and one line for what is wrong with it.

Verbs that are sent to a cluster are in `cluster/submit.py`.
"""

import difflib
import math
import os
import shlex
import shutil
import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, NoReturn

import click

from nmt.errors import ConfigError, NmtError


class Verbs(click.Group):
    """The verbs, in the order in which people need them; an NmtError becomes one line, status 2."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(self.commands)

    def resolve_command(self, ctx: click.Context, args: list[str]) -> Any:
        if args[0] not in self.commands and not args[0].startswith("-"):
            raise ConfigError.from_message(
                f"{args[0]!r} is not a verb{_nearest(args[0], self.commands)}"
            )
        return super().resolve_command(ctx, args)

    def make_context(self, *args: Any, **extra: Any) -> click.Context:
        try:
            return super().make_context(*args, **extra)
        except (NmtError, click.UsageError) as error:
            _refuse(error)

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except (NmtError, click.UsageError) as error:
            _refuse(error, f"{ctx.command_path} {ctx.invoked_subcommand or ''}".rstrip())
        except ModuleNotFoundError as error:
            if (error.name or "").startswith("nmt"):
                raise
            # A script of tools/ that the system's Python runs, most likely.
            rule = "type `. .venv/bin/activate` before, which `make demo` has made"
            _refuse(
                ConfigError.from_message(f"{sys.executable} has no package {error.name}: {rule}")
            )
        except (KeyboardInterrupt, click.Abort):
            click.echo("nmt: stopped", err=True)
            ctx.exit(130)
        except BrokenPipeError:
            # What is still in the buffer of standard output has nowhere to go when Python ends.
            os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
            ctx.exit(141)


def search_options(command: Callable[..., None]) -> Callable[..., None]:
    """The options of a verb that translates; they are named like the settings of `decoding`."""
    natural = number(float, math.nextafter(0, -1), "a number, 0 or more")
    positive = number(float, 0, "a number above 0")
    share = number(float, 0, "a number above 0 and 1 at most", most=1)
    count = number(int, 0, "a whole number, 1 or more")
    whole = number(int, -1, "a whole number, 0 or more")
    method, norm = one_of("beam", "sample", "mbr"), one_of("gnmt", "average")
    kinds = some_of("tags", "urls", "numbers", "placeholders")
    for name, check, metavar, meaning in (
        ("--max-source-length", whole, "NUMBER", "Cut longer lines, in tokens, at sentence ends; "
         "default: those longer than in training."),
        ("--protect", kinds, "KINDS", "What passes through untouched: tags,urls,numbers,"
         "placeholders."),
        ("--seed", whole, "NUMBER", "Of samples."),
        ("--samples", count, "NUMBER", "Samples that mbr compares."),
        ("--top-p", share, "NUMBER", "Sample from the likeliest tokens with this probability."),
        ("--top-k", whole, "NUMBER", "Sample from so many likeliest tokens; 0: from all."),
        ("--temperature", positive, "NUMBER", "Of samples; less than 1: nearer to greedy."),
        ("--diversity", natural, "NUMBER", "Nats that keep the groups apart."),
        ("--diverse-groups", count, "NUMBER", "Groups that share the beam; 1: plain beam search."),
        ("--max-length-ratio", positive, "NUMBER", "Longest translation, in tokens for each source "
         "token."),
        ("--max-length", whole, "NUMBER", "Most tokens of any translation; 0: no limit."),
        ("--min-length", whole, "NUMBER", "Fewest tokens of a translation."),
        ("--coverage-penalty", natural, "NUMBER", "GNMT's beta; 0: none."),
        ("--length-norm", norm, "NAME", "Length penalty of the kind gnmt or average."),
        ("--length-penalty", natural, "NUMBER", "Its exponent alpha; 0: none."),
        ("--beam", count, "NUMBER", "Hypotheses kept at each step; 1: greedy."),
        ("--method", method, "NAME", "beam; sample; or mbr: the sample most like the others."),
    ):  # fmt: skip
        command = click.option(name, callback=check, metavar=metavar, help=meaning)(command)
    return compute_options(command)


def compute_options(command: Callable[..., None]) -> Callable[..., None]:
    """The options of a verb that runs a model: where, in what numbers, how much at once."""
    command = precision_option("Numbers of large products; default: those of the weights.")(command)
    count = number(int, 0, "a whole number, 1 or more")
    for name, check, meaning in (
        ("--device", None, "cpu or cuda; default: cuda where there is one."),
        ("--threads", count, "CPU threads; default: all cores."),
        ("--batch", count, "Sentences computed together."),
    ):
        metavar = "NAME" if check is None else "NUMBER"
        command = click.option(name, callback=check, metavar=metavar, help=meaning)(command)
    return command


def precision_option(meaning: str) -> Callable[..., Any]:
    """Which numbers, by name."""
    names = ("fp32", "bf16", "int8")
    check, metavar = one_of(*names), f"[{'|'.join(names)}]"
    return click.option("--precision", callback=check, metavar=metavar, help=meaning)


def number(
    kind: type[int] | type[float], above: float, rule: str, most: float = math.inf
) -> Callable[[click.Context, click.Parameter, str | None], float | None]:
    """Reads the value of an option: a finite number above a limit."""

    def read(ctx: click.Context, param: click.Parameter, value: str | None) -> float | None:
        if value is None:
            return None
        try:
            number = kind(value)
        except ValueError:
            number = math.nan
        if not (above < number < math.inf and number <= most):
            raise ConfigError(param.opts[-1], value, f"it must be {rule}")
        return number

    return read


def one_of(*names: str) -> Callable[[click.Context, click.Parameter, str | None], str | None]:
    """Reads the value of an option: one of these words."""

    def read(ctx: click.Context, param: click.Parameter, value: str | None) -> str | None:
        if value is not None and value not in names:
            hint = _nearest(value, names) if _is_near(value, names) else ""
            raise ConfigError(param.opts[-1], value, f"it must be {_or(names)}{hint}")
        return value

    return read


def some_of(*names: str) -> Callable[[click.Context, click.Parameter, str | None], Any]:
    """Reads the value of an option: some of these words, parted by commas."""
    check = one_of(*names)

    def read(ctx: click.Context, param: click.Parameter, value: str | None) -> list[str] | None:
        if value is None:
            return None
        words = [word.strip() for word in value.split(",")]
        for word in words:
            check(ctx, param, word)
        return list(dict.fromkeys(words))

    return read


def program() -> str:
    """What a person types to call us."""
    script = Path(sys.argv[0])
    if script.name == "__main__.py":
        return "python -m nmt"
    return script.name if shutil.which(script.name) == str(script) else str(script)


def again() -> str:
    """The command that goes on with what this one began."""
    is_job = "RAY_JOB_CONFIG_JSON_ENV_VAR" in os.environ
    return "submit the job again" if is_job else f"{program()} {shlex.join(sys.argv[1:])}"


def _refuse(error: NmtError | click.UsageError, command: str = "nmt") -> NoReturn:
    """Say in one line what is wrong, and end with status 2.

    Args:
        command: the one that was read, where the error does not say.
    """
    if isinstance(error, getattr(click.exceptions, "NoArgsIsHelpError", ())):
        raise error  # of click 8.2 on: a group without a verb shows its help
    message = str(error)
    if isinstance(error, click.UsageError):
        command = error.ctx.command_path if error.ctx else command
        problem = error.format_message().rstrip(".")
        if isinstance(error, click.MissingParameter) and error.param:
            name = error.param.human_readable_name
            problem = (
                f"{name if isinstance(error.param, click.Argument) else '--' + name} is missing"
            )
        message = f"{problem}; `{command} --help` tells what there is"
        if isinstance(error, click.NoSuchOption) and error.ctx:
            known = [name for param in error.ctx.command.params for name in param.opts]
            nearest = _nearest(error.option_name, [name for name in known if name[:1] == "-"])
            message = f"{error.option_name} is not an option of `{command}`{nearest}"
    click.echo(f"nmt: {message}", err=True)
    raise click.exceptions.Exit(2)


def _or(names: tuple[str, ...]) -> str:
    return f"{', '.join(names[:-1])} or {names[-1]}"


def _is_near(word: str, known: Iterable[str]) -> bool:
    return bool(difflib.get_close_matches(word, list(known), n=1, cutoff=0.5))


def _nearest(word: str, known: Iterable[str]) -> str:
    matches = difflib.get_close_matches(word, list(known), n=1, cutoff=0.5)
    return f"; did you mean {matches[0]}?" if matches else f"; known here: {', '.join(known)}"


def shown(place: str | Path) -> str:
    """A place as a person would type it: a path relative to here if below, an address in quotes."""
    if isinstance(place, str):
        return shlex.quote(place)
    here = Path.cwd()
    return str(place.relative_to(here) if place.is_relative_to(here) else place)
