"""Command line `nmt`.

Results (translations, scores, settings) go to standard output, logs and progress to standard error.
A command's module is imported when the command is used, so that `nmt --help` loads none of them.
"""

import errno
import io
import os
import re
import signal
import sys
import threading
from collections.abc import Mapping
from contextlib import suppress
from importlib import import_module
from typing import Any, NoReturn

import click

from nmt.errors import NmtError, did_you_mean, one_line
from nmt.model.mkl import set_strict_mode

FILE_ERRNOS = (
    errno.ENAMETOOLONG, errno.ELOOP, errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR,
    errno.EISDIR, errno.EEXIST, errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EBADF, errno.EIO,
    errno.EMFILE,
)  # fmt: skip
"""Errors of files and streams that a user can correct; others keep their traceback."""
FILE_HINT = "check the path, its permissions and the free space"
COMMANDS = {
    "demo": ("nmt.cli.demo:demo", "Train and score a model on the built-in corpus."),
    "init": ("nmt.cli.init:init", "Write the experiment file of your own corpus."),
    "doctor": ("nmt.cli.doctor:doctor", "Examine a corpus: languages, lengths, bad pairs."),
    "prepare": ("nmt.cli.train:prepare", "Clean a corpus, learn its subwords, write shards."),
    "train": ("nmt.cli.train:train", "Train a model, or resume its run."),
    "adapt": ("nmt.cli.adapt:adapt", "Adapt a model to a new domain."),
    "translate": ("nmt.cli.translate:translate", "Translate text line by line."),
    "serve": ("nmt.cli.serve:serve", "Translate over HTTP."),
    "tune": ("nmt.cli.tune:tune", "Search for the settings with the best dev score."),
    "backtranslate": ("nmt.cli.backtranslate:backtranslate", "Translate monolingual text."),
    "score": ("nmt.cli.score:score", "Compute log-probabilities of given translations."),
    "evaluate": ("nmt.cli.evaluate:evaluate", "Translate test sets and score them with sacreBLEU."),
    "compare": ("nmt.cli.compare:compare", "Score translation files and compare them."),
    "report": ("nmt.cli.report:report", "Write an HTML report of runs."),
    "inspect": ("nmt.cli.inspect:inspect", "Show attention and LSTM gates of a model on a page."),
    "average": ("nmt.cli.train:average", "Average the weights of checkpoints."),
    "export": ("nmt.cli.train:export", "Export a model for translation."),
    "audit": ("nmt.cli.audit:audit", "Verify that each epoch of a run used each pair once."),
    "plan": ("nmt.cli.plan:plan", "Estimate memory, disk and time of a run."),
    "bench": ("nmt.cli.bench:bench", "Measure training and translation speed."),
    "config": ("nmt.cli.config:config", "Show and explain settings."),
}
"""Module and function, and help text, by command, in the order of use."""


class CommandGroup(click.Group):
    """Command group that imports commands on use and prints a user's error in one line.

    Args:
        lazy: `module:function` and help text by command name.
    """

    def __init__(
        self, *args: Any, lazy: Mapping[str, tuple[str, str]] | None = None, **kwargs: Any
    ) -> None:
        super().__init__(*args, **kwargs)
        self.lazy = lazy or {}

    def list_commands(self, ctx: click.Context) -> list[str]:
        return [*self.lazy, *self.commands]

    def get_command(self, ctx: click.Context | None, cmd_name: str) -> click.Command | None:
        if cmd_name not in self.lazy:
            return self.commands.get(cmd_name)
        module, _, function = self.lazy[cmd_name][0].partition(":")
        command: click.Command = getattr(import_module(module), function)
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        # click would import every command for its help text.
        rows = [(name, text) for name, (_, text) in self.lazy.items()]
        rows += [(name, each.get_short_help_str(80)) for name, each in self.commands.items()]
        with formatter.section("Commands"):
            formatter.write_dl(rows)

    def resolve_command(self, ctx: click.Context, args: list[str]) -> Any:
        known = self.list_commands(ctx)
        if args[0] not in known and not args[0].startswith("-"):
            raise click.UsageError(
                f"{args[0]!r} is not a command{did_you_mean(args[0], known)}", ctx
            )
        return super().resolve_command(ctx, args)

    def main(self, *args: Any, **kwargs: Any) -> Any:
        _open_standard_streams()
        handlers = dict.fromkeys((signal.SIGTERM, signal.SIGHUP), _interrupt)
        # nohup ignores SIGHUP. A job or a test may run this in another thread, without signals.
        is_main = threading.current_thread() is threading.main_thread()
        previous = {
            number: signal.signal(number, handler)
            for number, handler in handlers.items()
            if is_main and signal.getsignal(number) is not signal.SIG_IGN
        }
        try:
            try:
                return super().main(*args, **kwargs)
            finally:
                # Not at exit, where Python reports a failure without a status of its own.
                sys.stdout.flush()
        except BrokenPipeError:
            _discard_output()
            sys.exit(128 + signal.SIGPIPE)
        except OSError as error:
            name = error.filename or "standard output"
            if "No usable temporary directory" in str(error):
                name = "TMPDIR"
            elif error.errno not in FILE_ERRNOS:
                raise
            _discard_output()
            _print_error(f"{name}: {error.strerror}; {FILE_HINT}")
            sys.exit(2)
        except RuntimeError as error:
            # Path.resolve of Python 3.11 and 3.12; later ones raise OSError.
            if not str(error).startswith("Symlink loop from "):
                raise
            name = str(error).removeprefix("Symlink loop from ").strip("'")
            _print_error(f"{name}: {os.strerror(errno.ELOOP)}; {FILE_HINT}")
            sys.exit(2)
        finally:
            for number, old in previous.items():
                signal.signal(number, old)

    def make_context(self, *args: Any, **kwargs: Any) -> click.Context:
        # Output is UTF-8 in any locale; a file name that is not is printed escaped.
        for stream in (sys.stdout, sys.stderr):
            if isinstance(stream, io.TextIOWrapper):
                stream.reconfigure(encoding="utf-8", errors="backslashreplace")
        try:
            return super().make_context(*args, **kwargs)
        except (NmtError, click.UsageError) as error:
            _exit_with(error)
        except KeyboardInterrupt as error:
            _exit_interrupted(error)

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except (NmtError, click.UsageError) as error:
            _exit_with(error, f"{ctx.command_path} {ctx.invoked_subcommand or ''}".rstrip())
        except ModuleNotFoundError as error:
            # A missing module of nmt is a bug and keeps its traceback.
            if (error.name or "").startswith("nmt"):
                raise
            # Typical case: a script of tools/ started with the system's Python.
            hint = "run `. .venv/bin/activate` first; `make demo` creates the environment"
            _exit_with(NmtError(f"{sys.executable} has no package {error.name}: {hint}"))
        except (MemoryError, RuntimeError) as error:
            if not _is_out_of_memory(error):
                raise
            _exit_with(NmtError("out of memory: use a smaller batch, beam or model"))
        except (KeyboardInterrupt, click.Abort) as error:
            _exit_interrupted(error)
        except BrokenPipeError:
            _discard_output()
            ctx.exit(128 + signal.SIGPIPE)


def _exit_with(error: NmtError | click.UsageError, command: str = "nmt") -> NoReturn:
    """Print the error in one line and exit with status 2.

    Args:
        command: command path for the help hint, if the error has no context.
    """
    if isinstance(error, getattr(click.exceptions, "NoArgsIsHelpError", ())):
        raise error  # click 8.2 and later: a group without a command prints its help
    message = str(error)
    if isinstance(error, click.UsageError):
        command = error.ctx.command_path if error.ctx else command
        message = error.format_message().rstrip(".") + _option_hint(error)
        message += f"{'' if message.endswith(('?', '?)')) else '.'} See `{command} --help`."
    _print_error(message)
    raise click.exceptions.Exit(2)


def _option_hint(error: click.UsageError) -> str:
    """Return a hint if a setting was given to a command that has an option for it."""
    setting = re.search(r"unexpected extra arguments? \(([a-z]+)\.([a-z_]+)=", error.message)
    if setting is None or error.ctx is None:
        return ""
    option = "--" + setting[2].replace("_", "-")
    known = [name for each in error.ctx.command.params for name in each.opts]
    return f"; use {option} instead of {setting[1]}.{setting[2]}" if option in known else ""


def _is_out_of_memory(error: MemoryError | RuntimeError) -> bool:
    # click's Exit is a RuntimeError, too: torch is not imported to look at it.
    if isinstance(error, MemoryError) or "torch" not in sys.modules:
        return isinstance(error, MemoryError)
    from nmt.training.memory import is_out_of_memory

    return is_out_of_memory(error)


def _exit_interrupted(error: BaseException) -> NoReturn:
    _print_error("interrupted")
    # As a shell reports it.
    raise click.exceptions.Exit(128 + (error.args[0] if error.args else signal.SIGINT))


def _print_error(message: str) -> None:
    # Without a usable standard error the exit status remains.
    with suppress(OSError):
        click.echo(f"nmt: {one_line(message)}", err=True)


def _interrupt(number: int, _: Any) -> NoReturn:
    """Unwind as Ctrl-C does, so that temporary files are removed."""
    raise KeyboardInterrupt(number)


def _open_standard_streams() -> None:
    """Open closed standard streams, so that no other file gets their descriptors.

    Reading standard input and writing standard output then fail; standard error is discarded.
    """
    for number, flags in enumerate((os.O_WRONLY, os.O_RDONLY, os.O_WRONLY)):
        try:
            os.fstat(number)
        except OSError:
            # The lowest free descriptor is `number`.
            os.open(os.devnull, flags)
            name = ("stdin", "stdout", "stderr")[number]
            stream = open(number, "w" if number else "r", encoding="utf-8", closefd=False)  # noqa: SIM115
            setattr(sys, name, stream)


def _discard_output() -> None:
    """Discard what standard output still holds: Python flushes it at exit and would fail again."""
    with suppress(OSError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)


SETTINGS = {"help_option_names": ["-h", "--help"], "show_default": True}


@click.group(cls=CommandGroup, lazy=COMMANDS, context_settings=SETTINGS)
@click.version_option(package_name="nmt")
def main() -> None:
    """Train LSTM translation models on Ray, translate with them, and score them.

    An experiment file sets what to train, a cluster file sets where. Settings of both can be
    overridden on the command line: section.key=value and cluster.key=value. KEY=null restores the
    default.
    """
    # Before any command imports torch: MKL reads its mode once.
    set_strict_mode()
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if isinstance(stream, io.TextIOWrapper) and stream.isatty():
            # Text of files must not control the terminal; pipes and files get it unchanged.
            from nmt.console import TerminalText

            setattr(sys, name, TerminalText.of(stream))
