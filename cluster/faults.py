"""A cluster of hosts in namespaces with one training run on it, and what can go wrong with both.

h0 is the head: it has no room for workers, and the command that trains runs there. h1 and h2 have
room for one worker each. What a loss has cost is what the run itself says: its `restart` records in
metrics.jsonl, and pulse.json, its last update.
"""

import contextlib
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hosts import Hosts, address_of

from nmt.checkpoint.bundle import read_info, verify
from nmt.checkpoint.run import bundles, newest_good
from nmt.errors import BundleError, NmtError
from nmt.training import pulse

ROOT = Path(__file__).resolve().parents[1]
HEAD, WORKERS = "h0", ("h1", "h2")
DEADLINE_S = 10
"""Seconds between the notice that a host is taken away and its end."""
MAX_LOST_UPDATES = 20
"""Most that any fault but a damaged checkpoint may cost."""
GIVE_UP_S = 600.0
"""Seconds in which a run must make an update, or have its workers back."""
LOOK_S = 0.05

Record = Mapping[str, Any]


@dataclass(frozen=True)
class Outcome:
    """What one fault has cost."""

    fault: str
    update: int
    """Updates done when it happened."""
    seconds: float
    """From the fault, or from the end of a notice, to the next update."""
    updates_lost: int
    workers: str
    """Before and after: 2 -> 1."""


class Stage:
    """Three hosts with Ray on them, and the run that is on."""

    def __init__(self, hosts: Hosts, folder: Path) -> None:
        """Args: folder: for logs, the token and all that hosts share."""
        self.hosts = hosts
        self.folder = folder
        self._driver: subprocess.Popen[bytes] | None = None
        self._command: list[str] = []
        self.run_dir = folder
        (folder / ".ray").mkdir(parents=True, exist_ok=True)
        kept = {
            name: value for name, value in os.environ.items()
            if not name.startswith("RAY_") and not name.lower().endswith("_proxy")
        }  # fmt: skip
        self.env = kept | {
            "HOME": str(folder), "RAY_AUTH_MODE": "token", "OMP_NUM_THREADS": "1",
            "RAY_AUTH_TOKEN_PATH": str(folder / ".ray/auth_token"),
        }  # fmt: skip

    def up(self) -> None:
        """Start all hosts with Ray on them."""
        for name in (HEAD, *WORKERS):
            self.hosts.start(name)
        self._ray(HEAD, "token")
        # Without a dashboard: the command comes from h0 itself, and cores are few.
        self._ray(HEAD, "head", address_of(HEAD), "--num-cpus=0", "--include-dashboard=false")
        for name in WORKERS:
            self.join(name)

    def join(self, name: str) -> None:
        """Add a host that has been turned on to the cluster."""
        self._ray(name, "join", address_of(HEAD), address_of(name), "--num-cpus=1")

    def back(self, name: str) -> None:
        """Turn a host that was lost on again, and add it."""
        self.hosts.start(name)
        self.join(name)

    def train(self, command: list[str], run_dir: Path) -> None:
        """Begin `nmt train`, or go on with it, on the head."""
        self._command, self.run_dir = command, run_dir
        env = self.env | {"RAY_ADDRESS": f"{address_of(HEAD)}:6379"}
        with (self.folder / "train.out").open("ab") as output:
            self._driver = self.hosts.run(HEAD, command, env, output, ROOT)

    def again(self) -> None:
        """Give the same command again."""
        assert self._driver is not None
        self._driver.wait()
        self.train(self._command, self.run_dir)

    def wait(self, good: Sequence[int] = (0,)) -> None:
        """Wait until the run has ended, with a status that is as it should be."""
        assert self._driver is not None
        status = self._driver.wait()
        if status not in good:
            raise NmtError(f"the run ended with status {status}: {self._tail()}")

    def stop(self) -> int:
        """Let the run take a checkpoint and end; updates done."""
        for pid in self.hosts.processes(HEAD, self._command[-1]):
            os.kill(pid, signal.SIGTERM)
        self.wait(good=(0, 130))
        newest = newest_good(self.run_dir)
        assert newest is not None
        return read_info(newest).update

    @property
    def updates(self) -> int:
        """Updates that the run has done."""
        beat = pulse.read(self.run_dir)
        return beat.update if beat is not None else 0

    def restarts(self) -> list[Record]:
        """What the run says that losses have cost."""
        return self.records("restart")

    def records(self, kind: str) -> list[Record]:
        """Records of the run's metrics.jsonl."""
        try:
            lines = (self.run_dir / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
        except OSError:
            return []
        # The last line may be half there, others are whole.
        return [
            json.loads(line) for line in lines if f'"kind": "{kind}"' in line and line.endswith("}")
        ]

    def until(self, is_so: Callable[[], bool], what: str) -> None:
        """Wait for something; NmtError where it takes too long, or the run has failed."""
        assert self._driver is not None
        give_up = time.monotonic() + GIVE_UP_S
        while not is_so():
            if self._driver.poll() not in (None, -signal.SIGKILL, 137):
                raise NmtError(
                    f"the run ended before {what} (status {self._driver.poll()}): {self._tail()}"
                )
            if time.monotonic() > give_up:
                raise NmtError(f"{GIVE_UP_S:.0f} s were not enough for {what}: {self._tail()}")
            time.sleep(LOOK_S)

    def workers_on(self, name: str) -> list[int]:
        """Processes of the run's workers on a host."""
        return self.hosts.processes(name, "ray::RayTrainWorker")

    def kill_driver(self) -> None:
        """Kill the command that trains, on the head."""
        for pid in self.hosts.processes(HEAD, self._command[-1]):
            os.kill(pid, signal.SIGKILL)

    def drain(self, name: str) -> None:
        """Tell the cluster that a host will be taken away."""
        [raylet] = [
            pid for pid in self.hosts.processes(name, "raylet/raylet") if _is_raylet(pid)
        ]  # fmt: skip
        node = _option(raylet, "--node_id=") or _option(raylet, "--node-id=")
        self._on(
            HEAD, str(Path(sys.executable).with_name("ray")), "drain-node",
            "--address", f"{address_of(HEAD)}:6379", "--node-id", node,
            "--reason", "DRAIN_NODE_REASON_PREEMPTION", "--reason-message", "drill",
            "--deadline-remaining-seconds", str(DEADLINE_S),
        )  # fmt: skip

    def _ray(self, name: str, *words: str) -> None:
        self._on(name, str(ROOT / "cluster/start.sh"), *words)

    def _on(self, name: str, *command: str) -> None:
        with (self.folder / f"{name}.out").open("ab") as output:
            status = self.hosts.run(name, command, self.env, output, ROOT).wait()
        if status:
            raise NmtError(f"{' '.join(command)} failed on {name}: see {self.folder}/{name}.out")

    def _tail(self) -> str:
        lines = (self.folder / "train.out").read_text(encoding="utf-8").strip().splitlines()
        return f"{lines[-1] if lines else 'it said nothing'}; all in {self.folder}/train.out"


def _is_raylet(pid: int) -> bool:
    return os.readlink(f"/proc/{pid}/exe").endswith("raylet")


def _option(pid: int, name: str) -> str:
    words = Path(f"/proc/{pid}/cmdline").read_bytes().decode().split("\0")
    found = (word.partition(name)[2] for word in words if name in word)
    return next((value.split()[0] for value in found if value), "")


# Faults: each breaks something, and returns what mends it once training goes on.

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
    for folder in bundles(run_dir):
        with contextlib.suppress(BundleError):
            verify(folder)
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
    return lambda: stage.back(name)


def cut_network(stage: Stage, draw: random.Random) -> Mend:
    """A host hears nothing and is not heard; later the wire is mended, and Ray started anew."""
    name = draw.choice(WORKERS)
    stage.hosts.cut(name)

    def mend() -> None:
        stage.hosts.heal(name)
        stage.hosts.kill(name)
        stage.back(name)

    return mend


def freeze_host(stage: Stage, draw: random.Random) -> Mend:
    """All processes of a host stand still; later they go on, and Ray is started anew."""
    name = draw.choice(WORKERS)
    stage.hosts.freeze(name)

    def mend() -> None:
        stage.hosts.thaw(name)
        stage.hosts.kill(name)
        stage.back(name)

    return mend


def preempt_host(stage: Stage, draw: random.Random) -> Mend:
    """A host is taken away, after a notice; later another one takes its place."""
    name = draw.choice(WORKERS)
    stage.drain(name)
    time.sleep(DEADLINE_S)
    stage.hosts.kill(name)
    return lambda: stage.back(name)


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
    before, update = len(stage.restarts()), stage.updates
    began = time.time()
    mend = (KEEPS_WORKERS | LOSES_HOST)[fault](stage, draw)
    if fault == "host preempted":
        began = time.time()
    if fault == "disk full":
        seconds = _goes_on_until_a_checkpoint_fails(stage, began, mend)
        return [Outcome(fault, update, seconds, 0, "2 -> 2")]
    outcomes = [_restarted(stage, fault, before, update, began)]
    if fault in LOSES_HOST:
        before, update = len(stage.restarts()), stage.updates
        mend()
        began = time.time()
        outcomes.append(_restarted(stage, "host is back", before, update, began))
    return outcomes


def _restarted(stage: Stage, fault: str, before: int, update: int, began: float) -> Outcome:
    wanted = 1 if fault in LOSES_HOST else 2
    stage.until(
        lambda: len(stage.restarts()) > before and stage.restarts()[-1]["workers"] == wanted,
        f"{wanted} workers to train after '{fault}'",
    )
    records = stage.restarts()[before:]
    workers = f"{records[0]['workers_before']} -> {records[-1]['workers']}"
    lost = sum(record["updates_lost"] for record in records)
    return Outcome(fault, update, records[-1]["time"] - began, lost, workers)


def _goes_on_until_a_checkpoint_fails(stage: Stage, began: float, mend: Mend) -> float:
    """Seconds until the next update; the disk has room again once a checkpoint was due."""
    update = stage.updates
    stage.until(lambda: stage.updates > update, "an update on a full disk")
    seconds = time.time() - began
    stage.until(
        lambda: stage.updates > update + MAX_LOST_UPDATES // 2 + 1, "a checkpoint to be due"
    )
    mend()
    stage.until(
        lambda: any(record["time"] > began for record in stage.records("unwritten")),
        "a checkpoint that was not written to be told",
    )
    return seconds
