"""What can go wrong with a run and its hosts.

Each fault breaks something, and returns what mends it once training goes on.
"""

import contextlib
import os
import random
import shutil
import signal
import time
from collections.abc import Callable
from pathlib import Path

from stage import MAX_LOST_UPDATES, WORKERS, Moment, Outcome, Stage, records

from nmt.checkpoint.format import verify_checkpoint
from nmt.checkpoint.run_directory import list_checkpoints
from nmt.errors import CheckpointError

Mend = Callable[[], None]


def kill_worker(stage: Stage, draw: random.Random) -> Mend:
    """A worker process dies."""
    name = draw.choice([name for name in WORKERS if stage.workers_on(name)])
    os.kill(stage.workers_on(name)[0], signal.SIGKILL)
    return lambda: None


def kill_driver(stage: Stage, draw: random.Random) -> Mend:
    """The command that trains dies, and is given again."""
    stage.kill_driver()
    stage.again()
    return lambda: None


def damage_checkpoint(stage: Stage, draw: random.Random) -> Mend:
    """The newest checkpoint is damaged on the disk, and then a worker dies."""
    # Without another one that is whole, a run ends and says so.
    stage.until(lambda: len(_whole(stage.run_dir)) > 1, "two checkpoints")
    file = _whole(stage.run_dir)[-1] / "weights.safetensors"
    with file.open("r+b") as opened:
        opened.seek(draw.randrange(file.stat().st_size // 2, file.stat().st_size))
        byte = opened.read(1)
        opened.seek(-1, os.SEEK_CUR)
        opened.write(bytes([byte[0] ^ 255]))
    return kill_worker(stage, draw)


def _whole(run_dir: Path) -> list[Path]:
    found = []
    for folder in list_checkpoints(run_dir):
        with contextlib.suppress(CheckpointError):
            verify_checkpoint(folder)
            found.append(folder)
    return found


def fill_disk(stage: Stage, draw: random.Random) -> Mend:
    """The disk of the run is full, for a checkpoint or two."""
    ballast = stage.run_dir.parent / "ballast"
    with ballast.open("wb") as file:
        free = shutil.disk_usage(ballast.parent).free - 65536
        # A checkpoint that is being written takes its part, or has it back, meanwhile.
        with contextlib.suppress(OSError):
            while free > 0:
                os.posix_fallocate(file.fileno(), file.seek(0, os.SEEK_END), free)
                free = shutil.disk_usage(ballast.parent).free - 65536
    return ballast.unlink


def kill_host(stage: Stage, draw: random.Random) -> Mend:
    """A host loses its power; later it is there again."""
    name = draw.choice(WORKERS)
    stage.hosts.kill(name)
    return lambda: stage.add(name)


def cut_network(stage: Stage, draw: random.Random) -> Mend:
    """A host hears nothing and is not heard; later the wire is mended, and Ray started anew."""
    name = draw.choice(WORKERS)
    stage.hosts.cut(name)
    return lambda: _come_back(stage, name, stage.hosts.heal)


def freeze_host(stage: Stage, draw: random.Random) -> Mend:
    """All processes of a host stand still; later they go on, and Ray is started anew."""
    name = draw.choice(WORKERS)
    stage.hosts.freeze(name)
    return lambda: _come_back(stage, name, stage.hosts.thaw)


def _come_back(stage: Stage, name: str, mend: Callable[[str], None]) -> None:
    """Mend a host that was given up; the Ray on it is not taken back."""
    mend(name)
    stage.hosts.kill(name)
    stage.add(name)


def preempt_host(stage: Stage, draw: random.Random) -> Mend:
    """A host is taken away, after a notice; later another one takes its place."""
    name = draw.choice(WORKERS)
    stage.take_away(name)
    return lambda: stage.add(name)


KEEPS_WORKERS = {
    "worker killed": kill_worker,
    "driver killed": kill_driver,
    "checkpoint damaged, worker killed": damage_checkpoint,
    "disk full": fill_disk,
}
"""Faults after which as many workers go on."""
LOSES_HOST = {
    "host killed": kill_host,
    "network of a host cut": cut_network,
    "host frozen": freeze_host,
    "host preempted": preempt_host,
}
"""Faults after which one worker goes on, until the host is back."""


def inject(stage: Stage, fault: str, draw: random.Random) -> list[Outcome]:
    """Break something, see training go on, mend it, and see all workers back; what each cost."""
    before = stage.now()
    mend = (KEEPS_WORKERS | LOSES_HOST)[fault](stage, draw)
    if fault == "disk full":
        return [_on_a_full_disk(stage, fault, before, mend)]
    if fault in KEEPS_WORKERS:
        return [stage.since(before, fault, 2)]
    lost = stage.since(before.from_now() if fault == "host preempted" else before, fault, 1)
    before = stage.now()
    mend()
    return [lost, stage.since(before.from_now(), "host is back", 2)]


def _on_a_full_disk(stage: Stage, fault: str, before: Moment, mend: Mend) -> Outcome:
    """Training goes on; the disk has room again once a checkpoint was due."""
    update = stage.updates
    stage.until(lambda: stage.updates > update, "an update on a full disk")
    seconds = time.time() - before.time
    stage.go_on(MAX_LOST_UPDATES // 2 + 1)
    mend()
    stage.until(
        lambda: any(record["time"] > before.time for record in records(stage.run_dir, "unwritten")),
        "a checkpoint that was not written to be told",
    )
    return Outcome(fault, before.update, seconds, 0, "2 -> 2")
