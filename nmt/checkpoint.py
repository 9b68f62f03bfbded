"""Bundles: checkpoint directories that translate, go on training, and are refused when damaged.

    <run>/checkpoints/update-00001000/
        bundle.json            format, update, dev BLEU; bytes and SHA-256 of the other files
        config.yaml            the resolved experiment, text normalisation included
        tokenizer.json         the subword vocabulary
        weights.safetensors    what translates: the moving average, where there is one
        training/              what going on needs: state.json, optimizer.safetensors, and the raw
                               weights.safetensors where those above are an average

A bundle is written beside its place under a name that starts with a dot, every file is brought to
the disk, and one rename puts it there: under its own name it is whole, whenever the machine stops.
A run has one writer, rank 0; what starts with a dot is what a writer before it left unfinished.
Nothing is pickled: tensors, JSON, YAML.
"""

import errno
import hashlib
import json
import logging
import os
import re
import secrets
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from nmt.config import files as config
from nmt.config.experiment import Experiment
from nmt.corpus.subword import Subword
from nmt.errors import BundleError, ConfigError, DataError
from nmt.model import seq2seq
from nmt.model.seq2seq import Seq2Seq

log = logging.getLogger(__name__)

FORMAT = 1
INFO = "bundle.json"
CONFIG = "config.yaml"
TOKENIZER = "tokenizer.json"
WEIGHTS = "weights.safetensors"
STATE = "training/state.json"
OPTIMIZER = "training/optimizer.safetensors"
RAW_WEIGHTS = "training/weights.safetensors"
_ALL_FILES = {CONFIG, TOKENIZER, WEIGHTS, STATE, OPTIMIZER, RAW_WEIGHTS}
_MAKE_ROOM = "make room, or keep fewer checkpoints (training.keep_last)"


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
class FileInfo:
    """What a file must be to be the one that was written."""

    num_bytes: int
    sha256: str


@dataclass(frozen=True)
class BundleInfo:
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
    files: dict[str, FileInfo]
    """All other files, by their path inside the bundle."""


@dataclass(frozen=True)
class Bundle:
    """A trained model with all that it needs to turn text into text."""

    path: Path
    experiment: Experiment
    subword: Subword
    weights: dict[str, Tensor]
    info: BundleInfo

    def model(self) -> Seq2Seq:
        """The network with its weights, on the CPU, ready to translate (dropout off)."""
        model = seq2seq.build(self.experiment.model, self.subword.num_pieces)
        load_weights(model, self.weights, self.path / WEIGHTS)
        return model.eval()


def load_weights(model: nn.Module, weights: Mapping[str, Tensor], where: Path) -> None:
    """Copy weights into a model, bit for bit; what the model ties may stand under any of its names.

    Raises:
        BundleError: a name or a shape is not the model's; the message names the file `where`.
    """
    ours = model.state_dict()
    given = dict(weights)
    present = {ours[name].data_ptr(): given[name] for name in given if name in ours}
    for name, tensor in ours.items():
        if name not in given and tensor.data_ptr() in present:
            given[name] = present[tensor.data_ptr()]
    hint = "the config or the tokenizer beside it is not the one it was trained with"
    if lacking := sorted(ours.keys() - given.keys()):
        raise BundleError(f"{where} has no {_some(lacking)}, but the model does; {hint}")
    if unknown := sorted(given.keys() - ours.keys()):
        raise BundleError(f"{where} has {_some(unknown)}, but the model does not; {hint}")
    for name, tensor in ours.items():
        if tensor.shape != given[name].shape:
            found, expected = list(given[name].shape), list(tensor.shape)
            raise BundleError(f"{where}: {name} is {found}, but the model's is {expected}; {hint}")
    model.load_state_dict(given)


def save(
    run_dir: Path,
    experiment: Experiment,
    tokenizer_json: str,
    state: TrainingState,
    bleu: float | None = None,
    bleu_signature: str = "",
) -> Path:
    """Write the checkpoint of an update and return its folder, <run_dir>/checkpoints/update-...

    One that stands there already is replaced. Leftovers of interrupted writes are removed first.

    Raises:
        BundleError: the disk is full or cannot be written; what stood there before still does.
    """
    folder = run_dir / "checkpoints" / f"update-{state.update:08d}"
    _sweep(folder.parent)
    info = BundleInfo(state.update, bleu, bleu_signature, (), _version(), {})
    return _write(folder, experiment, tokenizer_json, _translating(state), info, state)


def load(folder: Path) -> Bundle:
    """Read what translates from a bundle, or from a run's best bundle, else its newest good one.

    Raises:
        BundleError: there is none, or a file of it is missing, damaged or of another version.
    """
    folder = _find(folder, prefer_best=True)
    info = read_info(folder)
    try:
        experiment = config.parse(Experiment, _read_text(folder, info, CONFIG), CONFIG)
        subword = Subword.from_json(_read_text(folder, info, TOKENIZER))
    except (ConfigError, DataError) as error:
        versions = f"nmt {info.nmt_version} wrote it, this is nmt {_version()}"
        raise BundleError(f"{folder}/{error}; {versions}: use the one that wrote it") from None
    return Bundle(folder, experiment, subword, _read_tensors(folder, info, WEIGHTS), info)


def load_training_state(folder: Path) -> TrainingState:
    """Read what training goes on from, in a bundle or in a run's newest good one; on the CPU.

    Raises:
        BundleError: there is none, it only translates, or a file of it is missing or damaged.
    """
    folder = _find(folder, prefer_best=False)
    info = read_info(folder)
    if STATE not in info.files:
        raise BundleError(
            f"{folder} only translates: it has no {STATE}; go on from a checkpoint of a run"
        )
    stored = json.loads(_read_text(folder, info, STATE))
    weights, average = _read_tensors(folder, info, WEIGHTS), None
    if RAW_WEIGHTS in info.files:
        weights, average = _read_tensors(folder, info, RAW_WEIGHTS), weights
    optimizer = _read_tensors(folder, info, OPTIMIZER)
    return TrainingState(stored["update"], weights, average, optimizer, stored["counters"])


def verify(folder: Path) -> None:
    """Check that every file of a bundle is what was written.

    Raises:
        BundleError: one is not; the message names it.
    """
    info = read_info(folder)
    for name in info.files:
        _check(folder, info, name)


def read_info(folder: Path) -> BundleInfo:
    """What bundle.json says, of a bundle whose other files nobody has looked at.

    Raises:
        BundleError: it is missing, damaged, or of another format.
    """
    file = folder / INFO
    try:
        tree = json.loads(file.read_bytes())
    except (FileNotFoundError, NotADirectoryError):
        raise BundleError(
            f"{file} is missing: this is no whole checkpoint; {_rescue(folder)}"
        ) from None
    except OSError as error:
        raise BundleError(f"{file} cannot be read: {error.strerror}; {_rescue(folder)}") from None
    except (ValueError, RecursionError):
        raise BundleError(f"{file} is damaged: it is not JSON; {_rescue(folder)}") from None
    found = tree.get("format") if isinstance(tree, dict) else None
    if isinstance(found, int) and found != FORMAT:
        writer, version = tree.get("nmt_version"), _version()
        raise BundleError(
            f"{file} has format {found}, but nmt {version} reads format {FORMAT}; "
            f"use nmt {writer}, which wrote it"
        )
    if found is None or tree.pop("sha256", None) != _own_digest(tree):
        raise BundleError(f"{file} is damaged: it is not what was written; {_rescue(folder)}")
    del tree["format"]
    try:
        files = {name: FileInfo(**of_file) for name, of_file in tree.pop("files").items()}
        info = BundleInfo(averaged=tuple(tree.pop("averaged")), files=files, **tree)
    except (AttributeError, KeyError, TypeError):
        raise BundleError(f"{file} is none of ours: keys are missing or unknown") from None
    if not files.keys() <= _ALL_FILES:
        raise BundleError(
            f"{file} is none of ours: it lists {_some(sorted(files.keys() - _ALL_FILES))}"
        )
    return info


def bundles(run_dir: Path) -> list[Path]:
    """Folders of a run's checkpoints, oldest first, good or not."""
    return _bundles_in(run_dir / "checkpoints")


def newest_good(run_dir: Path) -> Path | None:
    """The newest checkpoint whose files are all what was written; warns of each one passed over."""
    for folder in reversed(bundles(run_dir)):
        try:
            verify(folder)
        except BundleError as error:
            log.warning("passing over a checkpoint: %s", error)
        else:
            return folder
    return None


def best(run_dir: Path) -> Path | None:
    """The checkpoint with the highest dev BLEU, of equal ones the oldest; None: no score is known.

    Of its files only bundle.json is checked; where that is damaged, the score is not known.
    """
    found, highest = None, float("-inf")
    for folder in bundles(run_dir):
        try:
            bleu = read_info(folder).bleu
        except BundleError as error:
            log.warning("passing over a checkpoint: %s", error)
            continue
        if bleu is not None and bleu > highest:
            found, highest = folder, bleu
    return found


def keep(run_dir: Path, keep_last: int) -> list[Path]:
    """Delete all checkpoints but the newest `keep_last`, the best and the newest good one.

    Leftovers of interrupted writes go too. Returns the checkpoints that were deleted.
    """
    _sweep(run_dir / "checkpoints")
    assert keep_last >= 1
    old = bundles(run_dir)[:-keep_last]
    if not old:
        return []
    spared = {best(run_dir), newest_good(run_dir)}
    deleted = [folder for folder in old if folder not in spared]
    for folder in deleted:
        shutil.rmtree(_set_aside(folder), ignore_errors=True)
    return deleted


def average(folders: Sequence[Path], out: Path) -> Bundle:
    """Write a bundle that only translates, with the mean of the weights of others.

    Raises:
        BundleError: they are of different models or tokenizers, one is damaged, or `out` exists.
    """
    if not folders:
        raise BundleError("nothing to average: name one bundle or more")
    if out.exists():
        raise BundleError(f"{out} is there already; name another folder, or remove it")
    first = load(folders[0])
    sums = {name: tensor.to(torch.float64) for name, tensor in first.weights.items()}
    update, names = first.info.update, [str(first.path)]
    for folder in folders[1:]:
        other = load(folder)
        _check_alike(first, other)
        sums = {name: total + other.weights[name] for name, total in sums.items()}
        update, names = max(update, other.info.update), [*names, str(other.path)]
    means = {
        name: (total / len(folders)).to(first.weights[name].dtype) for name, total in sums.items()
    }
    text = _read_text(first.path, first.info, TOKENIZER)
    info = BundleInfo(update, None, "", tuple(names), _version(), {})
    return load(_write(out, first.experiment, text, means, info, None))


def _check_alike(one: Bundle, other: Bundle) -> None:
    if one.experiment.model != other.experiment.model:
        theirs = other.experiment.model.model_dump()
        ours = one.experiment.model.model_dump()
        key = next(key for key in ours if ours[key] != theirs[key])
        raise BundleError(
            f"cannot average {one.path} and {other.path}: model.{key} is {ours[key]} and "
            f"{theirs[key]}; only weights of one model have a mean"
        )
    if one.info.files[TOKENIZER] != other.info.files[TOKENIZER]:
        raise BundleError(
            f"cannot average {one.path} and {other.path}: their tokenizers differ; "
            "only embeddings of the same pieces have a mean"
        )
    assert one.weights.keys() == other.weights.keys()


def _translating(state: TrainingState) -> dict[str, Tensor]:
    """The weights that translate: the average, under every name that the weights have."""
    if state.average is None:
        return state.weights
    assert state.average.keys() <= state.weights.keys()
    weights = state.weights | state.average
    _, tied = _untie(state.weights)
    return weights | {name: weights[stored] for name, stored in tied.items()}


def _untie(tensors: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Part tensors into those to store, and further names of the same memory -> stored name."""
    names: dict[tuple[object, ...], str] = {}
    stored: dict[str, Tensor] = {}
    tied: dict[str, str] = {}
    for name, tensor in tensors.items():
        place = (tensor.device, tensor.data_ptr(), tensor.dtype, tensor.shape, tensor.stride())
        first = names.setdefault(place, name) if tensor.numel() else name
        if first == name:
            stored[name] = tensor.detach().cpu().contiguous()
        else:
            tied[name] = first
    return stored, tied


def _write(
    folder: Path,
    experiment: Experiment,
    tokenizer_json: str,
    weights: Mapping[str, Tensor],
    info: BundleInfo,
    state: TrainingState | None,
) -> Path:
    """Write a bundle beside its place, bring it to the disk, and rename it there."""
    texts = {CONFIG: config.dump(experiment), TOKENIZER: tokenizer_json}
    tensors = {WEIGHTS: weights}
    if state is not None:
        texts[STATE] = json.dumps({"update": state.update, "counters": state.counters}, indent=1)
        tensors[OPTIMIZER] = state.optimizer
        if state.average is not None:
            tensors[RAW_WEIGHTS] = state.weights
    parts = {name: _untie(of_file) for name, of_file in tensors.items()}
    needed = 100_000 + sum(len(text.encode()) for text in texts.values())
    needed += sum(tensor.nbytes for stored, _ in parts.values() for tensor in stored.values())
    temp = folder.with_name(f".{folder.name}.{secrets.token_hex(4)}.writing")
    try:
        _make(folder.parent)
        _check_space(folder, needed)
        (temp / "training" if state is not None else temp).mkdir(parents=True)
        for name, text in texts.items():
            (temp / name).write_text(text, encoding="utf-8", newline="")
        for name, (stored, tied) in parts.items():
            save_file(stored, temp / name, metadata={"tied": json.dumps(tied)})
        files = {name: _describe(temp / name) for name in sorted([*texts, *tensors])}
        _write_info(temp / INFO, info, files)
        for path in [*temp.rglob("*"), temp]:
            _sync(path)
        replaced = _set_aside(folder) if folder.exists() else None
        temp.rename(folder)
        _sync(folder.parent)
    except (OSError, SafetensorError) as error:
        raise _unwritten(folder, needed, error) from None
    finally:
        shutil.rmtree(temp, ignore_errors=True)
    if replaced is not None:
        shutil.rmtree(replaced, ignore_errors=True)
    return folder


def _write_info(file: Path, info: BundleInfo, files: Mapping[str, FileInfo]) -> None:
    tree = {"format": FORMAT} | asdict(info)
    tree["files"] = {name: asdict(of_file) for name, of_file in files.items()}
    tree = json.loads(json.dumps(tree))
    tree["sha256"] = _own_digest(tree)
    file.write_text(json.dumps(tree, indent=1) + "\n", encoding="utf-8", newline="")


def _own_digest(tree: Mapping[str, Any]) -> str:
    """SHA-256 of what bundle.json says, however it is laid out."""
    text = json.dumps(tree, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()


def _describe(file: Path) -> FileInfo:
    with file.open("rb") as stream:
        return FileInfo(file.stat().st_size, hashlib.file_digest(stream, "sha256").hexdigest())


def _make(folder: Path) -> None:
    """Make a folder and those above it, and bring their names to the disk."""
    missing = [path for path in (folder, *folder.parents) if not path.exists()]
    folder.mkdir(parents=True, exist_ok=True)
    for path in missing:
        _sync(path.parent)


def _sync(path: Path) -> None:
    """Bring a file or a folder to the disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    except OSError as error:
        # Some network file systems sync no folders; their rename is on the server when it returns.
        if not (path.is_dir() and error.errno in (errno.EINVAL, errno.ENOTSUP)):
            raise
    finally:
        os.close(handle)


def _check_space(folder: Path, needed: int) -> None:
    free = shutil.disk_usage(folder.parent).free
    if free < needed:
        raise BundleError(
            f"{folder} was not written: it needs {needed / 1e6:,.1f} MB, but "
            f"{free / 1e6:,.1f} MB are free there; {_MAKE_ROOM}"
        )


def _unwritten(folder: Path, needed: int, error: Exception) -> BundleError:
    is_full = getattr(error, "errno", None) in (errno.ENOSPC, errno.EDQUOT)
    if is_full or "No space left" in str(error):  # safetensors wraps the system's error in its own
        return BundleError(
            f"{folder} was not written: the disk filled up before its {needed / 1e6:,.1f} MB "
            f"were on it; {_MAKE_ROOM}"
        )
    return BundleError(f"{folder} was not written: {error}")


def _sweep(parent: Path) -> None:
    """Remove what interrupted writes and deletions of checkpoints have left."""
    for path in parent.glob(".update-*"):
        if path.suffix in (".writing", ".deleting"):
            shutil.rmtree(path, ignore_errors=True)


def _set_aside(folder: Path) -> Path:
    """Take a bundle's name away before it goes, so that no half-deleted one stands under it."""
    return folder.rename(folder.with_name(f".{folder.name}.{secrets.token_hex(4)}.deleting"))


def _find(folder: Path, prefer_best: bool) -> Path:
    """The bundle that a path means: itself, or one of the run that it is."""
    if (folder / "checkpoints").is_dir():
        found = (best(folder) if prefer_best else None) or newest_good(folder)
        if found is None:
            state = "no whole checkpoint" if bundles(folder) else "no checkpoint yet"
            raise BundleError(f"{folder} has {state}; `nmt train` with its config writes one")
        return found
    if not folder.is_dir():
        raise BundleError(
            f"{folder}: there is no such folder; name a run or one of its checkpoints"
        )
    if not (folder / INFO).exists() and not folder.name.startswith("update-"):
        raise BundleError(
            f"{folder} is neither a run nor a checkpoint: it has no checkpoints/ and no {INFO}"
        )
    return folder


def _check(folder: Path, info: BundleInfo, name: str) -> Path:
    """The path of a file that is what was written."""
    file, expected = folder / name, info.files.get(name)
    if expected is None:
        raise BundleError(f"{folder / INFO} lists no {name}: this is no whole checkpoint")
    try:
        num_bytes = file.stat().st_size
        if num_bytes != expected.num_bytes:
            raise BundleError(
                f"{file} is damaged: {num_bytes:,} bytes, but {expected.num_bytes:,} were written; "
                f"{_rescue(folder)}"
            )
        if _describe(file) != expected:
            raise BundleError(
                f"{file} is damaged: its SHA-256 is not that of what was written; {_rescue(folder)}"
            )
    except FileNotFoundError:
        raise BundleError(f"{file} is missing; {_rescue(folder)}") from None
    except OSError as error:
        raise BundleError(f"{file} cannot be read: {error.strerror}; {_rescue(folder)}") from None
    return file


def _rescue(folder: Path) -> str:
    """What to do about a damaged bundle."""
    others = [path for path in _bundles_in(folder.parent) if path.name != folder.name]
    if not others:
        return "restore it from a copy, or train again"
    return f"use another checkpoint, such as {others[-1]}"


def _read_text(folder: Path, info: BundleInfo, name: str) -> str:
    return _check(folder, info, name).read_text(encoding="utf-8")


def _read_tensors(folder: Path, info: BundleInfo, name: str) -> dict[str, Tensor]:
    with safe_open(_check(folder, info, name), framework="pt") as file:
        tied = json.loads(file.metadata()["tied"])
        # Cloned: safetensors maps the file, and `keep` may delete it under the map on another host.
        tensors = {key: file.get_tensor(key).clone() for key in file.keys()}  # noqa: SIM118
    return tensors | {key: tensors[stored] for key, stored in tied.items()}


def _bundles_in(parent: Path) -> list[Path]:
    found = [path for path in parent.glob("update-*") if re.fullmatch(r"update-\d{8,}", path.name)]
    return sorted(found, key=lambda path: int(path.name.removeprefix("update-")))


def _some(names: Sequence[str]) -> str:
    rest = f" and {len(names) - 1} more" if len(names) > 1 else ""
    return f"{names[0]}{rest}"


def _version() -> str:
    try:
        return metadata.version("nmt")
    except metadata.PackageNotFoundError:
        return "from a checkout"
