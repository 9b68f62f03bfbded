"""`nmt export --format onnx`, and the program of the README that it writes."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from cli_calls import TEXT, Nmt, translated

from nmt.decoding.onnx_export import PROGRAM

WITHOUT_NMT = """\
import sys

class Blocked:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in ("torch", "nmt"):
            raise ImportError(f"{name} is blocked")

sys.meta_path.insert(0, Blocked())
"""


@pytest.mark.parametrize("precision", ["fp32", "int8"])
def test_program_of_the_readme_needs_neither_torch_nor_nmt(
    precision: str, here: Path, nmt: Nmt
) -> None:
    answer = nmt(f"export runs/tiny -o onnx-{precision} --format onnx --precision {precision}")
    line = rf"onnx-{precision}: update 60 \| onnx {precision} \| opset 18 \| log-probabilities .*\n"
    assert re.fullmatch(line, answer.err)
    readme = Path(f"onnx-{precision}/README.md").read_text(encoding="utf-8")
    [program] = re.findall(r"```python\n(.*?)```", readme, re.DOTALL)
    assert program == PROGRAM
    run = subprocess.run(
        [sys.executable, "-c", WITHOUT_NMT + program, f"onnx-{precision}"],
        input=TEXT, text=True, capture_output=True, check=False, env={"PATH": os.environ["PATH"]},
    )  # fmt: skip
    assert run.stderr == ""
    assert run.stdout.splitlines() == translated(nmt, TEXT, "--beam 1")
