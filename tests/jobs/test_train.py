"""Training runs on a real local Ray: restarts, stops and going on."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import ray
import ray.train
import torch
from ray.train import PreemptionInfo

from nmt.checkpoint.load import load_training_state
from nmt.config.cluster import Cluster
from nmt.config.corpus import CleaningConfig, CorpusConfig, ParallelText, SubwordConfig
from nmt.config.experiment import BatchingConfig, Experiment, ModelConfig, TrainingConfig
from nmt.config.files import dump
from nmt.console import Console
from nmt.corpus.prepare import prepare
from nmt.errors import TrainingError
from nmt.jobs import train as jobs_train
from nmt.jobs.train import PreemptionNotices, get_run_dir, read_finished, train_on_ray
from nmt.training import ledger, run_log

HANG_S = 20
HANGS = """
import os, sys, threading, time

def hang():
    loop = None
    while not hasattr(loop, "make_update") or not os.path.exists('{file}'):
        time.sleep(0.05)
        loop = sys.modules.get("nmt.training.loop")
    os.unlink('{file}')
    loop.make_update = lambda *arguments: time.sleep(600)

threading.Thread(target=hang, daemon=True).start()
"""
"""Put where Python looks first: the process that gets the file makes no more updates."""

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
    return get_run_dir(experiment, where)


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
def test_a_run_whose_workers_die_and_hang_ends_as_if_they_had_not(
    experiment: Experiment, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """P4, with two workers, bit for bit: one is killed; later one lives, but does nothing."""
    longer = _with(experiment, updates=400, log_every=100, validate_every=200, checkpoint_every=400)
    # The calm run shows that training does not need what nmt.jobs.ray_internals builds on.
    monkeypatch.setattr(jobs_train, "recovery_callbacks", list)
    calm = _train(longer, tmp_path / "calm", workers=2, max_lost_updates=39)
    (tmp_path / "sitecustomize.py").write_text(HANGS.format(file=tmp_path / "hang"))
    settings = [
        "cluster.max_lost_updates=39", f"cluster.hang_timeout_s={HANG_S}",
        f"cluster.env={{PYTHONPATH: {tmp_path}}}",
    ]  # fmt: skip
    process = subprocess.Popen(
        [*_command(longer, tmp_path / "rough", 2), *settings], stderr=subprocess.PIPE, text=True
    )
    rough = tmp_path / "rough" / "tiny"
    _wait_for(lambda: _updates(rough) >= 80, process)
    os.kill(_worker_pids(rough)[0], signal.SIGKILL)
    _wait_for(lambda: _restarts(rough), process)
    (tmp_path / "hang").touch()
    _, said = process.communicate(timeout=300)
    assert process.returncode == 0, said
    assert _same(calm, rough)
    killed, hung = _restarts(rough)
    assert killed["why"] == "worker 0 died"
    for restart in (killed, hung):
        assert 0 <= restart["updates_lost"] <= 39
        assert restart["workers"] == 2
    told = sorted((rough / "hangs").iterdir())
    update = int(told[0].name.split("-")[1])
    assert [path.name[-12:] for path in told] == ["worker-0.txt", "worker-1.txt"]
    # What Ray finds out of the workers that ended themselves may come after it.
    assert hung["why"].startswith(
        f"no progress for {HANG_S} s in update {update}; stacks and pairs in {rough}/hangs"
    )
    (entry,) = [each for each in ledger.read_ledger(rough) if each.update == update]
    pairs = f"pairs: {ledger.unpack_rows(entry.rows).tolist()}"
    texts = [path.read_text() for path in told]
    assert [text.splitlines()[1] for text in texts] == [pairs, pairs]
    step = re.compile(r'sitecustomize\.py", line \d+ in <lambda>')
    assert sum(bool(step.search(text)) for text in texts) == 1
    assert sum("all_reduce" in text for text in texts) == 1


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
    assert f"interrupted after update {stopped_at:,}; to resume: " in said
    assert "Traceback" not in said
    again = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    resumed = f"resumed from update {stopped_at:,}"
    _wait_for(lambda: resumed in (tmp_path / "tiny" / "train.log").read_text(), again)
    again.send_signal(signal.SIGINT)
    again.communicate(timeout=120)
    stopped_at = load_training_state(tmp_path / "tiny").update
    # Stopped before its workers are up: at once, and nothing is lost.
    third = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    chatter = tmp_path / "tiny" / "ray.log"
    _wait_for(lambda: chatter.read_text().count("Requesting resources") == 3, third)
    third.send_signal(signal.SIGINT)
    _, said = third.communicate(timeout=60)
    assert third.returncode == 130
    assert "stopped before the first update of these workers: nothing to save" in said
    assert f"interrupted after update {stopped_at:,}; to resume: " in said
    assert load_training_state(tmp_path / "tiny").update == stopped_at


@pytest.mark.ray
def test_a_finished_run_is_not_started_again(experiment: Experiment, tmp_path: Path) -> None:
    run_dir = _train(experiment, tmp_path)
    before = (run_dir / "metrics.jsonl").read_bytes()
    started = time.monotonic()
    _train(experiment, tmp_path)
    assert time.monotonic() - started < 3
    assert not ray.is_initialized()
    assert (run_dir / "metrics.jsonl").read_bytes() == before
    ended = read_finished(experiment, run_dir)
    assert ended is not None
    assert ended.update == 30
    records = [json.loads(line) for line in before.decode().splitlines()]
    assert [r["update"] for r in records if r["kind"] == "validation"] == [15, 30]
    assert ended.best_bleu == max(r["dev_bleu"] for r in records if r["kind"] == "validation")


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
        "lower cluster.workers (--workers), or add hosts"
    )


def _with(experiment: Experiment, **training: object) -> Experiment:
    settings = experiment.training.model_copy(update=training)
    return experiment.model_copy(update={"training": settings})


def _updates(run_dir: Path) -> int:
    beat = run_log.read_heartbeat(run_dir)
    return beat.update if beat is not None else 0


def _restarts(run_dir: Path) -> list[Any]:
    lines = (run_dir / "metrics.jsonl").read_text().splitlines()
    return [each for each in map(json.loads, lines) if each["kind"] == "restart"]


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


def _wait_for(condition: object, process: "subprocess.Popen[str]", timeout_s: float = 300) -> None:
    deadline = time.monotonic() + timeout_s
    while not condition():  # type: ignore[operator]
        assert process.poll() is None, process.communicate()[1]
        assert time.monotonic() < deadline
        time.sleep(0.05)


class Notices:
    """Client of a mailbox that keeps the preemption notices."""

    def __init__(self) -> None:
        self.sent: list[tuple[str, float]] = []

    def report_notice(self, reason: str, deadline: float) -> None:
        self.sent.append((reason, deadline))


@pytest.mark.parametrize(("deadline_ms", "expected"), [(90_500, 90.5), (None, 170.0)])
def test_preemption_notice_is_reported_once(
    deadline_ms: int | None, expected: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = [50.0]
    answers: list[Any] = [None, *[PreemptionInfo(deadline_ms, {"a": [1, 3]})] * 2]
    monkeypatch.setattr(jobs_train.time, "time", lambda: now[0])
    monkeypatch.setattr(ray.train, "get_preemption_info", lambda: answers.pop(0))
    client = Notices()
    notices = PreemptionNotices(client)  # type: ignore[arg-type]
    assert notices.get_deadline() is None
    assert notices.get_deadline() == expected
    now[0] = 60.0
    assert notices.get_deadline() == expected
    assert client.sent == [("the host of workers 1, 3 was taken away", expected)]
