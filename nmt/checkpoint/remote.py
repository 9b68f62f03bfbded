"""A run in an object store, and the copy of it that is worked on here.

The store is the truth: a checkpoint counts when it is there. It goes up file by file, bundle.json
last: that commits it, and a folder without one is no checkpoint. It comes down into a folder that
starts with a dot, each file is held against its digest, and one rename puts it among those here.
Logs, translations of the dev set and TensorBoard events go up after each checkpoint and at the end,
and so does the last update made, which goes from there when the run ends by itself.
"""

import contextlib
import logging
import secrets
import shutil
from collections.abc import Callable, Collection
from pathlib import Path

from nmt.checkpoint.format import (
    INFO,
    SCORE,
    CheckpointInfo,
    checkpoint_folders,
    describe_file,
    folder_name,
    parse_info,
    verify_checkpoint,
)
from nmt.checkpoint.run_directory import hide_checkpoint, highest_bleu
from nmt.errors import CheckpointError
from nmt.storage import ObjectStore, StoredObject, display_address

log = logging.getLogger(__name__)

_NOT_MIRRORED = ("checkpoints", "ray", "ray.log")
"""What has its own way up, and what Ray says."""
_PULSE = "pulse.json"
"""The last update made, of a run that has not ended by itself (`nmt.training.run_log`)."""


class RemoteRun:
    """A run's folder in a store, with its copy here.

    All methods raise StorageError where the store does not answer or refuses.
    """

    def __init__(self, store: ObjectStore, run_dir: Path) -> None:
        self.store = store
        self._run_dir = run_dir
        self._sent: dict[str, tuple[int, int]] = {}

    def names(self) -> list[str]:
        """Names of the checkpoints that are whole there, oldest first."""
        found = self.store.list_objects("checkpoints")
        names = {name.split("/")[1] for name in found if name.endswith(f"/{INFO}")}
        return sorted((name for name in names if _is_name(name)), key=_number)

    def info(self, name: str) -> CheckpointInfo:
        """What a checkpoint's bundle.json says.

        Raises:
            BundleError: it is missing or damaged.
        """
        return self._read(name)[0]

    def best(self) -> str | None:
        """The checkpoint with the highest dev BLEU, of equal ones the oldest."""
        infos = {}
        for name in self.names():
            try:
                infos[name] = self.info(name)
            except CheckpointError as error:
                log.warning("passing over a checkpoint: %s", error)
        return highest_bleu(infos)

    def newest_complete(self, warn: Callable[[str], None] | None = None) -> Path | None:
        """The newest checkpoint there that is whole, here.

        Args:
            warn: told why each one is passed over; None: the log is.
        """
        for name in reversed(self.names()):
            try:
                return self.pull(name)
            except CheckpointError as error:
                if warn is None:
                    log.warning("passing over a checkpoint: %s", error)
                else:
                    warn(str(error))
        return None

    def push(self, folder: Path) -> None:
        """Put a checkpoint of the run there, instead of one of that name."""
        self._delete(folder.name)
        names = [path.relative_to(folder).as_posix() for path in folder.rglob("*")]
        files = [name for name in names if (folder / name).is_file() and name != INFO]
        for name in [*sorted(files), INFO]:
            self.store.upload(folder / name, f"checkpoints/{folder.name}/{name}")

    def pull(self, name: str) -> Path:
        """A checkpoint of the store, here; one that is here and whole is not read again.

        Raises:
            BundleError: a file of it is missing or damaged there.
        """
        info, text, score = self._read(name)
        folder = self._run_dir / "checkpoints" / name
        if not _is_whole(folder, text):
            self._download(name, info, text, folder)
        if score is not None:
            (folder / SCORE).write_bytes(score)
        return folder

    def delete_unpublished(self) -> None:
        """Remove the checkpoints here that are not in the store: another host went on without."""
        known = set(self.names())
        for folder in checkpoint_folders(self._run_dir / "checkpoints"):
            if folder.name not in known:
                shutil.rmtree(hide_checkpoint(folder), ignore_errors=True)

    def prune(self, keep_last: int, good: str, pending: Collection[int] = ()) -> None:
        """As `run_directory.keep`, in the store; interrupted uploads are removed too."""
        found = {name.split("/")[1] for name in self.store.list_objects("checkpoints")}
        names = self.names()
        spared = {*names[-keep_last:], good, *map(folder_name, pending)}
        if len(names) > keep_last:
            spared.add(self.best() or good)
        for name in sorted(found - spared):
            self._delete(name)

    def upload_logs(self) -> None:
        """Bring what has changed beside the checkpoints to the store, and late scores."""
        there = {} if self._sent else self._beside()
        for path in sorted(self._run_dir.rglob("*")):
            name = path.relative_to(self._run_dir).as_posix()
            is_score = path.name == SCORE and path.parent.parent.name == "checkpoints"
            if not (_is_mirrored(name) or is_score) or not path.is_file():
                continue
            stat = path.stat()
            state = (stat.st_size, stat.st_mtime_ns)
            if self._sent.get(name) == state:
                continue
            if name not in there or not _is_newer(there[name], path):
                self.store.upload(path, name)
            self._sent[name] = state
        if _PULSE in self._sent and not (self._run_dir / _PULSE).exists():
            self.store.delete([_PULSE])

    def download_logs(self) -> None:
        """Bring what stands beside the checkpoints here, where the store has something newer."""
        beside = self._beside()
        if _PULSE not in beside and self.names():
            # What is here tells of a loss after which the run has gone on, and ended, elsewhere.
            (self._run_dir / _PULSE).unlink(missing_ok=True)
        for name, found in beside.items():
            path = self._run_dir / name
            if path.exists() and not _is_newer(found, path):
                continue
            path.parent.mkdir(parents=True, exist_ok=True)
            temp = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
            try:
                if self.store.download(name, temp):
                    temp.replace(path)
            finally:
                temp.unlink(missing_ok=True)

    def _beside(self) -> dict[str, StoredObject]:
        return {
            name: found for name, found in self.store.list_objects().items() if _is_mirrored(name)
        }

    def _read(self, name: str) -> tuple[CheckpointInfo, bytes, bytes | None]:
        text = self.store.read(f"checkpoints/{name}/{INFO}")
        score = self.store.read(f"checkpoints/{name}/{SCORE}")
        file = self.store.url(f"checkpoints/{name}/{INFO}")
        if text is None:
            raise CheckpointError(
                f"{file} is missing: this is no whole checkpoint; {self._mend(name)}"
            )
        return parse_info(text, score, file, self._mend(name)), text, score

    def _download(self, name: str, info: CheckpointInfo, text: bytes, folder: Path) -> None:
        temp = folder.with_name(f".{name}.{secrets.token_hex(4)}.reading")
        try:
            for file, expected in info.files.items():
                (temp / file).parent.mkdir(parents=True, exist_ok=True)
                url = self.store.url(f"checkpoints/{name}/{file}")
                if not self.store.download(f"checkpoints/{name}/{file}", temp / file):
                    raise CheckpointError(f"{url} is missing; {self._mend(name)}")
                if describe_file(temp / file) != expected:
                    raise CheckpointError(
                        f"{url} is damaged: its SHA-256 is not that of what was written; "
                        f"{self._mend(name)}"
                    )
            (temp / INFO).write_bytes(text)
            with contextlib.suppress(FileNotFoundError):
                shutil.rmtree(hide_checkpoint(folder), ignore_errors=True)
            try:
                temp.rename(folder)
            except OSError:
                # Another worker of this host was quicker.
                if not _is_whole(folder, text):
                    raise
        except OSError as error:
            raise CheckpointError(f"{folder} was not written: {error}") from None
        finally:
            shutil.rmtree(temp, ignore_errors=True)

    def _mend(self, name: str) -> str:
        others = [other for other in self.names() if other != name]
        if not others:
            return "restore it from a copy, or train again"
        return f"use another checkpoint, such as {self.store.url(f'checkpoints/{others[-1]}')}"

    def _delete(self, name: str) -> None:
        below = f"checkpoints/{name}"
        files = sorted(
            self.store.list_objects(below), key=lambda file: not file.endswith(f"/{INFO}")
        )
        self.store.delete(files)


def fetch_checkpoint(address: str, scratch: Path, prefer_best: bool = True) -> Path:
    """The checkpoint that an address means, here: itself, or a run's best one, else its newest.

    Raises:
        BundleError: there is none, or it is damaged.
    """
    head, mark, query = address.partition("?")
    above, _, last = head.rstrip("/").rpartition("/")
    if _is_name(last) and above.endswith("/checkpoints"):
        head, name = above.removesuffix("/checkpoints"), last
    else:
        name = ""
    run = f"{head}{mark}{query}"
    remote = RemoteRun(ObjectStore(run), local_copy(run, scratch))
    if name:
        return remote.pull(name)
    names = remote.names()
    if not names:
        raise CheckpointError(
            f"{display_address(run)} has no checkpoint; name a run or one of its checkpoints"
        )
    best = remote.best() if prefer_best else None
    return remote.pull(best or names[-1])


def local_copy(address: str, scratch: Path) -> Path:
    """The folder here that holds the copy of a run in a store."""
    return scratch.expanduser().resolve() / display_address(address).replace("://", "/")


def _is_whole(folder: Path, text: bytes) -> bool:
    """Whether the bundle here is the one whose bundle.json that is."""
    try:
        if (folder / INFO).read_bytes() != text:
            return False
        verify_checkpoint(folder)
    except (OSError, CheckpointError):
        return False
    return True


def _is_newer(found: StoredObject, path: Path) -> bool:
    """Whether the store's file was written after ours; its clock may be a little off."""
    return found.written > path.stat().st_mtime


def _is_mirrored(name: str) -> bool:
    parts = name.split("/")
    is_hidden = any(part.startswith(".") for part in parts)
    return parts[0] not in _NOT_MIRRORED and not is_hidden and not name.endswith(".tmp")


def _is_name(name: str) -> bool:
    return name.startswith("update-") and name[7:].isdecimal()


def _number(name: str) -> int:
    return int(name.removeprefix("update-"))
