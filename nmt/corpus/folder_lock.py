"""Lock of a prepared corpus: shared by runs that read it, exclusive for `nmt prepare --force`."""

import fcntl
import logging
import os
import shutil
from pathlib import Path
from typing import IO

from nmt.corpus.manifest import MANIFEST
from nmt.errors import DataError, summarise_names

log = logging.getLogger(__name__)

_ENTRIES = {MANIFEST, "tokenizer.json", "dev.src", "dev.tgt", "shards", "tests", "work"}
"""Content of a prepared corpus; hidden files are those of interrupted writes."""


def lock_shared(folder: Path) -> IO[bytes] | None:
    """Lock a complete prepared corpus for reading, until the returned file is closed.

    Returns None on file systems without locks. Waits while the folder is being replaced, which
    takes milliseconds.
    """
    path = folder / MANIFEST
    while True:
        try:
            file = path.open("rb")
            fcntl.flock(file, fcntl.LOCK_SH)
        except OSError:
            return None
        # The folder may have been replaced between opening and locking.
        if path.exists() and path.stat().st_ino == os.fstat(file.fileno()).st_ino:
            return file
        file.close()


def lock_alone(folder: Path) -> IO[bytes]:
    """Lock a complete prepared corpus for replacing it, until the returned file is closed.

    Raises:
        DataError: a run or another command reads it.
    """
    path = folder / MANIFEST
    file: IO[bytes]
    # NFS grants an exclusive lock only on a file that is open for writing.
    try:
        file = path.open("rb+")
    except OSError:
        file = path.open("rb")
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        file.close()
        raise DataError(
            f"{folder}: in use by a run or another command; wait for it to finish or stop it, "
            f"then run the same command again"
        ) from None
    except OSError:
        log.warning(
            "%s: the file system has no locks: replace it only while no run uses it", folder
        )
    return file


def check_replaceable(folder: Path) -> None:
    """Check that a prepared corpus can be replaced now.

    Raises:
        DataError: it is a mount point, holds files of others, or is in use.
    """
    if os.path.ismount(folder):
        raise DataError(
            f"{folder}: a mount point, which --force cannot replace; set corpus.prepared to a "
            "folder in it"
        )
    for each in (folder, sibling(folder, "old")):
        names = sorted(path.name for path in each.iterdir()) if each.is_dir() else []
        if others := [name for name in names if name not in _ENTRIES and name[0] != "."]:
            raise DataError(
                f"{each}: holds other files ({summarise_names(others)}), which --force would "
                "delete; move them, or set corpus.prepared to another folder"
            )
    lock_alone(folder).close()


def replace_folder(folder: Path, new: Path) -> None:
    """Replace a prepared corpus by a complete new folder, and remove the old one.

    Raises:
        DataError: a run or another command reads it, or it cannot be renamed; both folders stay as
            they are.
    """
    old = sibling(folder, "old")
    with lock_alone(folder):
        shutil.rmtree(old, ignore_errors=True)
        try:
            folder.rename(old)
        except OSError as error:
            raise DataError(
                f"{folder}: cannot be renamed to {old.name}: {error.strerror}; set corpus.prepared "
                "to another folder"
            ) from None
        new.rename(folder)
    shutil.rmtree(old, ignore_errors=True)


def new_folder(folder: Path) -> Path:
    """Return the folder beside a prepared corpus that will replace it."""
    return sibling(folder, "new")


def finish_replacing(folder: Path) -> None:
    """Repair an interruption of `replace_folder` between its two renames."""
    new, old = new_folder(folder), sibling(folder, "old")
    if not folder.exists() and (old / MANIFEST).exists() and (new / MANIFEST).exists():
        new.rename(folder)
        shutil.rmtree(old, ignore_errors=True)


def sibling(folder: Path, ending: str) -> Path:
    """Return a working folder beside a prepared corpus, hidden: no experiment has such a name."""
    return folder.with_name(f".{folder.name}.{ending}")
