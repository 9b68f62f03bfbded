"""Loading of checkpoints, those of format 1 included.

`python tests/checkpoint/test_load.py` replaces the golden checkpoint; for a new format only.
"""

import shutil
from pathlib import Path

import pytest
import torch
from torch import Tensor
from toy_checkpoints import (
    EXPERIMENT,
    GOLDEN,
    MODEL,
    SUBWORD,
    assert_same,
    files_below,
    flip,
    message_of,
    save,
    state,
)

from nmt.checkpoint import load, write
from nmt.checkpoint.format import CheckpointState, verify_checkpoint
from nmt.checkpoint.load import load_checkpoint, load_training_state
from nmt.checkpoint.tensor_files import load_weights
from nmt.config.experiment import Experiment, ModelConfig
from nmt.config.settings import added_setting
from nmt.model import seq2seq


@pytest.mark.parametrize("has_average", [True, False])
def test_training_state_is_restored_bit_for_bit(has_average: bool, tmp_path: Path) -> None:
    """Exact resume, self-contained checkpoints (nmt/README.md, Guarantees)."""
    written = state(has_average=has_average)
    found = load_training_state(save(tmp_path, has_average=has_average))
    assert found.update == 500
    assert found.counters == written.counters
    assert_same(found.weights, written.weights)
    assert_same(found.optimizer, written.optimizer)
    if written.average is None:
        assert found.average is None
    else:
        assert_same({name: found.average[name] for name in written.average}, written.average)


def test_special_values_and_empty_tensors_are_restored(tmp_path: Path) -> None:
    odd = torch.tensor([3e38, -0.0, 1e-45])
    written = CheckpointState(1, {"a": odd}, None, {"empty": torch.zeros(0, 3)}, {})
    folder = write.save_checkpoint(tmp_path, EXPERIMENT, SUBWORD.to_json(), written)
    found = load_training_state(folder)
    assert found.weights["a"].view(torch.int32).tolist() == odd.view(torch.int32).tolist()
    assert found.optimizer["empty"].shape == (0, 3)


def test_the_model_uses_the_average_and_stays_tied(tmp_path: Path) -> None:
    """Self-contained checkpoints (nmt/README.md, Guarantees)."""
    average = state().average
    assert average is not None
    model = load_checkpoint(save(tmp_path)).model()
    assert_same(dict(model.named_parameters()), average)
    assert model.tgt_embedding.weight is model.src_embedding.weight
    assert not model.training


def test_without_an_average_weights_are_stored_once(tmp_path: Path) -> None:
    folder = save(tmp_path, has_average=False)
    assert_same(load_checkpoint(folder).model().state_dict(), state().weights)
    assert "training/weights.safetensors" not in files_below(folder)


def test_tied_weights_are_stored_once(tmp_path: Path) -> None:
    tied = torch.randn(1000, 100)
    written = CheckpointState(1, {"a": tied, "b": tied, "c": tied.clone()}, None, {}, {})
    folder = write.save_checkpoint(tmp_path, EXPERIMENT, SUBWORD.to_json(), written)
    assert (folder / "weights.safetensors").stat().st_size < 2.1 * tied.nbytes
    found = load_training_state(folder).weights
    assert_same(found, written.weights)
    assert found["a"] is found["b"]


def test_an_averaged_tied_weight_has_all_its_names(tmp_path: Path) -> None:
    tied = torch.zeros(2)
    written = CheckpointState(1, {"a": tied, "b": tied}, {"a": torch.ones(2)}, {}, {})
    folder = write.save_checkpoint(tmp_path, EXPERIMENT, SUBWORD.to_json(), written)
    assert load_checkpoint(folder).weights["b"].tolist() == [1, 1]


def test_config_tokenizer_and_score_are_restored(tmp_path: Path) -> None:
    """Self-contained checkpoints, honest numbers (nmt/README.md, Guarantees)."""
    checkpoint = load_checkpoint(save(tmp_path, bleu=30.5))
    assert checkpoint.experiment == EXPERIMENT
    assert checkpoint.subword.fingerprint == SUBWORD.fingerprint
    info = checkpoint.info
    assert (info.update, info.bleu, info.bleu_signature) == (500, 30.5, "nrefs:1|tok:13a")


def test_a_config_of_a_newer_version_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(write, "nmt_version", lambda: "9.0")
    text = write.dump(EXPERIMENT)
    monkeypatch.setattr(write, "dump", lambda experiment: text + "nam: toy\n")
    folder = save(tmp_path)
    monkeypatch.setattr(load, "nmt_version", lambda: "0.1")
    assert message_of(lambda: load_checkpoint(folder)) == (
        f"{folder}/config.yaml: nam is not a setting; did you mean name?; "
        "use nmt 9.0, which wrote it (this is nmt 0.1)"
    )


def test_an_old_config_gets_legacy_values(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class LaterModel(ModelConfig):
        bias: bool = added_setting(True, before=False)

    class LaterExperiment(Experiment):
        model: LaterModel = LaterModel()

    folder = save(tmp_path)
    monkeypatch.setattr(load, "Experiment", LaterExperiment)
    model = load_checkpoint(folder).experiment.model
    assert isinstance(model, LaterModel)
    assert not model.bias


def test_weights_of_another_shape_are_refused(tmp_path: Path) -> None:
    other = EXPERIMENT.model_copy(update={"model": MODEL.model_copy(update={"ffn_width": 8})})
    folder = write.save_checkpoint(tmp_path, other, SUBWORD.to_json(), state())
    message = message_of(lambda: load_checkpoint(folder).model())
    assert message.startswith(f"{folder}/weights.safetensors: ")
    assert message.endswith(
        " has shape [4, 4], expected [8, 4]; "
        "config.yaml or tokenizer.json beside it does not belong to these weights"
    )


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({}, "w has no bias and 1 more; "),
        (
            {"bias": torch.zeros(1), "weight": torch.zeros(1, 2), "wait": torch.zeros(1)},
            "w has wait, unknown to the model; ",
        ),
        (
            {"bias": torch.zeros(1), "weight": torch.zeros(2, 1)},
            "w: weight has shape [2, 1], expected [1, 2]; ",
        ),
    ],
)
def test_weights_of_another_model_are_refused(given: dict[str, Tensor], message: str) -> None:
    model = torch.nn.Linear(2, 1)
    assert message_of(lambda: load_weights(model, given, Path("w"))) == (
        message + "config.yaml or tokenizer.json beside it does not belong to these weights"
    )


def logits(model: seq2seq.Seq2Seq) -> list[float]:
    """Return four logits after a fixed source and two fixed target tokens."""
    src, lengths = torch.tensor([[260, 261, 262, 2]]), torch.tensor([4])
    with torch.no_grad():
        memory = model.encode(src, lengths)
        _, then, _ = model.step(torch.tensor([1]), model.start(memory, 1), memory)
        return model.step(torch.tensor([263]), then, memory)[0][0, 260:264].tolist()


def test_format_1_loads_and_translates() -> None:
    """Self-contained checkpoints (nmt/README.md, Guarantees)."""
    verify_checkpoint(GOLDEN / "checkpoints/update-00000003")
    checkpoint = load_checkpoint(GOLDEN)
    assert (
        checkpoint.subword.decode(checkpoint.subword.encode("der Hund sieht Öl"))
        == "der Hund sieht Öl"
    )
    assert (checkpoint.info.update, checkpoint.info.bleu) == (3, 12.5)
    assert checkpoint.experiment.model.width == 4
    golden = [-0.548952, -1.358822, 2.430061, -6.458239]
    assert logits(checkpoint.model()) == pytest.approx(golden, abs=1e-5)


def test_format_1_has_its_training_state() -> None:
    """Exact resume (nmt/README.md, Guarantees)."""
    found = load_training_state(GOLDEN)
    assert found.counters == {"best_bleu": 31.25, "bad_validations": 2, "epochs": [0.1 + 0.2, None]}
    assert found.optimizer["step"].item() == 3


def test_a_corrupt_copy_of_format_1_is_refused(tmp_path: Path) -> None:
    """Self-contained checkpoints (nmt/README.md, Guarantees)."""
    shutil.copytree(GOLDEN, tmp_path / "run")
    file = tmp_path / "run/checkpoints/update-00000003/weights.safetensors"
    flip(file)
    assert message_of(lambda: load_checkpoint(tmp_path / "run")) == (
        f"{file} is corrupt: its SHA-256 does not match bundle.json; "
        "restore it from a copy, or train again"
    )


if __name__ == "__main__":
    shutil.rmtree(GOLDEN, ignore_errors=True)
    write.nmt_version = lambda: "0.1.0"
    print(save(GOLDEN, 3, 12.5), logits(load_checkpoint(GOLDEN).model()))
