"""Faults of a run and its hosts.

Each fault function breaks something and returns the repair, which is called once training
continues.
"""

import contextlib
import os
import random
import shutil
import signal
import time
from collections.abc import Callable
from pathlib import Path

from drill_cluster import MAX_LOST_UPDATES, WORKERS, DrillCluster, Outcome, Snapshot, read_records

from nmt.checkpoint.format import verify_checkpoint
from nmt.checkpoint.run_directory import list_checkpoints
from nmt.errors import CheckpointError

Repair = Callable[[], None]


def kill_worker(cluster: DrillCluster, rng: random.Random) -> Repair:
    """Kill a worker process."""
    name = rng.choice([name for name in WORKERS if cluster.worker_pids(name)])
    os.kill(cluster.worker_pids(name)[0], signal.SIGKILL)
    return lambda: None


def kill_driver(cluster: DrillCluster, rng: random.Random) -> Repair:
    """Kill `nmt train` and run it again."""
    cluster.kill_driver()
    cluster.restart_driver()
    return lambda: None


def damage_checkpoint(cluster: DrillCluster, rng: random.Random) -> Repair:
    """Invert a byte of the newest checkpoint, then kill a worker."""
    # With no other complete checkpoint the run would end with an error, as it should.
    cluster.wait_until(lambda: len(_complete(cluster.run_dir)) > 1, "second checkpoint")
    file = _complete(cluster.run_dir)[-1] / "weights.safetensors"
    with file.open("r+b") as opened:
        opened.seek(rng.randrange(file.stat().st_size // 2, file.stat().st_size))
        byte = opened.read(1)
        opened.seek(-1, os.SEEK_CUR)
        opened.write(bytes([byte[0] ^ 255]))
    return kill_worker(cluster, rng)


def _complete(run_dir: Path) -> list[Path]:
    """Return the checkpoints of a run that are complete and not corrupt."""
    complete = []
    for folder in list_checkpoints(run_dir):
        with contextlib.suppress(CheckpointError):
            verify_checkpoint(folder)
            complete.append(folder)
    return complete


def fill_disk(cluster: DrillCluster, rng: random.Random) -> Repair:
    """Fill the disk of the run during one or two checkpoints."""
    ballast = cluster.run_dir.parent / "ballast"
    with ballast.open("wb") as file:
        free = shutil.disk_usage(ballast.parent).free - 65536
        # A checkpoint written at the same time takes or releases space meanwhile.
        with contextlib.suppress(OSError):
            while free > 0:
                os.posix_fallocate(file.fileno(), file.seek(0, os.SEEK_END), free)
                free = shutil.disk_usage(ballast.parent).free - 65536
    return ballast.unlink


def kill_host(cluster: DrillCluster, rng: random.Random) -> Repair:
    """Cut the power of a host; the repair starts it again."""
    name = rng.choice(WORKERS)
    cluster.hosts.kill(name)
    return lambda: cluster.add_hosts(name)


def cut_network(cluster: DrillCluster, rng: random.Random) -> Repair:
    """Disconnect a host; the repair reconnects it and restarts its Ray."""
    name = rng.choice(WORKERS)
    cluster.hosts.disconnect(name)
    return lambda: _rejoin(cluster, name, cluster.hosts.reconnect)


def freeze_host(cluster: DrillCluster, rng: random.Random) -> Repair:
    """Stop all processes of a host; the repair continues them and restarts its Ray."""
    name = rng.choice(WORKERS)
    cluster.hosts.freeze(name)
    return lambda: _rejoin(cluster, name, cluster.hosts.thaw)


def _rejoin(cluster: DrillCluster, name: str, repair: Callable[[str], None]) -> None:
    """Repair a host that Ray has declared dead: its old Ray cannot join again."""
    repair(name)
    cluster.hosts.kill(name)
    cluster.add_hosts(name)


def preempt_host(cluster: DrillCluster, rng: random.Random) -> Repair:
    """Preempt a host after a notice; the repair starts a replacement."""
    name = rng.choice(WORKERS)
    cluster.preempt(name)
    return lambda: cluster.add_hosts(name)


KEEPS_WORKERS = {
    "worker killed": kill_worker,
    "driver killed": kill_driver,
    "checkpoint damaged, worker killed": damage_checkpoint,
    "disk full": fill_disk,
}
"""Faults after which the number of workers is unchanged."""
LOSES_HOST = {
    "host killed": kill_host,
    "network of a host cut": cut_network,
    "host frozen": freeze_host,
    "host preempted": preempt_host,
}
"""Faults after which one worker trains until the host has returned."""


def inject(cluster: DrillCluster, fault: str, rng: random.Random) -> list[Outcome]:
    """Inject a fault, wait for training to continue, and repair it.

    Returns:
        Cost of the fault and, for a lost host, of its return.
    """
    before = cluster.snapshot()
    repair = (KEEPS_WORKERS | LOSES_HOST)[fault](cluster, rng)
    if fault == "disk full":
        return [_measure_full_disk(cluster, fault, before, repair)]
    if fault in KEEPS_WORKERS:
        return [cluster.measure_recovery(before, fault, 2)]
    # Training continues during the notice of a preemption: its cost counts from the host's end.
    start = before.restart_clock() if fault == "host preempted" else before
    lost = cluster.measure_recovery(start, fault, 1)
    before = cluster.snapshot()
    repair()
    return [lost, cluster.measure_recovery(before.restart_clock(), "host is back", 2)]


def _measure_full_disk(
    cluster: DrillCluster, fault: str, before: Snapshot, repair: Repair
) -> Outcome:
    """Check that training continues; free the disk once a checkpoint was due and logged."""
    update = cluster.updates
    cluster.wait_until(lambda: cluster.updates > update, "update on a full disk")
    seconds = time.time() - before.time
    cluster.wait_for_updates(MAX_LOST_UPDATES // 2 + 1)
    repair()
    cluster.wait_until(
        lambda: any(
            record["time"] > before.time for record in read_records(cluster.run_dir, "unwritten")
        ),
        "log record of a checkpoint that could not be written",
    )
    return Outcome(fault, before.update, seconds, 0, "2 -> 2")
