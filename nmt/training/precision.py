"""Mixed precision: dtypes, the choice of training.precision auto, and advice on slow choices."""

import time

import torch

from nmt.config.experiment import Experiment, TrainingConfig
from nmt.model.gpu_precision import (
    MIN_CUDNN,
    cudnn_version,
    format_cudnn,
    is_bf16_fast_on_gpu,
)
from nmt.training.distributed import World

DTYPES = {
    "fp32": torch.float32,
    "tf32": torch.float32,
    "bf16": torch.bfloat16,
    "fp16": torch.float16,
}
"""Dtype of matrix products by training.precision."""

MIN_GAIN = 1.2
"""Speed of bf16 products over fp32 from which auto chooses bf16: the work between them is fp32."""

CLEARLY_SLOWER = 10
"""Ratio of times at which one comparison decides: without bf16 units a product takes 0.2 s."""


def resolve_precision(experiment: Experiment, world: World) -> Experiment:
    """Replace training.precision auto by the choice of rank 0. Collective: call on every rank."""
    if experiment.training.precision != "auto":
        return experiment
    is_fast = world.all_gather(_is_bf16_fast(world.device))[0]
    return experiment.with_settings("training", precision="bf16" if is_fast else "fp32")


def slow_precision_warning(settings: TrainingConfig, device: torch.device) -> str:
    """Return advice if the precision is slow on this device; otherwise an empty string."""
    if device.type == "cuda":
        return _slow_on_gpu(settings.precision)
    if settings.precision == "tf32":
        return "tf32 is for GPUs: on a CPU it is fp32; training.precision=auto may be faster"
    if settings.precision == "fp16":
        return (
            "fp16 is for GPUs: on a CPU the LSTM layers stay fp32; training.precision=auto is "
            "faster"
        )
    if settings.precision == "bf16" and (gain := bf16_gain()) < 0.9:
        return (
            f"bf16 matrix products run at {gain:.2f} times the speed of fp32 on this CPU; "
            "training.precision=fp32 is faster"
        )
    return ""


def _slow_on_gpu(precision: str) -> str:
    if precision == "fp32":
        return (
            "fp32 products are IEEE fp32 on this GPU; training.precision=auto, or tf32, is faster"
        )
    version = cudnn_version()
    if precision == "bf16" and version < MIN_CUDNN:
        return (
            f"bf16 LSTM layers need cuDNN {format_cudnn(MIN_CUDNN)}; this torch has "
            f"{format_cudnn(version)}, which runs them step by step: use training.precision=fp16 "
            "or tf32, or a newer torch"
        )
    return ""


def bf16_gain(size: int = 512, times: int = 8) -> float:
    """Measure the speed of a bf16 matrix product on this CPU, as a multiple of fp32.

    About 2 on an AMD EPYC with AVX-512, 0.5 on an Intel Xeon without access to its AMX units, 0.02
    on an AMD EPYC with AVX2 only.
    """
    best: dict[torch.dtype, float] = {}
    matrices = [torch.ones(size, size, dtype=dtype) for dtype in (torch.float32, torch.bfloat16)]
    for matrix in matrices * times:
        # Thread time: other processes may use the same core.
        start = time.thread_time()
        _ = matrix @ matrix
        seconds = time.thread_time() - start
        best[matrix.dtype] = min(seconds, best.get(matrix.dtype, seconds))
        if best.get(torch.bfloat16, 0) > CLEARLY_SLOWER * best[torch.float32]:
            break
    return best[torch.float32] / best[torch.bfloat16]


def _is_bf16_fast(device: torch.device) -> bool:
    if device.type == "cuda":
        return is_bf16_fast_on_gpu()
    return bf16_gain() >= MIN_GAIN
