"""The manifest of a prepared corpus: its contents, and the files and settings it was made from.

It is JSON and written last: a folder that has one is complete.
"""

import hashlib
import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

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
    size: int
    """Bytes."""
    sha256: str
    lines: int = 0
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
    pairs: int
    src_tokens: int
    tgt_tokens: int
    longest: int
    """Tokens of the longer side of its longest pair."""

    @classmethod
    def from_tree(cls, tree: dict[str, Any]) -> "ShardInfo":
        """Build it from a JSON object."""
        return cls(**{**tree, "file": FileInfo(**tree["file"])})


@dataclass(frozen=True)
class CorpusInfo:
    """Counts of one raw corpus; read = kept + dropped."""

    name: str
    raw: list[FileInfo]
    read: int
    kept: int
    dropped: dict[str, int]
    """Pairs by the rule that dropped them."""
    normalised: dict[str, int]
    """Pairs kept, by the rule that changed their text."""
    src_tokens: int
    tgt_tokens: int
    leaked: int
    """Pairs kept that are also in the dev set or in a test set."""


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
    num_pieces: int
    """Size of the vocabulary; below subword.vocab_size where there was too little text."""
    pairs: int
    src_tokens: int
    tgt_tokens: int
    longest: int
    """Tokens of the longer side of the longest pair."""
    corpora: list[CorpusInfo]
    shards: list[ShardInfo]
    files: list[FileInfo]
    """The vocabulary, and the dev and test sets as raw text."""

    @property
    def all_files(self) -> list[FileInfo]:
        """Every file of the folder except the manifest itself."""
        return [*(shard.file for shard in self.shards), *self.files]

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
            # Before anything else: other formats may have other keys.
            if tree["format"] != FORMAT:
                raise DataError(
                    f"{where}: format {tree['format']}, but this nmt reads format {FORMAT}; "
                    f"run `nmt prepare` again into an empty folder"
                )
            for corpus in tree["corpora"]:
                corpus |= {name: corpus.pop(key) for name, key in _FILE_KEYS.items()}
                corpus["raw"] = [FileInfo(**file) for file in corpus["raw"]]
            tree["corpora"] = [CorpusInfo(**corpus) for corpus in tree["corpora"]]
            tree["shards"] = [ShardInfo.from_tree(shard) for shard in tree["shards"]]
            tree["files"] = [FileInfo(**file) for file in tree["files"]]
            return cls(**tree)
        # Any structure other than the one written is damage; a traceback would not help the user.
        except (ValueError, KeyError, TypeError, AttributeError):
            raise unusable(where, "damaged, not the manifest that `nmt prepare` wrote") from None


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
        raise DataError(f"{path}: cannot be read: {error}") from None
    return Manifest.from_json(text, str(path))
