"""From a bundle to a model that translates, or to all that training goes on from."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor, nn

from nmt.checkpoint.format import (
    CONFIG,
    OPTIMIZER,
    RAW_WEIGHTS,
    STATE,
    TOKENIZER,
    WEIGHTS,
    CheckpointInfo,
    TrainingState,
    nmt_version,
    read_info,
    read_tensors,
    read_text,
    summarise_names,
    unpack_weights,
)
from nmt.checkpoint.run_directory import find_checkpoint
from nmt.config import files as config
from nmt.config.experiment import Experiment
from nmt.corpus.subword import Subword
from nmt.errors import CheckpointError, ConfigError, DataError
from nmt.model import seq2seq
from nmt.model.quantise import Precision
from nmt.model.seq2seq import Seq2Seq


@dataclass(frozen=True)
class Checkpoint:
    """A trained model with all that it needs to turn text into text."""

    path: Path
    experiment: Experiment
    subword: Subword
    weights: dict[str, Tensor]
    """fp32, whatever numbers they are stored in."""
    info: CheckpointInfo
    precision: Precision = "fp32"
    """What the weights are stored in, and so what they translate in unless told otherwise."""

    def model(self) -> Seq2Seq:
        """The network with its weights, on the CPU, ready to translate (dropout off)."""
        model = seq2seq.Seq2Seq(self.experiment.model, self.subword.num_pieces)
        load_weights(model, self.weights, self.path / WEIGHTS)
        return model.eval()


def load_checkpoint(folder: Path) -> Checkpoint:
    """Read what translates from a bundle, or from a run's best bundle, else its newest good one.

    Raises:
        BundleError: there is none, or a file of it is missing, damaged or of another version.
    """
    folder = find_checkpoint(folder, prefer_best=True)
    info = read_info(folder)
    try:
        experiment = config.parse_stored(Experiment, read_text(folder, info, CONFIG), CONFIG)
        subword = Subword.from_json(read_text(folder, info, TOKENIZER))
    except (ConfigError, DataError) as error:
        versions = f"nmt {info.nmt_version} wrote it, this is nmt {nmt_version()}"
        raise CheckpointError(f"{folder}/{error}; {versions}: use the one that wrote it") from None
    weights, precision = unpack_weights(read_tensors(folder, info, WEIGHTS))
    return Checkpoint(folder, experiment, subword, weights, info, precision)


def load_training_state(folder: Path) -> TrainingState:
    """Read what training goes on from, in a bundle or in a run's newest good one; on the CPU.

    Raises:
        BundleError: there is none, it only translates, or a file of it is missing or damaged.
    """
    folder = find_checkpoint(folder, prefer_best=False)
    info = read_info(folder)
    if STATE not in info.files:
        raise CheckpointError(
            f"{folder} only translates: it has no {STATE}; go on from a checkpoint of a run"
        )
    stored = json.loads(read_text(folder, info, STATE))
    weights, average = read_tensors(folder, info, WEIGHTS), None
    if RAW_WEIGHTS in info.files:
        weights, average = read_tensors(folder, info, RAW_WEIGHTS), weights
    optimizer = read_tensors(folder, info, OPTIMIZER)
    return TrainingState(stored["update"], weights, average, optimizer, stored["counters"])


def load_weights(model: nn.Module, weights: Mapping[str, Tensor], where: Path) -> None:
    """Copy weights into a model, bit for bit; what the model ties may stand under any of its names.

    Raises:
        BundleError: a name or a shape is not the model's; the message names the file `where`.
    """
    ours = model.state_dict()
    given = dict(weights)
    present = {ours[name].data_ptr(): given[name] for name in given if name in ours}
    for name, tensor in ours.items():
        if name not in given and tensor.data_ptr() in present:
            given[name] = present[tensor.data_ptr()]
    hint = "the config or the tokenizer beside it is not the one it was trained with"
    if lacking := sorted(ours.keys() - given.keys()):
        raise CheckpointError(
            f"{where} has no {summarise_names(lacking)}, but the model does; {hint}"
        )
    if unknown := sorted(given.keys() - ours.keys()):
        raise CheckpointError(
            f"{where} has {summarise_names(unknown)}, but the model does not; {hint}"
        )
    for name, tensor in ours.items():
        if tensor.shape != given[name].shape:
            found, expected = list(given[name].shape), list(tensor.shape)
            raise CheckpointError(
                f"{where}: {name} is {found}, but the model's is {expected}; {hint}"
            )
    model.load_state_dict(given)
