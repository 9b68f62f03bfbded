"""Contents of checkpoints whose digests are valid: those of a faulty converter, or untrusted."""

import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from toy_checkpoints import message_of, save

from nmt.checkpoint.load import load_checkpoint, load_training_state
from tests.errors.mutations import seal_checkpoint

Tensors = dict[str, Tensor]
Change = Callable[[Tensors], str]
"""Changes a tensor and returns its name."""


def largest(tensors: Tensors) -> str:
    """Return the name of the largest tensor, a matrix."""
    return max(sorted(tensors), key=lambda name: tensors[name].numel())


def with_value(value: float, everywhere: bool = False) -> Change:
    def change(tensors: Tensors) -> str:
        name = largest(tensors)
        values = tensors[name].view(-1)
        values[: len(values) if everywhere else 1] = value
        return name

    return change


def as_dtype(dtype: torch.dtype) -> Change:
    def change(tensors: Tensors) -> str:
        name = largest(tensors)
        tensors[name] = tensors[name].to(dtype)
        return name

    return change


def with_too_many_scales(tensors: Tensors) -> str:
    name = as_dtype(torch.int8)(tensors)
    tensors[f"{name}.int8_scale"] = torch.ones(len(tensors[name]) + 1)
    return name


def changed(folder: Path, file: str, change: Change) -> str:
    """Change a tensor file, compute its digests again, and return the name of the tensor."""
    tensors = load_file(folder / file)
    name = change(tensors)
    save_file(tensors, folder / file)
    seal_checkpoint(folder)
    return name


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        (with_value(torch.nan), "has values that are NaN or infinite"),
        (with_value(torch.inf), "has values that are NaN or infinite"),
        (with_value(-torch.inf), "has values that are NaN or infinite"),
        (with_value(0.0, everywhere=True), "is all zero"),
        (as_dtype(torch.float64), "has dtype float64"),
        (as_dtype(torch.int8), "is int8 without a scale for each row"),
        (with_too_many_scales, "is int8 without a scale for each row"),
    ],
)
def test_invalid_weights_are_refused(change: Change, problem: str, tmp_path: Path) -> None:
    """Self-contained checkpoints (nmt/README.md, Guarantees)."""
    folder = save(tmp_path)
    name = changed(folder, "weights.safetensors", change)
    assert message_of(lambda: load_checkpoint(folder).weights) == (
        f"{folder}/weights.safetensors was not written by nmt: {name} {problem}; restore it from a "
        "copy, or train again"
    )


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        (with_value(torch.nan), "has values that are NaN or infinite"),
        (as_dtype(torch.float16), "has dtype float16"),
    ],
)
def test_invalid_optimizer_tensors_are_refused(
    change: Change, problem: str, tmp_path: Path
) -> None:
    """Exact resume (nmt/README.md, Guarantees)."""
    folder = save(tmp_path)
    name = changed(folder, "training/optimizer.safetensors", change)
    assert message_of(lambda: load_training_state(folder)) == (
        f"{folder}/training/optimizer.safetensors was not written by nmt: {name} {problem}; "
        "restore it from a copy, or train again"
    )


def test_sizes_of_a_config_are_compared_before_building(tmp_path: Path) -> None:
    """Bounded memory (nmt/README.md, Guarantees)."""
    folder = save(tmp_path)
    text = (folder / "config.yaml").read_text()
    (folder / "config.yaml").write_text(text.replace("  width: 4\n", "  width: 16384\n"))
    seal_checkpoint(folder)
    started = time.process_time()
    message = message_of(lambda: load_checkpoint(folder).model())
    assert message.startswith(f"{folder}/weights.safetensors: ")
    assert message.endswith(
        "; config.yaml or tokenizer.json beside it does not belong to these weights"
    )
    assert time.process_time() - started < 10


@pytest.mark.parametrize(
    ("tied", "problem"),
    [
        ('{"x": "y"}', "tied to 'y', which is missing"),
        ("[1]", "Input should be an object"),
        ('{"x": 1}', "x: Input should be a valid string"),
        ("{", "Invalid JSON: EOF while parsing an object at line 1 column 1"),
    ],
)
def test_names_of_tied_weights_are_checked(tied: str, problem: str, tmp_path: Path) -> None:
    """Self-contained checkpoints (nmt/README.md, Guarantees)."""
    folder = save(tmp_path)
    file = folder / "weights.safetensors"
    save_file(load_file(file), file, {"tied": tied})
    seal_checkpoint(folder)
    assert message_of(lambda: load_checkpoint(folder).weights) == (
        f"{file} was not written by nmt: {problem}; restore it from a copy, or train again"
    )


def test_a_state_of_another_update_is_refused(tmp_path: Path) -> None:
    """Exact resume (nmt/README.md, Guarantees)."""
    folder = save(tmp_path)
    file = folder / "training/state.json"
    file.write_text(file.read_text().replace('"update": 500', '"update": 400', 1))
    seal_checkpoint(folder)
    assert message_of(lambda: load_training_state(folder)) == (
        f"{file} was not written by nmt: update: expected 500; restore it from a copy, or train "
        "again"
    )
