"""Choice of training.precision auto, and advice on slow precisions."""

from pathlib import Path

import pytest
import torch
from toy_runs import corpus_of

from nmt.checkpoint.load import load_checkpoint
from nmt.checkpoint.run_directory import list_checkpoints
from nmt.config.experiment import Experiment, TrainingConfig
from nmt.model.gpu_precision import set_product_precision
from nmt.training import precision
from nmt.training.distributed import World
from nmt.training.loop import train
from nmt.training.precision import (
    bf16_gain,
    resolve_precision,
    slow_precision_warning,
)

GPU = torch.device("cuda", 0)
SLOW_BF16 = (
    "bf16 matrix products run at 0.53 times the speed of fp32 on this CPU; training.precision=fp32 "
    "is faster"
)
FP16_ON_CPU = (
    "fp16 is for GPUs: on a CPU the LSTM layers stay fp32; training.precision=auto is faster"
)
TF32_ON_CPU = "tf32 is for GPUs: on a CPU it is fp32; training.precision=auto may be faster"
FP32_ON_GPU = "fp32 products are IEEE fp32 on this GPU; training.precision=auto, or tf32, is faster"
OLD_CUDNN = (
    "bf16 LSTM layers need cuDNN 9.13; this torch has 9.10, which runs them step by step: use "
    "training.precision=fp16 or tf32, or a newer torch"
)
FLAGS = (torch.backends.cuda.matmul, torch.backends.cudnn.rnn)


@pytest.mark.parametrize(("gain", "expected"), [(0.5, "fp32"), (1.1, "fp32"), (1.9, "bf16")])
def test_auto_is_bf16_where_products_are_faster(
    toy: Experiment, monkeypatch: pytest.MonkeyPatch, gain: float, expected: str
) -> None:
    monkeypatch.setattr(precision, "bf16_gain", lambda: gain)
    auto = toy.with_settings("training", precision="auto")
    assert resolve_precision(auto, World()).training.precision == expected


@pytest.mark.parametrize(
    ("has_units", "cudnn", "expected"),
    [(True, 91300, "bf16"), (False, 91300, "fp32"), (True, 91002, "fp32"), (True, None, "fp32")],
)
def test_auto_asks_the_gpu_and_cudnn_for_bf16(
    toy: Experiment, monkeypatch: pytest.MonkeyPatch, has_units: bool, cudnn: int | None,
    expected: str,
) -> None:  # fmt: skip
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation: has_units)
    monkeypatch.setattr(torch.backends.cudnn, "version", lambda: cudnn)
    found = resolve_precision(toy.with_settings("training", precision="auto"), World(device=GPU))
    assert found.training.precision == expected


@pytest.mark.parametrize(("precision", "expected"), [("fp32", "ieee"), ("tf32", "tf32")])
def test_fp32_is_ieee_on_a_gpu(precision: str, expected: str) -> None:
    """cuDNN's own default is tf32."""
    before = [flag.fp32_precision for flag in FLAGS]
    try:
        set_product_precision(precision, GPU)
        assert [flag.fp32_precision for flag in FLAGS] == [expected, expected]
    finally:
        for flag, value in zip(FLAGS, before, strict=True):
            flag.fp32_precision = value


@pytest.mark.parametrize("name", ["fp32", "bf16"])
def test_a_set_precision_stays(toy: Experiment, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.delattr(precision, "bf16_gain")
    fixed = toy.with_settings("training", precision=name)
    assert resolve_precision(fixed, World()) == fixed


def test_a_run_logs_and_keeps_the_choice_of_auto(
    toy: Experiment, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Honest numbers (nmt/README.md, Guarantees)."""
    monkeypatch.setattr(precision, "bf16_gain", lambda: 1.9)
    lines: list[str] = []
    auto = toy.with_settings("training", precision="auto")
    train(auto, corpus_of(toy), World(), tmp_path, lines.append, lambda update: True)
    assert " parameters | bf16 | 1 worker on cpu | " in lines[0]
    checkpoint = load_checkpoint(list_checkpoints(tmp_path)[0])
    assert checkpoint.experiment.training.precision == "bf16"


@pytest.mark.parametrize(
    ("name", "gain", "expected"),
    [
        ("auto", 1.9, []),
        ("bf16", 0.5, []),
        ("auto", 0.5, ["warning: precision bf16 -> fp32 | training.precision=bf16 keeps it"]),
        ("fp32", 1.9, ["warning: precision bf16 -> fp32 | training.precision=bf16 keeps it"]),
    ],
)
def test_another_precision_is_reported_on_resume(
    toy: Experiment, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, gain: float,
    expected: list[str],
) -> None:  # fmt: skip
    """Exact resume (nmt/README.md, Guarantees)."""
    monkeypatch.setattr(precision, "bf16_gain", lambda: 1.9)
    auto, lines = toy.with_settings("training", precision="auto"), list[str]()
    train(auto, corpus_of(toy), World(), tmp_path, should_stop=lambda update: True)
    monkeypatch.setattr(precision, "bf16_gain", lambda: gain)
    other = toy.with_settings("training", precision=name)
    train(other, corpus_of(toy), World(), tmp_path, lines.append, lambda update: True)
    assert [line for line in lines if line.startswith("warning: precision")] == expected


@pytest.mark.parametrize(
    ("name", "device", "gain", "expected"),
    [
        ("bf16", torch.device("cpu"), 0.53, SLOW_BF16),
        ("bf16", torch.device("cpu"), 1.9, ""),
        ("fp32", torch.device("cpu"), 0.53, ""),
        ("fp16", torch.device("cpu"), 1.9, FP16_ON_CPU),
        ("tf32", torch.device("cpu"), 1.9, TF32_ON_CPU),
    ],
)
def test_slow_precisions_are_reported(
    monkeypatch: pytest.MonkeyPatch, name: str, device: torch.device, gain: float, expected: str
) -> None:
    monkeypatch.setattr(precision, "bf16_gain", lambda: gain)
    settings = TrainingConfig.model_validate({"precision": name})
    assert slow_precision_warning(settings, device) == expected


@pytest.mark.parametrize(
    ("name", "cudnn", "expected"),
    [
        ("fp32", 91300, FP32_ON_GPU),
        ("tf32", 91002, ""),
        ("bf16", 91300, ""),
        ("bf16", 91002, OLD_CUDNN),
        ("fp16", 91002, ""),
    ],
)
def test_slow_precisions_of_gpus_are_reported(
    monkeypatch: pytest.MonkeyPatch, name: str, cudnn: int, expected: str
) -> None:
    monkeypatch.setattr(torch.backends.cudnn, "version", lambda: cudnn)
    assert slow_precision_warning(TrainingConfig(precision=name), GPU) == expected


def test_the_speed_of_bf16_is_measured() -> None:
    # 0.02 where products are emulated.
    assert 0.001 < bf16_gain(64, times=2) < 50
