"""Ray cluster on simulated hosts with one training run.

h0 is the head: it offers no CPUs for workers, and `nmt train` runs there. Each other host offers
one CPU and so holds one worker. The cost of a failure is taken from the run itself: `restart`
records in metrics.jsonl and the last update in run_log.json.
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

from namespace_hosts import NamespaceHosts, address_of

from nmt.checkpoint.format import read_info
from nmt.checkpoint.run_directory import newest_complete
from nmt.errors import NmtError
from nmt.training import run_log

ROOT = Path(__file__).resolve().parents[2]
START_SCRIPT = ROOT / "cluster/start.sh"
HEAD, WORKERS = "h0", ("h1", "h2")
"""Hosts of a new cluster."""
NOTICE_S = 10
"""Seconds between the notice of a preemption and the end of the host."""
MAX_LOST_UPDATES = 20
"""Limit for every fault except a damaged checkpoint."""
TIMEOUT_S = 600.0
"""Deadline for the next update and for the return of the workers."""
POLL_S = 0.05

Record = Mapping[str, Any]


@dataclass(frozen=True)
class Outcome:
    """Measured cost of one fault."""

    fault: str
    update: int
    """Updates completed when it happened."""
    seconds: float
    """From the fault to the next update. For a preemption from the end of the host, for a joining
    host from the start of its Ray."""
    updates_lost: int
    workers: str
    """Number of workers before and after: 2 -> 1."""


class Snapshot(NamedTuple):
    """State of a run immediately before a fault."""

    num_restarts: int
    update: int
    """Updates completed."""
    time: float
    """Unix time in seconds; the cost in seconds counts from here."""

    def restart_clock(self) -> "Snapshot":
        """Return the same state with the current time, for events that take time themselves."""
        return self._replace(time=time.time())


class DrillCluster:
    """Simulated hosts running Ray, and the current training run."""

    def __init__(self, hosts: NamespaceHosts, folder: Path) -> None:
        """Prepare the environment of all processes.

        Args:
            hosts: entered context.
            folder: holds logs, the token and everything that the hosts share.
        """
        self.hosts = hosts
        self.folder = folder
        self._driver: subprocess.Popen[bytes] | None = None
        self._command: list[str] = []
        self.run_dir = folder
        (folder / ".ray").mkdir(parents=True, exist_ok=True)
        inherited = {
            name: value for name, value in os.environ.items()
            if not name.startswith("RAY_") and not name.lower().endswith("_proxy")
        }  # fmt: skip
        self.env = inherited | {
            "HOME": str(folder), "RAY_AUTH_MODE": "token", "OMP_NUM_THREADS": "1",
            "RAY_AUTH_TOKEN_PATH": str(folder / ".ray/auth_token"),
            # Ray's default of 15 would let every other process of this machine run first.
            "RAY_worker_niceness": "0",
        }  # fmt: skip

    def start(self) -> None:
        """Start Ray on the head and on the first worker hosts."""
        self.hosts.start(HEAD)
        self._run_on(HEAD, str(START_SCRIPT), "token")
        # No dashboard: the driver runs on h0 itself, and cores are few.
        options = (address_of(HEAD), "--num-cpus=0", "--include-dashboard=false")
        self._run_on(HEAD, str(START_SCRIPT), "head", *options)
        self.add_hosts(*WORKERS)

    def add_hosts(self, *names: str) -> None:
        """Start hosts, new or returning, and join them to the cluster."""
        for name in names:
            self.hosts.start(name)
        with ThreadPoolExecutor() as pool:
            list(pool.map(self._join, names))

    def preempt(self, name: str) -> None:
        """Announce the preemption of a host to Ray, wait for the notice period and kill it."""
        [raylet] = [
            pid for pid in self.hosts.processes(name, "raylet/raylet") if _is_raylet(pid)
        ]  # fmt: skip
        node = _option_of(raylet, "--node_id=") or _option_of(raylet, "--node-id=")
        self._run_on(
            HEAD, str(Path(sys.executable).with_name("ray")), "drain-node",
            "--address", f"{address_of(HEAD)}:6379", "--node-id", node,
            "--reason", "DRAIN_NODE_REASON_PREEMPTION", "--reason-message", "drill",
            "--deadline-remaining-seconds", str(NOTICE_S),
        )  # fmt: skip
        time.sleep(NOTICE_S)
        self.hosts.kill(name)

    def train(self, command: list[str], run_dir: Path) -> None:
        """Start or resume `nmt train` on the head."""
        self._command, self.run_dir = command, run_dir
        env = self.env | {"RAY_ADDRESS": f"{address_of(HEAD)}:6379"}
        with (self.folder / "train.out").open("ab") as output:
            self._driver = self.hosts.run(HEAD, command, env, output, ROOT)

    def restart_driver(self) -> None:
        """Run the same command again once the previous one has ended."""
        assert self._driver is not None
        self._driver.wait()
        self.train(self._command, self.run_dir)

    def wait(self, accepted: Sequence[int] = (0,)) -> None:
        """Wait for the end of the run.

        Raises:
            NmtError: its exit status is not an accepted one.
        """
        assert self._driver is not None
        status = self._driver.wait()
        if status not in accepted:
            raise NmtError(f"the run ended with status {status}: {self._last_output()}")

    def stop(self) -> int:
        """Stop the run with its final checkpoint; return the updates completed."""
        for pid in self.hosts.processes(HEAD, self._command[-1]):
            os.kill(pid, signal.SIGTERM)
        self.wait(accepted=(0, 130))
        newest = newest_complete(self.run_dir)
        assert newest is not None
        return read_info(newest).update

    @property
    def updates(self) -> int:
        """Updates completed by the run."""
        heartbeat = run_log.read_heartbeat(self.run_dir)
        return heartbeat.update if heartbeat is not None else 0

    def restarts(self) -> list[Record]:
        """Return the restarts that the run has logged."""
        return read_records(self.run_dir, "restart")

    def snapshot(self) -> Snapshot:
        """Return the state of the run, the reference point of `measure_recovery`."""
        return Snapshot(len(self.restarts()), self.updates, time.time())

    def measure_recovery(self, before: Snapshot, fault: str, num_workers: int) -> Outcome:
        """Wait until this number of workers trains after a fault; return its cost."""

        def is_recovered() -> bool:
            restarts = self.restarts()
            return len(restarts) > before.num_restarts and restarts[-1]["workers"] == num_workers

        self.wait_until(is_recovered, f"{num_workers} workers training after '{fault}'")
        restarts = self.restarts()[before.num_restarts :]
        return Outcome(
            fault, before.update, restarts[-1]["time"] - before.time,
            sum(record["updates_lost"] for record in restarts),
            f"{restarts[0]['workers_before']} -> {restarts[-1]['workers']}",
        )  # fmt: skip

    def wait_for_updates(self, num_updates: int) -> None:
        """Wait until this number of further updates is complete."""
        target = self.updates + num_updates
        self.wait_until(lambda: self.updates >= target, f"update {target:,}")

    def wait_until(self, condition: Callable[[], bool], description: str) -> None:
        """Wait for a condition.

        Raises:
            NmtError: the deadline passed, or the run failed.
        """
        assert self._driver is not None
        deadline = time.monotonic() + TIMEOUT_S
        while not condition():
            # SIGKILL is the fault "driver killed"; every other end is a failure of the drill.
            if self._driver.poll() not in (None, -signal.SIGKILL, 137):
                raise NmtError(
                    f"the run ended before {description} (status {self._driver.poll()}): "
                    f"{self._last_output()}"
                )
            if time.monotonic() > deadline:
                raise NmtError(
                    f"timeout of {TIMEOUT_S:.0f} s: no {description}: {self._last_output()}"
                )
            time.sleep(POLL_S)

    def worker_pids(self, name: str) -> list[int]:
        """Return the processes of the run's workers on a host."""
        return self.hosts.processes(name, "ray::RayTrainWorker")

    def kill_driver(self) -> None:
        """Kill `nmt train` on the head."""
        for pid in self.hosts.processes(HEAD, self._command[-1]):
            os.kill(pid, signal.SIGKILL)

    def _join(self, name: str) -> None:
        addresses = (address_of(HEAD), address_of(name))
        self._run_on(name, str(START_SCRIPT), "join", *addresses, "--num-cpus=1")

    def _run_on(self, name: str, *command: str) -> None:
        with (self.folder / f"{name}.out").open("ab") as output:
            status = self.hosts.run(name, command, self.env, output, ROOT).wait()
        if status:
            raise NmtError(f"{' '.join(command)} failed on {name}: see {self.folder}/{name}.out")

    def _last_output(self) -> str:
        lines = (self.folder / "train.out").read_text(encoding="utf-8").strip().splitlines()
        return f"{lines[-1] if lines else 'no output'}; full output: {self.folder}/train.out"


def read_records(run_dir: Path, kind: str) -> list[Record]:
    """Return the records of one kind in the metrics.jsonl of a run that may still be writing."""
    try:
        lines = (run_dir / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    except OSError:
        return []
    # The last line may be incomplete.
    return [
        json.loads(line) for line in lines if f'"kind": "{kind}"' in line and line.endswith("}")
    ]


def _is_raylet(pid: int) -> bool:
    return os.readlink(f"/proc/{pid}/exe").endswith("raylet")


def _option_of(pid: int, name: str) -> str:
    """Return the value of a command-line option of a process; empty if it has none."""
    words = Path(f"/proc/{pid}/cmdline").read_bytes().decode().split("\0")
    values = (word.partition(name)[2] for word in words if name in word)
    return next((value.split()[0] for value in values if value), "")
