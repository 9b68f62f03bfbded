import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from nmt.bench import baselines, decode_speed, suite, timing, workers
from nmt.bench.figures import BenchReport, Figure, format_figure
from nmt.bench.gpu import measure_device, with_batch_size
from nmt.bench.timing import MatrixProduct
from nmt.bench.workers import Speed, run_processes, scaling_figures
from nmt.bench.workloads import Bench, Workload
from nmt.errors import ConfigError, NmtError
from nmt.planning.memory_estimate import count_parameters
from nmt.planning.probe import Probe

EXPECTED = {
    "update": [f"update/tiny/{part}" for part in ("embedding", "encoder", "decoder", "attention",
                                                  "output", "optimizer", "whole", "rest")],
    "train": ["train/tiny/fp32", "train/tiny/bf16", "train/tiny/bf16 to fp32", "train/tiny/plain",
              "train/tiny/fp32 to plain", "train/tiny/bf16 to plain"],
    "peer": ["peer/ours", "peer/input feeding"],
    "decode": ["decode/tiny/greedy/1/torch fp32", "decode/tiny/beam 5/64/onnx int8",
               "latency/tiny/onnx fp32/median", "latency/tiny/torch fp32/p95",
               "floor/tiny/1/graph", "floor/tiny/64/host"],
}  # fmt: skip


@pytest.fixture(autouse=True)
def small_measurements(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(decode_speed, "SENTENCES", {1: 1, 64: 4})
    monkeypatch.setattr(decode_speed, "LATENCY_ROUNDS", 4)
    for size in ("PEER_EMBEDDING", "PEER_WIDTH"):
        monkeypatch.setattr(baselines, size, 32)


@pytest.mark.parametrize("part", EXPECTED)
def test_part_yields_figures_with_units(part: str, tiny_bench: Bench) -> None:
    """Honest numbers (nmt/README.md, Guarantees)."""
    figures = list(suite.PARTS[part](tiny_bench))
    assert set(EXPECTED[part]) <= {figure.name for figure in figures}
    for figure in figures:
        assert math.isfinite(figure.value), figure
        assert figure.unit, figure
        assert figure.counts, figure
        assert figure.value > 0 or figure.name.endswith("rest"), figure
        assert (figure.ratio is None) == (not figure.ratio_to), figure
        assert figure.name in format_figure(figure)


def test_gpu_part_yields_figures_on_any_device(tiny_bench: Bench) -> None:
    """On a CPU its figures mean little, but the code is the same."""
    figures = list(measure_device(tiny_bench, torch.device("cpu"), 64, (16,)))
    expected = [f"gpu/product/{name}" for name in ("fp32", "bf16", "fp16", "tf32")]
    expected += [f"gpu/train/16/{name}" for name in ("fp32", "bf16", "fp16", "tf32")]
    expected += [f"gpu/search/16/{n}/beam {beam}" for n in ("fp32", "bf16") for beam in (1, 5)]
    assert [figure.name for figure in figures] == expected
    for figure in figures:
        assert figure.value > 0
        assert figure.counts
        assert (figure.ratio is None) == figure.name.startswith("gpu/product")


def test_gpu_batches_have_about_the_given_size(tiny_workload: Workload) -> None:
    few, many = (with_batch_size(tiny_workload, number).schedule for number in (8, 32))
    assert few.num_pairs / few.updates_per_epoch == pytest.approx(8, rel=0.2)
    assert many.num_pairs / many.updates_per_epoch == pytest.approx(32, rel=0.2)


@pytest.mark.slow
def test_workers_part_yields_figures(tiny_bench: Bench) -> None:
    names = {figure.name for figure in suite.PARTS["workers"](tiny_bench)}
    expected = {"one", "beside", "two", "four", "two to beside"}
    expected |= {f"{mode} planned" for mode in ("one", "two", "four")}
    assert {f"workers/tiny/{figure}" for figure in expected} == names


@pytest.mark.slow
def test_prediction_sums_gradients_of_four_bytes(
    tiny_workload: Workload, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Honest numbers (nmt/README.md, Guarantees)."""
    sent = []
    plan = workers.predict_scaling
    probe = Probe(0.0, 1e-6, 0.0, 0.0, 0.0, 1.0, 1.0, 1.0)
    monkeypatch.setattr(workers, "run_probe", lambda *arguments: probe)
    monkeypatch.setattr(
        workers, "predict_scaling", lambda *a, **more: sent.append(a[1]) or plan(*a, **more)
    )
    assert set(workers._predict(tiny_workload)) == {1, 2, 4}
    num_pieces = tiny_workload.subword.num_pieces
    assert sent == [4 * count_parameters(tiny_workload.experiment, num_pieces)] * 3


def test_memory_of_a_process_excludes_that_of_its_parent(tiny_bench: Bench) -> None:
    ballast = b"x" * 2**30
    figure = next(iter(suite.PARTS["memory"](tiny_bench)))
    assert figure.name == "memory/tiny/fp32"
    assert 100 < figure.value < len(ballast) / 2**20


@pytest.mark.slow
def test_sustained_part_yields_figures(tiny_bench: Bench) -> None:
    speed, memory = suite.PARTS["sustained"](tiny_bench)
    assert (speed.name, memory.name) == ("sustained/tiny/fp32", "sustained/tiny/fp32 memory")
    assert speed.value > 0
    assert 100 < memory.value < 1024


@pytest.mark.slow
def test_memory_and_speed_of_a_worker_are_sustained(tmp_path: Path) -> None:
    """Bounded memory (nmt/README.md, Guarantees): 3 GB with a kernel for each shape."""
    speed, memory = suite.PARTS["sustained"](Bench(tmp_path, 0.0, {}))
    assert speed.ratio is not None
    assert speed.ratio > 0.8
    assert memory.value < 1300


def test_two_workers_are_compared_with_twice_one() -> None:
    """Honest numbers (nmt/README.md, Guarantees)."""
    paces = {"one": 100.0, "beside": 90.0, "two": 170.0, "four": 160.0}
    speeds = {mode: [Speed(2 * pace, positions_per_s=pace)] * 3 for mode, pace in paces.items()}
    figures = {figure.name: figure for figure in scaling_figures("x", [speeds, speeds])}
    assert figures["workers/x/one"].value == 200
    assert figures["workers/x/one"].ratio is None
    assert figures["workers/x/beside"].ratio == pytest.approx(0.9)
    assert figures["workers/x/two"].ratio == pytest.approx(0.85)
    assert figures["workers/x/two"].ratio_to == "2 times one worker"
    assert figures["workers/x/two to beside"].value == pytest.approx(170 / 180)


@pytest.mark.slow
@pytest.mark.ray
def test_startup_part_yields_figures(tiny_bench: Bench) -> None:
    names = [figure.name for figure in suite.PARTS["startup"](tiny_bench)]
    assert names == [f"startup/{what}" for what in ("help", "translate", "ray", "first update")]


def test_peaks_are_measured_before_the_parts(
    tiny_workload: Workload, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Honest numbers (nmt/README.md, Guarantees)."""
    monkeypatch.setattr(timing, "bf16_gain", lambda: 1.0)
    monkeypatch.setattr(timing, "SHAPES", ((64, 64, 64),))
    monkeypatch.setattr(Bench, "small", tiny_workload)
    monkeypatch.setattr(Bench, "wide", tiny_workload)
    logged: list[str] = []
    reported: list[Figure] = []
    report = suite.run_bench(["decode"], 0.0, logged.append, reported.append)
    names = [figure.name for figure in report.figures]
    assert names[:2] == ["machine/product/fp32", "machine/product/bf16"]
    assert {name.partition("/")[0] for name in names[2:]} == {"decode", "latency", "floor"}
    assert reported == report.figures
    assert {"processor", "cores", "threads", "torch", "load"} <= report.machine.keys()
    assert (
        logged[1] == "decode: Search speed and latency by engine, precision, beam and batch size."
    )
    report.save(tmp_path / "report.json")
    assert BenchReport.load(tmp_path / "report.json") == report
    assert json.loads((tmp_path / "report.json").read_text())["format"] == 1


def test_bf16_is_left_out_where_it_is_emulated(
    tiny_bench: Bench, products: dict[str, MatrixProduct], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A part of the benchmark took hours on a CPU without units for bf16."""
    monkeypatch.setattr(timing, "bf16_gain", lambda: 0.02)
    monkeypatch.setattr(timing, "SHAPES", ((64, 64, 64),))
    assert timing.measure_peaks(0.0)[1].keys() == {"fp32"}
    monkeypatch.delitem(products, "bf16")
    logged: list[str] = []
    with monkeypatch.context() as patch:
        patch.setattr(suite, "PARTS", {})
        suite.run_bench([], 0.0, logged.append, lambda figure: None)
    assert logged[1:] == ["bf16 is left out: this CPU has no units for it"]
    names = [figure.name for figure in suite.PARTS["train"](tiny_bench)]
    assert names[:3] == ["train/tiny/fp32", "train/tiny/plain", "train/tiny/fp32 to plain"]


def test_figures_before_a_failure_are_saved(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, nmt: Any
) -> None:
    """Startup is measured last, and starts Ray."""

    def fail(_: Bench) -> Iterator[Figure]:
        raise NmtError("no Ray")
        yield

    quick = Figure("quick", 1.0, "s", "nothing")
    monkeypatch.setattr(suite, "PARTS", {"update": lambda _: iter([quick]), "startup": fail})
    monkeypatch.setattr(suite, "measure_peaks", lambda seconds: ([], {"bf16": None}))
    for part in suite.PARTS.values():
        part.__doc__ = "Measure."
    answer = nmt(f"bench -o {tmp_path / 'b.json'}")
    assert (answer.status, answer.err.splitlines()[-1]) == (2, "nmt: no Ray")
    assert BenchReport.load(tmp_path / "b.json").figures == [quick]


def test_unknown_part_is_refused_before_measuring() -> None:
    """Actionable errors (nmt/README.md, Guarantees)."""
    with pytest.raises(ConfigError) as error:
        suite.run_bench(["trian"], 0.0, lambda line: None, lambda figure: None)
    assert str(error.value) == (
        "unknown benchmark part 'trian'; choose from update, train, peer, sustained, memory, "
        "decode, workers, gpu, startup"
    )


def test_output_that_is_a_directory_is_refused_early(tmp_path: Path, nmt: Any) -> None:
    """Actionable errors (nmt/README.md, Guarantees)."""
    answer = nmt(f"bench update -o {tmp_path}")
    assert answer.err == f"nmt: --output is {tmp_path}, but it is a directory: give a file name\n"
    assert answer.status == 2


@pytest.mark.parametrize("option", ["--output x.json", "--seconds 3"])
def test_compare_refuses_options_of_measuring(option: str, nmt: Any) -> None:
    """Actionable errors (nmt/README.md, Guarantees)."""
    answer = nmt(f"bench compare a.json b.json {option}")
    name = option.partition(" ")[0]
    assert answer.err == f"nmt: compare measures nothing: remove {name}\n"
    assert answer.status == 2


def test_gpu_part_without_a_gpu_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(ConfigError) as error:
        suite.run_bench(["gpu"], 0.0, lambda line: None, lambda figure: None)
    assert str(error.value) == "part gpu needs a GPU, and torch finds none: leave it out"


def test_failed_process_is_reported(tiny_workload: Workload, tmp_path: Path) -> None:
    with pytest.raises(NmtError) as error:
        run_processes(tiny_workload, tmp_path / "jobs", ["fp33"])
    assert str(error.value) == "a benchmark process ended with status 1; see its output above"
