"""A trained model on a command line: loading it, telling which it is, translating with it."""

import time
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nmt.errors import ConfigError, DataError

if TYPE_CHECKING:
    from nmt.checkpoint.load import Checkpoint
    from nmt.decoding.translator import Translator
    from nmt.model.quantise import Precision


def load_bundle(run: str | Path) -> "Checkpoint":
    """The model of a run or of a checkpoint: a folder, or the address of an object store."""
    from nmt.checkpoint.load import load_checkpoint

    return load_checkpoint(bundle_folder(str(run)))


def bundle_folder(run: str) -> Path:
    """The folder of a run or a checkpoint; of one in an object store, the copy of a checkpoint."""
    from nmt.storage import is_address

    if not is_address(run):
        return Path(run)
    from nmt.checkpoint.remote import fetch_checkpoint
    from nmt.config.cluster import Cluster

    return fetch_checkpoint(run, Path(Cluster().scratch))


def run_folder(run: str) -> Path:
    """The folder of a run; of one in an object store, its copy here, brought up to date."""
    from nmt.storage import ObjectStore, is_address

    if not is_address(run):
        return Path(run)
    from nmt.checkpoint.remote import RemoteRun, local_copy
    from nmt.config.cluster import Cluster

    remote = RemoteRun(ObjectStore(run), local_copy(run, Path(Cluster().scratch)))
    remote.newest_complete()
    remote.download_logs()
    return local_copy(run, Path(Cluster().scratch))


def about(bundle: "Checkpoint") -> str:
    """Which weights these are, and how good they were on the dev set, in one line."""
    info = bundle.info
    mean = f"the mean of {len(info.averaged)} checkpoints, " if info.averaged else ""
    bleu = "its dev BLEU is not known"
    if info.bleu is not None:
        bleu = f"dev BLEU {info.bleu:.2f}, {info.bleu_signature}"
    stored = "" if bundle.precision == "fp32" else f"{bundle.precision} weights, "
    return f"{bundle.path}: {mean}update {info.update:,}, {stored}{bleu}"


def make_translator(
    bundle: "Checkpoint",
    device: str | None = None,
    threads: int | None = None,
    precision: "Precision | None" = None,
    others: Sequence["Checkpoint"] = (),
    **how: Any,
) -> "Translator":
    """A translator with the options of a command line; `others` make it an ensemble.

    Raises:
        ConfigError: an option is wrong, or does not go with another.
    """
    import torch

    from nmt.decoding.ensemble import Ensemble
    from nmt.decoding.translator import Translator
    from nmt.model.quantise import quantise_model
    from nmt.training.malloc import configure_malloc

    if device not in (None, "cpu", "cuda"):
        raise ConfigError("--device", device, "it must be cpu or cuda")
    if device == "cuda" and not torch.cuda.is_available():
        raise ConfigError("--device", device, "torch finds no GPU here: say cpu, or leave it out")
    place = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
    precisions = [precision or each.precision for each in (bundle, *others)]
    if "int8" in precisions and place.type != "cpu":
        rule = "its products are for CPUs: say --precision bf16, or --device cpu"
        raise ConfigError("--precision", "int8", rule)
    configure_malloc()
    if threads:
        torch.set_num_threads(threads)
    keys = {"batch": "batch_sentences"}
    update = {keys.get(key, key): value for key, value in how.items() if value is not None}
    before = bundle.experiment.decoding
    decoding = type(before).model_validate(before.model_dump() | update)
    if "beam" in update and decoding.method != "beam":
        rule = f"--method {decoding.method} has no beam: leave it out"
        raise ConfigError("--beam", update["beam"], rule)
    experiment = bundle.experiment.model_copy(update={"decoding": decoding})
    pairs = zip((bundle, *others), precisions, strict=True)
    models = [quantise_model(each.model(), numbers) for each, numbers in pairs]
    model = Ensemble(models) if others else models[0]
    return Translator(model, bundle.subword, experiment, device=place)


def load_others(bundle: "Checkpoint", runs: Iterable[str]) -> list["Checkpoint"]:
    """What a bundle is to be an ensemble with.

    Raises:
        ConfigError: one has another vocabulary.
    """
    others = [load_bundle(run) for run in runs]
    for other in others:
        if other.subword.fingerprint != bundle.subword.fingerprint:
            rule = f"its vocabulary is not that of {bundle.path}: an ensemble has one tokenizer"
            raise ConfigError("--ensemble", other.path, rule)
    return others


def check_inputs(files: Iterable[str]) -> None:
    """Raise DataError for a file that is not there, before anything slow is done."""
    for file in files:
        if not Path(file).exists():
            raise DataError(f"{file}: there is no such file; check its name and where you are")


def pace(num_lines: int, started: float) -> str:
    """How quickly so many lines were translated since `started`, by time.monotonic."""
    seconds = max(time.monotonic() - started, 1e-9)
    what = f"{num_lines:,} line{'s' * (num_lines != 1)} translated"
    return f"{what} in {seconds:.1f} s, {num_lines / seconds:,.1f} lines/s"
