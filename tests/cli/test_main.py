"""The program `nmt`: its help, its version, and how it ends when nobody reads on."""

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import click
import pytest
from tiny_calls import Nmt

from nmt.cli.main import main
from nmt.evaluation.metrics import DEFAULT_METRICS


def commands(group: click.Group, path: str = "") -> Iterator[tuple[str, click.Command]]:
    for name, command in group.commands.items():
        yield f"{path}{name}", command
        if isinstance(command, click.Group):
            yield from commands(command, f"{path}{name} ")


COMMANDS = dict(commands(main))


@pytest.mark.parametrize("verb", COMMANDS)
def test_help_tells_every_option_and_what_it_means(verb: str, nmt: Nmt) -> None:
    answer = nmt(f"{verb} --help")
    assert answer.status == 0
    for param in COMMANDS[verb].params:
        is_option = isinstance(param, click.Option)
        assert (param.opts[-1] if is_option else param.human_readable_name) in answer.out
        assert not is_option or param.help


def test_help_lists_the_verbs_in_the_order_of_the_work(nmt: Nmt) -> None:
    listed = re.findall(r"^  (\w+)  ", nmt("--help").out.partition("Commands:")[2], re.M)
    assert listed == [
        "demo", "prepare", "train", "translate", "tune", "backtranslate", "score", "evaluate",
        "compare", "report", "average", "export", "audit", "plan", "bench", "config",
    ]  # fmt: skip


def test_every_line_about_a_verb_is_whole(nmt: Nmt) -> None:
    assert "..." not in nmt("--help").out.partition("Commands:")[2]


def test_the_metrics_by_default_are_those_of_the_scores() -> None:
    [option] = [each for each in COMMANDS["evaluate"].params if each.name == "metrics"]
    assert option.default == ",".join(DEFAULT_METRICS)


def test_help_waits_for_neither_torch_nor_ray() -> None:
    code = (
        "import sys\nfrom nmt.cli.main import main\n"
        "try: main(['--help'])\nexcept SystemExit: pass\n"
        "print(*{'torch', 'ray', 'pydantic', 'sacrebleu'} & sys.modules.keys(), file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, check=True)
    assert done.stderr == b"\n"


def test_the_version_is_told(nmt: Nmt) -> None:
    assert re.fullmatch(r"nmt, version \d+\.\d+\.\d+.*\n", nmt("--version").out)


def test_a_reader_that_goes_away_is_no_error_to_tell(here: Path) -> None:
    reading, writing = os.pipe()
    os.close(reading)
    command = [sys.executable, "-m", "nmt", "config", "show", "tiny.yaml"]
    done = subprocess.run(command, stdout=writing, stderr=subprocess.PIPE)
    os.close(writing)
    assert (done.returncode, done.stderr) == (141, b"")
