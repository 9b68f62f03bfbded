"""How a bundle comes to the disk: whole, or not at all.

It is written beside its place under a name that starts with a dot, every file is brought to the
disk, and one rename puts it there: under its own name it is whole, whenever the machine stops. A
run has one writer, rank 0; what starts with a dot is what a writer before it left unfinished.
"""

import errno
import json
import os
import secrets
import shutil
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor

from nmt.checkpoint.format import (
    CONFIG,
    FORMAT,
    INFO,
    OPTIMIZER,
    RAW_WEIGHTS,
    SCORE,
    STATE,
    TOKENIZER,
    WEIGHTS,
    CheckpointFile,
    CheckpointInfo,
    TrainingState,
    describe_file,
    digest_of_json,
    folder_name,
    format_score,
    nmt_version,
)
from nmt.checkpoint.run_directory import hide_checkpoint, remove_leftovers
from nmt.config import files as config
from nmt.config.experiment import Experiment
from nmt.errors import CheckpointError

_MAKE_ROOM = "make room, or keep fewer checkpoints (training.keep_last)"


def save_checkpoint(
    run_dir: Path,
    experiment: Experiment,
    tokenizer_json: str,
    state: TrainingState,
    bleu: float | None = None,
    bleu_signature: str = "",
) -> Path:
    """Write the checkpoint of an update and return its folder, <run_dir>/checkpoints/update-...

    One that stands there already is replaced. Leftovers of interrupted writes are removed first.

    Raises:
        BundleError: the disk is full or cannot be written; what stood there before still does.
    """
    folder = run_dir / "checkpoints" / folder_name(state.update)
    remove_leftovers(folder.parent)
    info = CheckpointInfo(state.update, bleu, bleu_signature, (), nmt_version(), {})
    return write_checkpoint(folder, experiment, tokenizer_json, _translating(state), info, state)


def write_checkpoint(
    folder: Path,
    experiment: Experiment,
    tokenizer_json: str,
    weights: Mapping[str, Tensor],
    info: CheckpointInfo,
    state: TrainingState | None,
) -> Path:
    """Write a bundle beside its place, bring it to the disk, and rename it there."""
    texts = {CONFIG: config.dump(experiment), TOKENIZER: tokenizer_json}
    tensors = {WEIGHTS: weights}
    if state is not None:
        texts[STATE] = json.dumps({"update": state.update, "counters": state.counters}, indent=1)
        tensors[OPTIMIZER] = state.optimizer
        if state.average is not None:
            tensors[RAW_WEIGHTS] = state.weights
    parts = {name: _untie(of_file) for name, of_file in tensors.items()}
    needed = 100_000 + sum(len(text.encode()) for text in texts.values())
    needed += sum(tensor.nbytes for stored, _ in parts.values() for tensor in stored.values())
    temp = folder.with_name(f".{folder.name}.{secrets.token_hex(4)}.writing")
    try:
        _make(folder.parent)
        _check_space(folder, needed)
        (temp / "training" if state is not None else temp).mkdir(parents=True)
        for name, text in texts.items():
            (temp / name).write_text(text, encoding="utf-8", newline="")
        for name, (stored, tied) in parts.items():
            save_file(stored, temp / name, metadata={"tied": json.dumps(tied)})
        files = {name: describe_file(temp / name) for name in sorted([*texts, *tensors])}
        _write_info(temp / INFO, info, files)
        for path in [*temp.rglob("*"), temp]:
            _sync(path)
        replaced = hide_checkpoint(folder) if folder.exists() else None
        temp.rename(folder)
        _sync(folder.parent)
    except (OSError, SafetensorError) as error:
        raise _unwritten(folder, needed, error) from None
    finally:
        shutil.rmtree(temp, ignore_errors=True)
    if replaced is not None:
        shutil.rmtree(replaced, ignore_errors=True)
    return folder


def _translating(state: TrainingState) -> dict[str, Tensor]:
    """The weights that translate: the average, under every name that the weights have."""
    if state.average is None:
        return state.weights
    assert state.average.keys() <= state.weights.keys()
    weights = state.weights | state.average
    _, tied = _untie(state.weights)
    return weights | {name: weights[stored] for name, stored in tied.items()}


def write_score(folder: Path, bleu: float, signature: str) -> None:
    """Put a score beside the checkpoint that it belongs to, instead of one that is there.

    Raises:
        BundleError: it cannot be written.
    """
    temp = folder / f".{SCORE}"
    try:
        temp.write_text(
            format_score((folder / INFO).read_text(), bleu, signature), encoding="utf-8"
        )
        _sync(temp)
        temp.replace(folder / SCORE)
    except OSError as error:
        temp.unlink(missing_ok=True)
        raise CheckpointError(f"{folder / SCORE} was not written: {error.strerror}") from None


def storage_key(tensor: Tensor) -> object:
    """Equal for two tensors that are the same memory; an empty one has none, and is alone."""
    if not tensor.numel():
        return id(tensor)
    return (tensor.device, tensor.data_ptr(), tensor.dtype, tensor.shape, tensor.stride())


def _untie(tensors: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Part tensors into those to store, and further names of the same memory -> stored name."""
    names: dict[object, str] = {}
    stored: dict[str, Tensor] = {}
    tied: dict[str, str] = {}
    for name, tensor in tensors.items():
        first = names.setdefault(storage_key(tensor), name)
        if first == name:
            stored[name] = tensor.detach().cpu().contiguous()
        else:
            tied[name] = first
    return stored, tied


def _write_info(file: Path, info: CheckpointInfo, files: Mapping[str, CheckpointFile]) -> None:
    tree = {"format": FORMAT} | asdict(info)
    tree["files"] = {name: asdict(of_file) for name, of_file in files.items()}
    tree = json.loads(json.dumps(tree))
    tree["sha256"] = digest_of_json(tree)
    file.write_text(json.dumps(tree, indent=1) + "\n", encoding="utf-8", newline="")


def _make(folder: Path) -> None:
    """Make a folder and those above it, and bring their names to the disk."""
    missing = [path for path in (folder, *folder.parents) if not path.exists()]
    folder.mkdir(parents=True, exist_ok=True)
    for path in missing:
        _sync(path.parent)


def _sync(path: Path) -> None:
    """Bring a file or a folder to the disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    except OSError as error:
        # Some network file systems sync no folders; their rename is on the server when it returns.
        if not (path.is_dir() and error.errno in (errno.EINVAL, errno.ENOTSUP)):
            raise
    finally:
        os.close(handle)


def _check_space(folder: Path, needed: int) -> None:
    free = shutil.disk_usage(folder.parent).free
    if free < needed:
        raise CheckpointError(
            f"{folder} was not written: it needs {needed / 1e6:,.1f} MB, but "
            f"{free / 1e6:,.1f} MB are free there; {_MAKE_ROOM}"
        )


def _unwritten(folder: Path, needed: int, error: Exception) -> CheckpointError:
    is_full = getattr(error, "errno", None) in (errno.ENOSPC, errno.EDQUOT)
    if is_full or "No space left" in str(error):  # safetensors wraps the system's error in its own
        return CheckpointError(
            f"{folder} was not written: the disk filled up before its {needed / 1e6:,.1f} MB "
            f"were on it; {_MAKE_ROOM}"
        )
    return CheckpointError(f"{folder} was not written: {error}")
