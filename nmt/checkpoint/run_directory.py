"""The checkpoints of a run: which there are, which one is taken, which ones are kept."""

import logging
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


def list_checkpoints(run_dir: Path) -> list[Path]:
    """Folders of a run's checkpoints, oldest first, good or not."""
    return checkpoint_folders(run_dir / "checkpoints")


def newest_complete(run_dir: Path, warn: Callable[[str], None] | None = None) -> Path | None:
    """The newest checkpoint whose files are all what was written.

    Args:
        warn: told why each one is passed over; None: the log is.
    """
    for folder in reversed(list_checkpoints(run_dir)):
        try:
            verify_checkpoint(folder)
        except CheckpointError as error:
            if warn is None:
                log.warning("passing over a checkpoint: %s", error)
            else:
                warn(str(error))
        else:
            return folder
    return None


def best_checkpoint(run_dir: Path) -> Path | None:
    """The checkpoint with the highest dev BLEU, of equal ones the oldest; None: no score is known.

    Of its files only bundle.json is checked; where that is damaged, the score is not known.
    """
    infos = {}
    for folder in list_checkpoints(run_dir):
        try:
            infos[folder] = read_info(folder)
        except CheckpointError as error:
            log.warning("passing over a checkpoint: %s", error)
    return highest_bleu(infos)


def highest_bleu(infos: Mapping[T, CheckpointInfo]) -> T | None:
    """The one with the highest dev BLEU, of equal ones the first; None: no score is known."""
    found, highest = None, float("-inf")
    for folder, info in infos.items():
        if info.bleu is not None and info.bleu > highest:
            found, highest = folder, info.bleu
    return found


def prune_checkpoints(
    run_dir: Path, keep_last: int, good: Path | None = None, pending: Collection[int] = ()
) -> list[Path]:
    """Delete all checkpoints but the newest `keep_last`, the best and the newest good one.

    Leftovers of interrupted writes go too. Returns the checkpoints that were deleted.

    Args:
        good: known to be good, such as one that was just written; None: all are looked at.
        pending: updates whose checkpoints are kept too, because their score is to come.
    """
    remove_leftovers(run_dir / "checkpoints")
    assert keep_last >= 1
    old = list_checkpoints(run_dir)[:-keep_last]
    if not old:
        return []
    spared = {best_checkpoint(run_dir), good or newest_complete(run_dir)}
    spared |= {run_dir / "checkpoints" / folder_name(update) for update in pending}
    deleted = [folder for folder in old if folder not in spared]
    for folder in deleted:
        shutil.rmtree(hide_checkpoint(folder), ignore_errors=True)
    return deleted


def find_checkpoint(folder: Path, prefer_best: bool) -> Path:
    """The bundle that a path means: itself, or one of the run that it is."""
    if (folder / "checkpoints").is_dir():
        found = (best_checkpoint(folder) if prefer_best else None) or newest_complete(folder)
        if found is None:
            state = "no whole checkpoint" if list_checkpoints(folder) else "no checkpoint yet"
            raise CheckpointError(f"{folder} has {state}; `nmt train` with its config writes one")
        return found
    if not folder.is_dir():
        raise CheckpointError(
            f"{folder}: there is no such folder; name a run or one of its checkpoints"
        )
    if not (folder / INFO).exists() and not folder.name.startswith("update-"):
        raise CheckpointError(
            f"{folder} is neither a run nor a checkpoint: it has no checkpoints/ and no {INFO}"
        )
    return folder


def remove_leftovers(parent: Path) -> None:
    """Remove what interrupted writes and deletions of checkpoints have left."""
    for path in parent.glob(".update-*"):
        if path.suffix in (".writing", ".deleting"):
            shutil.rmtree(path, ignore_errors=True)


def hide_checkpoint(folder: Path) -> Path:
    """Take a bundle's name away before it goes, so that no half-deleted one stands under it."""
    return folder.rename(folder.with_name(f".{folder.name}.{secrets.token_hex(4)}.deleting"))
