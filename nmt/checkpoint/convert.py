"""Checkpoints without training state, made from others: the average of several, and an export."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import torch

from nmt.checkpoint.format import TOKENIZER, CheckpointInfo, nmt_version, pack_weights, read_text
from nmt.checkpoint.load import Checkpoint, load_checkpoint
from nmt.checkpoint.write import write_checkpoint
from nmt.errors import CheckpointError
from nmt.model.quantise import Precision


def average_checkpoints(folders: Sequence[Path], out: Path) -> Checkpoint:
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
    info = CheckpointInfo(update, None, "", tuple(names), nmt_version(), {})
    return load_checkpoint(write_checkpoint(out, first.experiment, text, means, info, None))


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


def export_checkpoint(folder: Path, out: Path, precision: Precision | None = None) -> Checkpoint:
    """Write what translates of a bundle, or of a run's best one, in numbers of this precision.

    None: in those that it is stored in. The dev BLEU goes along only where the numbers stay.

    Raises:
        BundleError: there is no bundle, it is damaged, or `out` exists.
    """
    if out.exists():
        raise CheckpointError(f"{out} is there already; name another folder, or remove it")
    bundle = load_checkpoint(folder)
    precision = precision or bundle.precision
    info = replace(bundle.info, nmt_version=nmt_version(), files={})
    if precision != bundle.precision:
        info = replace(info, bleu=None, bleu_signature="")
    text = read_text(bundle.path, bundle.info, TOKENIZER)
    weights = pack_weights(bundle.weights, precision)
    return load_checkpoint(write_checkpoint(out, bundle.experiment, text, weights, info, None))
