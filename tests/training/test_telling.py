"""What a run says of itself at its start."""

from dataclasses import dataclass, field
from typing import Any

import pytest
import torch

from nmt.config.experiment import TrainingConfig
from nmt.training import telling
from nmt.training.distributed import World
from nmt.training.telling import tell_precision

SLOW = (
    "matrix products in bf16 are 0.53 times as fast as in fp32 on this CPU: "
    "training.precision=fp32 would be quicker"
)

FOR_GPUS = (
    "fp16 is for GPUs, on a CPU the LSTM layers stay fp32: training.precision=auto would be quicker"
)


@dataclass
class Said:
    """Takes lines as records do."""

    lines: list[str] = field(default_factory=list)

    def say(self, line: str) -> None:
        self.lines.append(line)


@pytest.mark.parametrize(
    ("precision", "world", "gain", "lines"),
    [
        ("bf16", World(), 0.53, [SLOW]),
        ("bf16", World(), 1.9, []),
        ("fp32", World(), 0.53, []),
        ("bf16", World(rank=1, size=2), 0.53, []),
        ("bf16", World(device=torch.device("cuda", 0)), 0.53, []),
        ("fp16", World(), 1.9, [FOR_GPUS]),
        ("fp16", World(rank=1, size=2), 1.9, []),
        ("fp16", World(device=torch.device("cuda", 0)), 1.9, []),
    ],
)
def test_numbers_that_cost_time_are_told(
    monkeypatch: pytest.MonkeyPatch, precision: str, world: World, gain: float, lines: list[str]
) -> None:
    """P11."""
    monkeypatch.setattr(telling, "bf16_gain", lambda: gain)
    said: Any = Said()
    tell_precision(TrainingConfig.model_validate({"precision": precision}), world, said)
    assert said.lines == lines
