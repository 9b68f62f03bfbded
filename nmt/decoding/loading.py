"""Models and translators of runs, checkpoints and exported models, which may be addresses."""

from collections.abc import Iterable, Mapping, Sequence
from functools import partial
from numbers import Integral
from pathlib import Path
from typing import Any

from nmt.checkpoint.load import load_checkpoint
from nmt.checkpoint.location import checkpoint_dir
from nmt.config.decoding import MAX_THREADS, DecodingConfig, EngineName, Precision
from nmt.config.files import override, overrides_of
from nmt.decoding import engines
from nmt.decoding.engines import Device, Model
from nmt.decoding.exported_model import is_exported, read_exported
from nmt.decoding.interface import GPU_BATCH_SENTENCES
from nmt.decoding.translator import Translator
from nmt.errors import ConfigError, shorten
from nmt.model.host_memory import check_memory


def open_model(run: str | Path) -> Model:
    """Load a checkpoint, the best one of a run, or an exported model.

    Args:
        run: directory or address.

    Raises:
        CheckpointError: there is none, or a file of it is missing, corrupt or of another version.
    """
    path = checkpoint_dir(run)
    return read_exported(path) if is_exported(path) else load_checkpoint(path)


def open_ensemble(model: Model, runs: Iterable[str | Path]) -> list[Model]:
    """Load the other models of an ensemble.

    Raises:
        ConfigError: one has other languages than `model`, another vocabulary, or other case marks.
    """
    # A string is an iterable of its characters.
    if isinstance(runs, str | Path) or not isinstance(runs, Iterable):
        value = repr(str(runs) if isinstance(runs, Path) else runs)
        raise ConfigError("ensemble", shorten(value), "it must be a list of runs")
    others = [open_model(run) for run in runs]
    pair = model.experiment.corpus.language_pair
    for other in others:
        other_pair = other.experiment.corpus.language_pair
        if other_pair != pair:
            rule = f"it translates {other_pair}, {model.path} translates {pair}"
            raise ConfigError("ensemble", other.path, rule)
        if other.subword.fingerprint != model.subword.fingerprint:
            rule = f"its vocabulary differs from that of {model.path}"
            raise ConfigError("ensemble", other.path, rule)
        if other.experiment.marks_case != model.experiment.marks_case:
            rule = f"training.robust or case_marks differs from that of {model.path}"
            raise ConfigError("ensemble", other.path, rule)
    return others


def make_translator(
    model: Model,
    ensemble: Sequence[Model] = (),
    device: Device = "auto",
    precision: Precision | None = None,
    threads: int | None = None,
    engine: EngineName = "auto",
    shortlist: bool = False,
    **decoding: Any,
) -> Translator:
    """Make a translator; arguments as of `load`. Its engine is built when it is first used.

    Args:
        decoding: settings of the section `decoding`; None: as the model has it.

    Raises:
        ConfigError: an option is invalid, alone or with another.
    """
    models = [model, *ensemble]
    is_number = isinstance(threads, Integral) and not isinstance(threads, bool)
    if threads is not None and not (is_number and 1 <= threads <= MAX_THREADS):
        raise ConfigError("threads", repr(threads), f"it must be 1 to {MAX_THREADS}, or None")
    threads = None if threads is None else int(threads)  # of NumPy, for example
    # Options are checked before gigabytes are read.
    _, place, _ = engines.choose_engine(models, engine, device, precision, shortlist)
    changes = {key: value for key, value in decoding.items() if value is not None}
    if place == "cuda" and "batch_sentences" not in changes:
        stored = model.experiment.decoding.batch_sentences
        changes["batch_sentences"] = max(stored, GPU_BATCH_SENTENCES)
    dotted = {f"decoding.{key}": value for key, value in changes.items()}
    settings = override(model.experiment, overrides_of(dotted), "")
    check_search(settings.decoding, changes, model.subword.num_pieces)
    build = partial(engines.make_engine, models, engine, device, precision, threads, shortlist)
    return Translator(build, model.subword, settings)


def check_search(search: DecodingConfig, given: Mapping[str, object], num_pieces: int) -> None:
    """Check settings that were given for a search, and that its arrays fit into memory.

    Args:
        search: all settings.
        given: those that were given, by name.
        num_pieces: size of the vocabulary.

    Raises:
        ConfigError: one of `given` would have no effect, or a batch needs too much memory.
    """
    for key, is_used, condition in (
        ("beam", search.method == "beam", "method beam"),
        ("samples", search.method == "mbr", "method mbr"),
        ("seed", search.method != "beam", "method sample or mbr"),
        ("rerank", search.rerank == "none" or search.beam > 1, "beam above 1"),
        ("rerank_scale", search.rerank != "none", "rerank bleu or chrf"),
        ("diversity", search.diverse_groups > 1, "diverse_groups above 1"),
    ):
        if key in given and not is_used:
            raise ConfigError(key, given[key], f"it needs {condition}: set that, or omit it")
    name = "beam" if search.method == "beam" else "samples"
    rows = getattr(search, name) * search.batch_sentences
    value = f"{getattr(search, name)} for batches of {search.batch_sentences} sentences"
    check_memory(name, value, 4 * rows * num_pieces)
