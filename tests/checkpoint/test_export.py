from pathlib import Path

import pytest
import torch
from toy_checkpoints import (
    FILES,
    assert_same,
    files_below,
    message_of,
    save,
)

from nmt.checkpoint.convert import average_checkpoints, export_checkpoint
from nmt.checkpoint.format import pack_weights, unpack_weights
from nmt.checkpoint.load import load_checkpoint, load_training_state
from nmt.model.quantise import Precision, quantise_rows


@pytest.fixture
def tiny_matrices(monkeypatch: pytest.MonkeyPatch) -> None:
    """All matrices are large enough to be packed."""
    monkeypatch.setattr("nmt.checkpoint.format.MIN_WEIGHTS", 1)


def test_what_is_exported_is_what_translates(tmp_path: Path) -> None:
    """P5."""
    bundle = load_checkpoint(save(tmp_path / "run", bleu=31.5))
    small = export_checkpoint(tmp_path / "run", tmp_path / "small")
    assert files_below(small.path) == FILES[:4]
    assert_same(small.weights, bundle.weights)
    assert (small.info.update, small.precision) == (bundle.info.update, "fp32")
    assert (small.info.bleu, small.info.bleu_signature) == (
        bundle.info.bleu,
        bundle.info.bleu_signature,
    )


@pytest.mark.parametrize("precision", ["fp32", "bf16", "int8"])
def test_nothing_goes_on_from_what_only_translates(precision: Precision, tmp_path: Path) -> None:
    """P9."""
    small = export_checkpoint(save(tmp_path / "run"), tmp_path / "small", precision).path
    assert message_of(lambda: load_training_state(small)) == (
        f"{small} only translates: it has no training/state.json; go on from a checkpoint of a run"
    )


@pytest.mark.parametrize("precision", ["bf16", "int8"])
@pytest.mark.usefixtures("tiny_matrices")
def test_weights_come_back_as_they_were_rounded(precision: Precision, tmp_path: Path) -> None:
    """P5."""
    bundle = load_checkpoint(save(tmp_path / "run"))
    small = export_checkpoint(bundle.path, tmp_path / "small", precision)
    assert (small.precision, small.info.bleu) == (precision, None)
    for name, weight in bundle.weights.items():
        found = small.weights[name]
        assert found.dtype == torch.float32
        if weight.dim() < 2:
            assert torch.equal(found, weight)
        elif precision == "bf16":
            assert torch.equal(found, weight.bfloat16().float())
        else:
            assert torch.equal(quantise_rows(found)[0], quantise_rows(weight)[0])
    assert small.weights["output_layer.weight"] is small.weights["src_embedding.weight"]
    again = export_checkpoint(small.path, tmp_path / "again")
    assert again.precision == precision
    assert_same(again.weights, small.weights)
    assert small.model().output_weight is not None


@pytest.mark.parametrize(("precision", "bytes_each"), [("bf16", 2), ("int8", 1)])
def test_large_matrices_are_stored_once_in_few_bytes(precision: Precision, bytes_each: int) -> None:
    large, small = torch.randn(400, 200), torch.randn(4, 4)
    packed = pack_weights({"a": large, "b": large, "c": small, "d": torch.randn(80_000)}, precision)
    assert packed["a"] is packed["b"]
    assert packed["a"].nbytes == 80_000 * bytes_each
    assert packed["c"] is small
    assert packed["d"].dtype == torch.float32
    weights, found = unpack_weights(packed)
    assert (found, sorted(weights)) == (precision, ["a", "b", "c", "d"])


@pytest.mark.usefixtures("tiny_matrices")
def test_a_mean_of_rounded_weights_is_that_of_what_they_mean(tmp_path: Path) -> None:
    small = export_checkpoint(save(tmp_path / "run"), tmp_path / "small", "int8")
    assert_same(average_checkpoints([small.path], tmp_path / "mean").weights, small.weights)


def test_a_folder_that_is_there_is_not_written_over(tmp_path: Path) -> None:
    """P9."""
    bundle = save(tmp_path / "run")
    (tmp_path / "small").mkdir()
    assert message_of(lambda: export_checkpoint(bundle, tmp_path / "small")) == (
        f"{tmp_path / 'small'} is there already; name another folder, or remove it"
    )
