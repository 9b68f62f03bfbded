"""Exported models: the directory, and the cache of graphs."""

import errno
import json
import os
import re
import shutil
from pathlib import Path

import pytest

from nmt.checkpoint.convert import export_checkpoint
from nmt.checkpoint.load import load_checkpoint
from nmt.config.decoding import Precision
from nmt.decoding import graph_cache, onnx_export
from nmt.decoding.exported_model import ExportedModel, read_exported
from nmt.decoding.loading import open_model
from nmt.decoding.onnx_engine import OnnxEngine
from nmt.decoding.onnx_export import cached_graphs, export_onnx
from nmt.errors import CheckpointError, ConfigError
from nmt.model.onnx_graph import Port
from nmt.model.seq2seq import Seq2Seq

GOLDEN = Path(__file__).parents[1] / "golden" / "run-of-format-1"


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> ExportedModel:
    return export_onnx(GOLDEN, tmp_path_factory.mktemp("onnx") / "model")


def test_readme_lists_all_inputs_and_outputs(exported: ExportedModel) -> None:
    readme = (exported.path / "README.md").read_text(encoding="utf-8")
    engine = OnnxEngine([exported.path], 1)
    [model] = engine.models
    for session in (model.encoder, model.decoder):
        for port in (*session.get_inputs(), *session.get_outputs()):
            shape = " x ".join(str(size) for size in port.shape)
            assert re.search(rf"put \| `{re.escape(port.name)}` \| \w+ \| {shape} \|", readme)


def test_config_records_versions_and_digests(exported: ExportedModel) -> None:
    tree = json.loads((exported.path / "config.json").read_text(encoding="utf-8"))
    assert set(tree["versions"]) == {"nmt", "onnx", "onnxruntime", "torch", "numpy"}
    assert set(tree["files"]) == {"encoder.onnx", "decoder_step.onnx", "tokenizer.json"}
    assert tree["opset"] == 18
    assert 0 < tree["largest_difference"] < 1e-4
    weights = load_checkpoint(GOLDEN).info.files["weights.safetensors"].sha256
    assert tree["weights_sha256"] == weights
    assert exported.describe() == (
        f"{exported.path}: update 3 | onnx fp32 | opset 18 | log-probabilities differ from PyTorch "
        f"by {tree['largest_difference']:.1e}"
    )


def test_int8_checkpoint_is_exported_in_int8(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("nmt.checkpoint.tensor_files.MIN_WEIGHTS", 1)
    export_checkpoint(GOLDEN, tmp_path / "int8", "int8")
    assert export_onnx(tmp_path / "int8", tmp_path / "onnx").info.precision == "int8"


def test_corrupt_export_is_refused(exported: ExportedModel, tmp_path: Path) -> None:
    folder = tmp_path / "copy"
    shutil.copytree(exported.path, folder)
    with (folder / "decoder_step.onnx").open("ab") as file:
        file.write(b"x")
    with pytest.raises(CheckpointError) as error:
        read_exported(folder)
    assert str(error.value) == (
        f"{folder}/decoder_step.onnx is corrupt: its SHA-256 does not match config.json; export "
        "the model again"
    )
    text = (folder / "config.json").read_text(encoding="utf-8")
    (folder / "config.json").write_text(text.replace("nmt-onnx-2", "nmt-onnx-9"), encoding="utf-8")
    with pytest.raises(CheckpointError, match="has format nmt-onnx-9, expected nmt-onnx-2"):
        read_exported(folder)


@pytest.mark.parametrize(
    ("name", "problem"),
    [
        ("config.json", "cannot be read: No such file or directory"),
        ("encoder.onnx", "is corrupt: No such file or directory; export the model again"),
        ("decoder_step.onnx", "is corrupt: No such file or directory; export the model again"),
        ("tokenizer.json", "is corrupt: No such file or directory; export the model again"),
    ],
)
def test_missing_file_of_an_export_is_named(
    name: str, problem: str, exported: ExportedModel, tmp_path: Path
) -> None:
    folder = tmp_path / "copy"
    shutil.copytree(exported.path, folder)
    (folder / name).unlink()
    with pytest.raises(CheckpointError) as error:
        open_model(folder)
    assert str(error.value) == f"{folder}/{name} {problem}"


def test_export_of_a_different_model_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(onnx_export, "TOLERANCE", 0.0)
    with pytest.raises(CheckpointError, match=r"the fp32 graphs differ from the model by \d"):
        export_onnx(GOLDEN, tmp_path / "model")
    assert not list(tmp_path.iterdir())


def test_export_refuses_bf16_and_existing_directories(tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as error:
        export_onnx(GOLDEN, tmp_path / "model", "bf16")
    assert str(error.value) == (
        "--precision is bf16, but ONNX graphs are fp32 or int8; bf16 needs --format checkpoint"
    )
    with pytest.raises(CheckpointError, match="already exists: name another directory"):
        export_onnx(GOLDEN, tmp_path)


def test_graphs_are_built_once_and_again_for_other_weights(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = export_checkpoint(GOLDEN, tmp_path / "model", "fp32").path
    first = cached_graphs(load_checkpoint(folder), "fp32")
    assert first.parent == folder / "onnx"
    monkeypatch.setattr(onnx_export, "write_graphs", None)
    assert cached_graphs(load_checkpoint(folder), "fp32") == first
    monkeypatch.undo()
    monkeypatch.setattr(graph_cache, "nmt_version", lambda: "other")
    other = cached_graphs(load_checkpoint(folder), "fp32")
    assert other != first
    assert [path.name for path in (folder / "onnx").iterdir()] == [other.name]


def test_graphs_of_a_read_only_checkpoint_are_cached_elsewhere(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = export_checkpoint(GOLDEN, tmp_path / "model", "fp32").path
    # A file in place of the directory: root ignores permissions.
    (folder / "onnx").touch()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    found = cached_graphs(load_checkpoint(folder), "fp32")
    assert found.parent == tmp_path / "cache" / "nmt" / "onnx"
    (tmp_path / "blocked").touch()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "blocked"))
    found = cached_graphs(load_checkpoint(folder), "fp32")
    assert sorted(path.name for path in found.iterdir()) == ["decoder_step.onnx", "encoder.onnx"]


@pytest.mark.parametrize("max_cached", [1, 3])
def test_the_users_cache_keeps_the_newest_graphs(
    max_cached: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(onnx_export, "MAX_CACHED", max_cached)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    folder = export_checkpoint(GOLDEN, tmp_path / "model", "fp32").path
    (folder / "onnx").touch()
    cache = tmp_path / "nmt" / "onnx"
    (cache / "int8-0").mkdir(parents=True)
    names = []
    for number in range(5):
        monkeypatch.setattr(graph_cache, "nmt_version", lambda number=number: str(number))
        found = cached_graphs(load_checkpoint(folder), "fp32")
        os.utime(found, (number, number))
        names.append(found.name)
    left = {path.name for path in cache.iterdir()}
    assert left == {"int8-0", *names[-max_cached:]}


@pytest.mark.parametrize("name", ["decoder_step.onnx", "encoder.onnx"])
def test_incomplete_graphs_are_not_used(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    checkpoint = export_checkpoint(GOLDEN, tmp_path / "model", "fp32")
    (cached_graphs(checkpoint, "fp32") / name).unlink()
    assert OnnxEngine([cached_graphs(checkpoint, "fp32")], 1).models


def test_graphs_are_written_where_there_is_room(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    checkpoint = export_checkpoint(GOLDEN, tmp_path / "model", "fp32")
    write_graphs, full = onnx_export.write_graphs, [tmp_path / "model"]

    def write(model: Seq2Seq, folder: Path, precision: Precision) -> dict[str, list[Port]]:
        if any(folder.is_relative_to(each) for each in full):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return write_graphs(model, folder, precision)

    monkeypatch.setattr(onnx_export, "write_graphs", write)
    assert cached_graphs(checkpoint, "fp32").parent == tmp_path / "cache" / "nmt" / "onnx"
    shutil.rmtree(tmp_path / "cache")
    full.append(Path("/"))
    with pytest.raises(CheckpointError) as error:
        cached_graphs(checkpoint, "fp32")
    assert str(error.value) == (
        f"its graphs cannot be written to {tmp_path}/model/onnx, {tmp_path}/cache/nmt/onnx or the "
        "folder of temporary files: No space left on device; free some space, or use --engine torch"
    )
