import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from nmt.batching.batch import make_batch
from nmt.batching.loader import Loader
from nmt.batching.schedule import Schedule
from nmt.checkpoint.run_directory import list_checkpoints
from nmt.config.cluster import Cluster
from nmt.config.files import load_experiment
from nmt.corpus.prepared import open_prepared
from nmt.model.seq2seq import Seq2Seq, num_parameters
from nmt.planning import memory_estimate
from nmt.planning.plan import Plan, PlanOptions, format_plan, make_plan
from nmt.planning.probe import Probe, run_probe, saved_bytes
from nmt.planning.scaling import Links, ScalingRow
from nmt.training.data import TrainingData, make_schedule
from nmt.training.distributed import World
from nmt.training.state import Learner


@pytest.fixture
def tiny_plan(here: Path) -> Plan:
    return make_plan(load_experiment("tiny.yaml"), Cluster(), PlanOptions(), probe_s=0.5)


def test_counts_are_exact(tiny_plan: Plan) -> None:
    shards, subword = open_prepared(tiny_plan.experiment)
    schedule = Schedule(shards.src_lengths, shards.tgt_lengths, tiny_plan.experiment.batching, 1)
    model = Seq2Seq(tiny_plan.experiment.model, subword.num_pieces)
    assert tiny_plan.parameters == num_parameters(model)
    assert tiny_plan.updates_per_epoch == schedule.updates_per_epoch
    assert tiny_plan.num_pairs == 100
    assert tiny_plan.epochs == pytest.approx(60 / schedule.updates_per_epoch)
    updates = [schedule.update(number) for number in range(schedule.updates_per_epoch)]
    num_tokens = sum(update.num_tgt_tokens for update in updates) / len(updates)
    assert tiny_plan.rows[0].tgt_tokens == pytest.approx(num_tokens)


def test_disk_estimate_matches_files(tiny_plan: Plan) -> None:
    folder = list_checkpoints(Path("runs/tiny"))[0]
    actual = sum(file.stat().st_size for file in folder.rglob("*.safetensors"))
    assert tiny_plan.checkpoint_bytes == pytest.approx(actual, rel=0.1)
    files = [file for file in Path("prepared/tiny").rglob("*") if file.is_file()]
    corpus_size = sum(file.stat().st_size for file in files if file.name != "manifest.json")
    assert tiny_plan.corpus_bytes == corpus_size


def test_larger_micro_batch_needs_more_memory(here: Path, tiny_plan: Plan) -> None:
    smaller = load_experiment("tiny.yaml", ["batching.max_tokens=64"])
    assert make_plan(smaller, Cluster(), PlanOptions(), probe_s=0.5).largest < tiny_plan.largest / 2
    assert tiny_plan.memory.weights == 5 * 4 * tiny_plan.parameters
    memory = tiny_plan.memory
    parts = (memory.weights, memory.activations, memory.loss, memory.kernels)
    assert min(parts) > 0
    assert memory.total == sum(parts) + memory_estimate.TORCH_BYTES


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_saved_bytes_are_those_of_a_whole_micro_batch(here: Path, precision: str) -> None:
    """Honest numbers (nmt/README.md, Guarantees): weights do not grow with the micro-batch."""
    wide = ["model.width=128", f"training.precision={precision}"]
    experiment = load_experiment("tiny.yaml", wide)
    plan = make_plan(experiment, Cluster(), PlanOptions(), probe_s=0.1)
    shards, subword = open_prepared(experiment)
    _, schedule = make_schedule(experiment, TrainingData(shards, subword, ([], [])))
    updates = [schedule.update(number) for number in range(schedule.updates_per_epoch)]
    batches = [make_batch(shards.pairs(rows)) for each in updates for rows in each.micro_batches]
    largest = max(batches, key=lambda batch: batch.num_padded)
    assert largest.num_padded == plan.largest
    actual = saved_bytes(Learner(experiment, subword.num_pieces, World()), largest)
    assert plan.memory.activations == pytest.approx(actual, rel=0.1)


def test_noise_lengthens_the_largest_source(here: Path, tiny_plan: Plan) -> None:
    noisy = load_experiment("tiny.yaml", ["training.robust=true"])
    grown = make_plan(noisy, Cluster(), PlanOptions(), probe_s=0.5)
    assert grown.largest == 1.25 * tiny_plan.largest


def test_subword_dropout_lengthens_the_pairs(here: Path) -> None:
    """Honest numbers (nmt/README.md, Guarantees)."""
    experiment = load_experiment("tiny.yaml", ["training.subword_dropout=0.5"])
    plan = make_plan(experiment, Cluster(), PlanOptions(), probe_s=0.1)
    shards, subword = open_prepared(experiment)
    sampler_at, schedule = make_schedule(experiment, TrainingData(shards, subword, ([], [])))
    updates = Loader(shards, schedule, range(schedule.updates_per_epoch), sampler_at=sampler_at)
    sizes = [part.batch.num_padded for _, parts in updates for part in parts]
    assert max(sizes) <= plan.largest < 1.5 * max(sizes)


def test_given_speed_replaces_the_probe(here: Path) -> None:
    experiment = load_experiment("tiny.yaml")
    gpus = Cluster.model_validate({"workers": 2, "gpus_per_worker": 1})
    plans = [
        make_plan(experiment, gpus, PlanOptions(1, tflops=speed), 0.5) for speed in (0.001, 0.01)
    ]
    slow, fast = (plan.rows[0].compute_s for plan in plans)
    assert slow == pytest.approx(10 * fast, rel=0.3)


@pytest.mark.parametrize(("setting", "passes"), [("rdrop=2", 2), ("cutoff=0.1", 2)])
def test_given_speed_counts_every_pass(here: Path, setting: str, passes: int) -> None:
    gpu = Cluster.model_validate({"workers": 1, "gpus_per_worker": 1})
    options = PlanOptions(1, tflops=0.001)
    once, more = (
        make_plan(load_experiment("tiny.yaml", changes), gpu, options, 0.1).rows[0].compute_s
        for changes in ([], [f"training.{setting}"])
    )
    assert more == pytest.approx(passes * once, rel=0.01)


def test_precision_auto_of_a_gpu_is_not_that_of_this_cpu(here: Path) -> None:
    experiment = load_experiment("tiny.yaml", ["training.precision=auto"])
    gpu = Cluster.model_validate({"workers": 1, "gpus_per_worker": 1})
    plan = make_plan(experiment, gpu, PlanOptions(tflops=1.0), probe_s=0.1)
    assert list(format_plan(plan))[1].startswith("memory per worker (estimate, bf16): ")


def test_times_of_a_cpu_are_no_times_of_a_gpu(here: Path) -> None:
    """Honest numbers (nmt/README.md, Guarantees)."""
    experiment = load_experiment("tiny.yaml")
    gpu = Cluster.model_validate({"workers": 1, "gpus_per_worker": 1})
    note = "times are those of a worker on this machine's CPU: give --tflops for one on a GPU"
    for cluster, tflops in ((gpu, None), (gpu, 1.0), (Cluster(), None)):
        plan = make_plan(experiment, cluster, PlanOptions(tflops=tflops), probe_s=0.1)
        assert (note in format_plan(plan)) == (cluster is gpu and tflops is None)


@pytest.mark.parametrize("precision", ["fp32", "tf32", "bf16", "fp16"])
def test_every_precision_is_planned(here: Path, precision: str) -> None:
    experiment = load_experiment("tiny.yaml", [f"training.precision={precision}"])
    plan = make_plan(experiment, Cluster(), PlanOptions(), probe_s=0.1)
    assert plan.probe.step_s > 0


def test_probe_has_no_more_threads_than_cores(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A worker alone on a node is not slower than the probe, whatever it requests."""
    threads: list[int] = []
    monkeypatch.setattr("torch.set_num_threads", threads.append)
    monkeypatch.setattr("os.cpu_count", lambda: 2)
    many = Cluster.model_validate({"cpus_per_worker": 4096})
    plan = make_plan(load_experiment("tiny.yaml"), many, PlanOptions(), probe_s=0.1)
    assert threads == [plan.threads] == [2]
    assert plan.rows[0].efficiency == pytest.approx(1)
    assert plan.rows[0].workers == 1


def test_bf16_gradients_have_half_the_bytes(here: Path, tiny_plan: Plan) -> None:
    half = Cluster.model_validate({"gradients": "bf16"})
    plan = make_plan(tiny_plan.experiment, half, PlanOptions(), probe_s=0.5)
    assert tiny_plan.gradient_bytes == 4 * tiny_plan.parameters
    assert plan.gradient_bytes == 2 * tiny_plan.parameters


def test_plan_is_printed_line_by_line(here: Path, nmt: Callable[..., Any],
                                       monkeypatch: pytest.MonkeyPatch) -> None:  # fmt: skip
    """Honest numbers (nmt/README.md, Guarantees); no cluster is started."""
    monkeypatch.setattr("nmt.planning.plan.PROBE_S", 0.5)
    monkeypatch.setattr("ray.init", None)
    Path("c.yaml").write_text("workers: 1\n")
    answer = nmt("plan tiny.yaml c.yaml --link 25")
    assert (answer.status, answer.err) == (0, "")
    lines = answer.out.splitlines()
    pattern = (
        r"[\d,]+ parameters \| 100 pairs in \d+ updates per epoch \| 60 updates = [\d.]+ epochs"
    )
    assert re.fullmatch(pattern, lines[0])
    assert lines[1].startswith("memory per worker (estimate, fp32): ")
    assert re.fullmatch(
        r"disk: \d+ MiB for 4 checkpoints of \d MiB \(2 newest, best, one being written\) \| "
        r"prepared corpus \d MiB",
        lines[2],
    )
    assert lines[3].startswith("probe on this machine: 20 micro-batches")
    assert lines[4] == (
        "links: 25 Gbit/s between nodes | 10 Gbit/s within a node | 100 us per ring step | "
        "gradients 0 MiB per update"
    )
    assert [line.split()[:2] for line in lines[6:-1]] == [["1", "1"], ["2", "2"]]
    assert lines[-1] == "at most 2 workers: an update has batching.micro_batches=2"


def test_frozen_parameters_have_no_gradients(here: Path, tiny_plan: Plan) -> None:
    frozen = load_experiment("tiny.yaml", ["training.freeze=['encoder.*']"])
    plan = make_plan(frozen, Cluster(), PlanOptions(), probe_s=0.1)
    num_frozen = num_parameters(Seq2Seq(frozen.model, 320).encoder)
    assert plan.parameters == tiny_plan.parameters
    assert plan.gradient_bytes == tiny_plan.gradient_bytes - 4 * num_frozen
    # Neither gradients nor moments; weights and average remain.
    assert plan.memory.weights == tiny_plan.memory.weights - 3 * 4 * num_frozen
    assert plan.checkpoint_bytes == tiny_plan.checkpoint_bytes - 2 * 4 * num_frozen


def test_importance_of_a_warm_start_is_planned(here: Path, tiny_plan: Plan) -> None:
    settings = ["init_from=runs/tiny", "init_optimizer=true", "init_share=0.5"]
    adapted = load_experiment("tiny.yaml", [f"training.{each}" for each in settings])
    plan = make_plan(adapted, Cluster(), PlanOptions(), probe_s=0.1)
    assert plan.memory.weights == tiny_plan.memory.weights + 4 * plan.parameters
    assert plan.checkpoint_bytes == tiny_plan.checkpoint_bytes + 4 * plan.parameters


def test_logits_are_those_of_a_micro_batch(here: Path) -> None:
    """A GPU has room for all logits of a small micro-batch: 1 GiB would be a chunk."""
    gpu = Cluster.model_validate({"gpus_per_worker": 1})
    plan = make_plan(load_experiment("tiny.yaml"), gpu, PlanOptions(tflops=1.0), probe_s=0.1)
    assert plan.memory.loss == 320 * (512 * (4 + 4 + 4) + 4 * 32)


def test_a_stage_with_two_passes_counts(here: Path, tiny_plan: Plan) -> None:
    def plan(*overrides: str) -> Plan:
        experiment = load_experiment("tiny.yaml", overrides)
        return make_plan(experiment, Cluster(), PlanOptions(), probe_s=0.5)

    always = plan("training.rdrop=1")
    assert always.memory.activations > 1.5 * tiny_plan.memory.activations
    later = plan("stages=[{from_update: 9, rdrop: 1}, {from_update: 20, rdrop: 0}]")
    assert later.memory.activations == always.memory.activations
    note = "memory and times are those of the stage from update 9, which computes each "
    assert [line for line in format_plan(later) if line.startswith(note)]
    assert not [line for line in format_plan(always) if "of the stage" in line]
    first = plan("training.rdrop=1", "stages=[{from_update: 20, rdrop: 0}]")
    note = "memory and times are those of the first stage, which computes each pair 2 "
    assert [line for line in format_plan(first) if line.startswith(note)]
    risky = plan("stages=[{from_update: 9, risk: 1}]")
    assert risky.memory.activations > 2.5 * tiny_plan.memory.activations
    assert any("which computes each pair 9 times; " in line for line in format_plan(risky))
    never = plan("stages=[{from_update: 60, rdrop: 1}]")
    assert never.memory.activations == tiny_plan.memory.activations


def test_the_teacher_of_distillation_is_planned(here: Path, tiny_plan: Plan) -> None:
    settings = ["training.init_from=runs/old", "corpus.train.0.distillation=1"]
    plan = make_plan(load_experiment("tiny.yaml", settings), Cluster(), PlanOptions(), probe_s=0.1)
    note = "times leave out the teacher: a pair that is distilled takes about a third longer"
    assert note in format_plan(plan)
    assert note not in format_plan(tiny_plan)
    assert plan.memory.weights == tiny_plan.memory.weights + 4 * plan.parameters
    assert plan.checkpoint_bytes == tiny_plan.checkpoint_bytes + 4 * plan.parameters


def test_nodes_and_links_of_gpus(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.cpu_count", lambda: 2)
    sizes = ["batching.micro_batches=16", "batching.max_tokens=32"]
    experiment = load_experiment("tiny.yaml", sizes)
    gpus = Cluster.model_validate({"workers": 16, "gpus_per_worker": 1})
    measured: list[Probe] = []

    def probe_once(*arguments: Any) -> Probe:
        """Measure once: two times differ."""
        measured[:] = measured or [run_probe(*arguments)]
        return measured[0]

    monkeypatch.setattr("nmt.planning.plan.run_probe", probe_once)

    def plan(workers_per_node: int | None, *links: float) -> Plan:
        options = PlanOptions(workers_per_node, *(links or (None, None)), tflops=1e-3)
        return make_plan(experiment, gpus, options, probe_s=0.1)

    of_nodes = {number: plan(number) for number in (None, 1, 4)}
    nodes = {key: [(row.nodes, row.workers) for row in each.rows] for key, each in of_nodes.items()}
    assert nodes[None] == [(1, 8), (2, 16)]
    assert nodes[4] == [(1, 4), (2, 8), (4, 16)]
    # The cores of this machine do not slow down workers on GPUs, nor does its optimizer step.
    first = {key: each.rows[0] for key, each in of_nodes.items()}
    assert 8 * first[None].compute_s == pytest.approx(first[1].compute_s)
    assert first[None].step_s == 0
    assert of_nodes[None].links == Links(400, 2400, 10)
    assert plan(8, 25.0, 50.0).links == Links(25, 50, 10)


def test_table_has_the_hours_of_all_updates(tiny_plan: Plan) -> None:
    """Sixty updates of two minutes."""
    row = ScalingRow(2, 4, 90.0, 15.0, 10.0, 5.0, 60_000.0, 0.75)
    line = list(format_plan(replace(tiny_plan, rows=[row])))[-2]
    assert line.split() == [
        "2", "4", "120,000", "90,000", "15,000", "10,000", "5,000", "500", "0.75", "2.00",
        "forward", "and", "backward",
    ]  # fmt: skip


def test_first_line_counts_parameters(tiny_plan: Plan) -> None:
    assert next(format_plan(tiny_plan)).startswith(f"{tiny_plan.parameters:,} parameters | ")
