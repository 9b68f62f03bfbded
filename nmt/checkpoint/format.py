"""Checkpoint files: layout and digests.

    <run>/checkpoints/update-00001000/
        bundle.json            format, update, dev BLEU; size and SHA-256 of every other file
        config.yaml            resolved experiment, text normalisation included
        tokenizer.json         subword vocabulary
        weights.safetensors    weights for translation: the moving average, if there is one
        training/              state for resuming: state.json, optimizer.safetensors, and the raw
                               weights.safetensors if the weights above are an average
        score.json             dev BLEU, if it was not known when the checkpoint was written

Nothing is pickled: tensors are safetensors (`nmt.checkpoint.tensor_files`), the rest is JSON and
YAML. A checkpoint is complete if bundle.json and every file that it lists are present and match
their digests; it is corrupt if one does not match.
"""

import hashlib
import json
import logging
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nmt.config.settings import Count, Number, parse_record
from nmt.errors import CheckpointError, summarise_names

if TYPE_CHECKING:
    from torch import Tensor

log = logging.getLogger(__name__)

FORMAT = 1
INFO = "bundle.json"
SCORE = "score.json"
CONFIG = "config.yaml"
TOKENIZER = "tokenizer.json"
WEIGHTS = "weights.safetensors"
STATE = "training/state.json"
OPTIMIZER = "training/optimizer.safetensors"
RAW_WEIGHTS = "training/weights.safetensors"
_ALL_FILES = {CONFIG, TOKENIZER, WEIGHTS, STATE, OPTIMIZER, RAW_WEIGHTS}


@dataclass(frozen=True)
class CheckpointState:
    """Training state for an exact resume."""

    update: int
    """Updates done."""
    weights: "dict[str, Tensor]"
    """The model's state_dict; a tied parameter may appear under each of its names."""
    average: "dict[str, Tensor] | None"
    """Moving average of the weights by the same names; None: no average is kept."""
    optimizer: "dict[str, Tensor]"
    """Tensors of the optimizer by unique name."""
    counters: dict[str, Any]
    """Early stopping, best BLEU, metrics: values that JSON round-trips (no tuples, text keys)."""


@dataclass(frozen=True)
class CheckpointFile:
    """Expected size and digest of a file."""

    num_bytes: Count
    sha256: str


@dataclass(frozen=True)
class CheckpointInfo:
    """Content of bundle.json."""

    update: Count
    """Updates done; for an average of checkpoints, those of the newest."""
    bleu: Number | None
    """Dev BLEU of these weights; None: not validated."""
    bleu_signature: str
    """sacreBLEU signature of that score."""
    averaged: tuple[str, ...]
    """Paths of the checkpoints whose mean these weights are; empty: not an average."""
    nmt_version: str
    """Version of nmt that wrote the checkpoint."""
    files: dict[str, CheckpointFile]
    """All other files by their path inside the checkpoint."""
    dev_loss: Number | None = None
    """Dev loss beside the dev BLEU; None: not known, as in checkpoints of earlier versions."""
    dev: str = ""
    """Digest of the run's dev set; scores of different dev sets are not compared. Empty: unknown,
    written by an earlier version."""


@dataclass(frozen=True)
class _Score:
    """Content of score.json."""

    of: str
    """Digest of the bundle.json that it belongs to."""
    bleu: Number
    bleu_signature: str
    dev_loss: Number | None = None


def read_info(folder: Path) -> CheckpointInfo:
    """Read bundle.json and score.json of a checkpoint; the other files are not verified.

    Raises:
        CheckpointError: bundle.json is missing, corrupt, or of another format.
    """
    file, score = folder / INFO, folder / SCORE
    hint = recovery_hint(folder)
    try:
        data = file.read_bytes()
    except (FileNotFoundError, NotADirectoryError):
        raise CheckpointError(f"{file} is missing: the checkpoint is incomplete; {hint}") from None
    except OSError as error:
        raise CheckpointError(f"{file} cannot be read: {error.strerror}; {hint}") from None
    return parse_info(data, score.read_bytes() if score.exists() else None, str(file), hint)


def parse_info(data: bytes, score: bytes | None, file: str, hint: str) -> CheckpointInfo:
    """Parse bundle.json, with the dev BLEU of score.json if it was written later.

    Args:
        data: content of bundle.json.
        score: content of score.json; None: there is none.
        file: name of bundle.json for error messages.
        hint: next step for the user if it is corrupt.

    Raises:
        CheckpointError: bundle.json is corrupt or of another format.
    """
    try:
        tree = json.loads(data)
    except (ValueError, RecursionError):
        raise CheckpointError(f"{file} is corrupt: not valid JSON; {hint}") from None
    # The format comes first: the digest of another format may be computed differently.
    found = tree.get("format") if isinstance(tree, dict) else None
    if isinstance(found, int) and found != FORMAT:
        raise CheckpointError(
            f"{file} has format {found}, but nmt {nmt_version()} reads format {FORMAT}; "
            f"use nmt {tree.get('nmt_version')}, which wrote it"
        )
    digest = tree.pop("sha256", None) if found is not None else None
    if digest is None or digest != digest_of_json(tree):
        raise CheckpointError(f"{file} is corrupt: its SHA-256 does not match; {hint}")
    del tree["format"]
    try:
        info = parse_record(CheckpointInfo, tree)
    except ValueError as error:
        raise CheckpointError(f"{file} was not written by nmt: {error}; {hint}") from None
    # Only known names: a path such as ../x must never be read or downloaded.
    if unknown := sorted(info.files.keys() - _ALL_FILES):
        raise CheckpointError(
            f"{file} was not written by nmt: unknown file {summarise_names(unknown)}"
        )
    return info if score is None else _add_score(info, digest, score, file)


def format_info(info: CheckpointInfo) -> str:
    """Return the content of bundle.json."""
    # Through JSON once: the digest is that of what a reader will parse.
    tree = json.loads(json.dumps({"format": FORMAT} | asdict(info)))
    return json.dumps(tree | {"sha256": digest_of_json(tree)}, indent=1) + "\n"


def format_score(info_text: str, bleu: float, signature: str, dev_loss: float | None = None) -> str:
    """Return the content of score.json.

    Args:
        info_text: content of bundle.json of the same checkpoint.
        bleu: dev BLEU.
        signature: sacreBLEU signature of the score.
        dev_loss: dev loss of the same validation.
    """
    tree = {"of": json.loads(info_text)["sha256"], "bleu": bleu, "bleu_signature": signature}
    tree["dev_loss"] = dev_loss
    return json.dumps(tree | {"sha256": digest_of_json(tree)}, indent=1) + "\n"


def _add_score(info: CheckpointInfo, digest: str, score: bytes, file: str) -> CheckpointInfo:
    """Return `info` with the score of score.json; a corrupt or stale one is ignored."""
    try:
        tree = json.loads(score)
        # A score of a replaced checkpoint has the digest of another bundle.json.
        is_intact = tree.pop("sha256") == digest_of_json(tree)
        found = parse_record(_Score, tree)
        if is_intact and found.of == digest:
            scored = replace(info, bleu=found.bleu, bleu_signature=found.bleu_signature)
            return replace(scored, dev_loss=found.dev_loss)
        problem = "it belongs to another checkpoint or is corrupt"
    except (ValueError, RecursionError, KeyError, TypeError, AttributeError):
        problem = "it is corrupt"
    log.warning("%s beside %s ignored: %s", SCORE, file, problem)
    return info


def verify_checkpoint(folder: Path) -> None:
    """Check that a checkpoint is complete.

    Raises:
        CheckpointError: a file is missing or corrupt; the message names it.
    """
    info = read_info(folder)
    for name in info.files:
        verify_file(folder, info, name)


def verify_file(folder: Path, info: CheckpointInfo, name: str) -> Path:
    """Check size and digest of one file of a checkpoint and return its path."""
    file, expected = folder / name, info.files.get(name)
    if expected is None:
        hint = recovery_hint(folder)
        raise CheckpointError(
            f"{folder / INFO} lists no {name}: the checkpoint is incomplete; {hint}"
        )
    try:
        num_bytes = file.stat().st_size
        # Size first: a truncated file is found without hashing it.
        if num_bytes != expected.num_bytes:
            problem = f"is corrupt: {num_bytes:,} bytes, expected {expected.num_bytes:,}"
        elif describe_file(file) != expected:
            problem = f"is corrupt: its SHA-256 does not match {INFO}"
        else:
            return file
    except FileNotFoundError:
        problem = "is missing"
    except OSError as error:
        problem = f"cannot be read: {error.strerror}"
    raise CheckpointError(f"{file} {problem}; {recovery_hint(folder)}")


def read_text(folder: Path, info: CheckpointInfo, name: str) -> str:
    """Verify and read a text file of a checkpoint."""
    file = verify_file(folder, info, name)
    try:
        return file.read_text(encoding="utf-8")
    except UnicodeDecodeError:
        raise CheckpointError(
            f"{file} was not written by nmt: not UTF-8; {recovery_hint(folder)}"
        ) from None


def digest_of_json(tree: Mapping[str, Any]) -> str:
    """Return the SHA-256 of a JSON object, independent of white space and key order."""
    text = json.dumps(tree, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()


def describe_file(file: Path) -> CheckpointFile:
    """Return size and SHA-256 of a file."""
    with file.open("rb") as stream:
        digest = hashlib.file_digest(stream, "sha256").hexdigest()
    return CheckpointFile(file.stat().st_size, digest)


def folder_name(update: int) -> str:
    """Return the name of the directory of the checkpoint after `update` updates."""
    return f"update-{update:08d}"


def checkpoint_folders(parent: Path) -> list[Path]:
    """List the checkpoint directories in `parent`, oldest first; none is verified."""
    folders = [path for path in parent.glob("update-*") if is_folder_name(path.name)]
    # By number: names have nine digits from update 100,000,000 on.
    return sorted(folders, key=lambda path: update_of(path.name))


def is_folder_name(name: str) -> bool:
    """Return True if `name` is that of a checkpoint directory."""
    return re.fullmatch(r"update-\d{8,}", name) is not None


def update_of(name: str) -> int:
    """Return the number of updates in the name of a checkpoint directory."""
    return int(name.removeprefix("update-"))


def nmt_version() -> str:
    """Return the installed version of nmt."""
    try:
        return metadata.version("nmt")
    except metadata.PackageNotFoundError:
        return "from a checkout"


def recovery_hint(folder: Path) -> str:
    """Return the next step for the user of a corrupt checkpoint."""
    others = [path for path in checkpoint_folders(folder.parent) if path.name != folder.name]
    return hint_from([str(path) for path in others])


def hint_from(others: Sequence[str]) -> str:
    """Return the next step if these are the other checkpoints of the run, oldest first."""
    if not others:
        return "restore it from a copy, or train again"
    return f"use another checkpoint, such as {others[-1]}"
