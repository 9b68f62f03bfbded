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
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from importlib import metadata
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from torch import Tensor

from nmt.errors import CheckpointError
from nmt.model.quantise import MIN_WEIGHTS, Precision, dequantise_rows, quantise_rows

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

_SCALE = ".int8_scale"
"""Ends the name under which the scales of a matrix are stored."""


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
            f"{file} is missing: this is no whole checkpoint; {recovery_hint(folder)}"
        ) from None
    except OSError as error:
        raise CheckpointError(
            f"{file} cannot be read: {error.strerror}; {recovery_hint(folder)}"
        ) from None
    score = folder / SCORE
    late = score.read_bytes() if score.exists() else None
    return parse_info(data, late, str(file), recovery_hint(folder))


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
        writer, ours = tree.get("nmt_version"), nmt_version()
        raise CheckpointError(
            f"{file} has format {found}, but nmt {ours} reads format {FORMAT}; "
            f"use nmt {writer}, which wrote it"
        )
    digest = tree.pop("sha256", None) if found is not None else None
    if digest is None or digest != digest_of_json(tree):
        raise CheckpointError(f"{file} is damaged: it is not what was written; {mend}")
    del tree["format"]
    try:
        files = {name: CheckpointFile(**of_file) for name, of_file in tree.pop("files").items()}
        info = CheckpointInfo(averaged=tuple(tree.pop("averaged")), files=files, **tree)
    except (AttributeError, KeyError, TypeError):
        raise CheckpointError(f"{file} is none of ours: keys are missing or unknown") from None
    if not files.keys() <= _ALL_FILES:
        raise CheckpointError(
            f"{file} is none of ours: it lists {summarise_names(sorted(files.keys() - _ALL_FILES))}"
        )
    return info if score is None else _with_score(info, digest, score, file)


def format_score(info_text: str, bleu: float, signature: str) -> str:
    """What score.json says of the bundle whose bundle.json has that text."""
    tree = {"of": json.loads(info_text)["sha256"], "bleu": bleu, "bleu_signature": signature}
    return json.dumps(tree | {"sha256": digest_of_json(tree)}, indent=1) + "\n"


def _with_score(info: CheckpointInfo, digest: str, score: bytes, file: str) -> CheckpointInfo:
    try:
        tree = json.loads(score)
        if tree.pop("sha256") == digest_of_json(tree) and tree["of"] == digest:
            return replace(info, bleu=tree["bleu"], bleu_signature=tree["bleu_signature"])
        problem = "it is of another bundle, or damaged"
    except (ValueError, RecursionError, KeyError, TypeError, AttributeError):
        problem = "it is damaged"
    log.warning("a score is not used: %s beside %s: %s", SCORE, file, problem)
    return info


def verify_checkpoint(folder: Path) -> None:
    """Check that every file of a bundle is what was written.

    Raises:
        BundleError: one is not; the message names it.
    """
    info = read_info(folder)
    for name in info.files:
        verify_file(folder, info, name)


def verify_file(folder: Path, info: CheckpointInfo, name: str) -> Path:
    """The path of a file that is what was written."""
    file, expected = folder / name, info.files.get(name)
    if expected is None:
        raise CheckpointError(f"{folder / INFO} lists no {name}: this is no whole checkpoint")
    try:
        num_bytes = file.stat().st_size
        if num_bytes != expected.num_bytes:
            raise CheckpointError(
                f"{file} is damaged: {num_bytes:,} bytes, but {expected.num_bytes:,} were written; "
                f"{recovery_hint(folder)}"
            )
        if describe_file(file) != expected:
            raise CheckpointError(
                f"{file} is damaged: its SHA-256 is not that of what was written; "
                f"{recovery_hint(folder)}"
            )
    except FileNotFoundError:
        raise CheckpointError(f"{file} is missing; {recovery_hint(folder)}") from None
    except OSError as error:
        raise CheckpointError(
            f"{file} cannot be read: {error.strerror}; {recovery_hint(folder)}"
        ) from None
    return file


def read_text(folder: Path, info: CheckpointInfo, name: str) -> str:
    """A text file of a bundle, checked."""
    return verify_file(folder, info, name).read_text(encoding="utf-8")


def read_tensors(folder: Path, info: CheckpointInfo, name: str) -> dict[str, Tensor]:
    """The tensors of a file of a bundle, checked, tied ones under each of their names."""
    with safe_open(verify_file(folder, info, name), framework="pt") as file:
        tied = json.loads(file.metadata()["tied"])
        # Cloned: safetensors maps the file, and `keep` may delete it under the map on another host.
        tensors = {key: file.get_tensor(key).clone() for key in file.keys()}  # noqa: SIM118
    return tensors | {key: tensors[stored] for key, stored in tied.items()}


def pack_weights(weights: Mapping[str, Tensor], precision: Precision) -> dict[str, Tensor]:
    """What to store of fp32 weights; those that are tied stay tied."""
    packed = dict(weights)
    if precision == "fp32":
        return packed
    large = {
        name: weight
        for name, weight in weights.items()
        if weight.dim() == 2 and weight.numel() >= MIN_WEIGHTS
    }
    if precision == "bf16":
        return packed | _each_once(large, lambda weight: (weight.bfloat16(),), [""])
    return packed | _each_once(large, quantise_rows, ["", _SCALE])


def unpack_weights(stored: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], Precision]:
    """The weights in fp32, and what they were stored in."""
    kinds = {tensor.dtype for tensor in stored.values()}
    precision: Precision = "int8" if torch.int8 in kinds else "fp32"
    if torch.bfloat16 in kinds:
        precision = "bf16"
    if precision == "fp32":
        return dict(stored), precision
    found: dict[int, Tensor] = {}
    weights = {}
    for name, tensor in stored.items():
        if name.endswith(_SCALE):
            continue
        place = tensor.data_ptr()
        if place not in found:
            is_whole = tensor.dtype == torch.int8
            found[place] = (
                dequantise_rows(tensor, stored[name + _SCALE]) if is_whole else tensor.float()
            )
        weights[name] = found[place]
    return weights, precision


def _each_once(
    weights: Mapping[str, Tensor],
    convert: Callable[[Tensor], tuple[Tensor, ...]],
    endings: list[str],
) -> dict[str, Tensor]:
    """Converted weights under their names with each ending; one memory for those that had one."""
    made: dict[int, tuple[Tensor, ...]] = {}
    converted: dict[str, Tensor] = {}
    for name, weight in weights.items():
        parts = made.setdefault(weight.data_ptr(), ()) or convert(weight)
        made[weight.data_ptr()] = parts
        converted |= {name + ending: part for ending, part in zip(endings, parts, strict=True)}
    return converted


def digest_of_json(tree: Mapping[str, Any]) -> str:
    """SHA-256 of what bundle.json says, however it is laid out."""
    text = json.dumps(tree, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()


def describe_file(file: Path) -> CheckpointFile:
    """Size and digest of a file."""
    with file.open("rb") as stream:
        return CheckpointFile(
            file.stat().st_size, hashlib.file_digest(stream, "sha256").hexdigest()
        )


def folder_name(update: int) -> str:
    """The folder of a checkpoint after that many updates."""
    return f"update-{update:08d}"


def checkpoint_folders(parent: Path) -> list[Path]:
    """Folders of checkpoints in a folder, oldest first, good or not."""
    found = [path for path in parent.glob("update-*") if re.fullmatch(r"update-\d{8,}", path.name)]
    return sorted(found, key=lambda path: int(path.name.removeprefix("update-")))


def summarise_names(names: Sequence[str]) -> str:
    """The first of several names, and how many more there are."""
    rest = f" and {len(names) - 1} more" if len(names) > 1 else ""
    return f"{names[0]}{rest}"


def nmt_version() -> str:
    """The version of nmt that runs."""
    try:
        return metadata.version("nmt")
    except metadata.PackageNotFoundError:
        return "from a checkout"


def recovery_hint(folder: Path) -> str:
    """What to do about a damaged bundle."""
    others = [path for path in checkpoint_folders(folder.parent) if path.name != folder.name]
    if not others:
        return "restore it from a copy, or train again"
    return f"use another checkpoint, such as {others[-1]}"
