"""Tensor files of a checkpoint, and their conversion to and from lower precision.

Exported weights are fp32, bf16, or int8 with one scale per row. Only large matrices are converted,
embeddings included; the dtype of a stored tensor shows whether it was.
"""

from collections.abc import Iterable, Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from nmt.checkpoint.format import (
    CONFIG,
    OPTIMIZER,
    TOKENIZER,
    WEIGHTS,
    CheckpointInfo,
    recovery_hint,
    verify_file,
)
from nmt.config.decoding import Precision
from nmt.config.settings import parse_record
from nmt.errors import CheckpointError, summarise_names
from nmt.model.quantise import MIN_WEIGHTS, dequantise_rows, quantise_rows

_DTYPES = {torch.float32, torch.bfloat16, torch.int8}
_SCALE = ".int8_scale"
"""Suffix of the name under which the scales of an int8 matrix are stored."""


def read_tensors(folder: Path, info: CheckpointInfo, name: str) -> dict[str, Tensor]:
    """Verify and read a tensor file of a checkpoint; tied tensors get each of their names."""
    path = verify_file(folder, info, name)
    try:
        return _read(path, is_weights=name != OPTIMIZER)
    except ValueError as error:
        problem = f"{path} was not written by nmt: {error}; {recovery_hint(folder)}"
        raise CheckpointError(problem) from None


def _read(path: Path, is_weights: bool) -> dict[str, Tensor]:
    """Read a tensor file; raise ValueError if it was not written by nmt."""
    try:
        with safe_open(path, framework="pt") as file:
            tied = parse_record(dict[str, str], (file.metadata() or {}).get("tied", "{}"))
            # Cloned: safetensors maps the file, and pruning on another host may delete it.
            tensors = {key: file.get_tensor(key).clone() for key in file.keys()}  # noqa: SIM118
        _check_values(tensors.items(), is_weights)
        return tensors | {key: tensors[stored] for key, stored in tied.items()}
    except KeyError as error:
        raise ValueError(f"tied to {error}, which is missing") from None
    except (SafetensorError, RuntimeError, OSError) as error:
        raise ValueError(" ".join(str(error).split())) from None


def _check_values(tensors: Iterable[tuple[str, Tensor]], is_weights: bool) -> None:
    """Raise ValueError for other dtypes, NaN or infinite values, and all-zero weight matrices."""
    for name, tensor in tensors:
        if tensor.dtype not in _DTYPES:
            raise ValueError(f"{name} has dtype {str(tensor.dtype).removeprefix('torch.')}")
        # One pass without a copy: NaN if a value is NaN, infinite if one is, 0 if all are.
        total = tensor.any() if tensor.dtype == torch.int8 else tensor.norm(p=1)
        if not total.isfinite():
            raise ValueError(f"{name} has values that are NaN or infinite")
        # Biases may be 0; a matrix of zeros translates every line to nothing.
        if is_weights and tensor.dim() > 1 and tensor.numel() and not total:
            raise ValueError(f"{name} is all zero")


def pack_weights(weights: Mapping[str, Tensor], precision: Precision) -> dict[str, Tensor]:
    """Convert fp32 weights to what is stored at a precision; tied weights stay tied."""
    packed = dict(weights)
    converted: dict[int, tuple[Tensor, ...]] = {}
    for name, weight in weights.items():
        if precision == "fp32" or weight.dim() != 2 or weight.numel() < MIN_WEIGHTS:
            continue
        # Tied names share their memory: convert it once, so that they stay tied.
        address = weight.data_ptr()
        if address not in converted:
            is_int8 = precision == "int8"
            converted[address] = quantise_rows(weight) if is_int8 else (weight.bfloat16(),)
        packed.update(zip((name, name + _SCALE), converted[address], strict=False))
    return packed


def read_weights(folder: Path) -> dict[str, Tensor]:
    """Read the verified weights of a checkpoint, as fp32."""
    path = folder / WEIGHTS
    try:
        return unpack_weights(_read(path, is_weights=True))
    except ValueError as error:
        problem = f"{path} was not written by nmt: {error}; {recovery_hint(folder)}"
        raise CheckpointError(problem) from None


def unpack_weights(stored: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Convert stored weights to fp32.

    Quantising the result with `nmt.model.quantise` gives the same int8 products as quantising the
    weights before `pack_weights`; only embedded tokens are rounded in addition.

    Raises:
        ValueError: an int8 matrix has no scales.
    """
    if {tensor.dtype for tensor in stored.values()} <= {torch.float32}:
        return dict(stored)
    converted: dict[int, Tensor] = {}
    weights = {}
    for name, tensor in stored.items():
        # Scales are read together with their matrix.
        if name.endswith(_SCALE):
            continue
        address = tensor.data_ptr()
        if address not in converted:
            if tensor.dtype != torch.int8:
                converted[address] = tensor.float()
            else:
                scale = stored.get(name + _SCALE)
                if scale is None or tensor.dim() != 2 or scale.shape != tensor.shape[:1]:
                    raise ValueError(f"{name} is int8 without a scale for each row")
                converted[address] = dequantise_rows(tensor, scale.float())
        weights[name] = converted[address]
    return weights


def load_weights(model: nn.Module, weights: Mapping[str, Tensor], file: Path) -> None:
    """Copy weights into a model.

    Args:
        model: model to fill.
        weights: tensors by name; a tied parameter may appear under any of its names.
        file: file of the weights, for error messages.

    Raises:
        CheckpointError: a name or a shape is not that of the model.
    """
    model.load_state_dict(match_weights(model, weights, file))


def match_weights(model: nn.Module, weights: Mapping[str, Tensor], file: Path) -> dict[str, Tensor]:
    """Return weights by every name of the model; arguments and errors as of `load_weights`."""
    # The parameters themselves: tied ones are one object, also on the meta device.
    expected = model.state_dict(keep_vars=True)
    given = dict(weights)
    # A tied parameter is stored under one of its names.
    present = {id(expected[name]): given[name] for name in given if name in expected}
    for name, tensor in expected.items():
        if name not in given and id(tensor) in present:
            given[name] = present[id(tensor)]
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
    return given
