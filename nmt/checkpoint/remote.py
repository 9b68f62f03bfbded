"""Run in an object store, with a local copy in the run directory.

The store is authoritative: a checkpoint exists once it is there. Its files are uploaded one by one,
bundle.json last: that commits it, and a folder without one is not a checkpoint. A download goes to
a directory whose name starts with a dot, each file is verified, and one rename publishes it.
Logs, dev translations and TensorBoard events are uploaded after each checkpoint and at the end of
the run, and so is the record of the last update, which is deleted when the run ends normally.
"""

import contextlib
import fcntl
import secrets
import shutil
from collections.abc import Collection, Iterator
from pathlib import Path

from nmt.checkpoint.format import (
    INFO,
    SCORE,
    CheckpointInfo,
    describe_file,
    folder_name,
    hint_from,
    is_folder_name,
    parse_info,
    update_of,
    verify_checkpoint,
)
from nmt.checkpoint.run_directory import (
    delete_checkpoint,
    highest_bleu,
    list_checkpoints,
    log_skipped,
)
from nmt.config.settings import expand_path
from nmt.errors import CheckpointError
from nmt.storage import ObjectStore, StoredObject, display_address

_NOT_UPLOADED = ("checkpoints", "ray", "ray.log", "lock")
"""Checkpoints are uploaded by `push`; Ray's logs and the lock of this host stay local."""
_LOCK = ".pull.lock"
"""Lock file of the local copy, held while a checkpoint is downloaded."""
_LAST_UPDATE = "pulse.json"
"""Last update of a run that has not ended normally (`nmt.training.run_log`)."""


class RemoteRun:
    """Run in an object store and its local copy.

    All methods raise StorageError if the store refuses or does not answer.
    """

    def __init__(self, store: ObjectStore, run_dir: Path) -> None:
        """Access a run.

        Args:
            store: folder of the run in the store.
            run_dir: run directory, the local copy.
        """
        self.store = store
        self._run_dir = run_dir
        self._uploaded: dict[str, tuple[int, int]] = {}
        """Size and modification time of each uploaded log file."""

    def names(self) -> list[str]:
        """List the names of the checkpoints in the store, oldest first."""
        found = self.store.list_objects("checkpoints")
        # A folder without bundle.json is an interrupted upload.
        names = {name.split("/")[1] for name in found if name.endswith(f"/{INFO}")}
        return sorted((name for name in names if is_folder_name(name)), key=update_of)

    def info(self, name: str) -> CheckpointInfo:
        """Read bundle.json of a checkpoint.

        Raises:
            CheckpointError: it is missing or corrupt.
        """
        return self._read_info(name)[0]

    def best(self) -> str | None:
        """Return the checkpoint with the highest dev BLEU (`highest_bleu`); None: no score."""
        infos = {}
        for name in self.names():
            try:
                infos[name] = self.info(name)
            except CheckpointError as error:
                log_skipped(str(error))
        return highest_bleu(infos)

    def newest_complete(self) -> Path | None:
        """Download the newest complete checkpoint; None: there is none."""
        for name in reversed(self.names()):
            try:
                return self.pull(name)
            except CheckpointError as error:
                log_skipped(str(error))
        return None

    def push(self, folder: Path) -> None:
        """Upload a checkpoint; an existing one of that name is replaced."""
        # An interrupted upload over existing files would leave a corrupt checkpoint.
        self._delete(folder.name)
        names = [path.relative_to(folder).as_posix() for path in folder.rglob("*")]
        files = [name for name in names if (folder / name).is_file() and name != INFO]
        for name in [*sorted(files), INFO]:
            self.store.upload(folder / name, f"checkpoints/{folder.name}/{name}")

    def pull(self, name: str) -> Path:
        """Download a checkpoint, unless the local copy is complete, and return its directory.

        Raises:
            CheckpointError: a file of it is missing or corrupt in the store, or the copy cannot be
                written.
        """
        info, text, score = self._read_info(name)
        folder = self._run_dir / "checkpoints" / name
        try:
            with self._lock():
                if not _is_copy(folder, text):
                    self._download(name, info, text, folder)
                # Even for an existing copy: a score may be uploaded after its checkpoint.
                if score is not None:
                    (folder / SCORE).write_bytes(score)
        except OSError as error:
            raise CheckpointError(f"{folder} was not written: {error}") from None
        return folder

    def delete_unpublished(self) -> None:
        """Delete local checkpoints that are not in the store: another host resumed without them."""
        published = set(self.names())
        for folder in list_checkpoints(self._run_dir):
            if folder.name not in published:
                delete_checkpoint(folder)

    def prune(self, keep_last: int, complete: str, pending: Collection[int] = ()) -> None:
        """Delete checkpoints in the store as `prune_checkpoints` does in a run directory.

        Interrupted uploads are deleted too.

        Args:
            keep_last: number of checkpoints to keep.
            complete: checkpoint known to be complete.
            pending: updates of checkpoints to keep because their score is pending.
        """
        found = {name.split("/")[1] for name in self.store.list_objects("checkpoints")}
        names = self.names()
        kept = {*names[-keep_last:], complete, *map(folder_name, pending)}
        # Scores are read from the store only if a checkpoint may be deleted.
        if len(names) > keep_last:
            kept.add(self.best() or complete)
        for name in sorted(found - kept):
            self._delete(name)

    def upload_logs(self) -> None:
        """Upload changed files of the run other than checkpoints, and late scores."""
        # After a restart nothing is known to be uploaded: compare modification times.
        stored = {} if self._uploaded else self._stored_logs()
        for path in sorted(self._run_dir.rglob("*")):
            name = path.relative_to(self._run_dir).as_posix()
            is_score = path.name == SCORE and path.parent.parent.name == "checkpoints"
            if not (_is_log(name) or is_score) or not path.is_file():
                continue
            stat = path.stat()
            state = (stat.st_size, stat.st_mtime_ns)
            if self._uploaded.get(name) == state:
                continue
            if name not in stored or not _is_newer(stored[name], path):
                self.store.upload(path, name)
            self._uploaded[name] = state
        if _LAST_UPDATE in self._uploaded and not (self._run_dir / _LAST_UPDATE).exists():
            self.store.delete([_LAST_UPDATE])

    def download_logs(self) -> None:
        """Download files other than checkpoints that are newer in the store.

        A command on this host may be training: files that it appends to stay in place.
        """
        found, record = self.store.list_objects(), self._run_dir / _LAST_UPDATE
        checkpoints = [each for name, each in found.items() if name.startswith("checkpoints/")]
        has_ended = _LAST_UPDATE not in found and record.exists()
        if has_ended and any(_is_newer(each, record) for each in checkpoints):
            # The local record is stale: the run was resumed on another host and ended there.
            record.unlink(missing_ok=True)
        for name, entry in found.items():
            path = self._run_dir / name
            if not _is_log(name) or (path.exists() and not _is_newer(entry, path)):
                continue
            path.parent.mkdir(parents=True, exist_ok=True)
            temp = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
            try:
                if self.store.download(name, temp) and not _begins_with(path, temp):
                    temp.replace(path)
            finally:
                temp.unlink(missing_ok=True)

    def _stored_logs(self) -> dict[str, StoredObject]:
        found = self.store.list_objects()
        return {name: entry for name, entry in found.items() if _is_log(name)}

    def _read_info(self, name: str) -> tuple[CheckpointInfo, bytes, bytes | None]:
        """Return the parsed bundle.json, its content, and the content of score.json."""
        text = self.store.read(f"checkpoints/{name}/{INFO}")
        score = self.store.read(f"checkpoints/{name}/{SCORE}")
        file = self.store.url(f"checkpoints/{name}/{INFO}")
        if text is None:
            raise CheckpointError(
                f"{file} is missing: the checkpoint is incomplete; {self._recovery_hint(name)}"
            )
        return parse_info(text, score, file, self._recovery_hint(name)), text, score

    @contextlib.contextmanager
    def _lock(self) -> Iterator[None]:
        """Hold the lock file: of the ranks on a host one downloads, the others verify."""
        self._run_dir.mkdir(parents=True, exist_ok=True)
        with (self._run_dir / _LOCK).open("wb") as file:
            # A file system without locks grants it to all.
            with contextlib.suppress(OSError):
                fcntl.flock(file, fcntl.LOCK_EX)
            yield

    def _download(self, name: str, info: CheckpointInfo, text: bytes, folder: Path) -> None:
        """Download and verify all files of a checkpoint and rename them to `folder`."""
        temp = folder.with_name(f".{name}.{secrets.token_hex(4)}.reading")
        try:
            for file, expected in info.files.items():
                (temp / file).parent.mkdir(parents=True, exist_ok=True)
                url = self.store.url(f"checkpoints/{name}/{file}")
                if not self.store.download(f"checkpoints/{name}/{file}", temp / file):
                    problem = "is missing"
                elif describe_file(temp / file) != expected:
                    problem = f"is corrupt: its SHA-256 does not match {INFO}"
                else:
                    continue
                raise CheckpointError(f"{url} {problem}; {self._recovery_hint(name)}")
            (temp / INFO).write_bytes(text)
            # A corrupt or stale local copy is replaced.
            with contextlib.suppress(FileNotFoundError):
                delete_checkpoint(folder)
            temp.rename(folder)
        finally:
            shutil.rmtree(temp, ignore_errors=True)

    def _recovery_hint(self, name: str) -> str:
        others = [other for other in self.names() if other != name]
        return hint_from([self.store.url(f"checkpoints/{other}") for other in others])

    def _delete(self, name: str) -> None:
        # bundle.json first: an interrupted deletion leaves no checkpoint.
        files = self.store.list_objects(f"checkpoints/{name}")
        self.store.delete(sorted(files, key=lambda file: not file.endswith(f"/{INFO}")))


def fetch_checkpoint(address: str, scratch: Path) -> Path:
    """Download the checkpoint at an address and return its directory.

    Args:
        address: address of a checkpoint, or of a run.
        scratch: directory for local copies of runs.

    Raises:
        CheckpointError: there is none, or it is corrupt.
    """
    head, mark, query = address.partition("?")
    parent, _, last = head.rstrip("/").rpartition("/")
    name = ""
    if is_folder_name(last) and parent.endswith("/checkpoints"):
        head, name = parent.removesuffix("/checkpoints"), last
    run = f"{head}{mark}{query}"
    remote = RemoteRun(ObjectStore(run), local_copy(run, scratch))
    if name:
        return remote.pull(name)
    names = remote.names()
    if not names:
        raise CheckpointError(
            f"{display_address(run)} has no checkpoint; name a run or one of its checkpoints"
        )
    return remote.pull(remote.best() or names[-1])


def local_copy(address: str, scratch: Path) -> Path:
    """Return the directory of the local copy of a run in an object store."""
    return Path(expand_path(str(scratch))).resolve() / display_address(address).replace("://", "/")


def _is_copy(folder: Path, text: bytes) -> bool:
    """Return True if the local checkpoint is complete and `text` is its bundle.json."""
    try:
        if (folder / INFO).read_bytes() != text:
            return False
        verify_checkpoint(folder)
    except (OSError, CheckpointError):
        return False
    return True


def _is_newer(found: StoredObject, path: Path) -> bool:
    """Return True if the stored file is newer than the local one; clocks may differ a little."""
    return found.written > path.stat().st_mtime


def _begins_with(path: Path, start: Path) -> bool:
    """Return True if a file exists and begins with the content of another one."""
    if not path.exists():
        return False
    with path.open("rb") as file, start.open("rb") as expected:
        while block := expected.read(1 << 20):
            if file.read(len(block)) != block:
                return False
    return True


def _is_log(name: str) -> bool:
    """Return True if a file of a run belongs to neither checkpoints nor Ray and is not hidden."""
    parts = name.split("/")
    is_hidden = any(part.startswith(".") for part in parts)
    return parts[0] not in _NOT_UPLOADED and not is_hidden and not name.endswith(".tmp")
