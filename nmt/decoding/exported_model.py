"""Exported models on disk: ONNX graphs with everything that translation needs, without torch.

<folder>/
    encoder.onnx           sources to attention keys and values
    decoder_step.onnx      one token of each row to candidates for the next one
    tokenizer.json         subword vocabulary
    config.json            format, versions, shapes, experiment; size and SHA-256 of the files
    shortlist.npy          optional: translation candidates of each token, with the graphs
                           shortlist.onnx and decoder_step_shortlist.onnx
    README.md              inputs, outputs and a program for readers without nmt
"""

import hashlib
import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from nmt.config.decoding import Precision
from nmt.config.experiment import Experiment
from nmt.config.files import restore
from nmt.config.settings import Count, Number, parse_record
from nmt.corpus.subword import Subword
from nmt.errors import CheckpointError, ConfigError, DataError

FORMAT = "nmt-onnx-2"
CONFIG = "config.json"
TOKENIZER = "tokenizer.json"
ENCODER = "encoder.onnx"
DECODER = "decoder_step.onnx"
README = "README.md"
SHORTLIST = "shortlist.npy"
SHORTLIST_GRAPH = "shortlist.onnx"
SHORTLIST_DECODER = "decoder_step_shortlist.onnx"
SHORTLIST_FILES = (SHORTLIST, SHORTLIST_GRAPH, SHORTLIST_DECODER)


@dataclass(frozen=True)
class ExportedFile:
    """Expected size and digest of a file."""

    num_bytes: Count
    sha256: str


@dataclass(frozen=True)
class ExportInfo:
    """Content of config.json."""

    format: str
    precision: str
    """Precision of the large matrix products: fp32 or int8."""
    update: Count
    """Updates of the checkpoint."""
    weights_sha256: str
    """Digest of the weights of the checkpoint."""
    largest_difference: Number
    """Largest difference from the log-probabilities of the model in PyTorch, in nats."""
    mean_difference: Number
    """Mean difference of the same log-probabilities."""
    opset: Count
    """Version of the ONNX operators."""
    versions: dict[str, str]
    """Versions of the packages that wrote the folder."""
    tokens: dict[str, int]
    """Ids of padding, of the token before the first one, and of the end of a sentence."""
    vocab_size: Count
    state_size: Count
    """Values of the decoder state of a row."""
    experiment: dict[str, Any]
    """Settings of the experiment, text normalisation and search included."""
    files: dict[str, ExportedFile]
    """All other files."""


@dataclass(frozen=True)
class ExportedModel:
    """Exported model whose files are verified."""

    path: Path
    experiment: Experiment
    subword: Subword
    info: ExportInfo

    @property
    def precision(self) -> Precision:
        """Precision of the large matrix products."""
        return "int8" if self.info.precision == "int8" else "fp32"

    @property
    def has_shortlist(self) -> bool:
        """True if it was exported with a shortlist."""
        return SHORTLIST in self.info.files

    def describe(self) -> str:
        """Return a line about the model: path, update, precision, difference from PyTorch."""
        info = self.info
        facts = [f"update {info.update:,}", f"onnx {info.precision}", f"opset {info.opset}"]
        facts.append(f"log-probabilities differ from PyTorch by {info.largest_difference:.1e}")
        return f"{self.path}: {' | '.join(facts)}"


def is_exported(folder: Path) -> bool:
    """Return True if a directory looks like an exported model."""
    # One graph suffices: reading the folder reports what is missing.
    return any((folder / name).is_file() for name in (ENCODER, DECODER))


def read_exported(folder: Path) -> ExportedModel:
    """Read and verify an exported model.

    Raises:
        CheckpointError: a file is missing, corrupt or of another version.
    """
    try:
        info = parse_record(ExportInfo, (folder / CONFIG).read_bytes())
    except OSError as error:
        raise CheckpointError(f"{folder / CONFIG} cannot be read: {error.strerror}") from None
    except ValueError as error:
        raise _corrupt(folder / CONFIG, str(error)) from None
    if info.format != FORMAT:
        raise CheckpointError(
            f"{folder / CONFIG} has format {info.format}, expected {FORMAT}; use nmt "
            f"{info.versions.get('nmt')}, which wrote it"
        )
    for name in info.files.keys() | {ENCODER, DECODER, TOKENIZER}:
        # Only known names: a path such as ../x must never be read.
        if name not in (ENCODER, DECODER, TOKENIZER, *SHORTLIST_FILES):
            raise _corrupt(folder / CONFIG, f"unknown file {name}")
        try:
            found = describe(folder / name)
        except OSError as error:
            raise _corrupt(folder / name, error.strerror or "unreadable") from None
        if found != info.files.get(name):
            raise _corrupt(folder / name, f"its SHA-256 does not match {CONFIG}")
    try:
        experiment = restore(Experiment, info.experiment, CONFIG)
        subword = Subword.from_json((folder / TOKENIZER).read_bytes())
    except (ConfigError, DataError) as error:
        version = info.versions.get("nmt")
        raise CheckpointError(f"{folder}/{error}; use nmt {version}, which wrote it") from None
    return ExportedModel(folder, experiment, subword, info)


def describe(file: Path) -> ExportedFile:
    """Return size and SHA-256 of a file."""
    data = file.read_bytes()
    return ExportedFile(len(data), hashlib.sha256(data).hexdigest())


def format_info(info: ExportInfo) -> str:
    """Return the text of config.json."""
    return json.dumps(asdict(info), indent=1, ensure_ascii=False) + "\n"


def _corrupt(file: Path, problem: str) -> CheckpointError:
    return CheckpointError(f"{file} is corrupt: {problem}; export the model again")
