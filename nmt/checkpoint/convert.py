"""Checkpoints without training state: the average of several, and exports at lower precision."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import torch

from nmt.checkpoint.format import (
    TOKENIZER,
    CheckpointInfo,
    nmt_version,
    read_text,
)
from nmt.checkpoint.load import Checkpoint, load_checkpoint
from nmt.checkpoint.tensor_files import pack_weights
from nmt.checkpoint.write import write_checkpoint
from nmt.config.decoding import Precision
from nmt.errors import CheckpointError, summarise_names


def average_checkpoints(folders: Sequence[Path], out: Path) -> Checkpoint:
    """Write a checkpoint with the mean weights of others.

    Args:
        folders: checkpoints, or runs whose best checkpoint is meant.
        out: directory to write; it must not exist.

    Raises:
        CheckpointError: models, languages, case marks or tokenizers differ, a checkpoint is
            corrupt or given twice, or `out` exists.
    """
    if not folders:
        raise CheckpointError("no checkpoint to average: name one or more")
    _check_free(out)
    first = load_checkpoint(folders[0])
    # Checks the weights: the digests of the mean must not certify weights that fit no model.
    first.model()
    # Summed in fp64: the mean of one checkpoint is then exactly that checkpoint.
    sums = {name: tensor.to(torch.float64) for name, tensor in first.weights.items()}
    update, names = first.info.update, [str(first.path)]
    for folder in folders[1:]:
        other = load_checkpoint(folder)
        _check_same_model(first, other)
        if str(other.path) in names:
            raise CheckpointError(f"{other.path} is given twice: name each checkpoint once")
        other.model()
        sums = {name: total + other.weights[name] for name, total in sums.items()}
        update, names = max(update, other.info.update), [*names, str(other.path)]
    means = {
        name: (total / len(folders)).to(first.weights[name].dtype) for name, total in sums.items()
    }
    tokenizer_json = read_text(first.path, first.info, TOKENIZER)
    info = CheckpointInfo(update, None, "", tuple(names), nmt_version(), {})
    return load_checkpoint(
        write_checkpoint(out, first.experiment, tokenizer_json, means, info, None)
    )


def export_checkpoint(folder: Path, out: Path, precision: Precision | None = None) -> Checkpoint:
    """Write a checkpoint with the weights for translation only.

    Args:
        folder: checkpoint, or run whose best checkpoint is meant.
        out: directory to write; it must not exist.
        precision: precision of the stored weights; None: keep it. The dev BLEU is copied only if
            the precision does not change.

    Raises:
        CheckpointError: there is no checkpoint, it is corrupt, or `out` exists.
    """
    _check_free(out)
    checkpoint = load_checkpoint(folder)
    checkpoint.model()
    precision = precision or checkpoint.precision
    info = replace(checkpoint.info, nmt_version=nmt_version(), files={})
    # Rounded weights have another BLEU.
    if precision != checkpoint.precision:
        info = replace(info, bleu=None, bleu_signature="", dev_loss=None)
    tokenizer_json = read_text(checkpoint.path, checkpoint.info, TOKENIZER)
    weights = pack_weights(checkpoint.weights, precision)
    return load_checkpoint(
        write_checkpoint(out, checkpoint.experiment, tokenizer_json, weights, info, None)
    )


def _check_free(out: Path) -> None:
    if out.exists():
        raise CheckpointError(f"{out} already exists: name another directory, or remove it")


def _check_same_model(one: Checkpoint, other: Checkpoint) -> None:
    refused = f"cannot average {one.path} and {other.path}"
    pairs = [each.experiment.corpus.language_pair for each in (one, other)]
    if pairs[0] != pairs[1]:
        raise CheckpointError(f"{refused}: they translate {pairs[0]} and {pairs[1]}")
    # The mean would read lines in upper case in a way that one of them has not learnt.
    if one.experiment.marks_case != other.experiment.marks_case:
        raise CheckpointError(
            f"{refused}: training.robust or case_marks differs: average models that all mark case, "
            "or none"
        )
    first, second = (each.experiment.model.model_dump() for each in (one, other))
    for key in first:
        # Dropout is off in translation.
        if first[key] != second[key] and not key.endswith("dropout"):
            raise CheckpointError(
                f"{refused}: model.{key} is {first[key]} and {second[key]}; "
                "the models must be equal"
            )
    if one.info.files[TOKENIZER] != other.info.files[TOKENIZER]:
        raise CheckpointError(f"{refused}: the tokenizers differ, but must be equal")
    # Equal models have equal weight names, unless another program tied them differently.
    if one.weights.keys() != other.weights.keys():
        names = summarise_names(sorted(one.weights.keys() ^ other.weights.keys()))
        raise CheckpointError(f"{refused}: only one of them has {names}")
