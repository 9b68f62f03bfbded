"""A training run as a Ray Train run.

Ray places the workers, connects them, and restarts them when one dies, when a host is preempted or
when there is room for more of them. Each runs `nmt.training.loop` and resumes from the newest
complete checkpoint of the run. `nmt.checkpoint` writes checkpoints to the run directory and does
not report them to Ray: a complete one counts, even if a worker dies directly after it was written.
"""

import os
import time
from contextlib import nullcontext
from functools import partial
from pathlib import Path
from typing import Any

import ray
import ray.train
import torch
from ray.train.torch import TorchConfig, get_device

from nmt.checkpoint.format import read_info
from nmt.checkpoint.remote import RemoteRun, local_copy
from nmt.checkpoint.run_directory import best_checkpoint, list_checkpoints, newest_complete
from nmt.config.cluster import Cluster
from nmt.config.experiment import Experiment
from nmt.config.settings import is_address
from nmt.console import Console
from nmt.corpus.prepared import open_prepared, read_dev, resolve_by_prepared
from nmt.errors import NmtError, StorageError, TrainingError
from nmt.evaluation.scores import check_dev_set
from nmt.jobs.driver import Interrupt, RunResult, TrainerThread, WorkerLossCallback, follow_run
from nmt.jobs.mailbox import MailboxClient, PreviousGroup, start_mailbox
from nmt.jobs.ray_internals import Trainer, recovery_callbacks
from nmt.jobs.ray_session import (
    connect,
    count_gpus,
    describe_unused_gpus,
    fit_workers,
    lock_run_directory,
    report_missing_workers,
    resolve_auto,
)
from nmt.jobs.validation_tasks import ValidationTasks
from nmt.jobs.watchdog import Watchdog
from nmt.model.mkl import set_strict_mode
from nmt.storage import LEASE, ObjectStore, hold_lease, join_address
from nmt.training.data import TrainingData, check_workers
from nmt.training.distributed import World
from nmt.training.loop import train
from nmt.training.memory import (
    UpdateOutOfMemoryError,
    wait_for_gpu_memory,
    worker_environment,
)
from nmt.training.optimizer import learning_rate
from nmt.training.resume import check_run
from nmt.training.run_log import LastUpdate
from nmt.training.run_manifest import Origin
from nmt.training.stop_control import RunHooks
from nmt.training.warm_start import check_warm_start, with_absolute_source

RESIZE_INTERVAL_S = 5.0
"""Seconds between two checks whether there is room for more workers."""
COLLECTIVE_MARGIN_S = 60.0
"""Seconds that collectives wait longer than the watchdog, whose report must come first."""
DEFAULT_NOTICE_S = 120.0
"""Seconds from a preemption notice without a deadline to the loss of the host; as Ray assumes."""


def get_run_dir(experiment: Experiment, cluster: Cluster) -> Path:
    """Return <storage>/<name>, or the local copy of a run in an object store."""
    if address := get_run_address(experiment, cluster):
        return local_copy(address, Path(cluster.scratch))
    return Path(cluster.storage).resolve() / experiment.name


def get_run_address(experiment: Experiment, cluster: Cluster) -> str:
    """Return the address of a run in an object store; empty if it is in a shared folder."""
    return join_address(cluster.storage, experiment.name) if is_address(cluster.storage) else ""


def check_before_preparation(experiment: Experiment, cluster: Cluster) -> None:
    """Check a run before its corpus is prepared, which can take hours; needs no cluster.

    Raises:
        NmtError: there are too many workers, the object store or the source of the run cannot be
            used, or an existing run has other settings.
    """
    # Preset auto sets the sizes by the pairs that cleaning keeps.
    has_sizes = experiment.preset == "none"
    if has_sizes:
        check_workers(experiment, cluster.workers.max)
    run_dir, address = get_run_dir(experiment, cluster), get_run_address(experiment, cluster)
    is_started = bool(list_checkpoints(run_dir))
    if address:
        remote = RemoteRun(ObjectStore(address), run_dir)
        remote.store.check_writable()
        # Downloads the newest checkpoint, with which settings are compared.
        is_started = remote.newest_complete() is not None or is_started
    # The source of a resumed run is not read again.
    if not is_started:
        check_warm_start(experiment)
    elif has_sizes:
        check_run(with_absolute_source(experiment), run_dir)


def train_on_ray(experiment: Experiment, cluster: Cluster, console: Console) -> RunResult:
    """Train until the last update, early stopping or the first Ctrl-C.

    Raises:
        NmtError: the corpus is not prepared, the run does not match the settings or the cluster,
            or more failures than cluster.max_failures.
    """
    # All checks that need no Ray come before it is started, which takes seconds.
    experiment = with_absolute_source(resolve_by_prepared(experiment, console.log))
    run_dir, address = get_run_dir(experiment, cluster), get_run_address(experiment, cluster)
    remote = RemoteRun(ObjectStore(address), run_dir) if address else None
    if remote:
        remote.store.check_writable()
        remote.newest_complete()
    num_parts = experiment.batching.micro_batches
    cluster = resolve_auto(cluster, num_parts)
    check_workers(experiment, cluster.workers.max)
    check_run(experiment, run_dir)
    shards, subword = open_prepared(experiment)
    shards.verify()
    if not list_checkpoints(run_dir):
        check_warm_start(experiment, subword)
    check_dev_set(experiment.corpus.tgt, read_dev(experiment.prepared)[1])
    place = remote.store.url() if remote else run_dir
    if (result := read_finished(experiment, run_dir, remote)) is not None:
        console.print(f"the run in {place} is {describe_finished(experiment, result.update)}")
        return result
    output = run_dir / "ray.log"
    is_known = count_gpus() is not None
    unused = describe_unused_gpus(cluster) if is_known else ""
    num_cpus = cluster.workers.max * cluster.cpus_per_worker

    def end(problem: str) -> None:
        # At once: the checkpoints of two runs must not mix.
        console.print(f"nmt: {problem}")
        os._exit(2)

    lease = hold_lease(remote.store, run_dir / LEASE, end) if remote else nullcontext()
    with lock_run_directory(run_dir), lease:
        console.log(f"run {experiment.name} in {place}" + f" | {unused}" * bool(unused))
        console.log(f"Ray and torch output: {output}")
        with connect(num_cpus, output):
            if not is_known:
                cluster = resolve_auto(cluster, num_parts)
                check_workers(experiment, cluster.workers.max)
                if unused := describe_unused_gpus(cluster):
                    console.log(f"training {unused}")
            # Ray would wait for missing resources without a message.
            fit_workers(cluster, cluster.workers.min)
            obstacle = _obstacle_to_tasks(experiment, cluster)
            if obstacle and cluster.validation == "task":
                console.log(f"validation is shared by the workers: {obstacle}")
            mailbox = start_mailbox()
            trainer = _make_trainer(experiment, cluster, run_dir, mailbox, has_tasks=not obstacle)
            fit = TrainerThread(trainer)
            fit.start()
            with Interrupt() as interrupt:
                on_wait = partial(report_missing_workers, cluster)
                result = follow_run(mailbox, fit, interrupt, experiment, run_dir, console, on_wait)
            if result is None:
                raise TrainingError(
                    f"{fit.describe_error(cluster.max_failures)}; run the same command again to "
                    f"resume; Ray and torch output: {output}"
                )
    return result


def read_finished(
    experiment: Experiment, run_dir: Path, remote: RemoteRun | None = None
) -> RunResult | None:
    """Return the result of a run with all updates and validations; None if some are left."""
    # The newest checkpoint has the updates done, the best one the score. The local copy of a run in
    # a store may have a newer one, whose upload failed.
    newest = remote.newest_complete() if remote is not None else newest_complete(run_dir)
    if newest is None:
        return None
    last = read_info(newest)
    # The last update is always validated: without a score that failed.
    if last.update < experiment.training.updates or last.bleu is None:
        return None
    if remote is not None:
        scored = remote.info(remote.best() or newest.name)
    else:
        scored = read_info(best_checkpoint(run_dir) or newest)
    return RunResult("finished", last.update, scored.bleu, scored.update)


def describe_finished(experiment: Experiment, update: int) -> str:
    """Describe a finished run, and the consequence of more updates for the learning rate."""
    settings = experiment.training
    done = f"finished: {update:,} of {settings.updates:,} updates"
    # `check_run` refuses more updates.
    if settings.init_share:
        return f"{done}; to train again, give the experiment another name"
    text = f"{done}; increase training.updates to train longer, or give the experiment another name"
    longer = experiment.with_settings("training", updates=2 * update)
    before, after = (
        learning_rate(update, each.training_at(update)) for each in (experiment, longer)
    )
    if after <= before:
        return text
    return (
        f"{text}; with training.updates={2 * update} the learning rate rises from {before:.1e} to "
        f"{after:.1e} (schedule {settings.schedule})"
    )


def _obstacle_to_tasks(experiment: Experiment, cluster: Cluster) -> str:
    """Return the reason why tasks cannot validate beside training; empty if they can."""
    if cluster.validation == "shared":
        return "cluster.validation=shared"
    if experiment.training.schedule == "plateau":
        return "training.schedule=plateau needs each score at once"
    available = ray.cluster_resources().get("CPU", 0)
    left = available - cluster.workers.max * cluster.cpus_per_worker
    if left < cluster.validation_cpus:
        return (
            f"a task needs {cluster.validation_cpus} CPU, but the workers leave {left:.0f} of the "
            f"cluster's {available:.0f}"
        )
    return ""


def _make_trainer(
    experiment: Experiment, cluster: Cluster, run_dir: Path, mailbox: Any, has_tasks: bool
) -> Trainer:
    resources = {"CPU": float(cluster.cpus_per_worker)}
    if cluster.num_gpus:
        resources["GPU"] = float(cluster.num_gpus)
    workers = cluster.workers
    return Trainer(
        partial(
            _run_worker,
            experiment,
            cluster,
            Path(experiment.prepared).resolve(),
            run_dir,
            mailbox,
            has_tasks,
            Origin.here(),
        ),
        torch_config=TorchConfig(
            backend="nccl" if cluster.num_gpus else "gloo",
            timeout_s=cluster.hang_timeout_s + COLLECTIVE_MARGIN_S,
        ),
        scaling_config=ray.train.ScalingConfig(
            num_workers=(workers.min, workers.max) if workers.is_elastic else workers.max,
            elastic_resize_monitor_interval_s=RESIZE_INTERVAL_S,
            use_gpu=bool(cluster.num_gpus),
            resources_per_worker=resources,
        ),
        # The state of Ray Train, in <run>/ray, is not used to resume.
        run_config=ray.train.RunConfig(
            name="ray",
            storage_path=str(run_dir),
            failure_config=ray.train.FailureConfig(
                # A host preempted after a notice is not a failure.
                max_failures=cluster.max_failures,
                max_preemption_failures=-1,
            ),
            callbacks=[WorkerLossCallback(mailbox), *recovery_callbacks()],
            worker_runtime_env={"env_vars": worker_environment(cluster)},
        ),
    )


def _run_worker(
    experiment: Experiment, cluster: Cluster, prepared: Path, run_dir: Path, mailbox: Any,
    has_tasks: bool, origin: Origin
) -> None:  # fmt: skip
    """Training function of Ray Train: one worker, in a process of its own."""
    set_strict_mode()
    torch.set_num_threads(cluster.cpus_per_worker)
    gradient_dtype = torch.bfloat16 if cluster.gradients == "bf16" else torch.float32
    timeout_s = cluster.hang_timeout_s + COLLECTIVE_MARGIN_S
    world = World.from_process_group(get_device(), timeout_s, gradient_dtype)
    client = MailboxClient(mailbox)
    wait_for_gpu_memory(world.device, partial(client.send, "log"))
    report_loss = partial(client.send, "lost")
    watchdog = Watchdog(cluster.hang_timeout_s, run_dir / "hangs", world.rank, report_loss)
    # Rank 0 registers the group and applies its history; the other ranks follow in collectives.
    before = ray.get(mailbox.start_group.remote()) if world.is_main else PreviousGroup()
    last = before.last_update
    hooks = RunHooks(
        max_lost_updates=cluster.max_lost_updates,
        loss_reason=before.loss_reason,
        last_update=LastUpdate(last[0], last[1], world.size) if last is not None else None,
        min_split=before.min_split,
        on_update=watchdog.begin_update,
        on_pause=watchdog.begin_activity,
        deadline=PreemptionNotices(client).get_deadline,
    )
    try:
        data = load_training_data(experiment, prepared)
        address, scorer = get_run_address(experiment, cluster), None
        remote = RemoteRun(ObjectStore(address), run_dir) if address else None
        if has_tasks:
            scorer = ValidationTasks(data.dev, run_dir, address, cluster)
        end_reason, state = train(
            experiment, data, world, run_dir, partial(client.send, "log"), client.report_update,
            origin, hooks, remote, scorer
        )  # fmt: skip
    except UpdateOutOfMemoryError as error:
        # Raised, so that Ray restarts the group; waits, because this process may be killed at once.
        ray.get(mailbox.send.remote(("out_of_memory", (str(error), error.split))))
        raise
    except StorageError:
        # The store may answer again: Ray restarts the workers, up to cluster.max_failures times.
        raise
    except NmtError as error:
        # Not raised: Ray would restart the workers, and they would fail in the same way.
        ray.get(mailbox.send.remote(("error", str(error))))
        return
    finally:
        watchdog.close()
    if world.is_main:
        result = RunResult(end_reason, state.update, state.best_bleu, state.best_update)
        ray.get(mailbox.send.remote(("ended", result)))


class PreemptionNotices:
    """Preemption notices for hosts of this run, as announced by Ray."""

    def __init__(self, client: MailboxClient) -> None:
        self._client = client
        self._reported: tuple[object, float] | None = None

    def get_deadline(self) -> float | None:
        """Return the time at which hosts are preempted, in seconds since 1970; None: no notice.

        Collective: call on every rank.
        """
        info = ray.train.get_preemption_info()
        if info is None:
            return None
        if self._reported is None or self._reported[0] != info:
            deadline = time.time() + DEFAULT_NOTICE_S
            if info.deadline_ms:
                deadline = info.deadline_ms / 1000
            self._reported = info, deadline
            ranks = ", ".join(map(str, info.preempted_ranks))
            reason = f"the host of workers {ranks} was preempted"
            self._client.send("notice", (reason, deadline))
        return self._reported[1]


def load_training_data(experiment: Experiment, prepared: Path) -> TrainingData:
    """Open the prepared corpus of an experiment in a folder other than the configured one."""
    shards, subword = open_prepared(experiment.with_settings("corpus", prepared=str(prepared)))
    shards.verify()
    return TrainingData(shards, subword, read_dev(prepared))
