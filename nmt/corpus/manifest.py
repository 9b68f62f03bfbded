"""The manifest of a prepared folder: what stands in it, and what it was made from.

It is JSON and is written last: a folder that has one is complete.
"""

import hashlib
import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from nmt.errors import DataError

FORMAT = 1
"""Version of the folder's layout; raised when an older reader would misread it."""
MANIFEST = "manifest.json"


@dataclass(frozen=True)
class FileInfo:
    """A file of the prepared folder, or one that it was made from."""

    name: str
    """Path in the folder; of a raw file: path below corpus.root."""
    size: int
    """Bytes."""
    sha256: str
    lines: int = 0
    """Lines of a text file."""


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


@dataclass(frozen=True)
class CorpusInfo:
    """What became of one raw corpus: read = kept + the sum of dropped."""

    name: str
    raw: list[FileInfo]
    read: int
    kept: int
    dropped: dict[str, int]
    """Pairs by the rule that dropped them."""
    mended: dict[str, int]
    """Pairs kept, by the rule that mended them."""
    src_tokens: int
    tgt_tokens: int
    leaked: int
    """Pairs kept that also stand in the dev set or in a test set."""


@dataclass(frozen=True)
class Manifest:
    """What a prepared folder holds, and what it was made from."""

    format: int
    src: str
    """Source language."""
    tgt: str
    """Target language."""
    settings: dict[str, Any]
    """The settings that decided what stands in the folder."""
    cleaning_fingerprint: str
    tokenizer_fingerprint: str
    num_pieces: int
    """Size of the vocabulary; smaller than subword.vocab_size where there was too little text."""
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
        """Every file of the folder but the manifest itself."""
        return [*(shard.file for shard in self.shards), *self.files]

    def to_json(self) -> str:
        """As text, the same for the same manifest."""
        return json.dumps(asdict(self), indent=1, ensure_ascii=False) + "\n"

    @classmethod
    def from_json(cls, text: str, where: str) -> "Manifest":
        """Read `to_json`; DataError naming `where` if it is damaged or of another version."""
        try:
            tree = json.loads(text)
            if tree["format"] != FORMAT:
                raise DataError(
                    f"{where}: format {tree['format']}, but this nmt reads format {FORMAT}; "
                    f"run `nmt prepare` again into an empty folder"
                )
            tree["corpora"] = [
                CorpusInfo(**{**corpus, "raw": [FileInfo(**file) for file in corpus["raw"]]})
                for corpus in tree["corpora"]
            ]
            tree["shards"] = [
                ShardInfo(**{**shard, "file": FileInfo(**shard["file"])})
                for shard in tree["shards"]
            ]
            tree["files"] = [FileInfo(**file) for file in tree["files"]]
            return cls(**tree)
        except (ValueError, KeyError, TypeError, AttributeError):
            raise DataError(
                f"{where}: damaged, not the manifest that `nmt prepare` wrote; "
                f"remove the folder and run `nmt prepare` again"
            ) from None


def read_manifest(folder: Path) -> Manifest:
    """The manifest of a prepared folder; DataError if there is none, or it is damaged."""
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


def file_info(path: Path, name: str, lines: int = 0) -> FileInfo:
    """Size and digest of a file."""
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    return FileInfo(name, path.stat().st_size, digest, lines)
