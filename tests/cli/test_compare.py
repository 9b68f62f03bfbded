"""`nmt compare`: scores of translation files."""

import json
import os
import subprocess
import sys
from pathlib import Path

from cli_calls import Nmt, sacrebleu_command


def test_scores_equal_those_of_the_sacrebleu_command(here: Path, nmt: Nmt) -> None:
    """Line in, line out (nmt/README.md, Guarantees)."""
    nmt("evaluate runs/tiny --test news")
    folder = "runs/tiny/evaluation"
    answer = nmt(f"compare {folder}/news.de --ref {folder}/news.de.ref --json")
    printed = json.loads(sacrebleu_command(folder, "news", "-w", "8", "-f", "json"))
    assert json.loads(answer.out)["scores"] == printed


def test_output_is_utf_8_in_any_locale(here: Path) -> None:
    Path("a.de").write_text("a μ\n", encoding="utf-8")
    Path("b.de").write_text("a 我\n", encoding="utf-8")
    words = [
        "compare",
        "b.de",
        "--baseline",
        "a.de",
        "--ref",
        "a.de",
        "--metrics",
        "chrf",
        "--changed",
        "1",
    ]
    done = subprocess.run(
        [sys.executable, "-m", "nmt", *words], capture_output=True, check=True,
        env=os.environ | {"PYTHONIOENCODING": "latin-1"},
    )  # fmt: skip
    assert "baseline   a μ" in done.stdout.decode("utf-8")


def test_compare_with_a_baseline(here: Path, nmt: Nmt) -> None:
    Path("old.de").write_text("1 ein Hund\n2 zwei Katzen\n")
    Path("new.de").write_text("1 ein Hund rennt\n2 zwei Katzen\n")
    Path("corpora").write_text("news\ntalks\n")
    Path("ref.de").write_text("1 ein Hund rennt.\n2 zwei Katzen.\n")
    command = "compare new.de --baseline old.de --ref ref.de --metrics chrf --labels corpora"
    answer = nmt(f"{command} --slices --paired ar --min-gain 1")
    assert answer.status == 0
    assert "ref: new.de against old.de, paired approximate randomisation, 10,000" in answer.out
    names = [line.split()[0] for line in answer.out.splitlines() if line]
    assert names.index("news") + 1 == names.index("talks")
    assert answer.out.endswith("required: a gain of +1.00 or more\n")
    assert nmt(f"{command} --slices --min-gain 99").status == 1
