import json
import math
from pathlib import Path

import pytest
import torch

from nmt.bench import cases, gpu, suite
from nmt.bench.bench import Bench
from nmt.bench.cases import MULTI30K, WMT16, Case, Lengths
from nmt.bench.figures import BenchReport, Figure, line_of
from nmt.bench.workers import Pace, figures_of
from nmt.corpus.shards import Shards
from nmt.errors import ConfigError

HERE = ["lstm", "batching", "update", "train", "peer", "decode", "precision", "checkpoint"]
"""Parts that need no other process."""
EXPECTED = {
    "lstm": ["lstm/512/fp32", "lstm/512/bf16", "lstm/512/two-way"],
    "batching": [f"batching/tiny/{what}" for what in ("src fill", "spread of tokens", "loader")],
    "update": [f"update/tiny/{part}" for part in ("embedding", "encoder", "decoder", "attention",
                                                  "output", "optimizer", "whole", "rest")],
    "train": ["train/tiny/fp32", "train/tiny/bf16", "train/tiny/bf16 to fp32", "train/tiny/plain",
              "train/tiny/fp32 to plain", "train/tiny/bf16 to plain"],
    "peer": ["peer/ours", "peer/input feeding"],
    "decode": ["decode/greedy/sentences", "decode/beam 5/tokens"],
    "precision": ["precision/tiny/1/fp32", "precision/tiny/64/bf16", "precision/tiny/64/int8"],
    "checkpoint": ["checkpoint/tiny/save", "checkpoint/tiny/load",
                   "beside/tiny/checkpoint", "beside/tiny/validation"],
}  # fmt: skip


@pytest.mark.parametrize("part", HERE)
def test_a_part_gives_its_figures(part: str, tiny_bench: Bench) -> None:
    """P11: each has a unit, and says what it counts."""
    figures = list(suite.PARTS[part](tiny_bench))
    assert set(EXPECTED[part]) <= {figure.name for figure in figures}
    for figure in figures:
        assert math.isfinite(figure.value), figure
        assert figure.unit, figure
        assert figure.counts, figure
        assert figure.value > 0 or figure.name.endswith("rest"), figure
        assert (figure.ratio is None) == (not figure.ratio_to), figure
        assert figure.name in line_of(figure)


def test_the_part_of_a_gpu_gives_its_figures_on_any_device(tiny_bench: Bench) -> None:
    """P11. On a CPU its figures mean little, but it is the same code."""
    figures = list(gpu.of_device(tiny_bench, torch.device("cpu"), 64, 1 << 20, (16,)))
    expected = [f"gpu/product/{name}" for name in ("fp32", "bf16", "fp16")]
    expected += ["gpu/copy", *(f"gpu/train/16/{name}" for name in ("fp32", "bf16", "fp16"))]
    expected += [f"gpu/search/16/{n}/beam {beam}" for n in ("fp32", "bf16") for beam in (1, 5)]
    assert [figure.name for figure in figures] == expected
    for figure in figures:
        assert figure.value > 0
        assert figure.counts
        assert (figure.ratio is None) == (figure.name.startswith(("gpu/product", "gpu/copy")))


def test_updates_on_a_gpu_are_of_about_as_many_sentences_as_asked_for(tiny_case: Case) -> None:
    few, many = (gpu._of_sentences(tiny_case, number).schedule for number in (8, 32))
    assert few.num_pairs / few.updates_per_epoch == pytest.approx(8, rel=0.2)
    assert many.num_pairs / many.updates_per_epoch == pytest.approx(32, rel=0.2)


@pytest.mark.slow
@pytest.mark.parametrize("part", ["memory", "workers"])
def test_a_part_with_processes_gives_its_figures(part: str, tiny_bench: Bench) -> None:
    names = [figure.name for figure in suite.PARTS[part](tiny_bench)]
    expected = {
        "memory": ["memory/tiny/bf16"],
        "workers": [f"workers/tiny/{what}" for what in (
            "one", "beside", "two", "four", "two to beside", "waits for data", "waits in all",
            "one planned", "two planned", "four planned")],
    }  # fmt: skip
    assert set(expected[part]) <= set(names)


@pytest.mark.slow
def test_memory_of_a_process_is_its_own(tiny_bench: Bench) -> None:
    """Not the peak of the one that started it."""
    ballast = b"x" * 2**30
    [figure, _] = suite.PARTS["memory"](tiny_bench)
    assert 100 < figure.value < len(ballast) / 2**20


def test_two_workers_are_compared_with_twice_one() -> None:
    """P11."""
    paces = {"one": 100.0, "beside": 90.0, "two": 170.0, "four": 160.0}
    found = {
        how: [Pace(2 * pace, positions_per_s=pace, waiting=0.2, data=0.01)] * 3
        for how, pace in paces.items()
    }
    figures = {figure.name: figure for figure in figures_of("x", [found, found])}
    assert figures["workers/x/one"].value == 200
    assert figures["workers/x/one"].ratio is None
    assert figures["workers/x/beside"].ratio == pytest.approx(0.9)
    assert figures["workers/x/two"].ratio == pytest.approx(0.85)
    assert figures["workers/x/two"].ratio_to == "2 times one worker"
    assert figures["workers/x/two to beside"].value == pytest.approx(170 / 180)
    assert figures["workers/x/waits for data"].value == pytest.approx(1)
    assert figures["workers/x/waits in all"].value == pytest.approx(20)


@pytest.mark.slow
@pytest.mark.ray
def test_the_start_of_commands_is_timed(tiny_bench: Bench) -> None:
    names = [figure.name for figure in suite.PARTS["startup"](tiny_bench)]
    assert names == [f"startup/{what}" for what in ("help", "translate", "ray", "first update")]


def test_the_peaks_come_first_and_the_parts_asked_for_after(
    tiny_case: Case, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """P11: the machine, and the peak measured in the same process."""
    for name in ("multi30k", "gnmt"):
        monkeypatch.setattr(cases, name, lambda scratch: tiny_case)
    shown: list[str] = []
    taken: list[Figure] = []
    report = suite.run(["batching"], 0.0, shown.append, taken.append)
    names = [figure.name for figure in report.figures]
    assert names[:3] == ["machine/product/fp32", "machine/product/bf16", "machine/copy"]
    assert {name.partition("/")[0] for name in names[3:]} == {"batching"}
    assert taken == report.figures
    assert {"processor", "cores", "threads", "torch", "load"} <= report.machine.keys()
    assert shown[1].startswith("batching: ")
    report.save(tmp_path / "report.json")
    assert BenchReport.load(tmp_path / "report.json") == report
    assert json.loads((tmp_path / "report.json").read_text())["format"] == 1


def test_a_part_that_there_is_not_is_told_before_anything_is_measured() -> None:
    """P9."""
    with pytest.raises(ConfigError) as error:
        suite.run(["lsmt"], 0.0, lambda line: None, lambda figure: None)
    assert str(error.value) == (
        "'lsmt' is not a part of the benchmark; known: lstm, batching, update, train, peer, "
        "memory, decode, precision, checkpoint, workers, gpu, startup"
    )


def test_a_gpu_that_there_is_not_is_told_too(monkeypatch: pytest.MonkeyPatch) -> None:
    """P9."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(ConfigError, match="torch finds no GPU here: leave out the part gpu"):
        suite.run(["gpu"], 0.0, lambda line: None, lambda figure: None)


@pytest.mark.parametrize("lengths", [MULTI30K, WMT16])
def test_random_pairs_are_as_long_as_real_ones(
    lengths: Lengths, tiny_case: Case, tmp_path: Path
) -> None:
    experiment = tiny_case.experiment
    longer = experiment.batching.model_copy(update={"max_length": 256, "max_tokens": 1024})
    experiment = experiment.model_copy(update={"batching": longer})
    cases.write_random(tmp_path / "made", lengths, 6000, experiment, num_pairs=4000)
    shards = Shards.open(tmp_path / "made")
    assert shards.src_lengths.mean() + 1 == pytest.approx(lengths.mean, rel=0.03)
    assert shards.tgt_lengths.mean() + 1 == pytest.approx(lengths.mean * lengths.factor, rel=0.03)
