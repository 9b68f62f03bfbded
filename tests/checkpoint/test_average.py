"""The mean of bundles."""

from pathlib import Path

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
from nmt.checkpoint.convert import average_checkpoints
from nmt.checkpoint.format import verify_checkpoint
from nmt.checkpoint.load import load_checkpoint, load_training_state
from nmt.config.corpus import SubwordConfig
from nmt.corpus.subword import Subword


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
    bundle = load_checkpoint(save(tmp_path / "run"))
    found = average_checkpoints([bundle.path], tmp_path / "mean")
    assert_same(found.weights, bundle.weights)


def test_an_average_only_translates(tmp_path: Path) -> None:
    """P9."""
    mean = average_checkpoints([save(tmp_path / "run")], tmp_path / "mean").path
    assert files_below(mean) == FILES[:4]
    assert message_of(lambda: load_training_state(mean)) == (
        f"{mean} only translates: it has no training/state.json; go on from a checkpoint of a run"
    )


def test_models_that_differ_have_no_average(tmp_path: Path) -> None:
    """P9."""
    one = save(tmp_path / "a")
    wide = EXPERIMENT.model_copy(update={"model": MODEL.model_copy(update={"dropout": 0.5})})
    two = write.save_checkpoint(tmp_path / "b", wide, SUBWORD.to_json(), state())
    assert message_of(lambda: average_checkpoints([one, two], tmp_path / "mean")) == (
        f"cannot average {one} and {two}: model.dropout is 0.2 and 0.5; "
        "only weights of one model have a mean"
    )
    assert not (tmp_path / "mean").exists()


def test_tokenizers_that_differ_have_no_average(tmp_path: Path) -> None:
    """P9."""
    one = save(tmp_path / "a")
    other = Subword.train(["etwas anderes"] * 4, SubwordConfig(vocab_size=300))
    two = write.save_checkpoint(tmp_path / "b", EXPERIMENT, other.to_json(), state())
    assert message_of(lambda: average_checkpoints([one, two], tmp_path / "mean")) == (
        f"cannot average {one} and {two}: their tokenizers differ; "
        "only embeddings of the same pieces have a mean"
    )


def test_an_average_does_not_overwrite(tmp_path: Path) -> None:
    """P9."""
    folder = save(tmp_path)
    assert message_of(lambda: average_checkpoints([folder], tmp_path)) == (
        f"{tmp_path} is there already; name another folder, or remove it"
    )


def test_an_average_of_nothing(tmp_path: Path) -> None:
    """P9."""
    assert message_of(lambda: average_checkpoints([], tmp_path / "mean")) == (
        "nothing to average: name one bundle or more"
    )
