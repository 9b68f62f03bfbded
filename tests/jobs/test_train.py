"""Training runs on a real local Ray: restarts, stops and going on."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import ray
import torch

from nmt.checkpoint.loading import load_training_state
from nmt.checkpoint.run import bundles
from nmt.config.cluster import Cluster
from nmt.config.experiment import (
    BatchingConfig,
    CleaningConfig,
    CorpusConfig,
    Experiment,
    ModelConfig,
    ParallelText,
    SubwordConfig,
    TrainingConfig,
)
from nmt.config.files import dump
from nmt.console import Console
from nmt.corpus.prepare import prepare
from nmt.errors import TrainingError
from nmt.jobs.train import finished, run_dir_of, train_on_ray

WORDS = {"one": "eins", "two": "zwei", "red": "rot", "green": "grün", "house": "Haus"}


def make_experiment(folder: Path, **training: object) -> Experiment:
    srcs = [f"{a} {b} {c}" for a in WORDS for b in WORDS for c in WORDS]
    for name, lines in (("train", srcs), ("dev", srcs[::9])):
        tgts = [" ".join(WORDS[word] for word in line.split()) for line in lines]
        (folder / f"{name}.en").write_text("".join(f"{line}\n" for line in lines))
        (folder / f"{name}.de").write_text("".join(f"{line}\n" for line in tgts))
    settings: dict[str, object] = {
        "updates": 30,
        "warmup_updates": 5,
        "log_every": 5,
        "validate_every": 15,
        "checkpoint_every": 5,
    }
    return Experiment(
        name="tiny",
        corpus=CorpusConfig(
            root=str(folder),
            train=[ParallelText(name="a", src="train.en", tgt="train.de")],
            dev=ParallelText(name="dev", src="dev.en", tgt="dev.de"),
            prepared=str(folder / "prepared"),
            cleaning=CleaningConfig(max_dropped=1.0),
            subword=SubwordConfig(vocab_size=300),
        ),
        batching=BatchingConfig(max_tokens=64, micro_batches=3, max_length=32),
        model=ModelConfig(width=16, encoder_layers=1, decoder_layers=1, ffn_width=16, heads=2),
        training=TrainingConfig(**(settings | training)),  # type: ignore[arg-type]
    )


@pytest.fixture(scope="module")
def experiment(tmp_path_factory: pytest.TempPathFactory) -> Experiment:
    made = make_experiment(tmp_path_factory.mktemp("corpus"))
    prepare(made)
    return made


def _train(experiment: Experiment, storage: Path, **cluster: object) -> Path:
    where = Cluster(storage=str(storage), **cluster)  # type: ignore[arg-type]
    train_on_ray(experiment, where, Console())
    return run_dir_of(experiment, where)


def _same(one: Path, other: Path) -> bool:
    """Whether two runs' newest checkpoints are equal bit for bit, optimizer and average too."""
    a, b = (load_training_state(path) for path in (one, other))
    pairs = [(a.weights, b.weights), (a.average or {}, b.average or {}), (a.optimizer, b.optimizer)]
    return a.update == b.update and all(
        x.keys() == y.keys() and all(torch.equal(x[name], y[name]) for name in x) for x, y in pairs
    )


def _command(experiment: Experiment, storage: Path, workers: int) -> list[str]:
    file = storage / "tiny.yaml"
    storage.mkdir(parents=True, exist_ok=True)
    file.write_text(dump(experiment))
    settings = [f"cluster.storage={storage}", f"cluster.workers={workers}"]
    return [sys.executable, "-m", "nmt", "train", str(file), *settings]


@pytest.mark.ray
def test_a_run_that_lost_a_worker_ends_as_if_it_had_not(
    experiment: Experiment, tmp_path: Path
) -> None:
    """P4, with two workers, bit for bit."""
    longer = _with(experiment, updates=400, log_every=100, validate_every=200, checkpoint_every=40)
    calm = _train(longer, tmp_path / "calm", workers=2)
    process = subprocess.Popen(_command(longer, tmp_path / "rough", 2), stderr=subprocess.PIPE)
    rough = tmp_path / "rough" / "tiny"
    _kill_a_worker_after(rough, update=80)
    assert process.wait(timeout=300) == 0
    starts = [
        line
        for line in (rough / "train.log").read_text().splitlines()
        if "from the start" in line or "going on after update" in line
    ]
    assert len(starts) == 2
    assert _same(calm, rough)
    lines = (rough / "metrics.jsonl").read_text().splitlines()
    (restart,) = [each for each in map(json.loads, lines) if each["kind"] == "restart"]
    assert restart["why"] == "worker 0 died"
    assert restart["from_update"] >= 80
    assert 0 <= restart["updates_lost"] <= 80
    assert 0 < restart["s_lost"] < 120


@pytest.mark.ray
def test_ctrl_c_keeps_a_checkpoint_and_the_same_command_goes_on(
    experiment: Experiment, tmp_path: Path
) -> None:
    """P4."""
    longer = _with(experiment, updates=100_000, validate_every=100_000, log_every=100)
    command = _command(longer, tmp_path, 1)
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    _wait_for(lambda: (tmp_path / "tiny" / "checkpoints").exists(), process)
    process.send_signal(signal.SIGINT)
    _, said = process.communicate(timeout=120)
    stopped_at = load_training_state(tmp_path / "tiny").update
    assert process.returncode == 130
    assert 5 <= stopped_at < longer.training.updates
    assert "stopping after this update, with a checkpoint" in said
    assert f"to go on after update {stopped_at:,}: " in said
    assert "Traceback" not in said
    again = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    going_on = f"going on after update {stopped_at:,}"
    _wait_for(lambda: going_on in (tmp_path / "tiny" / "train.log").read_text(), again)
    again.send_signal(signal.SIGINT)
    again.communicate(timeout=120)


@pytest.mark.ray
def test_a_finished_run_is_not_started_again(experiment: Experiment, tmp_path: Path) -> None:
    run_dir = _train(experiment, tmp_path)
    before = (run_dir / "metrics.jsonl").read_bytes()
    started = time.monotonic()
    _train(experiment, tmp_path)
    assert time.monotonic() - started < 3
    assert not ray.is_initialized()
    assert (run_dir / "metrics.jsonl").read_bytes() == before
    ended = finished(experiment, run_dir)
    assert ended is not None
    assert ended.update == 30
    records = [json.loads(line) for line in before.decode().splitlines()]
    assert [r["update"] for r in records if r["kind"] == "validation"] == [15, 30]
    assert ended.best_bleu == max(r["bleu"] for r in records if r["kind"] == "validation")


def test_more_workers_than_micro_batches_are_refused_before_ray_is_started(
    experiment: Experiment, tmp_path: Path
) -> None:
    """P9."""
    with pytest.raises(TrainingError) as error:
        _train(experiment, tmp_path, workers=4)
    assert str(error.value) == (
        "4 workers cannot share updates of 3 micro-batches: ask for at most 3 workers, "
        "or set batching.micro_batches=4 or more (a larger update)"
    )
    assert not (tmp_path / "tiny").exists()


@pytest.mark.ray
def test_workers_that_the_cluster_cannot_hold_are_refused(
    experiment: Experiment, tmp_path: Path
) -> None:
    """P9: Ray would wait for ever."""
    with pytest.raises(TrainingError) as error:
        _train(experiment, tmp_path, workers=2, gpus_per_worker=1)
    assert str(error.value) == (
        "2 workers with 1 GPU each need 2, but the cluster has 0: "
        "lower cluster.workers, or add hosts"
    )


def _with(experiment: Experiment, **training: object) -> Experiment:
    settings = experiment.training.model_copy(update=training)
    return experiment.model_copy(update={"training": settings})


def _kill_a_worker_after(run_dir: Path, update: int) -> None:
    """Kill the first worker once a checkpoint of that update or a later one is on disk."""
    deadline = time.monotonic() + 200
    while not any(int(path.name[7:]) >= update for path in bundles(run_dir)):
        assert time.monotonic() < deadline, "the run did not get that far"
        time.sleep(0.01)
    os.kill(_worker_pids(run_dir)[0], signal.SIGKILL)


def _worker_pids(run_dir: Path) -> list[int]:
    """Processes that have the run's log open: its first worker."""
    pids = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdecimal():
            try:
                opened = [os.readlink(link) for link in (entry / "fd").iterdir()]
            except OSError:
                continue
            if str(run_dir / "train.log") in opened:
                pids.append(int(entry.name))
    return pids


def _wait_for(condition: object, process: "subprocess.Popen[str]", timeout_s: float = 120) -> None:
    deadline = time.monotonic() + timeout_s
    while not condition():  # type: ignore[operator]
        assert process.poll() is None, process.communicate()[1]
        assert time.monotonic() < deadline
        time.sleep(0.05)
