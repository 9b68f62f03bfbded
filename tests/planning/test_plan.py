import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from nmt.batching.schedule import Schedule
from nmt.checkpoint.run_directory import list_checkpoints
from nmt.config.cluster import Cluster
from nmt.config.files import load_experiment
from nmt.corpus.prepared import open_prepared
from nmt.model.seq2seq import Seq2Seq, num_parameters
from nmt.planning import size
from nmt.planning.plan import Plan, Wishes, lines_of, make_plan


@pytest.fixture
def tiny_plan(here: Path) -> Plan:
    return make_plan(load_experiment("tiny.yaml"), Cluster(), Wishes(), probe_s=0.5)


def test_what_can_be_counted_is_exact(tiny_plan: Plan) -> None:
    shards, subword = open_prepared(tiny_plan.experiment)
    schedule = Schedule(shards.src_lengths, shards.tgt_lengths, tiny_plan.experiment.batching, 1)
    model = Seq2Seq(tiny_plan.experiment.model, subword.num_pieces)
    assert tiny_plan.parameters == num_parameters(model)
    assert tiny_plan.updates_per_epoch == schedule.updates_per_epoch
    assert tiny_plan.num_pairs == 100


def test_the_disk_is_what_a_checkpoint_takes(tiny_plan: Plan) -> None:
    folder = list_checkpoints(Path("runs/tiny"))[0]
    taken = sum(file.stat().st_size for file in folder.rglob("*.safetensors"))
    each = size.checkpoint_bytes(tiny_plan.experiment, tiny_plan.parameters)
    assert each == pytest.approx(taken, rel=0.1)
    assert size.disk_bytes(tiny_plan.experiment, tiny_plan.parameters) == 4 * each
    files = [file for file in Path("prepared/tiny").rglob("*") if file.is_file()]
    of_folder = sum(file.stat().st_size for file in files if file.name != "manifest.json")
    assert tiny_plan.corpus_bytes == of_folder


def test_more_memory_is_planned_for_a_larger_micro_batch(here: Path, tiny_plan: Plan) -> None:
    smaller = load_experiment("tiny.yaml", ["batching.max_tokens=64"])
    assert make_plan(smaller, Cluster(), Wishes(), probe_s=0.5).largest < tiny_plan.largest / 2
    assert tiny_plan.memory.kept == 5 * 4 * tiny_plan.parameters
    assert tiny_plan.memory.total > tiny_plan.memory.kept + size.TORCH_BYTES


def test_a_worker_of_known_speed_needs_no_probe_for_its_time(here: Path) -> None:
    experiment, gpus = (
        load_experiment("tiny.yaml"),
        Cluster.model_validate({"workers": 2, "gpus_per_worker": 1}),
    )
    plans = [make_plan(experiment, gpus, Wishes(1, tflops=speed), 0.5) for speed in (0.001, 0.01)]
    slow, fast = (plan.rows[0].compute_s for plan in plans)
    assert slow == pytest.approx(10 * fast, rel=0.3)


def test_gradients_in_bf16_are_half_as_much_to_send(here: Path, tiny_plan: Plan) -> None:
    half = Cluster.model_validate({"gradients": "bf16"})
    plan = make_plan(tiny_plan.experiment, half, Wishes(), probe_s=0.5)
    assert tiny_plan.gradient_bytes == 4 * tiny_plan.parameters
    assert plan.gradient_bytes == 2 * tiny_plan.parameters


def test_the_plan_is_told_line_by_line(here: Path, nmt: Callable[..., Any],
                                       monkeypatch: pytest.MonkeyPatch) -> None:  # fmt: skip
    """P11: what is counted, what is a model, what limits, and no cluster is touched."""
    monkeypatch.setattr("nmt.planning.plan.PROBE_S", 0.5)
    monkeypatch.setattr("ray.init", None)
    Path("c.yaml").write_text("workers: 1\n")
    answer = nmt("plan tiny.yaml c.yaml --link 25")
    assert (answer.status, answer.err) == (0, "")
    lines = answer.out.splitlines()
    assert re.fullmatch(r"[\d,]+ parameters; 100 pairs in \d+ updates an epoch; 60 updates are "
                        r"\d+\.\d epochs", lines[0])  # fmt: skip
    assert lines[1].startswith("memory of a worker at the peak, as a model has it: ")
    assert lines[2].startswith("disk: ")
    assert lines[3].startswith("probe: 20 micro-batches")
    assert lines[4] == (
        "links: 25 Gbit/s between nodes, 10 Gbit/s inside, 100 us a step of a ring; 0 MiB of "
        "gradients an update"
    )
    assert [line.split()[:2] for line in lines[6:-1]] == [["1", "1"], ["2", "2"]]
    assert lines[-1] == (
        "more than 2 workers could not share an update: batching.micro_batches=2; more of them "
        "make a larger update"
    )


def test_the_lines_are_of_the_plan(tiny_plan: Plan) -> None:
    assert next(lines_of(tiny_plan)).startswith(f"{tiny_plan.parameters:,} parameters; ")
