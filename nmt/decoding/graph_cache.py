"""Cache of the ONNX graphs of checkpoints: in the checkpoint, or in the user's cache.

The name of an entry has a digest of weights, settings, graph code and package versions, so that it
is never stale. This module finds entries without torch; `nmt.decoding.onnx_export` writes them.
"""

import hashlib
import os
from importlib import metadata
from pathlib import Path

import nmt.model
from nmt.checkpoint.format import CONFIG, TOKENIZER, WEIGHTS, nmt_version
from nmt.checkpoint.load import Checkpoint
from nmt.config.decoding import Precision
from nmt.decoding.exported_model import DECODER, ENCODER


def find_graphs(checkpoint: Checkpoint, precision: Precision) -> Path | None:
    """Return the directory with the graphs of a checkpoint; None: they have to be built."""
    name = entry_name(checkpoint, precision)
    found = (folder / name for folder in cache_folders(checkpoint))
    return next(filter(has_graphs, found), None)


def has_graphs(folder: Path) -> bool:
    """Return True if both graphs are in a directory."""
    return all((folder / name).is_file() for name in (ENCODER, DECODER))


def entry_name(checkpoint: Checkpoint, precision: Precision) -> str:
    """Return the name of the directory of graphs: precision, and everything they depend on."""
    digest = hashlib.sha256()
    for file in sorted(Path(nmt.model.__path__[0]).glob("*.py")):
        digest.update(file.read_bytes())
    names = [checkpoint.info.files[name].sha256 for name in (WEIGHTS, CONFIG, TOKENIZER)]
    digest.update(repr((names, package_versions())).encode())
    return f"{precision}-{digest.hexdigest()[:16]}"


def cache_folders(checkpoint: Checkpoint) -> list[Path]:
    """Return the directories that may have the graphs, in the order in which they are tried."""
    base = os.environ.get("XDG_CACHE_HOME")
    user_cache = Path(base) if base else Path.home() / ".cache"
    return [checkpoint.path / "onnx", user_cache / "nmt" / "onnx"]


def package_versions() -> dict[str, str]:
    """Return the versions of the packages that write graphs; those that are installed."""
    versions = {"nmt": nmt_version()}
    for name in ("onnx", "onnxruntime", "torch", "numpy"):
        try:
            versions[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return versions
