"""Commands in their own processes, on two workers of a local Ray."""

import os
import re
import subprocess
import sys
import time
from pathlib import Path

import pytest
import zstandard
from cli_calls import Nmt


@pytest.mark.ray
def test_prepare_train_evaluate_on_two_workers(here: Path) -> None:
    """One code path (nmt/README.md, Guarantees)."""

    def run(*arguments: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "nmt", *arguments]
        environment = {key: value for key, value in os.environ.items() if key != "RAY_ADDRESS"}
        return subprocess.run(command, capture_output=True, text=True, env=environment)

    Path("two.yaml").write_text("workers: 2\ngradients: bf16\nstorage: runs\n")
    settings = ("tiny.yaml", "name=two", "training.updates=10", "--cluster", "two.yaml")
    trained = run("train", *settings)
    assert trained.returncode == 0, trained.stderr
    # Nothing was prepared. Ray may take long to start, which a line says.
    head = rf"prepare the corpus in {here}/prepared/two\n(.* waiting .*\n)*"
    assert re.search(rf"{head}train: 100 pairs read = 100 kept", trained.stderr)
    assert " | 2 workers on cpu | gradients in bf16 | 100 pairs | " in trained.stderr
    assert "finished after 10 of 10 updates | " in trained.stderr
    evaluated = run("evaluate", "runs/two", "--test", "news")
    assert evaluated.stdout.startswith("news: 5 segments, two, checkpoint update-00000010\n")
    prepared = run("prepare", *settings)
    assert prepared.stderr.startswith(f"{here}/prepared/two: already prepared\n")
    again = run("train", *settings)
    assert "is finished: 10 of 10 updates" in again.stderr
    for done in (prepared, trained, again):
        assert done.stdout == ""
        assert "Traceback" not in done.stderr


@pytest.mark.ray
def test_translation_resumed_after_a_kill_is_equal(here: Path, nmt: Nmt) -> None:
    """Exact resume, batch-invariant translation (nmt/README.md, Guarantees)."""
    text = Path("raw/train.en").read_text(encoding="utf-8") * 6 + "\n"
    Path("in.en.zst").write_bytes(zstandard.compress(text.encode()))
    command = "translate runs/tiny -i in.en.zst -o out.gz --format moses --n-best 2 --batch 1"
    words = [sys.executable, "-m", "nmt", *command.split(), "--workers", "2"]
    environment = {key: value for key, value in os.environ.items() if key != "RAY_ADDRESS"}
    done = Path("out.gz.unfinished/chunks.jsonl")
    first = subprocess.Popen(words, env=environment, stderr=subprocess.DEVNULL)
    until = time.monotonic() + 300
    while not (done.exists() and done.stat().st_size) and time.monotonic() < until:
        time.sleep(0.05)
    first.kill()
    first.wait()
    assert not Path("out.gz").exists()
    second = subprocess.run(words, env=environment, capture_output=True, text=True)
    assert second.returncode == 0, second.stderr
    assert re.search(r"^resumed after line [1-9]\d* of 601$", second.stderr, re.M)
    assert not done.parent.exists()
    found = Path("out.gz").read_bytes()
    assert nmt(command).status == 0
    assert Path("out.gz").read_bytes() == found
