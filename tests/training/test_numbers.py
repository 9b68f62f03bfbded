"""training.precision auto: settled at the start of a run."""

from pathlib import Path

import pytest
import torch
from toy_runs import corpus_of

from nmt.checkpoint.load import load_checkpoint
from nmt.checkpoint.run_directory import list_checkpoints
from nmt.config.experiment import Experiment
from nmt.training import precision
from nmt.training.distributed import World
from nmt.training.loop import train
from nmt.training.precision import resolve_precision, with_precision


@pytest.mark.parametrize(("gain", "expected"), [(0.5, "fp32"), (1.1, "fp32"), (1.9, "bf16")])
def test_auto_is_bf16_where_that_is_quicker(
    toy: Experiment, monkeypatch: pytest.MonkeyPatch, gain: float, expected: str
) -> None:
    monkeypatch.setattr(precision, "bf16_gain", lambda: gain)
    assert resolve_precision(with_precision(toy, "auto"), World()) == with_precision(toy, expected)


@pytest.mark.parametrize("can", [True, False])
def test_auto_asks_the_gpu_what_it_can(
    toy: Experiment, monkeypatch: pytest.MonkeyPatch, can: bool
) -> None:
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation: can)
    found = resolve_precision(with_precision(toy, "auto"), World(device=torch.device("cuda", 0)))
    assert found.training.precision == ("bf16" if can else "fp32")


@pytest.mark.parametrize("name", ["fp32", "bf16"])
def test_what_is_set_stays(toy: Experiment, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.delattr(precision, "bf16_gain")
    assert resolve_precision(with_precision(toy, name), World()) == with_precision(toy, name)


def test_a_run_tells_and_keeps_what_was_settled(
    toy: Experiment, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """P11."""
    monkeypatch.setattr(precision, "bf16_gain", lambda: 1.9)
    lines: list[str] = []
    auto = with_precision(toy, "auto")
    train(auto, corpus_of(toy), World(), tmp_path, lines.append, lambda update: True)
    assert " parameters, bf16, 1 worker on cpu; " in lines[0]
    assert load_checkpoint(list_checkpoints(tmp_path)[0]).experiment.training.precision == "bf16"
