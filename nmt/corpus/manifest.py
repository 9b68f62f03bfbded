"""The manifest of a prepared corpus: its contents, and the files and settings it was made from.

It is JSON and written last: a folder that has one is complete.
"""

import hashlib
import json
import os
import re
import stat
import tempfile
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from nmt.config.settings import Count, parse_record
from nmt.corpus.io import try_lock
from nmt.errors import DataError

FORMAT = 1
"""Version of the folder's layout; increased when an older reader would misread it."""
MANIFEST = "manifest.json"

# Names of fields in the file where they differ from those of the classes.
_FILE_KEYS = {"normalised": "mended"}


@dataclass(frozen=True)
class FileInfo:
    """A file of the prepared corpus, or one that it was made from."""

    name: str
    """Path in the folder; for a raw file, path below corpus.root."""
    size: Count
    """Bytes."""
    sha256: str
    lines: Count = 0
    """Lines of a text file."""

    @classmethod
    def from_path(cls, path: Path, name: str, lines: int = 0) -> "FileInfo":
        """Read a file and return its size and digest under `name`."""
        with path.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
        return cls(name, path.stat().st_size, digest, lines)


@dataclass(frozen=True)
class ShardInfo:
    """One Arrow file."""

    file: FileInfo
    corpus: str
    pairs: Count
    src_tokens: Count
    tgt_tokens: Count
    longest: Count
    """Tokens of the longer side of its longest pair."""


@dataclass(frozen=True)
class CorpusInfo:
    """Counts of one raw corpus; read = kept + dropped."""

    name: str
    raw: list[FileInfo]
    read: Count
    kept: Count
    dropped: dict[str, Count]
    """Pairs by the rule that dropped them."""
    normalised: dict[str, Count]
    """Pairs kept, by the rule that changed their text."""
    src_tokens: Count
    tgt_tokens: Count
    leaked: Count
    """Pairs kept that are also in the dev set or in a test set."""


@dataclass(frozen=True)
class CorpusDigest:
    """Identity of the pairs of one corpus."""

    name: str
    pairs: Count
    num_shards: Count
    shards: str
    """SHA-256 of the digests of its shards."""
    raw: str
    """SHA-256 of the digests of its raw files."""


@dataclass(frozen=True)
class DataDigests:
    """Identity of a prepared corpus, as a checkpoint stores it."""

    corpora: list[CorpusDigest]
    dev: str
    """SHA-256 of the digests of the dev set."""

    def describe_change(self, now: "DataDigests") -> str:
        """Describe the first change of the training data; empty: the pairs are the same."""
        old, new = ({each.name: each for each in data.corpora} for data in (self, now))
        if list(old) != list(new):
            return f"corpora {', '.join(old)}, now {', '.join(new)}"
        for name, was in old.items():
            found = new[name]
            if was.pairs != found.pairs:
                return f"{name} had {was.pairs:,} pairs, now {found.pairs:,}"
            # The same raw files in shards of another size have the same pairs in the same order.
            is_cut_again = was.raw == found.raw and was.num_shards != found.num_shards
            if was.shards != found.shards and not is_cut_again:
                return f"{name} has as many pairs as before, but others or in another order"
        return ""


@dataclass(frozen=True)
class Manifest:
    """Contents of a prepared corpus, and the files and settings it was made from."""

    format: int
    src: str
    """Source language."""
    tgt: str
    """Target language."""
    settings: dict[str, Any]
    """The settings that decide the contents, by dotted key."""
    cleaning_fingerprint: str
    tokenizer_fingerprint: str
    num_pieces: Count
    """Size of the vocabulary; below subword.vocab_size where there was too little text."""
    pairs: Count
    src_tokens: Count
    tgt_tokens: Count
    longest: Count
    """Tokens of the longer side of the longest pair."""
    corpora: list[CorpusInfo]
    shards: list[ShardInfo]
    files: list[FileInfo]
    """The vocabulary, and the dev and test sets as raw text."""

    @property
    def all_files(self) -> list[FileInfo]:
        """Every file of the folder except the manifest itself."""
        return [*(shard.file for shard in self.shards), *self.files]

    def data_digests(self) -> DataDigests:
        """Return what identifies the pairs and the dev set."""
        corpora = []
        for corpus in self.corpora:
            shards = [shard.file for shard in self.shards if shard.corpus == corpus.name]
            digests = _digest_of(shards), _digest_of(corpus.raw)
            corpora.append(CorpusDigest(corpus.name, corpus.kept, len(shards), *digests))
        dev = [info for info in self.files if info.name in ("dev.src", "dev.tgt")]
        return DataDigests(corpora, _digest_of(dev))

    def to_json(self) -> str:
        """Return the text of the file, the same for equal manifests."""
        tree = asdict(self)
        for number, corpus in enumerate(tree["corpora"]):
            renamed = {_FILE_KEYS.get(key, key): value for key, value in corpus.items()}
            tree["corpora"][number] = renamed
        # Fixed key order and no time stamps: equal corpora have equal manifests.
        return json.dumps(tree, indent=1, ensure_ascii=False) + "\n"

    @classmethod
    def from_json(cls, text: str, where: str) -> "Manifest":
        """Read the text of `to_json`.

        Raises:
            DataError: it is damaged or of another format; the message names `where`.
        """
        try:
            tree = json.loads(text)
            if "starts" in tree:
                raise DataError(
                    f"{where}: manifest of a run, not of a prepared corpus; name the folder that "
                    "`nmt prepare` wrote"
                )
            # Before anything else: other formats may have other keys.
            if tree["format"] != FORMAT:
                raise DataError(
                    f"{where}: format {tree['format']}, but this nmt reads format {FORMAT}; "
                    f"run `nmt prepare` again into an empty folder"
                )
            for corpus in tree["corpora"]:
                corpus |= {name: corpus.pop(key) for name, key in _FILE_KEYS.items()}
            manifest = parse_record(cls, tree)
        # Any structure other than the one written is damage; a traceback would not help the user.
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
            raise unusable(where, "damaged, not the manifest that `nmt prepare` wrote") from None
        if problem := _find_contradiction(manifest):
            raise unusable(where, f"damaged: {problem}")
        return manifest


def _digest_of(files: Sequence[FileInfo]) -> str:
    return hashlib.sha256("".join(info.sha256 for info in files).encode()).hexdigest()


def _find_contradiction(manifest: Manifest) -> str:
    """Return the first numbers or names of a manifest that contradict others; empty: none."""
    for info in manifest.all_files:
        path = PurePosixPath(info.name)
        # A folder from elsewhere must not make training read other files of this machine.
        is_inside = not path.is_absolute() and ".." not in path.parts
        if not is_inside or not re.fullmatch("[0-9a-f]{64}", info.sha256):
            return f"{info.name!r} is not a file of the folder with a SHA-256"
    shards, names = manifest.shards, [info.name for info in manifest.all_files]
    of_corpus = {
        corpus.name: [shard for shard in shards if shard.corpus == corpus.name]
        for corpus in manifest.corpora
    }
    lines = {info.name: info.lines for info in manifest.files}
    totals = [
        ("files", len(names), len(set(names))),
        ("corpora", len(manifest.corpora), len(of_corpus)),
        ("shards of its corpora", len(shards), sum(map(len, of_corpus.values()))),
        ("longest", manifest.longest, max((shard.longest for shard in shards), default=0)),
        ("lines of dev.tgt", lines.get("dev.tgt"), lines.get("dev.src")),
    ]
    for key in ("pairs", "src_tokens", "tgt_tokens"):
        totals.append((key, getattr(manifest, key), sum(getattr(each, key) for each in shards)))
        totals += [
            (
                f"{key} of {corpus.name}",
                getattr(corpus, "kept" if key == "pairs" else key),
                sum(getattr(shard, key) for shard in of_corpus[corpus.name]),
            )
            for corpus in manifest.corpora
        ]
    totals += [
        (f"read of {each.name}", each.read, each.kept + sum(each.dropped.values()))
        for each in manifest.corpora
    ]
    # A pair takes two offsets of 4 bytes and a line number of 8 at least.
    large = [shard for shard in shards if 16 * shard.pairs > shard.file.size]
    totals += [("size of " + each.file.name, each.file.size, 16 * each.pairs) for each in large]
    for name, found, expected in totals:
        if found != expected:
            return f"{name} is {found}, but {expected} by the other numbers"
    return ""


def unusable(path: str | Path, problem: str) -> DataError:
    """Return the error for a prepared corpus that has to be prepared again."""
    return DataError(f"{path}: {problem}; remove the folder and run `nmt prepare` again")


def read_manifest(folder: Path) -> Manifest:
    """Read the manifest of a prepared corpus.

    Raises:
        DataError: it is missing, damaged or of another format.
    """
    path = folder / MANIFEST
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise DataError(
            f"{folder}: no prepared corpus here ({MANIFEST} is missing); "
            f"run `nmt prepare` with this experiment first"
        ) from None
    except (OSError, UnicodeDecodeError) as error:
        problem = error.strerror if isinstance(error, OSError) else "not UTF-8"
        raise DataError(f"{path}: cannot be read: {problem}") from None
    return Manifest.from_json(text, str(path))


def verify_files(folder: Path, files: Sequence[FileInfo], *, again: bool = False) -> None:
    """Compare the digests of files with the manifest, several files at once.

    A file that was verified on this host is not read again while its size and times are the same.

    Args:
        folder: of the prepared corpus.
        files: files to verify.
        again: read all files.

    Raises:
        DataError: a file is missing or damaged.
    """
    with _lock_verified() as verified:
        todo = []
        for info in files:
            path = folder / info.name
            # Before reading: a change meanwhile gives another marker.
            marker = _marker(path, info)
            if again or verified is None or not (verified / marker).exists():
                todo.append((path, info, marker))
        # Hashing releases the interpreter lock.
        with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
            found = pool.map(lambda each: FileInfo.from_path(each[0], each[1].name), todo)
            for (path, info, marker), actual in zip(todo, found, strict=True):
                if actual.sha256 != info.sha256:
                    raise unusable(path, "damaged: its SHA-256 differs from that in the manifest")
                if verified is not None:
                    (verified / marker).touch()


def _marker(path: Path, info: FileInfo) -> str:
    """Return a name that changes with the file and with its expected digest."""
    try:
        found = path.stat()
    except OSError:
        raise unusable(path, "missing") from None
    times = found.st_mtime_ns, found.st_ctime_ns
    key = f"{path.resolve()} {found.st_ino} {found.st_size} {times} {info.sha256}"
    return hashlib.sha256(key.encode(errors="surrogateescape")).hexdigest()


@contextmanager
def _lock_verified() -> Iterator[Path | None]:
    """Lock and return the folder of markers of verified files on this host; None: unusable."""
    folder = Path(tempfile.gettempdir(), f"nmt-verified-{os.getuid()}")
    try:
        folder.mkdir(mode=0o700, exist_ok=True)
        found = folder.lstat()
        # Another user must not be able to mark a file as verified.
        is_private = found.st_uid == os.getuid() and not found.st_mode & 0o022
        if not (stat.S_ISDIR(found.st_mode) and is_private):
            raise PermissionError
        lock = (folder / "lock").open("w")
    except OSError:
        yield None
        return
    with lock:
        # The workers of a host start together: one of them reads, the others wait.
        while not try_lock(lock, folder):
            time.sleep(0.1)
        yield folder
