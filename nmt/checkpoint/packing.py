"""Weights in fewer bytes: bf16, or int8 with a scale for each row, for bundles that only translate.

Large matrices alone are packed, embeddings too; the dtype of a stored tensor says what it is. A
model made of what `unpack` gives has the products that `nmt.model.quantise` makes of the weights
as they were: only embedded tokens are rounded besides.
"""

from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from nmt.model.quantise import MIN_WEIGHTS, Precision, quantise_rows, restore

_SCALE = ".int8_scale"
"""Ends the name under which the scales of a matrix are stored."""


def pack(weights: Mapping[str, Tensor], precision: Precision) -> dict[str, Tensor]:
    """What to store of fp32 weights; those that are tied stay tied."""
    packed = dict(weights)
    if precision == "fp32":
        return packed
    large = {
        name: weight
        for name, weight in weights.items()
        if weight.dim() == 2 and weight.numel() >= MIN_WEIGHTS
    }
    if precision == "bf16":
        return packed | _each_once(large, lambda weight: (weight.bfloat16(),), [""])
    return packed | _each_once(large, quantise_rows, ["", _SCALE])


def unpack(stored: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], Precision]:
    """The weights in fp32, and what they were stored in."""
    kinds = {tensor.dtype for tensor in stored.values()}
    precision: Precision = "int8" if torch.int8 in kinds else "fp32"
    if torch.bfloat16 in kinds:
        precision = "bf16"
    if precision == "fp32":
        return dict(stored), precision
    found: dict[int, Tensor] = {}
    weights = {}
    for name, tensor in stored.items():
        if name.endswith(_SCALE):
            continue
        place = tensor.data_ptr()
        if place not in found:
            is_whole = tensor.dtype == torch.int8
            found[place] = restore(tensor, stored[name + _SCALE]) if is_whole else tensor.float()
        weights[name] = found[place]
    return weights, precision


def _each_once(
    weights: Mapping[str, Tensor],
    convert: Callable[[Tensor], tuple[Tensor, ...]],
    endings: list[str],
) -> dict[str, Tensor]:
    """Converted weights under their names with each ending; one memory for those that had one."""
    made: dict[int, tuple[Tensor, ...]] = {}
    converted: dict[str, Tensor] = {}
    for name, weight in weights.items():
        parts = made.setdefault(weight.data_ptr(), ()) or convert(weight)
        made[weight.data_ptr()] = parts
        converted |= {name + ending: part for ending, part in zip(endings, parts, strict=True)}
    return converted
