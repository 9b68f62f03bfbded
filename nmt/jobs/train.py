"""A training run as a Ray Train run: workers, what each has, and what happens when one is lost.

Ray places the workers, connects them and starts them anew when one dies, when a host is taken away
or when there is room for more of them; each then runs `nmt.training.loop` and goes on from the
newest good checkpoint of the run. Checkpoints are ours (`nmt.checkpoint`), written straight to the
run's folder: one that is whole there counts, whether or not Ray's controller had heard of it when a
worker died.
"""

from dataclasses import asdict
from pathlib import Path
from typing import Any

import ray
import ray.train
import torch
from ray.train.torch import TorchConfig, get_device

from nmt.checkpoint.format import read_info
from nmt.checkpoint.remote import RemoteRun, local_copy
from nmt.checkpoint.run_directory import best_checkpoint, newest_complete
from nmt.config.cluster import Cluster
from nmt.config.experiment import Experiment
from nmt.console import Console
from nmt.corpus.prepared import open_prepared, read_dev, resolve_auto_preset
from nmt.errors import NmtError, TrainingError
from nmt.jobs.driver import Interrupt, RunResult, TrainerThread, WorkerLossCallback, listen
from nmt.jobs.mailbox import Post, open_mailbox
from nmt.jobs.ray_internals import Notices, Trainer, callbacks
from nmt.jobs.ray_session import connect, lock_run_directory
from nmt.jobs.validation_tasks import ValidationTasks
from nmt.jobs.watchdog import Watchdog
from nmt.model.mkl import set_strict_mode
from nmt.storage import ObjectStore, is_address, join_address
from nmt.training.data import TrainingData, check_workers
from nmt.training.distributed import World
from nmt.training.loop import train
from nmt.training.malloc import MALLOC_ENVIRONMENT
from nmt.training.resume import check_run
from nmt.training.run_log import LastUpdate
from nmt.training.run_manifest import Origin
from nmt.training.stop_control import RunHooks

RESIZE_S = 5.0
"""Seconds between two looks at whether there is room for more workers."""


def run_dir_of(experiment: Experiment, cluster: Cluster) -> Path:
    """The folder of a run: <storage>/<name>; of one in an object store, its copy here."""
    if address := address_of(experiment, cluster):
        return local_copy(address, Path(cluster.scratch))
    return Path(cluster.storage).expanduser().resolve() / experiment.name


def address_of(experiment: Experiment, cluster: Cluster) -> str:
    """Where a run is in an object store; empty: it is in a folder that every host sees."""
    return join_address(cluster.storage, experiment.name) if is_address(cluster.storage) else ""


def train_on_ray(experiment: Experiment, cluster: Cluster, console: Console) -> RunResult:
    """Train to the end, to early stopping, or to the first Ctrl-C.

    Raises:
        NmtError: the corpus is not prepared, the run does not fit the settings or the cluster, or
            it failed for good.
    """
    experiment = resolve_auto_preset(experiment, console.log)
    run_dir, address = run_dir_of(experiment, cluster), address_of(experiment, cluster)
    remote = RemoteRun(ObjectStore(address), run_dir) if address else None
    if remote:
        remote.store.check_writable()
        remote.newest_complete()
    check_workers(experiment, cluster.workers.max)
    check_run(experiment, run_dir)
    open_prepared(experiment)
    place = remote.store.url() if remote else run_dir
    if (ended := finished(experiment, run_dir, remote)) is not None:
        console.print(
            f"the run in {place} is finished: {ended.update:,} of "
            f"{experiment.training.updates:,} updates; set training.updates higher to train on, "
            "or give the experiment another name"
        )
        return ended
    chatter = run_dir / "ray.log"
    console.log(f"run {experiment.name} in {place}; what Ray and torch say goes to {chatter}")
    num_cpus = cluster.workers.max * cluster.cpus_per_worker
    with lock_run_directory(run_dir), connect(num_cpus, chatter):
        check_resources(cluster, cluster.workers.min)
        problem = _why_shared(experiment, cluster)
        if problem and cluster.validation == "task":
            console.log(f"the workers share each validation: {problem}")
        mailbox = open_mailbox()
        fit = TrainerThread(_trainer(experiment, cluster, run_dir, mailbox, has_scores=not problem))
        fit.start()
        with Interrupt() as interrupt:
            ended = listen(mailbox, fit, interrupt, experiment, run_dir, console)
        if ended is None:
            raise TrainingError(
                f"the run failed and {cluster.max_failures} restarts did not help: {fit.reason()}; "
                f"more in {chatter}; the same command goes on from the last checkpoint"
            )
    return ended


def finished(
    experiment: Experiment, run_dir: Path, remote: RemoteRun | None = None
) -> RunResult | None:
    """How a run ended that has had all its updates; None: it has not, or was not begun."""
    newest = newest_complete(run_dir)
    if newest is None or read_info(newest).update < experiment.training.updates:
        return None
    if remote is not None:
        judged = remote.info(remote.best() or newest.name)
    else:
        judged = read_info(best_checkpoint(run_dir) or newest)
    return RunResult("finished", read_info(newest).update, judged.bleu, judged.update)


def _trainer(
    experiment: Experiment, cluster: Cluster, run_dir: Path, mailbox: Any, has_scores: bool
) -> Trainer:
    scores = {"num_cpus": cluster.validation_cpus, "behind": cluster.validations_behind}
    resources = {"CPU": float(cluster.cpus_per_worker)}
    if cluster.gpus_per_worker:
        resources["GPU"] = float(cluster.gpus_per_worker)
    env = {"OMP_NUM_THREADS": str(cluster.cpus_per_worker), **MALLOC_ENVIRONMENT, **cluster.env}
    workers = cluster.workers
    return Trainer(
        _worker,
        train_loop_config={
            "experiment": experiment.model_dump_json(),
            "prepared": str(Path(experiment.prepared).resolve()),
            "run_dir": str(run_dir),
            "address": address_of(experiment, cluster),
            "scores": scores if has_scores else None,
            "threads": cluster.cpus_per_worker,
            "gradients": cluster.gradients,
            "max_lost_updates": cluster.max_lost_updates,
            "hang_timeout_s": cluster.hang_timeout_s,
            "mailbox": mailbox,
            "origin": asdict(Origin.here()),
        },
        torch_config=TorchConfig(
            backend="nccl" if cluster.gpus_per_worker else "gloo",
            timeout_s=_patience_s(cluster.hang_timeout_s),
        ),
        scaling_config=ray.train.ScalingConfig(
            num_workers=(workers.min, workers.max) if workers.is_elastic else workers.max,
            elastic_resize_monitor_interval_s=RESIZE_S,
            use_gpu=bool(cluster.gpus_per_worker),
            resources_per_worker=resources,
        ),
        run_config=ray.train.RunConfig(
            name="ray",
            storage_path=str(run_dir),
            failure_config=ray.train.FailureConfig(
                max_failures=cluster.max_failures, max_preemption_failures=-1
            ),
            callbacks=[WorkerLossCallback(mailbox), *callbacks()],
            worker_runtime_env={"env_vars": env},
        ),
    )


def _worker(config: dict[str, Any]) -> None:
    """What each worker runs, in its own process."""
    set_strict_mode()
    torch.set_num_threads(config["threads"])
    mailbox = config["mailbox"]
    experiment = Experiment.model_validate_json(config["experiment"])
    timeout_s = config["hang_timeout_s"]
    wire = torch.bfloat16 if config["gradients"] == "bf16" else torch.float32
    world = World.from_process_group(get_device(), _patience_s(timeout_s), wire)
    post, run_dir = Post(mailbox), Path(config["run_dir"])
    watchdog = Watchdog(timeout_s, run_dir / "hangs", world.rank, post.lost)
    why_lost, last = ray.get(mailbox.enter.remote()) if world.is_main else ("", None)
    hooks = RunHooks(
        max_lost_updates=config["max_lost_updates"],
        loss_reason=why_lost,
        last_update=LastUpdate(last[0], last[1], world.size) if last is not None else None,
        on_update=watchdog.begin,
        on_pause=watchdog.pause,
        deadline=Notices(post).deadline,
    )
    try:
        corpus = open_corpus(experiment, Path(config["prepared"]))
        origin, address, scorer = Origin(**config["origin"]), config["address"], None
        remote = RemoteRun(ObjectStore(address), run_dir) if address else None
        if config["scores"]:
            scorer = ValidationTasks(experiment, corpus.dev, run_dir, address, **config["scores"])
        why, progress = train(
            experiment, corpus, world, run_dir, post.say, post.at_update, origin, hooks, remote,
            scorer,
        )  # fmt: skip
    except NmtError as error:
        # Ours to explain, not Ray's to retry: it would fail the same way again.
        ray.get(mailbox.put.remote(("error", str(error))))
        return
    finally:
        watchdog.close()
    if world.is_main:
        ended = RunResult(why, progress.update, progress.best_bleu, progress.best_update)
        ray.get(mailbox.put.remote(("ended", ended)))


def _patience_s(hang_timeout_s: float) -> float:
    """Seconds that workers wait for each other: those that hang shall say so first."""
    return hang_timeout_s + 60


def open_corpus(experiment: Experiment, prepared: Path) -> TrainingData:
    """The prepared corpus of an experiment, which is in that folder."""
    experiment = experiment.model_copy(
        update={"corpus": experiment.corpus.model_copy(update={"prepared": str(prepared)})}
    )
    shards, subword = open_prepared(experiment)
    return TrainingData(shards, subword, read_dev(prepared))


def _why_shared(experiment: Experiment, cluster: Cluster) -> str:
    """Why the workers share each validation; empty: a task scores beside training."""
    if cluster.validation == "shared":
        return "cluster.validation is shared"
    if experiment.training.schedule == "plateau":
        return "training.schedule plateau needs each score at once"
    have = ray.cluster_resources().get("CPU", 0)
    left = have - cluster.workers.max * cluster.cpus_per_worker
    if left < cluster.validation_cpus:
        return (
            f"{cluster.validation_cpus} CPU beside the workers would be needed, but {left:.0f} of "
            f"the cluster's {have:.0f} are left"
        )
    return ""


def check_resources(cluster: Cluster, num_workers: int) -> None:
    """Raise TrainingError where the cluster could not hold so many: Ray would wait for ever."""
    have = ray.cluster_resources()
    for kind, each in (("CPU", cluster.cpus_per_worker), ("GPU", cluster.gpus_per_worker)):
        needed = num_workers * each
        if needed > have.get(kind, 0):
            raise TrainingError(
                f"{num_workers} worker{'s' * (num_workers > 1)} with {each} {kind} each need "
                f"{needed}, but the cluster has {have.get(kind, 0):.0f}: lower cluster.workers, or "
                "add hosts"
            )
