"""Atomic writing of checkpoints.

A checkpoint is written under a name that starts with a dot, every file is synced to the disk, and
one rename publishes it. A checkpoint under its own name is therefore complete, whenever the machine
stops. A run has one writer, rank 0, so a directory whose name starts with a dot is a leftover.
"""

import errno
import json
import os
import secrets
import shutil
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor

from nmt.checkpoint.format import (
    CONFIG,
    INFO,
    OPTIMIZER,
    RAW_WEIGHTS,
    SCORE,
    STATE,
    TOKENIZER,
    WEIGHTS,
    CheckpointInfo,
    CheckpointState,
    describe_file,
    folder_name,
    format_info,
    format_score,
    nmt_version,
)
from nmt.checkpoint.run_directory import hide_checkpoint, remove_leftovers
from nmt.config.experiment import Experiment
from nmt.config.files import dump
from nmt.errors import CheckpointError

_FREE_SPACE = "free some space, or keep fewer checkpoints (training.keep_last)"


def save_checkpoint(
    run_dir: Path,
    experiment: Experiment,
    tokenizer_json: str,
    state: CheckpointState,
    bleu: float | None = None,
    bleu_signature: str = "",
    dev_loss: float | None = None,
) -> Path:
    """Write the checkpoint of an update; an existing one of the same update is replaced.

    Args:
        run_dir: run directory.
        experiment: resolved experiment.
        tokenizer_json: subword vocabulary as JSON text.
        state: state to write.
        bleu: dev BLEU of the weights for translation; None: not validated.
        bleu_signature: sacreBLEU signature of that score.
        dev_loss: dev loss of the same validation.

    Returns:
        The checkpoint directory, <run_dir>/checkpoints/update-...

    Raises:
        CheckpointError: the disk is full or not writable; an existing checkpoint is unchanged.
    """
    folder = run_dir / "checkpoints" / folder_name(state.update)
    remove_leftovers(folder.parent)
    data = state.counters.get("data") or {}
    info = CheckpointInfo(
        state.update, bleu, bleu_signature, (), nmt_version(), {}, dev_loss, data.get("dev", "")
    )
    weights = _weights_for_translation(state)
    return write_checkpoint(folder, experiment, tokenizer_json, weights, info, state)


def write_checkpoint(
    folder: Path,
    experiment: Experiment,
    tokenizer_json: str,
    weights: Mapping[str, Tensor],
    info: CheckpointInfo,
    state: CheckpointState | None,
) -> Path:
    """Write a checkpoint to a temporary directory, sync it, and rename it to `folder`.

    Args:
        folder: checkpoint directory; an existing one is replaced.
        experiment: resolved experiment.
        tokenizer_json: subword vocabulary as JSON text.
        weights: weights for translation.
        info: content of bundle.json; its `files` are replaced by those that are written.
        state: state for resuming; None: the checkpoint is for translation only.
    """
    texts = {CONFIG: dump(experiment), TOKENIZER: tokenizer_json}
    tensors = {WEIGHTS: weights}
    if state is not None:
        texts[STATE] = json.dumps({"update": state.update, "counters": state.counters}, indent=1)
        tensors[OPTIMIZER] = state.optimizer
        if state.average is not None:
            tensors[RAW_WEIGHTS] = state.weights
    parts = {name: _split_tied(group) for name, group in tensors.items()}
    # 100 kB for bundle.json and the headers of the tensor files.
    needed = 100_000 + sum(len(text.encode()) for text in texts.values())
    needed += sum(tensor.nbytes for stored, _ in parts.values() for tensor in stored.values())
    # A rename is atomic only within a file system: write beside the target.
    temp = folder.with_name(f".{folder.name}.{secrets.token_hex(4)}.writing")
    try:
        _make_directory(folder.parent)
        check_space(folder, needed)
        (temp / "training" if state is not None else temp).mkdir(parents=True)
        for name, text in texts.items():
            # No translation of line ends: the digest is that of the bytes.
            (temp / name).write_text(text, encoding="utf-8", newline="")
        for name, (stored, tied) in parts.items():
            save_file(stored, temp / name, metadata={"tied": json.dumps(tied)})
            # safetensors writes with mode 0600; the umask decides, as for the other files.
            (temp / name).chmod((temp / CONFIG).stat().st_mode & 0o777)
        files = {name: describe_file(temp / name) for name in sorted([*texts, *tensors])}
        text = format_info(replace(info, files=files))
        (temp / INFO).write_text(text, encoding="utf-8", newline="")
        # Contents before the name: after a power cut the name implies complete files.
        for path in [*temp.rglob("*"), temp]:
            _sync(path)
        # A directory cannot be renamed onto one that is not empty.
        replaced = hide_checkpoint(folder) if folder.exists() else None
        temp.rename(folder)
        _sync(folder.parent)
    except (OSError, SafetensorError) as error:
        raise _write_error(folder, needed, error) from None
    finally:
        shutil.rmtree(temp, ignore_errors=True)
    if replaced is not None:
        shutil.rmtree(replaced, ignore_errors=True)
    return folder


def write_score(folder: Path, bleu: float, signature: str, dev_loss: float | None = None) -> None:
    """Write the scores of an existing checkpoint to score.json.

    Raises:
        CheckpointError: it cannot be written.
    """
    temp = folder / f".{SCORE}"
    try:
        # Bound to bundle.json by its digest: a rewritten checkpoint makes the score stale.
        info = (folder / INFO).read_text(encoding="utf-8")
        text = format_score(info, bleu, signature, dev_loss)
        temp.write_text(text, encoding="utf-8")
        _sync(temp)
        temp.replace(folder / SCORE)
    except OSError as error:
        temp.unlink(missing_ok=True)
        raise CheckpointError(f"{folder / SCORE} was not written: {error.strerror}") from None


def storage_key(tensor: Tensor) -> object:
    """Return a key that is equal for two tensors that are the same memory.

    An empty tensor has no memory: its key equals no other.
    """
    if not tensor.numel():
        return id(tensor)
    return (tensor.device, tensor.data_ptr(), tensor.dtype, tensor.shape, tensor.stride())


def _weights_for_translation(state: CheckpointState) -> dict[str, Tensor]:
    """Return the average, under every name that the weights have; without one, the weights."""
    if state.average is None:
        return state.weights
    assert state.average.keys() <= state.weights.keys()
    # Buffers and tied names are not in the average: take them from the weights.
    weights = state.weights | state.average
    _, tied = _split_tied(state.weights)
    return weights | {name: weights[stored] for name, stored in tied.items()}


def _split_tied(tensors: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Split tensors into those to store, and other names of the same memory -> stored name."""
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


def _make_directory(folder: Path) -> None:
    """Create a directory and its parents, and sync their names to the disk."""
    missing = [path for path in (folder, *folder.parents) if not path.exists()]
    folder.mkdir(parents=True, exist_ok=True)
    for path in missing:
        _sync(path.parent)


def _sync(path: Path) -> None:
    """Sync a file or a directory to the disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    except OSError as error:
        # Some network file systems cannot sync directories; there a rename is durable on return.
        if not (path.is_dir() and error.errno in (errno.EINVAL, errno.ENOTSUP)):
            raise
    finally:
        os.close(handle)


def check_space(folder: Path, needed: int) -> None:
    """Raise CheckpointError unless `needed` bytes are free for a checkpoint."""
    free = shutil.disk_usage(folder.parent).free
    if free < needed:
        raise CheckpointError(
            f"{folder} was not written: it needs {needed / 1e6:,.1f} MB, {free / 1e6:,.1f} MB are "
            f"free; {_FREE_SPACE}"
        )


def _write_error(folder: Path, needed: int, error: Exception) -> CheckpointError:
    is_full = getattr(error, "errno", None) in (errno.ENOSPC, errno.EDQUOT)
    # safetensors wraps the error of the system in its own, without errno.
    if is_full or "No space left" in str(error):
        return CheckpointError(
            f"{folder} was not written: the disk is full; it needs {needed / 1e6:,.1f} MB: "
            f"{_FREE_SPACE}"
        )
    return CheckpointError(f"{folder} was not written: {getattr(error, 'strerror', None) or error}")
