"""`nmt export --format onnx`: the program of its README, and the same model in WebAssembly."""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from cli_calls import TEXT, Nmt, translated
from tokenizers import Tokenizer

from nmt.checkpoint.load import load_checkpoint
from nmt.corpus.subword import BOS, CASE_MARKS, EOS
from nmt.decoding.exported_model import read_exported
from nmt.decoding.onnx_export import ENCODE_CASE, PROGRAM, program_of

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
    lines = f"{TEXT}\n \n{TEXT}"
    run = subprocess.run(
        [sys.executable, "-c", WITHOUT_NMT + program, f"onnx-{precision}"],
        input=lines, text=True, capture_output=True, check=False, env={"PATH": os.environ["PATH"]},
    )  # fmt: skip
    assert run.stderr == ""
    assert run.stdout.splitlines() == translated(nmt, lines, "--beam 1")
    empty = subprocess.run([*run.args], input=b"", capture_output=True, check=False)
    assert (empty.returncode, empty.stdout, empty.stderr) == (0, b"", b"")


def test_program_of_the_readme_cuts_lines_at_their_limits(
    capsys: pytest.CaptureFixture[str],
) -> None:
    # The first line ends after its limit, while the second one is decoded.
    end = PROGRAM[PROGRAM.index("for line, target, limit") :]
    targets = np.array([[BOS, 7, 7, 7, EOS], [BOS, 8, 8, 8, EOS]])
    names = {"lines": ["a", "b c"], "targets": targets, "limits": [2, 4], "eos": EOS}
    exec(end, names | {"tokenizer": SimpleNamespace(decode=str)})
    assert capsys.readouterr().out == "[7, 7]\n[8, 8, 8]\n"


def test_program_of_the_readme_marks_case_as_nmt_does(tiny: Path) -> None:
    subword = load_checkpoint(tiny / "runs/tiny").subword
    tokenizer = Tokenizer.from_str(subword.to_json())
    lines = ["A DOG.", "A Dog", "A dog.", "3D", "他在NASA工作", "Paris", ""]
    names: dict[str, Any] = {"config": {"tokens": CASE_MARKS}, "tokenizer": tokenizer}
    exec(ENCODE_CASE, names)
    found = [list(names["encode"](line)) for line in lines]
    assert found == subword.encode_sources(lines, marks_case=True)
    program = program_of({"eos": EOS, **CASE_MARKS})
    assert f"\n\n\n{ENCODE_CASE}lines = " in program
    assert "sources = [[*encode(line), eos] for line in lines]\n" in program
    compile(program, "program", "exec")


def test_program_of_the_readme_is_short() -> None:
    """About 30 lines translate without nmt."""
    assert len(PROGRAM.splitlines()) <= 35


def test_shortlist_translates_and_is_batch_invariant(here: Path, nmt: Nmt) -> None:
    nmt("export runs/tiny -o short --format onnx --shortlist")
    command = "translate short --shortlist --format scored"
    answer = nmt(command, TEXT.encode())
    assert answer.out == nmt(f"{command} --batch 1", TEXT.encode()).out
    found = [line.partition("\t")[2] for line in answer.out.splitlines()]
    assert found == translated(nmt, TEXT)
    avoided = nmt("translate short --shortlist --avoid Hund --avoid zzz", TEXT.encode())
    assert avoided.status == 0
    assert "Hund" not in avoided.out
    Path("in.en").write_text(TEXT)
    Path("same.de").write_text("".join(f"{line}\n" for line in found))
    scored = nmt("evaluate short --shortlist --src in.en --ref same.de --metrics chrf")
    assert " = 100.00 (" in scored.out, scored
    refused = nmt("translate runs/tiny --shortlist", TEXT.encode())
    assert refused.status == 2
    assert refused.err == (
        "nmt: shortlist is requested, but runs/tiny/checkpoints/update-00000060 has none: `nmt "
        "export RUN -o DIR --format onnx --shortlist` adds one\n"
    )
    refused = nmt("export runs/tiny -o other --shortlist")
    assert refused.err == "nmt: --shortlist is given, but it needs --format onnx\n"


@pytest.fixture
def node() -> list[str]:
    """Command that runs a script in node, with onnxruntime-web from NODE_PATH."""
    command = shutil.which("node")
    check = 'require.resolve("onnxruntime-web")'
    if not command or subprocess.run([command, "-e", check], capture_output=True).returncode:
        pytest.skip("no onnxruntime-web for node: npm install it and set NODE_PATH")
    return [command, str(Path(__file__).with_name("translate_in_node.cjs"))]


@pytest.mark.parametrize("precision", ["fp32", "int8"])
def test_exported_model_translates_in_node(
    precision: str, here: Path, nmt: Nmt, node: list[str]
) -> None:
    nmt(f"export runs/tiny -o web-{precision} --format onnx --precision {precision}")
    subword = read_exported(here / f"web-{precision}").subword
    sources = [[*subword.encode(line), EOS] for line in TEXT.splitlines()]
    run = subprocess.run(
        [*node, f"web-{precision}", json.dumps(sources)],
        text=True, capture_output=True, check=True,
    )  # fmt: skip
    found = [subword.decode(target) for target in json.loads(run.stdout)]
    assert found == translated(nmt, TEXT, "--beam 1")
