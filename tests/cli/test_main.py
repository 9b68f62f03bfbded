"""`nmt`: help, version, lazy imports and exit statuses."""

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import click
import pytest
import torch
from cli_calls import Nmt

from nmt.cli.main import COMMANDS, main
from nmt.evaluation.sacrebleu_metrics import DEFAULT_METRICS


def commands() -> Iterator[tuple[str, click.Command]]:
    for name in COMMANDS:
        command = main.get_command(None, name)
        assert command is not None
        yield name, command
        if isinstance(command, click.Group):
            yield from ((f"{name} {each}", inner) for each, inner in command.commands.items())


ALL = dict(commands())


PRINT_IMPORTS = """
import sys
from nmt.cli.main import main
for command in sys.argv[1:]:
    try:
        main(command.split())
    except SystemExit:
        print(command, *{name.partition(".")[0] for name in sys.modules}, file=sys.stderr)
"""


def imports_of(*commands: str) -> dict[str, set[str]]:
    """Return the top-level modules loaded after each command, run in one process."""
    command = [sys.executable, "-c", PRINT_IMPORTS, *commands]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    lines = done.stderr.splitlines()
    assert len(lines) == len(commands)
    return {name: set(line.split()) for name, line in zip(commands, lines, strict=True)}


@pytest.mark.parametrize("name", ALL)
def test_help_describes_every_parameter(name: str, nmt: Nmt) -> None:
    answer = nmt(f"{name} --help")
    assert answer.status == 0
    for param in ALL[name].params:
        is_option = isinstance(param, click.Option)
        assert (param.opts[-1] if is_option else param.human_readable_name) in answer.out
        assert not is_option or re.fullmatch(r"[A-Za-z].*\.", param.help or "")


def test_help_lists_the_commands_in_order_of_use(nmt: Nmt) -> None:
    listed = re.findall(r"^  (\w+)  ", nmt("--help").out.partition("Commands:")[2], re.M)
    assert listed == [
        "demo", "init", "doctor", "prepare", "train", "adapt", "translate", "serve",
        "tune",
        "backtranslate", "score",
        "evaluate", "compare", "report", "inspect", "average", "export", "audit", "plan", "bench",
        "config",
    ]  # fmt: skip


@pytest.mark.parametrize("name", COMMANDS)
def test_listed_help_is_the_first_line_of_the_command(name: str) -> None:
    assert (ALL[name].help or "").splitlines()[0] == COMMANDS[name][1]


def test_default_metrics_of_the_option() -> None:
    [option] = [each for each in ALL["evaluate"].params if each.name == "metrics"]
    assert option.default == ",".join(DEFAULT_METRICS)


def test_help_imports_no_slow_library() -> None:
    slow = {"torch", "ray", "pydantic", "numpy", "pyarrow", "sacrebleu", "tokenizers", "yaml"}
    assert not imports_of("--help")["--help"] & slow


def test_help_of_a_command_imports_neither_torch_nor_ray() -> None:
    imports = imports_of(*(f"{name} --help" for name in COMMANDS))
    assert [name for name, modules in imports.items() if modules & {"torch", "ray"}] == []


# A script inspect.py would replace the module of Python's library for all scripts of the folder.
WITHOUT_SCRIPT = {"demo", "plan", "bench", "config", "inspect"}


@pytest.mark.parametrize("name", sorted(COMMANDS.keys() - WITHOUT_SCRIPT))
def test_command_has_a_script(name: str) -> None:
    script = Path(__file__).resolve().parents[2] / "tools" / f"{name}.py"
    assert f'main(["{name}", *sys.argv[1:]], prog_name="nmt")' in script.read_text()
    assert os.access(script, os.X_OK)


def test_version(nmt: Nmt) -> None:
    assert re.fullmatch(r"nmt, version \d+\.\d+\.\d+.*\n", nmt("--version").out)


def test_closed_standard_output_is_not_reported(here: Path) -> None:
    reading, writing = os.pipe()
    os.close(reading)
    command = [sys.executable, "-m", "nmt", "config", "show", "tiny.yaml"]
    done = subprocess.run(command, stdout=writing, stderr=subprocess.PIPE)
    os.close(writing)
    assert (done.returncode, done.stderr) == (141, b"")


@pytest.mark.parametrize("error", [MemoryError(), torch.OutOfMemoryError("CUDA out of memory")])
def test_out_of_memory_is_an_error_of_one_line(
    error: Exception, nmt: Nmt, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Actionable errors (nmt/README.md, Guarantees)."""

    def fail(key: str) -> None:
        raise error

    monkeypatch.setattr("nmt.cli.config.explain_key", fail)
    answer = nmt("config explain")
    assert (answer.status, answer.err) == (
        2, "nmt: out of memory: use a smaller batch, beam or model\n"
    )  # fmt: skip
