"""Precision of matrix products and LSTM layers on GPUs, for training and translation."""

import torch

MIN_CUDNN = 91300
"""First cuDNN (9.13) that runs a bf16 LSTM layer in one call; older ones run a kernel per step
(pytorch#164411)."""


def set_product_precision(precision: str, device: torch.device) -> None:
    """Set the format of fp32 products on a GPU in this process: tf32 for tf32, else IEEE fp32.

    PyTorch's own default is tf32 inside cuDNN's LSTM layers and IEEE fp32 everywhere else.
    """
    if device.type == "cuda":
        mode = "tf32" if precision == "tf32" else "ieee"
        torch.backends.cuda.matmul.fp32_precision = mode
        torch.backends.cudnn.rnn.fp32_precision = mode  # type: ignore[attr-defined]


def is_bf16_fast_on_gpu() -> bool:
    """Return True if the GPU has units for bf16 and cuDNN runs bf16 layers in one call."""
    has_units = bool(torch.cuda.is_bf16_supported(including_emulation=False))
    return has_units and cudnn_version() >= MIN_CUDNN


def cudnn_version() -> int:
    """Return the version of cuDNN, such as 91300; 0 without it."""
    return torch.backends.cudnn.version() or 0  # type: ignore[no-untyped-call]


def format_cudnn(version: int) -> str:
    """Format a version of cuDNN from 9.0 on: 9.13 for 91300."""
    return f"{version // 10000}.{version % 10000 // 100}"
