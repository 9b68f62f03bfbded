"""A cluster of hosts in namespaces with one training run on it.

h0 is the head: it has no room for workers, and the command that trains runs there. The others have
room for one worker each. What a loss has cost is what the run itself says: its `restart` records in
metrics.jsonl, and run_log.json, its last update.
"""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from hosts import Hosts, address_of

from nmt.checkpoint.format import read_info
from nmt.checkpoint.run_directory import newest_complete
from nmt.errors import NmtError
from nmt.training import run_log

ROOT = Path(__file__).resolve().parents[1]
START = ROOT / "cluster/start.sh"
HEAD, WORKERS = "h0", ("h1", "h2")
"""The hosts that are there from the start."""
NOTICE_S = 10
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
    """From the fault to the next update; from the end of a notice, or from when Ray has started on
    a host that joins."""
    updates_lost: int
    workers: str
    """Before and after: 2 -> 1."""


class Moment(NamedTuple):
    """Of a run, before something happens to it."""

    restarts: int
    """That it has told so far."""
    update: int
    """Updates done."""
    time: float
    """Seconds since 1970."""

    def from_now(self) -> "Moment":
        """The same, but what happens takes its time, and seconds count from its end."""
        return self._replace(time=time.time())


class Stage:
    """Hosts with Ray on them, and the run that is on."""

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
            # By Ray's own 15 the workers of a drill would wait for all else on this machine.
            "RAY_worker_niceness": "0",
        }  # fmt: skip

    def up(self) -> None:
        """Start the first hosts with Ray on them."""
        self.hosts.start(HEAD)
        self._on(HEAD, str(START), "token")
        # Without a dashboard: the command comes from h0 itself, and cores are few.
        words = (address_of(HEAD), "--num-cpus=0", "--include-dashboard=false")
        self._on(HEAD, str(START), "head", *words)
        self.add(*WORKERS)

    def add(self, *names: str) -> None:
        """Turn hosts on, for the first time or again, and have all of them join the cluster."""
        for name in names:
            self.hosts.start(name)
        with ThreadPoolExecutor() as pool:
            list(pool.map(self._join, names))

    def take_away(self, name: str) -> None:
        """Tell the cluster that a host will be taken away, and do so."""
        [raylet] = [
            pid for pid in self.hosts.processes(name, "raylet/raylet") if _is_raylet(pid)
        ]  # fmt: skip
        node = _option(raylet, "--node_id=") or _option(raylet, "--node-id=")
        self._on(
            HEAD, str(Path(sys.executable).with_name("ray")), "drain-node",
            "--address", f"{address_of(HEAD)}:6379", "--node-id", node,
            "--reason", "DRAIN_NODE_REASON_PREEMPTION", "--reason-message", "drill",
            "--deadline-remaining-seconds", str(NOTICE_S),
        )  # fmt: skip
        time.sleep(NOTICE_S)
        self.hosts.kill(name)

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
        newest = newest_complete(self.run_dir)
        assert newest is not None
        return read_info(newest).update

    @property
    def updates(self) -> int:
        """Updates that the run has done."""
        beat = run_log.read(self.run_dir)
        return beat.update if beat is not None else 0

    def restarts(self) -> list[Record]:
        """What the run says that losses have cost."""
        return records(self.run_dir, "restart")

    def now(self) -> Moment:
        """This moment, from which `since` counts."""
        return Moment(len(self.restarts()), self.updates, time.time())

    def since(self, before: Moment, what: str, workers: int) -> Outcome:
        """Wait until so many workers train after a loss; what it has cost."""
        self.until(
            lambda: (
                len(self.restarts()) > before.restarts and self.restarts()[-1]["workers"] == workers
            ),
            f"{workers} workers to train after '{what}'",
        )
        told = self.restarts()[before.restarts :]
        return Outcome(
            what, before.update, told[-1]["time"] - before.time,
            sum(record["updates_lost"] for record in told),
            f"{told[0]['workers_before']} -> {told[-1]['workers']}",
        )  # fmt: skip

    def go_on(self, updates: int) -> None:
        """Wait until so many more updates are done."""
        at = self.updates + updates
        self.until(lambda: self.updates >= at, f"update {at:,}")

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

    def _join(self, name: str) -> None:
        self._on(name, str(START), "join", address_of(HEAD), address_of(name), "--num-cpus=1")

    def _on(self, name: str, *command: str) -> None:
        with (self.folder / f"{name}.out").open("ab") as output:
            status = self.hosts.run(name, command, self.env, output, ROOT).wait()
        if status:
            raise NmtError(f"{' '.join(command)} failed on {name}: see {self.folder}/{name}.out")

    def _tail(self) -> str:
        lines = (self.folder / "train.out").read_text(encoding="utf-8").strip().splitlines()
        return f"{lines[-1] if lines else 'it said nothing'}; all in {self.folder}/train.out"


def records(run_dir: Path, kind: str) -> list[Record]:
    """Records of a run's metrics.jsonl."""
    try:
        lines = (run_dir / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    except OSError:
        return []
    # The last line may be half there, others are whole.
    return [
        json.loads(line) for line in lines if f'"kind": "{kind}"' in line and line.endswith("}")
    ]


def _is_raylet(pid: int) -> bool:
    return os.readlink(f"/proc/{pid}/exe").endswith("raylet")


def _option(pid: int, name: str) -> str:
    words = Path(f"/proc/{pid}/cmdline").read_bytes().decode().split("\0")
    found = (word.partition(name)[2] for word in words if name in word)
    return next((value.split()[0] for value in found if value), "")
