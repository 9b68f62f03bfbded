"""Loading checkpoints: a model for translation, or the state for resuming training.

Tensors are read, and torch is imported, when they are first used.
"""

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from safetensors import SafetensorError, safe_open

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
    read_text,
    recovery_hint,
    verify_file,
)
from nmt.checkpoint.run_directory import find_checkpoint
from nmt.config.decoding import Precision
from nmt.config.experiment import Experiment
from nmt.config.files import parse_stored
from nmt.config.settings import Count, parse_record
from nmt.corpus.subword import Subword
from nmt.errors import CheckpointError, ConfigError, DataError

if TYPE_CHECKING:
    from torch import Tensor

    from nmt.model.seq2seq import Seq2Seq


@dataclass(frozen=True)
class Checkpoint:
    """Trained model with its config and tokenizer."""

    path: Path
    experiment: Experiment
    subword: Subword
    info: CheckpointInfo
    precision: Precision = "fp32"
    """Precision of the stored weights, and the default for translation."""

    @cached_property
    def weights(self) -> "dict[str, Tensor]":
        """fp32 weights by name, at any stored precision; read when they are first used.

        Raises:
            CheckpointError: the file was not written by nmt, or a value is NaN or infinite.
        """
        from nmt.checkpoint.tensor_files import read_weights

        return read_weights(self.path)

    def model(self) -> "Seq2Seq":
        """Build the network with these weights on the CPU, in evaluation mode."""
        import torch

        from nmt.checkpoint.tensor_files import load_weights, match_weights
        from nmt.model.seq2seq import Seq2Seq, check_model_memory

        with torch.device("meta"):
            skeleton = Seq2Seq(self.experiment.model, self.subword.num_pieces)
        # Before the model takes memory: the sizes in a foreign config may be any.
        match_weights(skeleton, self.weights, self.path / WEIGHTS)
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
    # Config and tokenizer first: another version fails before gigabytes are read.
    experiment = load_config(folder)
    try:
        subword = Subword.from_json(read_text(folder, info, TOKENIZER))
    except DataError as error:
        raise _other_version(folder, info, error) from None
    return Checkpoint(folder, experiment, subword, info, _stored_precision(folder, info))


def _stored_precision(folder: Path, info: CheckpointInfo) -> Precision:
    """Verify the file of the weights and return their precision, without reading them."""
    path = verify_file(folder, info, WEIGHTS)
    try:
        with safe_open(path, framework="numpy") as file:
            dtypes = {file.get_slice(key).get_dtype() for key in file.keys()}  # noqa: SIM118
    except (SafetensorError, OSError) as error:
        raise CheckpointError(
            f"{path} was not written by nmt: {' '.join(str(error).split())}; "
            f"{recovery_hint(folder)}"
        ) from None
    return "bf16" if "BF16" in dtypes else "int8" if "I8" in dtypes else "fp32"


def load_config(folder: Path) -> Experiment:
    """Load the settings of a checkpoint without its tensors.

    Raises:
        CheckpointError: the file is missing, corrupt or of another version.
    """
    info = read_info(folder)
    try:
        return parse_stored(Experiment, read_text(folder, info, CONFIG), CONFIG)
    except ConfigError as error:
        raise _other_version(folder, info, error) from None


def _other_version(folder: Path, info: CheckpointInfo, error: Exception) -> CheckpointError:
    return CheckpointError(
        f"{folder}/{error}; use nmt {info.nmt_version}, which wrote it (this is nmt "
        f"{nmt_version()})"
    )


def load_training_state(path: Path) -> CheckpointState:
    """Load what resuming needs, on the CPU.

    Args:
        path: checkpoint, or run: its newest complete checkpoint.

    Raises:
        CheckpointError: there is none, it has no training state, or a file is missing or corrupt.
    """
    from nmt.checkpoint.tensor_files import read_tensors

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
