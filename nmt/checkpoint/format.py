"""What a bundle is, and whether it is still what was written.

    <run>/checkpoints/update-00001000/
        bundle.json            format, update, dev BLEU; bytes and SHA-256 of the other files
        config.yaml            the resolved experiment, text normalisation included
        tokenizer.json         the subword vocabulary
        weights.safetensors    what translates: the moving average, where there is one
        training/              what going on needs: state.json, optimizer.safetensors, and the raw
                               weights.safetensors where those above are an average
        score.json             dev BLEU, where it was not yet known when the bundle was written

Nothing is pickled: tensors, JSON, YAML.
"""

import hashlib
import json
import logging
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from importlib import metadata
from pathlib import Path
from typing import Any

from safetensors import safe_open
from torch import Tensor

from nmt.errors import CheckpointError

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
class TrainingState:
    """Everything that training needs to go on as if it had never stopped."""

    update: int
    """Updates done."""
    weights: dict[str, Tensor]
    """The model's state_dict; tied parameters may stand under each of their names."""
    average: dict[str, Tensor] | None
    """Moving average of the weights, by the same names; None: there is none."""
    optimizer: dict[str, Tensor]
    """Tensors of the optimizer, each under a name of its own."""
    counters: dict[str, Any]
    """Early stopping, best BLEU, metrics: what JSON keeps as it is (no tuples, keys are text)."""


@dataclass(frozen=True)
class CheckpointFile:
    """What a file must be to be the one that was written."""

    num_bytes: int
    sha256: str


@dataclass(frozen=True)
class CheckpointInfo:
    """What bundle.json says."""

    update: int
    """Updates that the weights have seen; of an average of bundles the newest one's."""
    bleu: float | None
    """Dev BLEU of these weights, where they were validated."""
    bleu_signature: str
    """sacreBLEU's signature of that score."""
    averaged: tuple[str, ...]
    """Names of the bundles that these weights are the mean of; empty: of none."""
    nmt_version: str
    """Version of nmt that wrote it."""
    files: dict[str, CheckpointFile]
    """All other files, by their path inside the bundle."""


def read_info(folder: Path) -> CheckpointInfo:
    """What bundle.json says, of a bundle whose other files nobody has looked at.

    Raises:
        BundleError: it is missing, damaged, or of another format.
    """
    file = folder / INFO
    try:
        data = file.read_bytes()
    except (FileNotFoundError, NotADirectoryError):
        raise CheckpointError(
            f"{file} is missing: this is no whole checkpoint; {rescue(folder)}"
        ) from None
    except OSError as error:
        raise CheckpointError(
            f"{file} cannot be read: {error.strerror}; {rescue(folder)}"
        ) from None
    score = folder / SCORE
    late = score.read_bytes() if score.exists() else None
    return parse_info(data, late, str(file), rescue(folder))


def parse_info(data: bytes, score: bytes | None, file: str, mend: str) -> CheckpointInfo:
    """What bundle.json says, with the score that came later, if one did.

    Args:
        file: what bundle.json is called; mend: what to do where it is damaged.

    Raises:
        BundleError: it is damaged, or of another format.
    """
    try:
        tree = json.loads(data)
    except (ValueError, RecursionError):
        raise CheckpointError(f"{file} is damaged: it is not JSON; {mend}") from None
    found = tree.get("format") if isinstance(tree, dict) else None
    if isinstance(found, int) and found != FORMAT:
        writer, ours = tree.get("nmt_version"), version()
        raise CheckpointError(
            f"{file} has format {found}, but nmt {ours} reads format {FORMAT}; "
            f"use nmt {writer}, which wrote it"
        )
    digest = tree.pop("sha256", None) if found is not None else None
    if digest is None or digest != own_digest(tree):
        raise CheckpointError(f"{file} is damaged: it is not what was written; {mend}")
    del tree["format"]
    try:
        files = {name: CheckpointFile(**of_file) for name, of_file in tree.pop("files").items()}
        info = CheckpointInfo(averaged=tuple(tree.pop("averaged")), files=files, **tree)
    except (AttributeError, KeyError, TypeError):
        raise CheckpointError(f"{file} is none of ours: keys are missing or unknown") from None
    if not files.keys() <= _ALL_FILES:
        raise CheckpointError(
            f"{file} is none of ours: it lists {some(sorted(files.keys() - _ALL_FILES))}"
        )
    return info if score is None else _with_score(info, digest, score, file)


def score_text(info_text: str, bleu: float, signature: str) -> str:
    """What score.json says of the bundle whose bundle.json has that text."""
    tree = {"of": json.loads(info_text)["sha256"], "bleu": bleu, "bleu_signature": signature}
    return json.dumps(tree | {"sha256": own_digest(tree)}, indent=1) + "\n"


def _with_score(info: CheckpointInfo, digest: str, score: bytes, file: str) -> CheckpointInfo:
    try:
        tree = json.loads(score)
        if tree.pop("sha256") == own_digest(tree) and tree["of"] == digest:
            return replace(info, bleu=tree["bleu"], bleu_signature=tree["bleu_signature"])
        problem = "it is of another bundle, or damaged"
    except (ValueError, RecursionError, KeyError, TypeError, AttributeError):
        problem = "it is damaged"
    log.warning("a score is not used: %s beside %s: %s", SCORE, file, problem)
    return info


def verify(folder: Path) -> None:
    """Check that every file of a bundle is what was written.

    Raises:
        BundleError: one is not; the message names it.
    """
    info = read_info(folder)
    for name in info.files:
        check(folder, info, name)


def check(folder: Path, info: CheckpointInfo, name: str) -> Path:
    """The path of a file that is what was written."""
    file, expected = folder / name, info.files.get(name)
    if expected is None:
        raise CheckpointError(f"{folder / INFO} lists no {name}: this is no whole checkpoint")
    try:
        num_bytes = file.stat().st_size
        if num_bytes != expected.num_bytes:
            raise CheckpointError(
                f"{file} is damaged: {num_bytes:,} bytes, but {expected.num_bytes:,} were written; "
                f"{rescue(folder)}"
            )
        if describe(file) != expected:
            raise CheckpointError(
                f"{file} is damaged: its SHA-256 is not that of what was written; {rescue(folder)}"
            )
    except FileNotFoundError:
        raise CheckpointError(f"{file} is missing; {rescue(folder)}") from None
    except OSError as error:
        raise CheckpointError(
            f"{file} cannot be read: {error.strerror}; {rescue(folder)}"
        ) from None
    return file


def read_text(folder: Path, info: CheckpointInfo, name: str) -> str:
    """A text file of a bundle, checked."""
    return check(folder, info, name).read_text(encoding="utf-8")


def read_tensors(folder: Path, info: CheckpointInfo, name: str) -> dict[str, Tensor]:
    """The tensors of a file of a bundle, checked, tied ones under each of their names."""
    with safe_open(check(folder, info, name), framework="pt") as file:
        tied = json.loads(file.metadata()["tied"])
        # Cloned: safetensors maps the file, and `keep` may delete it under the map on another host.
        tensors = {key: file.get_tensor(key).clone() for key in file.keys()}  # noqa: SIM118
    return tensors | {key: tensors[stored] for key, stored in tied.items()}


def own_digest(tree: Mapping[str, Any]) -> str:
    """SHA-256 of what bundle.json says, however it is laid out."""
    text = json.dumps(tree, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()


def describe(file: Path) -> CheckpointFile:
    """Size and digest of a file."""
    with file.open("rb") as stream:
        return CheckpointFile(
            file.stat().st_size, hashlib.file_digest(stream, "sha256").hexdigest()
        )


def name_of(update: int) -> str:
    """The folder of a checkpoint after that many updates."""
    return f"update-{update:08d}"


def bundles_in(parent: Path) -> list[Path]:
    """Folders of checkpoints in a folder, oldest first, good or not."""
    found = [path for path in parent.glob("update-*") if re.fullmatch(r"update-\d{8,}", path.name)]
    return sorted(found, key=lambda path: int(path.name.removeprefix("update-")))


def some(names: Sequence[str]) -> str:
    """The first of several names, and how many more there are."""
    rest = f" and {len(names) - 1} more" if len(names) > 1 else ""
    return f"{names[0]}{rest}"


def version() -> str:
    """The version of nmt that runs."""
    try:
        return metadata.version("nmt")
    except metadata.PackageNotFoundError:
        return "from a checkout"


def rescue(folder: Path) -> str:
    """What to do about a damaged bundle."""
    others = [path for path in bundles_in(folder.parent) if path.name != folder.name]
    if not others:
        return "restore it from a copy, or train again"
    return f"use another checkpoint, such as {others[-1]}"
