"""Loading checkpoints: a model for translation, or the state for resuming training."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from nmt.checkpoint.format import (
    CONFIG,
    OPTIMIZER,
    RAW_WEIGHTS,
    STATE,
    TOKENIZER,
    WEIGHTS,
    CheckpointInfo,
    CheckpointState,
    nmt_version,
    read_info,
    read_tensors,
    read_text,
    recovery_hint,
    summarise_names,
    unpack_weights,
)
from nmt.checkpoint.run_directory import find_checkpoint
from nmt.config.experiment import Experiment
from nmt.config.files import parse_stored
from nmt.config.settings import Count, parse_record
from nmt.corpus.subword import Subword
from nmt.errors import CheckpointError, ConfigError, DataError
from nmt.model.quantise import Precision
from nmt.model.seq2seq import Seq2Seq, check_model_memory


@dataclass(frozen=True)
class Checkpoint:
    """Trained model with its config and tokenizer."""

    path: Path
    experiment: Experiment
    subword: Subword
    weights: dict[str, Tensor]
    """fp32 weights by name, at any stored precision."""
    info: CheckpointInfo
    precision: Precision = "fp32"
    """Precision of the stored weights, and the default for translation."""

    def model(self) -> Seq2Seq:
        """Build the network with these weights on the CPU, in evaluation mode."""
        check_model_memory(self.experiment.model, self.subword.num_pieces)
        model = Seq2Seq(self.experiment.model, self.subword.num_pieces)
        load_weights(model, self.weights, self.path / WEIGHTS)
        return model.eval()


@dataclass(frozen=True)
class _StoredState:
    """Content of training/state.json."""

    update: Count
    counters: dict[str, Any]


def load_checkpoint(path: Path) -> Checkpoint:
    """Load what translation needs.

    Args:
        path: checkpoint, or run: its best checkpoint, else its newest complete one.

    Raises:
        CheckpointError: there is none, or a file of it is missing, corrupt or of another version.
    """
    folder = find_checkpoint(path, prefer_best=True)
    info = read_info(folder)
    try:
        # Config and tokenizer first: another version fails before gigabytes are read.
        experiment = parse_stored(Experiment, read_text(folder, info, CONFIG), CONFIG)
        subword = Subword.from_json(read_text(folder, info, TOKENIZER))
    except (ConfigError, DataError) as error:
        raise CheckpointError(
            f"{folder}/{error}; use nmt {info.nmt_version}, which wrote it (this is nmt "
            f"{nmt_version()})"
        ) from None
    stored = read_tensors(folder, info, WEIGHTS)
    try:
        weights, precision = unpack_weights(stored)
    except ValueError as error:
        raise CheckpointError(
            f"{folder / WEIGHTS} was not written by nmt: {error}; {recovery_hint(folder)}"
        ) from None
    return Checkpoint(folder, experiment, subword, weights, info, precision)


def load_training_state(path: Path) -> CheckpointState:
    """Load what resuming needs, on the CPU.

    Args:
        path: checkpoint, or run: its newest complete checkpoint.

    Raises:
        CheckpointError: there is none, it has no training state, or a file is missing or corrupt.
    """
    folder = find_checkpoint(path, prefer_best=False)
    info = read_info(folder)
    counters = load_counters(folder)
    weights, average = read_tensors(folder, info, WEIGHTS), None
    # With an average, the weights for translation are not those that are trained.
    if RAW_WEIGHTS in info.files:
        weights, average = read_tensors(folder, info, RAW_WEIGHTS), weights
    optimizer = read_tensors(folder, info, OPTIMIZER)
    return CheckpointState(info.update, weights, average, optimizer, counters)


def load_counters(folder: Path) -> dict[str, Any]:
    """Load the counters of a checkpoint without its tensors.

    Raises:
        CheckpointError: it has no training state, or a file is missing or corrupt.
    """
    info = read_info(folder)
    if STATE not in info.files:
        raise CheckpointError(
            f"{folder} has no training state ({STATE}): resume from a checkpoint of a run"
        )
    try:
        stored = parse_record(_StoredState, read_text(folder, info, STATE))
        updates = {info.update, stored.update, stored.counters.get("update", info.update)}
        if len(updates) > 1:
            raise ValueError(f"update: expected {info.update}")
    except (ValueError, TypeError) as error:
        raise CheckpointError(
            f"{folder / STATE} was not written by nmt: {error}; {recovery_hint(folder)}"
        ) from None
    return stored.counters


def load_weights(model: nn.Module, weights: Mapping[str, Tensor], file: Path) -> None:
    """Copy weights into a model.

    Args:
        model: model to fill.
        weights: tensors by name; a tied parameter may appear under any of its names.
        file: file of the weights, for error messages.

    Raises:
        CheckpointError: a name or a shape is not that of the model.
    """
    expected = model.state_dict()
    given = dict(weights)
    # A tied parameter is stored under one of its names: find the others by their memory.
    present = {expected[name].data_ptr(): given[name] for name in given if name in expected}
    for name, tensor in expected.items():
        if name not in given and tensor.data_ptr() in present:
            given[name] = present[tensor.data_ptr()]
    hint = f"{CONFIG} or {TOKENIZER} beside it does not belong to these weights"
    # Own messages: those of load_state_dict list every key of the model.
    if missing := sorted(expected.keys() - given.keys()):
        raise CheckpointError(f"{file} has no {summarise_names(missing)}; {hint}")
    if unknown := sorted(given.keys() - expected.keys()):
        raise CheckpointError(
            f"{file} has {summarise_names(unknown)}, unknown to the model; {hint}"
        )
    for name, tensor in expected.items():
        if tensor.shape != given[name].shape:
            raise CheckpointError(
                f"{file}: {name} has shape {list(given[name].shape)}, expected "
                f"{list(tensor.shape)}; {hint}"
            )
    model.load_state_dict(given)
