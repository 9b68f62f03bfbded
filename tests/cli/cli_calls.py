"""Helpers for tests of commands on the tiny model; errors are tested in errors/."""

import os
import subprocess
import sys
from collections.abc import Callable
from typing import Any

Nmt = Callable[..., Any]
TEXT = "1 a dog runs.\n2 two cats sleep.\n3 my dog sees a cat.\n"


def translated(nmt: Nmt, text: str, options: str = "") -> list[str]:
    answer = nmt(f"translate runs/tiny {options}", text.encode())
    assert answer.status == 0, answer.err
    assert answer.out.endswith("\n"), answer.out
    return answer.out[:-1].split("\n")


def sacrebleu_command(folder: str, name: str, *options: str) -> str:
    command = [sys.executable, "-m", "sacrebleu", f"{folder}/{name}.de.ref"]
    command += ["-i", f"{folder}/{name}.de", "-m", "bleu", "chrf", "ter", "--confidence", *options]
    environment = {**os.environ, "NO_COLOR": "1"}
    done = subprocess.run(command, capture_output=True, check=True, env=environment)
    return done.stdout.decode()
