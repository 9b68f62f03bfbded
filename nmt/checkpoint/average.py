"""The mean of several bundles: a bundle that only translates."""

from collections.abc import Sequence
from pathlib import Path

import torch

from nmt.checkpoint.format import TOKENIZER, CheckpointInfo, read_text, version
from nmt.checkpoint.load import Checkpoint, load_checkpoint
from nmt.checkpoint.write import write
from nmt.errors import CheckpointError


def average(folders: Sequence[Path], out: Path) -> Checkpoint:
    """Write a bundle that only translates, with the mean of the weights of others.

    Raises:
        BundleError: they are of different models or tokenizers, one is damaged, or `out` exists.
    """
    if not folders:
        raise CheckpointError("nothing to average: name one bundle or more")
    if out.exists():
        raise CheckpointError(f"{out} is there already; name another folder, or remove it")
    first = load_checkpoint(folders[0])
    sums = {name: tensor.to(torch.float64) for name, tensor in first.weights.items()}
    update, names = first.info.update, [str(first.path)]
    for folder in folders[1:]:
        other = load_checkpoint(folder)
        _check_alike(first, other)
        sums = {name: total + other.weights[name] for name, total in sums.items()}
        update, names = max(update, other.info.update), [*names, str(other.path)]
    means = {
        name: (total / len(folders)).to(first.weights[name].dtype) for name, total in sums.items()
    }
    text = read_text(first.path, first.info, TOKENIZER)
    info = CheckpointInfo(update, None, "", tuple(names), version(), {})
    return load_checkpoint(write(out, first.experiment, text, means, info, None))


def _check_alike(one: Checkpoint, other: Checkpoint) -> None:
    if one.experiment.model != other.experiment.model:
        theirs = other.experiment.model.model_dump()
        ours = one.experiment.model.model_dump()
        key = next(key for key in ours if ours[key] != theirs[key])
        raise CheckpointError(
            f"cannot average {one.path} and {other.path}: model.{key} is {ours[key]} and "
            f"{theirs[key]}; only weights of one model have a mean"
        )
    if one.info.files[TOKENIZER] != other.info.files[TOKENIZER]:
        raise CheckpointError(
            f"cannot average {one.path} and {other.path}: their tokenizers differ; "
            "only embeddings of the same pieces have a mean"
        )
    assert one.weights.keys() == other.weights.keys()
