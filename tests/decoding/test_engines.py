"""Choice of the engine, and translation without torch."""

import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import nmt
from nmt.checkpoint.convert import export_checkpoint
from nmt.decoding import engines
from nmt.decoding.onnx_engine import OnnxEngine
from nmt.decoding.onnx_export import export_onnx
from nmt.decoding.requests import Request
from nmt.decoding.torch_engine import TorchEngine
from nmt.errors import CheckpointError, ConfigError, NmtError

GOLDEN = Path(__file__).parents[1] / "golden" / "run-of-format-1"
LINES = ["3 a dog runs.", "", "4 two cats sleep.", "a dog", "two dogs run and sleep."]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Export of a run, with its graphs in the cache."""
    folder = export_checkpoint(GOLDEN, tmp_path_factory.mktemp("engines") / "model", "fp32").path
    nmt.load(folder, engine="onnx")
    return folder


@pytest.fixture(scope="module")
def exported(run: Path) -> Path:
    return export_onnx(run, run.parent / "onnx").path


def test_translating_with_graphs_imports_no_torch(run: Path, exported: Path) -> None:
    code = (
        "import sys, nmt; from nmt.cli.main import main\n"
        "for path in sys.argv[1:]:\n"
        "    assert nmt.load(path, device='cpu').translate(['a dog', ''])[1] == ''\n"
        "    try: main(['translate', path, '-i', '/dev/null', '--device', 'cpu'])\n"
        "    except SystemExit as end: assert not end.code\n"
        "print(sorted({'torch', 'ray', 'pyarrow', 'sacrebleu', 'onnx'} & {*sys.modules}))"
    )
    command = [sys.executable, "-c", code, str(run), str(exported)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


OPTIONS: dict[str, dict[str, Any]] = {
    "beam": {},
    "greedy": {"beam": 1},
    "groups": {"beam": 4, "diverse_groups": 2},
    "coverage": {"coverage_penalty": 0.4},
    "min_length": {"min_length": 9},
    "sample": {"method": "sample", "seed": 3},
    "top_k": {"method": "sample", "top_k": 4},
}


@pytest.mark.parametrize("name", OPTIONS)
def test_both_engines_translate_alike(name: str, run: Path) -> None:
    lines: list[str | Request] = [*LINES, Request("a dog runs.", avoid=("Hund",))]
    if OPTIONS[name].get("method") != "sample" and name != "groups":
        lines.append(Request("two cats", constraints=("Haus",), target_prefix="Ein"))
    found = [
        nmt.load(run, engine=engine, device="cpu", **OPTIONS[name]).translate_detailed(lines, num)
        for engine in ("torch", "onnx")
        for num in [1 if name == "greedy" else 2]
    ]
    for ours, theirs in zip(*found, strict=True):
        assert [each.text for each in ours.n_best] == [each.text for each in theirs.n_best]
        assert ours.alignment == theirs.alignment
        for one, other in zip(ours.n_best, theirs.n_best, strict=True):
            assert one.token_log_probs == pytest.approx(other.token_log_probs, abs=1e-4)
            assert one.score == pytest.approx(other.score, abs=1e-4)


def test_auto_takes_onnx_runtime_on_a_cpu_if_it_can(run: Path, exported: Path) -> None:
    kinds = [
        type(nmt.load(path, device="cpu", precision=precision).engine)
        for path, precision in ((run, None), (exported, None), (run, "bf16"))
    ]
    assert kinds == [OnnxEngine, OnnxEngine, TorchEngine]


def test_a_model_without_graph_is_run_by_torch(
    run: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(*_: Any) -> Path:
        raise CheckpointError("its graph differs")

    monkeypatch.setattr(engines, "_graphs", fail)
    assert isinstance(nmt.load(run, device="cpu").engine, TorchEngine)
    assert caplog.messages == [
        "translating with PyTorch instead of ONNX Runtime: its graph differs"
    ]
    with pytest.raises(CheckpointError, match="its graph differs"):
        nmt.load(run, device="cpu", engine="onnx")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"engine": "torch"},
            "engine is torch, but {path} has ONNX graphs only: use onnx, or the run that it was "
            "exported from",
        ),
        (
            {"precision": "int8"},
            "precision is int8, but {path} was exported in fp32: omit it, or export the run again",
        ),
        (
            {"device": "cuda"},
            "device is cuda, but ONNX Runtime is used on CPUs: use cpu or auto, or a run with "
            "engine torch",
        ),
    ],
)
def test_options_that_an_exported_model_lacks_are_refused(
    options: dict[str, Any], message: str, exported: Path
) -> None:
    """Actionable errors (nmt/README.md, Guarantees)."""
    with pytest.raises(NmtError) as caught:
        nmt.load(exported, **options)
    assert str(caught.value) == message.format(path=exported)


@pytest.mark.parametrize("precision", ["fp32", "int8"])
def test_the_precision_of_every_exported_model_is_checked(
    precision: str, run: Path, exported: Path, tmp_path: Path
) -> None:
    """Actionable errors (nmt/README.md, Guarantees)."""
    other = export_onnx(run, tmp_path / "int8", "int8").path
    models = {"fp32": exported, "int8": other}
    wrong = "int8" if precision == "fp32" else "fp32"
    for first, *others in ([exported, other], [other, exported], [run, models[wrong]]):
        with pytest.raises(ConfigError) as caught:
            nmt.load(first, ensemble=others, precision=precision)
        assert str(caught.value) == (
            f"precision is {precision}, but {models[wrong]} was exported in {wrong}: omit it, or "
            "export the run again"
        )


@pytest.fixture
def copied_run(run: Path, tmp_path: Path) -> Path:
    """Copy of the run with its graphs."""
    return Path(shutil.copytree(run, tmp_path / "model"))


@pytest.mark.parametrize("engine", ["auto", "onnx"])
@pytest.mark.parametrize("name", ["encoder.onnx", "decoder_step.onnx"])
@pytest.mark.parametrize("size", [0, 1000, -1])
def test_damaged_graphs_of_a_cache_are_built_again(
    engine: Any, name: str, size: int, copied_run: Path, caplog: pytest.LogCaptureFixture
) -> None:
    [graph] = copied_run.glob(f"onnx/*/{name}")
    data = graph.read_bytes()
    graph.write_bytes(data[:size])
    for _ in range(2):
        assert isinstance(nmt.load(copied_run, engine=engine, device="cpu").engine, OnnxEngine)
        assert graph.read_bytes() == data
    assert caplog.messages == []


def test_damaged_graphs_that_cannot_be_removed_are_named(
    copied_run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Actionable errors (nmt/README.md, Guarantees)."""
    [graph] = copied_run.glob("onnx/*/encoder.onnx")
    graph.write_bytes(b"x")
    monkeypatch.setattr(shutil, "rmtree", lambda *_, **__: None)
    with pytest.raises(CheckpointError) as caught:
        _ = nmt.load(copied_run, engine="onnx").engine
    assert str(caught.value).startswith(f"{graph.parent}: its graphs cannot be run (")
    assert str(caught.value).endswith("); remove it; if it is an export, export the model again")


def test_onnx_runtime_has_no_bf16(run: Path) -> None:
    """Actionable errors (nmt/README.md, Guarantees)."""
    with pytest.raises(ConfigError) as caught:
        nmt.load(run, engine="onnx", precision="bf16")
    rule = "ONNX Runtime has fp32 and int8: use one of them, or engine torch"
    assert str(caught.value) == f"precision is bf16, but {rule}"


def test_torch_has_no_int8(run: Path) -> None:
    """Actionable errors (nmt/README.md, Guarantees)."""
    with pytest.raises(ConfigError) as caught:
        nmt.load(run, engine="torch", precision="int8")
    rule = "PyTorch has no int8 here: use engine onnx or auto"
    assert str(caught.value) == f"precision is int8, but {rule}"
