"""Helpers for tests of commands on the tiny model; errors are tested in errors/."""

import os
import subprocess
import sys
from collections.abc import Callable
from typing import Any

from nmt.config.experiment import Experiment
from nmt.corpus.pair_files import PairFiles

Nmt = Callable[..., Any]
TEXT = "1 a dog runs.\n2 two cats sleep.\n3 my dog sees a cat.\n"
NAMES = ("Anna", "Ben", "Carla", "Dora", "Emil", "Fritz", "Gerda", "Hugo", "Ida", "Jan")
NEW = [
    (f"{a} and {b} greet me.", f"{a} und {b} grüßen mich.") for a in NAMES for b in NAMES if a < b
]
"""Text of a new domain, in new.en and new.de of the fixture `new_text`."""
ADAPT = "adapt runs/tiny --src new.en --tgt new.de -o runs/adapted"
"""Call of `nmt adapt` on that text."""


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


def prepare_tests(experiment: Experiment) -> None:
    """Check that all texts of an experiment can be read."""
    corpus = experiment.corpus
    for text in (*corpus.train, corpus.dev, *corpus.tests):
        assert list(PairFiles.of(text, corpus).read())
