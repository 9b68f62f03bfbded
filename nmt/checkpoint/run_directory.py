"""Checkpoints of a run: listing, selecting and pruning them."""

import logging
import math
import secrets
import shutil
from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import TypeVar

from nmt.checkpoint.format import (
    INFO,
    CheckpointInfo,
    checkpoint_folders,
    folder_name,
    read_info,
    verify_checkpoint,
)
from nmt.errors import CheckpointError

log = logging.getLogger(__name__)

T = TypeVar("T")


def log_skipped(problem: str) -> None:
    """Log the reason why a checkpoint is not used."""
    log.warning("skipped a checkpoint: %s", problem)


def list_checkpoints(run_dir: Path) -> list[Path]:
    """List the checkpoint directories of a run, oldest first; none is verified."""
    return checkpoint_folders(run_dir / "checkpoints")


def newest_complete(run_dir: Path, on_skip: Callable[[str], None] = log_skipped) -> Path | None:
    """Return the newest complete checkpoint of a run; None: there is none.

    Args:
        run_dir: run directory.
        on_skip: callback for the error message of each newer checkpoint that is not complete.
    """
    for folder in reversed(list_checkpoints(run_dir)):
        try:
            verify_checkpoint(folder)
        except CheckpointError as error:
            on_skip(str(error))
        else:
            return folder
    return None


def best_checkpoint(run_dir: Path) -> Path | None:
    """Return the checkpoint with the highest dev BLEU (`highest_bleu`).

    Only bundle.json is verified. None: no checkpoint has a score.
    """
    infos = {}
    for folder in list_checkpoints(run_dir):
        try:
            # Only bundle.json: hashing the weights of every checkpoint would take minutes.
            infos[folder] = read_info(folder)
        except CheckpointError as error:
            log_skipped(str(error))
    return highest_bleu(infos)


def highest_bleu(infos: Mapping[T, CheckpointInfo]) -> T | None:
    """Return the key with the highest dev BLEU; None: no score.

    Only scores of the dev set of the newest checkpoint count. Of equal ones the lowest dev loss
    wins, then the first.

    Args:
        infos: checkpoints by key, oldest first.
    """
    # Empty: an earlier version stored no digest; its score counts for any dev set.
    current = ["", *(info.dev for info in infos.values() if info.dev)][-1]
    scores = {
        key: dev_score_key(info.bleu, info.dev_loss)
        for key, info in infos.items()
        if info.bleu is not None and info.dev in ("", current)
    }
    return max(scores, key=scores.__getitem__, default=None)


def dev_score_key(bleu: float, dev_loss: float | None) -> tuple[float, float]:
    """Return a sort key of validations, the best last: of equal BLEU the lower loss is better."""
    return bleu, -math.inf if dev_loss is None else -dev_loss


def prune_checkpoints(
    run_dir: Path, keep_last: int, complete: Path | None = None, pending: Collection[int] = ()
) -> list[Path]:
    """Delete all checkpoints but the newest `keep_last`, the best and the newest complete one.

    Leftovers of interrupted writes are deleted too.

    Args:
        run_dir: run directory.
        keep_last: number of checkpoints to keep, 1 or more.
        complete: checkpoint known to be complete, such as the one just written; None: search.
        pending: updates of checkpoints to keep because their score is pending.

    Returns:
        The deleted checkpoints.
    """
    remove_leftovers(run_dir / "checkpoints")
    assert keep_last >= 1
    old = list_checkpoints(run_dir)[:-keep_last]
    # The search below hashes whole checkpoints: only if one may be deleted.
    if not old:
        return []
    # If the newest ones are corrupt, a run can only resume from the newest complete one.
    kept = {best_checkpoint(run_dir), complete or newest_complete(run_dir)}
    kept |= {run_dir / "checkpoints" / folder_name(update) for update in pending}
    deleted = [folder for folder in old if folder not in kept]
    for folder in deleted:
        delete_checkpoint(folder)
    return deleted


def find_checkpoint(path: Path, prefer_best: bool) -> Path:
    """Resolve a path to a checkpoint directory.

    Args:
        path: checkpoint, or run directory.
        prefer_best: choose a run's best checkpoint if there is one, else its newest complete one.

    Raises:
        CheckpointError: the path is neither, or the run has no complete checkpoint.
    """
    if (path / "checkpoints").is_dir():
        found = (best_checkpoint(path) if prefer_best else None) or newest_complete(path)
        if found is None:
            state = "no complete checkpoint" if list_checkpoints(path) else "no checkpoint yet"
            raise CheckpointError(f"{path} has {state}: run `nmt train` with its experiment file")
        return found
    if not path.is_dir():
        raise CheckpointError(f"{path}: no such directory; name a run or one of its checkpoints")
    # An incomplete checkpoint keeps its name: the reader then reports the missing bundle.json.
    if not (path / INFO).exists() and not path.name.startswith("update-"):
        if any(path.glob("*.onnx")):
            raise CheckpointError(
                f"{path} is an exported ONNX model, which has no weights to train from: name the "
                "run or the checkpoint that it was exported from"
            )
        raise CheckpointError(
            f"{path} is neither a run nor a checkpoint: it has no checkpoints/ and no {INFO}"
        )
    return path


def remove_leftovers(parent: Path) -> None:
    """Delete what interrupted writes and deletions left in a directory of checkpoints."""
    for path in parent.glob(".update-*"):
        # Other hidden names were not written by nmt.
        if path.suffix in (".writing", ".deleting"):
            shutil.rmtree(path, ignore_errors=True)


def hide_checkpoint(folder: Path) -> Path:
    """Rename a checkpoint before it is deleted or replaced and return its new path.

    An interrupted deletion then leaves no incomplete checkpoint under the original name.
    """
    return folder.rename(folder.with_name(f".{folder.name}.{secrets.token_hex(4)}.deleting"))


def delete_checkpoint(folder: Path) -> None:
    """Delete a checkpoint; its name disappears first."""
    shutil.rmtree(hide_checkpoint(folder), ignore_errors=True)
