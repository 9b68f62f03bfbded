"""Training runs on Ray: restarts, interrupts and resuming."""

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import ray.train
import torch
from ray.train import PreemptionInfo
from ray_clusters import RayCluster, count_updates, find_processes, read_kind, wait_for

from nmt.checkpoint.load import load_training_state
from nmt.config.cluster import Cluster
from nmt.config.experiment import Experiment
from nmt.config.files import dump
from nmt.console import Console
from nmt.errors import TrainingError
from nmt.jobs import train as jobs_train
from nmt.jobs.train import (
    PreemptionNotices,
    describe_finished,
    get_run_dir,
    read_finished,
    train_on_ray,
)
from nmt.training import ledger

HANG_S = 10
SITECUSTOMIZE = """
import os, sys, threading, time

def patch():
    while not hasattr(sys.modules.get("torch.nn.utils"), "clip_grad_norm_"):
        time.sleep(0.05)
    utils = sys.modules["torch.nn.utils"]
    clip = utils.clip_grad_norm_

    def clip_slowly(*args, **options):
        time.sleep(0.05)
        return clip(*args, **options)

    utils.clip_grad_norm_ = clip_slowly
    while not os.path.exists('{file}'):
        time.sleep(0.05)
    os.unlink('{file}')
    utils.clip_grad_norm_ = lambda *args, **options: time.sleep(600)

threading.Thread(target=patch, daemon=True).start()
"""
"""Makes the process that finds the file hang in its next update, and all updates take 50 ms: on a
fast machine a run of tiny ones would end before a worker is killed."""


def with_settings(experiment: Experiment, **training: object) -> Experiment:
    settings = experiment.training.model_copy(update=training)
    return experiment.model_copy(update={"training": settings})


def train(experiment: Experiment, storage: Path, **cluster: object) -> Path:
    settings = Cluster(storage=str(storage), **cluster)  # type: ignore[arg-type]
    with Console() as console:
        train_on_ray(experiment, settings, console)
    return get_run_dir(experiment, settings)


def make_command(experiment: Experiment, storage: Path, workers: int) -> list[str]:
    file = storage / "tiny.yaml"
    storage.mkdir(parents=True, exist_ok=True)
    file.write_text(dump(experiment))
    settings = [f"cluster.storage={storage}", f"cluster.workers={workers}"]
    return [sys.executable, "-m", "nmt", "train", str(file), *settings]


def is_same_state(one: Path, other: Path) -> bool:
    """True if weights, average and optimizer of the newest checkpoints are bit-identical."""
    a, b = (load_training_state(path) for path in (one, other))
    pairs = [(a.weights, b.weights), (a.average or {}, b.average or {}), (a.optimizer, b.optimizer)]
    return a.update == b.update and all(
        x.keys() == y.keys() and all(torch.equal(x[name], y[name]) for name in x) for x, y in pairs
    )


def find_rank_0(run_dir: Path) -> int:
    """Return the process that has the log of a run open."""
    for process in Path("/proc").glob("[0-9]*"):
        try:
            files = [os.readlink(link) for link in (process / "fd").iterdir()]
        except OSError:
            continue
        if str(run_dir / "train.log") in files:
            return int(process.name)
    raise AssertionError("no process has the log open")


@pytest.fixture(scope="module")
def longer(experiment: Experiment) -> Experiment:
    return with_settings(
        experiment, updates=300, log_every=100, validate_every=150, checkpoint_every=300
    )


@pytest.fixture(scope="module")
def undisturbed(
    longer: Experiment, ray_session: RayCluster, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """Run directory of a finished run of two workers."""
    with pytest.MonkeyPatch.context() as patch:
        # Training does not need the callbacks for fast recovery.
        patch.setattr(jobs_train, "recovery_callbacks", list)
        return train(longer, tmp_path_factory.mktemp("runs"), workers=2, max_lost_updates=39)


@pytest.mark.ray
def test_killed_and_hanging_workers_do_not_change_the_result(
    longer: Experiment, undisturbed: Path, ray_session: RayCluster, tmp_path: Path
) -> None:
    """Exact resume (nmt/README.md, Guarantees)."""
    (tmp_path / "sitecustomize.py").write_text(SITECUSTOMIZE.format(file=tmp_path / "hang"))
    settings = [
        "cluster.max_lost_updates=39", f"cluster.hang_timeout_s={HANG_S}",
        f"cluster.env={{PYTHONPATH: {tmp_path}}}",
    ]  # fmt: skip
    process = subprocess.Popen(
        [*make_command(longer, tmp_path / "runs", 2), *settings],
        stderr=subprocess.PIPE, text=True, env=ray_session.env,
    )  # fmt: skip
    run_dir = tmp_path / "runs" / "tiny"
    wait_for(lambda: count_updates(run_dir) >= 60, process)
    os.kill(find_rank_0(run_dir), signal.SIGKILL)
    wait_for(lambda: read_kind(run_dir, "restart"), process)
    (tmp_path / "hang").touch()
    _, err = process.communicate(timeout=300)
    assert process.returncode == 0, err
    assert is_same_state(undisturbed, run_dir)
    killed, hung = read_kind(run_dir, "restart")
    assert killed["why"] == "worker 0 died"
    for restart in (killed, hung):
        assert 0 <= restart["updates_lost"] <= 39
        assert restart["workers"] == 2
    reports = sorted((run_dir / "hangs").iterdir(), key=lambda path: path.name[-12:])
    assert [path.name[-12:] for path in reports] == ["worker-0.txt", "worker-1.txt"]
    # A rank that waits for the gradients of the other can be in the update after.
    updates = [int(path.name.split("-")[1]) for path in reports]
    assert abs(updates[0] - updates[1]) <= 1
    # Ray may add its own description of the workers that exited.
    problems = [
        f"no progress for {HANG_S} s in update {update}; stacks and pairs in {run_dir}/hangs"
        for update in updates
    ]
    assert hung["why"].startswith(tuple(problems))
    rows = {each.update: ledger.unpack_rows(each.rows) for each in ledger.read_ledger(run_dir)}
    texts = [path.read_text() for path in reports]
    for update, text in zip(updates, texts, strict=True):
        assert text.splitlines()[1] == f"pairs: {rows[update].tolist()}"
    hanging = re.compile(r'sitecustomize\.py", line \d+ in <lambda>')
    assert sum(bool(hanging.search(text)) for text in texts) == 1
    # The other rank waits for it somewhere in the loop: for its gradients, or in Ray.
    assert all(" in loop" in text for text in texts)


def run_out_of_memory_once(marker: Path) -> Callable[..., None]:
    """Wrap the training function: rank 1 runs out of memory in its 12th update."""
    run_worker = jobs_train._run_worker

    def run(*arguments: Any) -> None:
        import torch

        clip, num_calls = torch.nn.utils.clip_grad_norm_, 0

        def fail(*inputs: Any, **options: Any) -> Any:
            nonlocal num_calls
            num_calls += 1
            if num_calls == 12 and torch.distributed.get_rank() == 1 and not marker.exists():
                marker.touch()
                raise torch.OutOfMemoryError("injected")
            return clip(*inputs, **options)

        torch.nn.utils.clip_grad_norm_ = fail
        # Ray appends an empty config, because the signature is open.
        run_worker(*arguments[:7])

    return run


@pytest.mark.ray
def test_out_of_memory_restarts_with_smaller_micro_batches(
    experiment: Experiment,
    ray_session: RayCluster,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(jobs_train, "_run_worker", run_out_of_memory_once(tmp_path / "marker"))
    short = with_settings(experiment, updates=20, validate_every=20)
    run_dir = train(short, tmp_path, workers=2, max_failures=0)
    assert load_training_state(run_dir).update == 20
    reason = "rank 1 ran out of memory in update 12 with split factor 1"
    assert f" {reason} | restart 1 with split factor 2\n" in capfd.readouterr().err
    (restart,) = read_kind(run_dir, "restart")
    assert restart["why"] == reason
    assert (restart["from_update"], restart["workers"]) == (10, 2)
    assert len(read_kind(run_dir, "split")) == 1


def lose_store(folder: Path, times: int) -> Callable[..., None]:
    """Wrap the training function: the object store does not answer its first calls."""
    run_worker = jobs_train._run_worker

    def run(*arguments: Any) -> None:
        from nmt.errors import StorageError
        from nmt.jobs import train

        open_prepared = train.open_prepared

        def fail(experiment: Experiment) -> Any:
            number = len(list(folder.glob("call-*")))
            (folder / f"call-{number}").touch()
            if number < times:
                raise StorageError("s3://bucket/run: no answer from the store")
            return open_prepared(experiment)

        train.open_prepared = fail
        run_worker(*arguments[:7])

    return run


@pytest.mark.ray
@pytest.mark.parametrize("times", [1, 2])
def test_an_error_of_the_store_counts_as_a_failure(
    times: int, experiment: Experiment, ray_session: RayCluster, tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.setattr(jobs_train, "_run_worker", lose_store(tmp_path, times))
    short = with_settings(experiment, updates=5, validate_every=5)
    if times == 1:
        assert load_training_state(train(short, tmp_path, max_failures=1)).update == 5
        return
    with pytest.raises(TrainingError) as error:
        train(short, tmp_path, max_failures=1)
    assert str(error.value) == (
        "training failed after 1 restarts: worker 0: s3://bucket/run: no answer from the store; "
        f"run the same command again to resume; Ray and torch output: {tmp_path}/tiny/ray.log"
    )


@pytest.mark.ray
def test_interrupt_keeps_a_checkpoint_and_the_command_resumes(
    experiment: Experiment, ray_session: RayCluster, tmp_path: Path
) -> None:
    """Exact resume (nmt/README.md, Guarantees)."""
    longer = with_settings(experiment, updates=100_000, validate_every=100_000, log_every=100)
    command, run_dir = make_command(longer, tmp_path, 1), tmp_path / "tiny"

    def start(env: dict[str, str]) -> "subprocess.Popen[str]":
        return subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=env)

    # On a cluster that the command starts itself; the others join the shared one.
    own = {name: value for name, value in os.environ.items() if name != "RAY_ADDRESS"}
    process = start(own | {"NMT_TEST": str(tmp_path)})
    wait_for(lambda: (run_dir / "checkpoints").exists(), process)
    # To every process of the run, as systemd and scancel do.
    for pid in find_processes(f"NMT_TEST={tmp_path}"):
        os.kill(pid, signal.SIGTERM)
    _, err = process.communicate(timeout=120)
    stopped_at = load_training_state(run_dir).update
    assert process.returncode == 130
    assert 5 <= stopped_at < longer.training.updates
    assert "stopping after this update, with a checkpoint" in err
    assert f"interrupted after update {stopped_at:,}; to resume: " in err
    assert "Traceback" not in err
    # Stopped before the workers have started: at once, and nothing is lost.
    process = start(ray_session.env)
    output = run_dir / "ray.log"
    wait_for(lambda: output.read_text().count("Requesting resources") == 2, process)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "stopped before the first update of these workers: nothing to save" in err
    assert f"interrupted after update {stopped_at:,}; to resume: " in err
    assert load_training_state(run_dir).update == stopped_at
    process = start(ray_session.env)
    resumed = f"resumed from update {stopped_at:,}"
    wait_for(lambda: resumed in (run_dir / "train.log").read_text(), process)
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=120)
    assert load_training_state(run_dir).update >= stopped_at


@pytest.mark.ray
def test_finished_run_is_not_started_again(
    longer: Experiment, undisturbed: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = (undisturbed / "metrics.jsonl").read_bytes()
    monkeypatch.setattr(jobs_train, "connect", None)
    started = time.monotonic()
    train(longer, undisturbed.parent, workers=2)
    assert time.monotonic() - started < 3
    assert (undisturbed / "metrics.jsonl").read_bytes() == before
    result = read_finished(longer, undisturbed)
    assert result is not None
    assert result.update == 300
    validations = read_kind(undisturbed, "validation")
    assert [each["update"] for each in validations] == [150, 300]
    assert result.best_bleu == max(each["dev_bleu"] for each in validations)


def test_more_updates_are_not_advised_with_init_share(experiment: Experiment) -> None:
    settings = with_settings(experiment, updates=60, init_from="runs/one", init_share=0.3)
    assert describe_finished(settings, 60) == (
        "finished: 60 of 60 updates; to train again, give the experiment another name"
    )


def test_more_workers_than_micro_batches_are_refused(
    experiment: Experiment, no_ray: None, tmp_path: Path
) -> None:
    """Actionable errors (nmt/README.md, Guarantees)."""
    with pytest.raises(TrainingError) as error:
        train(experiment, tmp_path, workers=4)
    assert str(error.value) == (
        "4 workers cannot share updates of 3 micro-batches: use at most 3 workers, "
        "or set batching.micro_batches=4 or more (a larger update)"
    )
    assert not (tmp_path / "tiny").exists()


@pytest.mark.ray
def test_workers_that_do_not_fit_are_refused(
    experiment: Experiment, ray_session: RayCluster, tmp_path: Path
) -> None:
    """Actionable errors (nmt/README.md, Guarantees)."""
    with pytest.raises(TrainingError) as error:
        train(experiment, tmp_path, workers=2, gpus_per_worker=1)
    assert str(error.value) == (
        "2 workers with 1 GPU each need 2, but the cluster has 0: "
        "lower cluster.workers (--workers), or add hosts"
    )


class NoticeClient:
    """Client of a mailbox that keeps the preemption notices."""

    def __init__(self) -> None:
        self.sent: list[tuple[str, Any]] = []

    def send(self, kind: str, content: Any) -> None:
        self.sent.append((kind, content))


@pytest.mark.parametrize(("deadline_ms", "expected"), [(90_500, 90.5), (None, 170.0)])
def test_preemption_notice_is_reported_once(
    deadline_ms: int | None, expected: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = [50.0]
    answers: list[Any] = [None, *[PreemptionInfo(deadline_ms, {"a": [1, 3]})] * 2]
    monkeypatch.setattr(jobs_train.time, "time", lambda: now[0])
    monkeypatch.setattr(ray.train, "get_preemption_info", lambda: answers.pop(0))
    client = NoticeClient()
    notices = PreemptionNotices(client)  # type: ignore[arg-type]
    assert notices.get_deadline() is None
    assert notices.get_deadline() == expected
    now[0] = 60.0
    assert notices.get_deadline() == expected
    reason = "the host of workers 1, 3 was preempted"
    assert client.sent == [("notice", (reason, expected))]
