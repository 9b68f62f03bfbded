"""The engine that runs a model: PyTorch, or ONNX Runtime on CPUs.

torch is imported only where PyTorch runs a model or a graph has to be built.
"""

import logging
import shutil
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, Literal, cast, get_args

from nmt.checkpoint.format import INFO
from nmt.checkpoint.load import Checkpoint
from nmt.config.decoding import EngineName, Precision
from nmt.decoding import exported_model
from nmt.decoding.exported_model import ExportedModel
from nmt.decoding.graph_cache import find_graphs
from nmt.decoding.interface import Engine
from nmt.errors import CheckpointError, ConfigError
from nmt.model.mkl import set_strict_mode

log = logging.getLogger(__name__)

Device = Literal["auto", "cpu", "cuda"]
Model = Checkpoint | ExportedModel

_GPU_DRIVERS = ("/dev/nvidiactl", "/dev/kfd", "/dev/dxg")
"""Files of the drivers of NVIDIA, of AMD, and of Linux inside Windows."""


def info_file(model: Model) -> Path:
    """Return the file with the digests of all files of a model."""
    return model.path / (exported_model.CONFIG if isinstance(model, ExportedModel) else INFO)


def make_engine(
    models: Sequence[Model], engine: EngineName = "auto", device: Device = "auto",
    precision: Precision | None = None, threads: int | None = None, shortlist: bool = False,
) -> Engine[Any]:  # fmt: skip
    """Build the engine of a model, or of an ensemble.

    Args:
        models: one model, or several whose probabilities are averaged.
        engine: "auto" takes ONNX Runtime on a CPU, for models that it can run.
        device: "auto" takes a GPU if PyTorch finds one.
        precision: precision of the large matrix products; None: as stored, or on a GPU bf16 for
            fp32 where that is fast.
        threads: number of compute threads; None: as the libraries decide.
        shortlist: use the shortlist of an exported model.

    Raises:
        ConfigError: an option does not fit another one, the model or this machine.
    """
    name, place, precisions = choose_engine(models, engine, device, precision, shortlist)
    if name == "torch":
        return _torch_engine(models, precisions, place, threads)
    try:
        return _onnx_engine(models, precisions, threads, shortlist)
    except CheckpointError as error:
        if engine == "onnx" or any(isinstance(model, ExportedModel) for model in models):
            raise
        log.warning("translating with PyTorch instead of ONNX Runtime: %s", error)
        return _torch_engine(models, precisions, place, threads)


def choose_engine(
    models: Sequence[Model], engine: EngineName, device: Device, precision: Precision | None,
    shortlist: bool = False,
) -> tuple[Literal["torch", "onnx"], Literal["cpu", "cuda"], list[Precision]]:  # fmt: skip
    """Return the engine, the device, and the precision of each model.

    Args and errors are those of `make_engine`.
    """
    # The command line allows no others; the Python API gets any value.
    for key, value, choices in (
        ("engine", engine, get_args(EngineName)),
        ("device", device, get_args(Device)),
        ("precision", precision, (*get_args(Precision), None)),
    ):
        if value not in choices:
            names = ", ".join(each for each in choices if each)
            raise ConfigError(key, repr(value), f"it must be one of {names}")
    if shortlist:
        _check_shortlist(models)
    exported = [model for model in models if isinstance(model, ExportedModel)]
    for each in exported:
        _check_exported(each, engine, precision)
    if exported:
        engine = "onnx"
    place = resolve_device(device, is_onnx=engine == "onnx")
    precisions = [precision or model.precision for model in models]
    if place == "cuda" and precision is None and _is_bf16_fast():
        precisions = ["bf16" if stored == "fp32" else stored for stored in precisions]
    check_precision(precisions, has_gpu=place != "cpu")
    if engine == "onnx" and "bf16" in precisions:
        rule = "ONNX Runtime has fp32 and int8: use one of them, or engine torch"
        raise ConfigError("precision", "bf16", rule)
    if engine == "torch" and precision == "int8":
        rule = "PyTorch has no int8 here: use engine onnx or auto"
        raise ConfigError("precision", "int8", rule)
    if engine == "auto":
        engine = "onnx" if place == "cpu" and "bf16" not in precisions else "torch"
    return engine, place, precisions


def resolve_device(device: Device, is_onnx: bool = False) -> Literal["cpu", "cuda"]:
    """Return the device to use.

    Args:
        device: as of `make_engine`.
        is_onnx: ONNX Runtime runs the model.

    Raises:
        ConfigError: there is no such device.
    """
    if device == "cpu" or (device == "auto" and is_onnx):
        return "cpu"
    if is_onnx:
        rule = "ONNX Runtime is used on CPUs: use cpu or auto, or a run with engine torch"
        raise ConfigError("device", device, rule)
    # Without a driver there is no GPU, and torch need not be imported to say so.
    if device == "auto" and not any(Path(file).exists() for file in _GPU_DRIVERS):
        return "cpu"
    import torch

    if torch.cuda.is_available():
        return "cuda"
    if device == "cuda":
        raise ConfigError("device", device, "PyTorch finds no GPU: use cpu or auto")
    return "cpu"


def _is_bf16_fast() -> bool:
    from nmt.model.gpu_precision import is_bf16_fast_on_gpu  # imports torch

    return is_bf16_fast_on_gpu()


def check_precision(precisions: Iterable[str], has_gpu: bool) -> None:
    """Raise ConfigError for int8 on a GPU."""
    if has_gpu and "int8" in precisions:
        raise ConfigError("precision", "int8", "int8 runs on CPUs only: use bf16, or device cpu")


def _check_exported(model: ExportedModel, engine: EngineName, precision: Precision | None) -> None:
    """Raise ConfigError for options that an exported model does not have."""
    if engine == "torch":
        rule = f"{model.path} has ONNX graphs only: use onnx, or the run that it was exported from"
        raise ConfigError("engine", engine, rule)
    if precision not in (None, model.precision):
        rule = f"{model.path} was exported in {model.precision}: omit it, or export the run again"
        raise ConfigError("precision", precision, rule)


def _check_shortlist(models: Sequence[Model]) -> None:
    """Raise ConfigError unless there is one model, exported with a shortlist."""
    rule = "an ensemble has none: use one exported model"
    if len(models) == 1:
        [model] = models
        if isinstance(model, ExportedModel) and model.has_shortlist:
            return
        rule = f"{model.path} has none: `nmt export RUN -o DIR --format onnx --shortlist` adds one"
    raise ConfigError("shortlist", "requested", rule)


def _onnx_engine(
    models: Sequence[Model], precisions: Sequence[Precision], threads: int | None, shortlist: bool
) -> Engine[Any]:
    """Open the graphs of models; those of a cache are built again if they cannot be run."""
    from nmt.decoding.onnx_engine import OnnxEngine

    def open_graphs(folders: Sequence[Path]) -> OnnxEngine:
        found = OnnxEngine(folders, threads, with_shortlist=shortlist)
        found.check()
        return found

    folders = list(map(_graphs, models, precisions))
    try:
        return open_graphs(folders)
    except CheckpointError:
        pairs = zip(models, folders, strict=True)
        cached = [folder for model, folder in pairs if isinstance(model, Checkpoint)]
        if not cached:
            raise
        for folder in cached:
            shutil.rmtree(folder, ignore_errors=True)
        return open_graphs(list(map(_graphs, models, precisions)))


def _graphs(model: Model, precision: Precision) -> Path:
    """Return the directory with the graphs of a model; they are built at the first use."""
    if isinstance(model, ExportedModel):
        return model.path
    if (found := find_graphs(model, precision)) is not None:
        return found
    from nmt.decoding.onnx_export import cached_graphs

    return cached_graphs(model, precision)


def _torch_engine(
    models: Sequence[Model], precisions: Sequence[Precision], device: str, threads: int | None
) -> Engine[Any]:
    import torch

    from nmt.decoding.torch_engine import TorchEngine
    from nmt.model.gpu_precision import set_product_precision
    from nmt.model.quantise import quantise_model

    set_strict_mode()
    set_product_precision("fp32", torch.device(device))
    if threads:
        torch.set_num_threads(threads)
    checkpoints = cast(Sequence[Checkpoint], models)  # exported ones are refused before
    # Weights that are stored in int8 are used in fp32.
    dtypes: list[Precision] = ["fp32" if dtype == "int8" else dtype for dtype in precisions]
    pairs = zip(checkpoints, dtypes, strict=True)
    return TorchEngine([quantise_model(each.model(), dtype) for each, dtype in pairs], device)
