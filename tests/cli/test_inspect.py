"""`nmt inspect`: page and summary."""

import re
from pathlib import Path

from cli_calls import Nmt, translated


def test_lines_are_translated_and_shown(here: Path, nmt: Nmt) -> None:
    [expected] = translated(nmt, "1 a dog runs.\n", "--engine torch")
    answer = nmt("inspect runs/tiny -i - -o page.html", b"1 a dog runs.\n")
    assert answer.status == 0, answer.err
    lines = answer.out.splitlines()
    assert re.fullmatch(
        r"1 line, translated by the model: \d+ source and \d+ target tokens", lines[0]
    )
    assert [line.partition(":")[0] for line in lines[1:4]] == [
        "input gate", "forget gate", "output gate",
    ]  # fmt: skip
    assert re.fullmatch(r"wrote page\.html \(\d+ KiB\)", lines[-1])
    page = Path("page.html").read_text(encoding="utf-8")
    assert expected in page
    for layer in ("encoder 1 forward", "encoder 1 backward", "decoder 1"):
        assert layer in page


def test_checkpoint_with_a_given_target(here: Path, nmt: Nmt) -> None:
    run = "runs/tiny/checkpoints/update-00000030"
    answer = nmt(f"inspect {run} dog --tgt Hund -o -")
    assert answer.status == 0, answer.err
    assert answer.out.startswith("<!DOCTYPE html>")
    assert "given target" in answer.out
    assert "1 line, given targets: " in answer.err


def test_exported_checkpoint_is_inspected_and_onnx_refused(here: Path, nmt: Nmt) -> None:
    """Actionable errors (nmt/README.md, Guarantees)."""
    assert nmt("export runs/tiny -o small").status == 0
    assert nmt("inspect small dog").status == 0
    assert nmt("export runs/tiny -o graphs --format onnx").status == 0
    answer = nmt("inspect graphs dog")
    assert (answer.status, answer.out) == (2, "")
    assert answer.err == (
        "nmt: RUN is graphs, but it is an ONNX model without gates: give the run or checkpoint "
        "it was exported from\n"
    )
