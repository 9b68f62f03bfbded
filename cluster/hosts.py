"""Several hosts on one machine, for drills: each with its own network, processes and /tmp/ray.

A host is a set of Linux namespaces around an init process of its own: address 10.77.0.10+K on its
eth0, joined by a bridge in a network of its own too. Nothing of the machine is touched, and
nothing has a name outside: namespaces, wires and mounts go with their last process, and all
processes go with this one, however it ends. The rest of the disk is shared, as NFS would be.
Needs root, iproute2 and util-linux.
"""

import contextlib
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import IO, Any, Self

from nmt.errors import NmtError

NETWORK = "10.77.0"
TOOLS = ("ip", "unshare", "nsenter", "setpriv", "mount")
START_S = 20.0
"""Seconds in which a host is up."""
INIT = """hostname "$0"; mount --bind "$1" /tmp/ray; mount -t tmpfs -o size=2g tmpfs /dev/shm
trap : TERM; while :; do sleep 1000 & wait $!; done"""


def lacking() -> str:
    """Why there can be no hosts here; empty: there can."""
    if os.geteuid() != 0:
        return "hosts in network namespaces need root"
    if missing := [tool for tool in TOOLS if shutil.which(tool) is None]:
        return (
            f"hosts in network namespaces need {', '.join(missing)}: install iproute2, util-linux"
        )
    tried = subprocess.run(["unshare", "-n", "-m", "-u", "-p", "-f", "true"], capture_output=True)
    return "" if tried.returncode == 0 else "this machine allows no namespaces"


def address_of(name: str) -> str:
    """The address of host hK."""
    return f"{NETWORK}.{10 + int(name[1:])}"


class Hosts:
    """h0, h1, ...; all of them end with the block."""

    def __init__(self, folder: Path) -> None:
        """Keep what hosts have in /tmp/ray below a folder, whose path should be short."""
        self._folder = folder
        self._inits: dict[str, subprocess.Popen[bytes]] = {}
        self._pids: dict[str, int] = {}
        self._doors: dict[str, list[subprocess.Popen[bytes]]] = {}

    def __enter__(self) -> Self:
        if reason := lacking():
            raise NmtError(reason)
        Path("/tmp/ray").mkdir(exist_ok=True)
        try:
            self._begin("switch", ["unshare", "-n", "-p", "-f", "--kill-child", "sleep", "inf"])
            for words in ("link add br0 type bridge", "link set br0 up"):
                self._ip("switch", words)
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        for name in list(self._inits):
            self._end(name)

    def start(self, name: str) -> None:
        """Turn a host on, with an empty /tmp/ray."""
        own = self._folder / name
        shutil.rmtree(own, ignore_errors=True)
        own.mkdir(parents=True)
        self._begin(
            name,
            ["unshare", "-n", "-m", "-u", "-p", "-f", "--kill-child", "--mount-proc",
             "bash", "-c", INIT, name, str(own)],
        )  # fmt: skip
        self._ip(
            "switch", f"link add {name} type veth peer name eth0 netns {self._pids[name]}"
        )  # fmt: skip
        self._ip("switch", f"link set {name} master br0 up")
        for words in (
            f"addr add {address_of(name)}/24 dev eth0", "link set eth0 up", "link set lo up",
        ):  # fmt: skip
            self._ip(name, words)

    def run(
        self,
        name: str,
        command: Sequence[str],
        env: Mapping[str, str],
        output: IO[Any],
        cwd: Path | None = None,
    ) -> subprocess.Popen[bytes]:
        """Start a command on a host."""
        words = [*self._enter(name, "-m", "-u", "-p"), "--", *command]
        door = subprocess.Popen(
            words, env=dict(env), cwd=cwd, stdout=output, stderr=output, stdin=subprocess.DEVNULL
        )
        self._doors.setdefault(name, []).append(door)
        return door

    def kill(self, name: str) -> None:
        """Power loss: the wire is gone, then every process."""
        self.cut(name)
        self._end(name)
        # The kernel takes the wire away some time after the host, unless it is told to.
        with contextlib.suppress(NmtError):
            self._ip("switch", f"link del {name}")

    def cut(self, name: str) -> None:
        """Silence on the wire."""
        self._ip("switch", f"link set {name} down")

    def heal(self, name: str) -> None:
        """The wire works again."""
        self._ip("switch", f"link set {name} up")

    def freeze(self, name: str) -> None:
        """All processes stand still; the kernel still answers."""
        self._signal(name, signal.SIGSTOP)

    def thaw(self, name: str) -> None:
        """They go on."""
        self._signal(name, signal.SIGCONT)
        self._open_doors(name)

    def processes(self, name: str, word: str) -> list[int]:
        """Processes of a host whose command line has a word in it: numbers of this machine."""
        found = []
        for pid in self._members(name):
            with contextlib.suppress(OSError):
                if word.encode() in Path(f"/proc/{pid}/cmdline").read_bytes():
                    found.append(pid)
        return found

    def _begin(self, name: str, command: list[str]) -> None:
        process = subprocess.Popen(
            # The kernel ends it with us, even where nobody can clean up.
            ["setpriv", "--pdeathsig", "KILL", *command],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            # Some versions of `unshare` complain when their child has been killed.
            stderr=subprocess.DEVNULL,
        )
        self._inits[name] = process
        children = Path(f"/proc/{process.pid}/task/{process.pid}/children")
        until = time.monotonic() + START_S
        while not (found := children.read_text().split()):
            if process.poll() is not None or time.monotonic() > until:
                raise NmtError(f"host {name} did not start in {START_S:.0f} s")
            time.sleep(0.02)
        self._pids[name] = int(found[0])
        # Only once it is what it shall become are its namespaces its own.
        while b"unshare" in Path(f"/proc/{self._pids[name]}/cmdline").read_bytes():
            time.sleep(0.02)

    def _end(self, name: str) -> None:
        """End the init process of a host: the kernel ends all others with it."""
        process = self._inits.pop(name)
        with contextlib.suppress(ProcessLookupError):
            os.kill(self._pids.pop(name, process.pid), signal.SIGKILL)
        # `unshare` ends when its child has, and that when all others of the host have.
        while process.poll() is None:
            self._open_doors(name)
            time.sleep(0.02)
        self._doors.pop(name, None)

    def _open_doors(self, name: str) -> None:
        """`nsenter` stops when its child does; the host cannot end before it has seen that end."""
        for door in self._doors.get(name, []):
            if door.poll() is None:
                door.send_signal(signal.SIGCONT)

    def _members(self, name: str) -> list[int]:
        """All processes of a host, its init process not among them."""
        init = self._pids[name]
        space = os.readlink(f"/proc/{init}/ns/pid")
        found = []
        for entry in filter(str.isdigit, os.listdir("/proc")):
            with contextlib.suppress(OSError):
                if os.readlink(f"/proc/{entry}/ns/pid") == space and int(entry) != init:
                    found.append(int(entry))
        return found

    def _signal(self, name: str, number: signal.Signals) -> None:
        for pid in self._members(name):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, number)

    def _enter(self, name: str, *spaces: str) -> list[str]:
        return ["nsenter", "-t", str(self._pids[name]), "-n", *spaces]

    def _ip(self, name: str, words: str) -> None:
        command = [*self._enter(name), "ip", *words.split()]
        done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode:
            raise NmtError(f"ip {words} failed on {name}: {done.stderr.strip()}")
