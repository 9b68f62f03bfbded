"""Averages and exports of checkpoints."""

from pathlib import Path
from typing import Any

import pytest
import torch
from toy_checkpoints import (
    EXPERIMENT,
    FILES,
    MODEL,
    SUBWORD,
    assert_same,
    files_below,
    message_of,
    save,
    state,
)

from nmt.checkpoint import write
from nmt.checkpoint.convert import average_checkpoints, export_checkpoint
from nmt.checkpoint.format import verify_checkpoint
from nmt.checkpoint.load import load_checkpoint, load_training_state
from nmt.config.corpus import SubwordConfig
from nmt.config.decoding import Precision
from nmt.corpus.subword import Subword
from nmt.model.quantise import quantise_rows


def test_an_average_is_the_mean_of_the_weights(tmp_path: Path) -> None:
    folders = [save(tmp_path / "run", update) for update in (1, 2, 3)]
    found = average_checkpoints(folders, tmp_path / "mean")
    weights = [load_checkpoint(folder).weights for folder in folders]
    for name, tensor in found.weights.items():
        mean = sum(one[name].double() for one in weights) / 3
        assert torch.equal(tensor, mean.float())
    assert (found.info.update, found.info.bleu) == (3, None)
    assert found.info.averaged == tuple(map(str, folders))
    verify_checkpoint(tmp_path / "mean")
    assert found.model().tgt_embedding.weight is not None


def test_an_average_of_one_is_itself(tmp_path: Path) -> None:
    checkpoint = load_checkpoint(save(tmp_path / "run"))
    found = average_checkpoints([checkpoint.path], tmp_path / "mean")
    assert_same(found.weights, checkpoint.weights)


def test_an_average_has_no_training_state(tmp_path: Path) -> None:
    mean = average_checkpoints([save(tmp_path / "run")], tmp_path / "mean").path
    assert files_below(mean) == FILES[:4]
    assert message_of(lambda: load_training_state(mean)) == (
        f"{mean} has no training state (training/state.json): resume from a checkpoint of a run"
    )


def test_different_models_are_not_averaged(tmp_path: Path) -> None:
    one = save(tmp_path / "a")
    heads = 2 * MODEL.heads
    other = EXPERIMENT.model_copy(update={"model": MODEL.model_copy(update={"heads": heads})})
    two = write.save_checkpoint(tmp_path / "b", other, SUBWORD.to_json(), state())
    assert message_of(lambda: average_checkpoints([one, two], tmp_path / "mean")) == (
        f"cannot average {one} and {two}: model.heads is {MODEL.heads} and {heads}; "
        "the models must be equal"
    )
    assert not (tmp_path / "mean").exists()


def test_models_of_two_directions_are_not_averaged(tmp_path: Path) -> None:
    """They can share a vocabulary."""
    one = save(tmp_path / "a")
    corpus = EXPERIMENT.corpus.model_copy(update={"src": "de", "tgt": "en"})
    other = EXPERIMENT.model_copy(update={"corpus": corpus})
    two = write.save_checkpoint(tmp_path / "b", other, SUBWORD.to_json(), state())
    assert message_of(lambda: average_checkpoints([one, two], tmp_path / "mean")) == (
        f"cannot average {one} and {two}: they translate en-de and de-en"
    )
    assert not (tmp_path / "mean").exists()


def test_models_are_averaged_if_all_mark_case(tmp_path: Path) -> None:
    one = save(tmp_path / "a")
    training = EXPERIMENT.training.model_copy(update={"robust": True})
    other = EXPERIMENT.model_copy(update={"training": training})
    two, three = (
        write.save_checkpoint(tmp_path / name, other, SUBWORD.to_json(), state()) for name in "bc"
    )
    assert message_of(lambda: average_checkpoints([one, two], tmp_path / "mean")) == (
        f"cannot average {one} and {two}: training.robust or case_marks differs: average models "
        "that all mark case, or none"
    )
    assert not (tmp_path / "mean").exists()
    assert average_checkpoints([two, three], tmp_path / "mean").experiment.marks_case


@pytest.mark.parametrize("change", [{"dropout": 0.5}, {"locked_dropout": True}])
def test_models_with_other_dropout_are_averaged(tmp_path: Path, change: dict[str, Any]) -> None:
    one = save(tmp_path / "a")
    other = EXPERIMENT.model_copy(update={"model": MODEL.model_copy(update=change)})
    two = write.save_checkpoint(tmp_path / "b", other, SUBWORD.to_json(), state())
    mean = average_checkpoints([one, two], tmp_path / "mean")
    assert mean.experiment.model == MODEL
    assert_same(mean.weights, load_checkpoint(one).weights)


def test_different_tokenizers_are_not_averaged(tmp_path: Path) -> None:
    one = save(tmp_path / "a")
    other = Subword.train(["etwas anderes"] * 4, SubwordConfig(vocab_size=300))
    two = write.save_checkpoint(tmp_path / "b", EXPERIMENT, other.to_json(), state())
    assert message_of(lambda: average_checkpoints([one, two], tmp_path / "mean")) == (
        f"cannot average {one} and {two}: the tokenizers differ, but must be equal"
    )


def test_an_average_does_not_overwrite(tmp_path: Path) -> None:
    folder = save(tmp_path)
    assert message_of(lambda: average_checkpoints([folder], tmp_path)) == (
        f"{tmp_path} already exists: name another directory, or remove it"
    )


def test_averaging_nothing_is_refused(tmp_path: Path) -> None:
    assert message_of(lambda: average_checkpoints([], tmp_path / "mean")) == (
        "no checkpoint to average: name one or more"
    )


# Exports.


@pytest.fixture
def tiny_matrices(monkeypatch: pytest.MonkeyPatch) -> None:
    """All matrices are large enough to be packed."""
    monkeypatch.setattr("nmt.checkpoint.tensor_files.MIN_WEIGHTS", 1)


def test_an_export_has_the_weights_for_translation(tmp_path: Path) -> None:
    """Self-contained checkpoints (nmt/README.md, Guarantees)."""
    checkpoint = load_checkpoint(save(tmp_path / "run", bleu=31.5))
    small = export_checkpoint(tmp_path / "run", tmp_path / "small")
    assert files_below(small.path) == FILES[:4]
    assert_same(small.weights, checkpoint.weights)
    assert (small.info.update, small.precision) == (checkpoint.info.update, "fp32")
    assert (small.info.bleu, small.info.bleu_signature) == (
        checkpoint.info.bleu,
        checkpoint.info.bleu_signature,
    )


@pytest.mark.parametrize("precision", ["fp32", "bf16", "int8"])
def test_an_export_has_no_training_state(precision: Precision, tmp_path: Path) -> None:
    small = export_checkpoint(save(tmp_path / "run"), tmp_path / "small", precision).path
    assert message_of(lambda: load_training_state(small)) == (
        f"{small} has no training state (training/state.json): resume from a checkpoint of a run"
    )


@pytest.mark.parametrize("precision", ["bf16", "int8"])
@pytest.mark.usefixtures("tiny_matrices")
def test_exported_weights_are_rounded_once(precision: Precision, tmp_path: Path) -> None:
    """Self-contained checkpoints (nmt/README.md, Guarantees)."""
    checkpoint = load_checkpoint(save(tmp_path / "run"))
    small = export_checkpoint(checkpoint.path, tmp_path / "small", precision)
    assert (small.precision, small.info.bleu) == (precision, None)
    for name, weight in checkpoint.weights.items():
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


@pytest.mark.usefixtures("tiny_matrices")
def test_an_average_of_int8_weights_is_fp32(tmp_path: Path) -> None:
    small = export_checkpoint(save(tmp_path / "run"), tmp_path / "small", "int8")
    assert_same(average_checkpoints([small.path], tmp_path / "mean").weights, small.weights)


def test_an_export_does_not_overwrite(tmp_path: Path) -> None:
    checkpoint = save(tmp_path / "run")
    (tmp_path / "small").mkdir()
    assert message_of(lambda: export_checkpoint(checkpoint, tmp_path / "small")) == (
        f"{tmp_path / 'small'} already exists: name another directory, or remove it"
    )
