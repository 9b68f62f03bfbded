"""Load the models named on a command line, describe them, and build translators from them."""

import time
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nmt.config.cluster import Cluster
from nmt.errors import ConfigError
from nmt.storage import ObjectStore, is_address

if TYPE_CHECKING:
    from nmt.checkpoint.load import Checkpoint
    from nmt.decoding.translator import Translator
    from nmt.model.quantise import Precision


def open_checkpoint(run: str) -> "Checkpoint":
    """Load the best checkpoint of a run, or a checkpoint; `run` is a directory or an address."""
    from nmt.checkpoint.load import load_checkpoint

    return load_checkpoint(checkpoint_dir(run))


def checkpoint_dir(run: str) -> Path:
    """Return the directory of a run or checkpoint; download the checkpoint from an object store."""
    if not is_address(run):
        return Path(run)
    from nmt.checkpoint.remote import fetch_checkpoint

    return fetch_checkpoint(run, Path(Cluster().scratch))


def run_dir(run: str) -> Path:
    """Return the directory of a run; update the local copy of a run in an object store."""
    if not is_address(run):
        return Path(run)
    from nmt.checkpoint.remote import RemoteRun, local_copy

    directory = local_copy(run, Path(Cluster().scratch))
    remote = RemoteRun(ObjectStore(run), directory)
    # Reports and audits also read the newest checkpoint.
    remote.newest_complete()
    remote.download_logs()
    return directory


def describe(checkpoint: "Checkpoint") -> str:
    """Return a line about a checkpoint: path, update, dtype and dev BLEU with its signature."""
    info = checkpoint.info
    facts = [f"update {info.update:,}"]
    if info.averaged:
        facts.insert(0, f"average of {len(info.averaged)} checkpoints")
    if checkpoint.precision != "fp32":
        facts.append(f"{checkpoint.precision} weights")
    known = info.bleu is not None
    facts.append(f"dev_bleu {info.bleu:.2f} {info.bleu_signature}" if known else "dev_bleu unknown")
    return f"{checkpoint.path}: {' | '.join(facts)}"


def make_translator(
    checkpoint: "Checkpoint",
    device: str | None = None,
    threads: int | None = None,
    precision: "Precision | None" = None,
    ensemble: Sequence["Checkpoint"] = (),
    **search: Any,
) -> "Translator":
    """Build a translator from command-line options.

    Args:
        ensemble: checkpoints whose probabilities are averaged with those of `checkpoint`.
        search: settings of `decoding` by option name; None: as the checkpoint has it.

    Raises:
        ConfigError: an option is invalid, alone or with another.
    """
    import torch

    from nmt.decoding.ensemble import Ensemble
    from nmt.decoding.translator import Translator
    from nmt.model.quantise import quantise_model
    from nmt.training.memory import configure_malloc

    if device == "cuda" and not torch.cuda.is_available():
        raise ConfigError("--device", device, "PyTorch finds no GPU: use cpu or omit the option")
    target = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
    checkpoints = [checkpoint, *ensemble]
    # Without --precision an exported int8 model stays int8.
    precisions = [precision or each.precision for each in checkpoints]
    check_precision(precisions, has_gpu=target.type != "cpu")
    configure_malloc()
    if threads:
        torch.set_num_threads(threads)
    keys = {"batch": "batch_sentences"}
    changes = {keys.get(key, key): value for key, value in search.items() if value is not None}
    # Validated again as a whole: options may contradict stored settings.
    stored = checkpoint.experiment.decoding
    decoding = type(stored).model_validate(stored.model_dump() | changes)
    # The stored beam is no error with another method, an explicit --beam is.
    if "beam" in changes and decoding.method != "beam":
        rule = f"--method {decoding.method} has no beam: omit --beam"
        raise ConfigError("--beam", changes["beam"], rule)
    experiment = checkpoint.experiment.model_copy(update={"decoding": decoding})
    pairs = zip(checkpoints, precisions, strict=True)
    models = [quantise_model(each.model(), dtype) for each, dtype in pairs]
    model = Ensemble(models) if ensemble else models[0]
    return Translator(model, checkpoint.subword, experiment, device=target)


def check_precision(precisions: Iterable[str], has_gpu: bool) -> None:
    """Raise ConfigError for int8 on a GPU."""
    if has_gpu and "int8" in precisions:
        rule = "int8 runs on CPUs only: use --precision bf16 or --device cpu"
        raise ConfigError("--precision", "int8", rule)


def load_ensemble(checkpoint: "Checkpoint", runs: Iterable[str]) -> list["Checkpoint"]:
    """Load the other checkpoints of an ensemble.

    Raises:
        ConfigError: one has another vocabulary than `checkpoint`.
    """
    others = [open_checkpoint(run) for run in runs]
    for other in others:
        if other.subword.fingerprint != checkpoint.subword.fingerprint:
            rule = f"its vocabulary differs from that of {checkpoint.path}"
            raise ConfigError("--ensemble", other.path, rule)
    return others


def speed(num_lines: int, started: float) -> str:
    """Return a log line about the translation speed since `started` (time.monotonic)."""
    seconds = max(time.monotonic() - started, 1e-9)
    unit = "line" if num_lines == 1 else "lines"
    return f"translated {num_lines:,} {unit} | {seconds:.1f} s | {num_lines / seconds:,.1f} lines/s"
