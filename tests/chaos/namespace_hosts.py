"""Simulated hosts on one machine: Linux namespaces with their own network, processes and /tmp/ray.

Host hK has the address 10.77.0.10+K on its eth0; a bridge in a separate network namespace connects
the hosts. Namespaces, links and mounts have no name outside and disappear with their last process;
all processes end with this one, however it ends. The rest of the file system is shared, as with
NFS. Requires root, iproute2 and util-linux.
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
START_TIMEOUT_S = 20.0
POLL_S = 0.02
INIT = """hostname "$0"; mount --bind "$1" /tmp/ray; mount -t tmpfs -o size=2g tmpfs /dev/shm
trap : TERM; while :; do sleep 1000 & wait $!; done"""
"""Script of a host's init process; arguments: host name, folder mounted as /tmp/ray."""


def missing_requirement() -> str:
    """Return the reason why this machine cannot simulate hosts; empty if it can."""
    if os.geteuid() != 0:
        return "hosts in network namespaces need root"
    if missing := [tool for tool in TOOLS if shutil.which(tool) is None]:
        return (
            f"hosts in network namespaces need {', '.join(missing)}: install iproute2, util-linux"
        )
    trial = subprocess.run(["unshare", "-n", "-m", "-u", "-p", "-f", "true"], capture_output=True)
    return "" if trial.returncode == 0 else "this machine does not permit namespaces"


def address_of(name: str) -> str:
    """Return the IP address of host hK."""
    return f"{NETWORK}.{10 + int(name[1:])}"


class NamespaceHosts:
    """Context manager of the hosts h0, h1, ...; leaving it ends all of them."""

    def __init__(self, folder: Path) -> None:
        """Prepare an empty network.

        Args:
            folder: holds the /tmp/ray of each host. Keep its path short: paths of Ray's sockets
                have at most 107 characters.
        """
        self._folder = folder
        self._unshares: dict[str, subprocess.Popen[bytes]] = {}
        self._init_pids: dict[str, int] = {}
        self._nsenters: dict[str, list[subprocess.Popen[bytes]]] = {}

    def __enter__(self) -> Self:
        if reason := missing_requirement():
            raise NmtError(reason)
        Path("/tmp/ray").mkdir(exist_ok=True)
        try:
            self._spawn("switch", ["unshare", "-n", "-p", "-f", "--kill-child", "sleep", "inf"])
            for words in ("link add br0 type bridge", "link set br0 up"):
                self._ip("switch", words)
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        for name in list(self._unshares):
            self._end(name)

    def start(self, name: str) -> None:
        """Start a host with an empty /tmp/ray."""
        tmp_ray = self._folder / name
        shutil.rmtree(tmp_ray, ignore_errors=True)
        tmp_ray.mkdir(parents=True)
        self._spawn(
            name,
            ["unshare", "-n", "-m", "-u", "-p", "-f", "--kill-child", "--mount-proc",
             "bash", "-c", INIT, name, str(tmp_ray)],
        )  # fmt: skip
        init = self._init_pids[name]
        self._ip("switch", f"link add {name} type veth peer name eth0 netns {init}")
        self._ip("switch", f"link set {name} master br0 up")
        self._ip(name, f"addr add {address_of(name)}/24 dev eth0")
        for link in ("eth0", "lo"):
            self._ip(name, f"link set {link} up")

    def run(
        self,
        name: str,
        command: Sequence[str],
        env: Mapping[str, str],
        output: IO[Any] | int,
        cwd: Path | None = None,
    ) -> subprocess.Popen[bytes]:
        """Start a command on a host.

        Args:
            name: host.
            command: program and arguments.
            env: its whole environment.
            output: receives standard output and standard error.
            cwd: working directory; None for that of this process.

        Returns:
            The `nsenter` process, which ends with the exit status of the command.
        """
        words = [*self._enter(name, "-m", "-u", "-p"), "--", *command]
        process = subprocess.Popen(
            words, env=dict(env), cwd=cwd, stdout=output, stderr=output, stdin=subprocess.DEVNULL
        )
        self._nsenters.setdefault(name, []).append(process)
        return process

    def kill(self, name: str) -> None:
        """Power loss: remove the network link, then kill every process."""
        self.disconnect(name)
        self._end(name)
        # The kernel removes the link some time after the host; `start` needs its name free.
        with contextlib.suppress(NmtError):
            self._ip("switch", f"link del {name}")

    def disconnect(self, name: str) -> None:
        """Take the network link of a host down."""
        self._ip("switch", f"link set {name} down")

    def reconnect(self, name: str) -> None:
        """Take the network link of a host up again."""
        self._ip("switch", f"link set {name} up")

    def freeze(self, name: str) -> None:
        """Stop all processes of a host; its kernel still answers."""
        self._signal(name, signal.SIGSTOP)

    def thaw(self, name: str) -> None:
        """Continue all processes of a host."""
        self._signal(name, signal.SIGCONT)
        self._continue_nsenters(name)

    def processes(self, name: str, word: str) -> list[int]:
        """Return the processes of a host whose command line contains a word, as outer pids."""
        pids = []
        for pid in self._members(name):
            with contextlib.suppress(OSError):
                if word.encode() in Path(f"/proc/{pid}/cmdline").read_bytes():
                    pids.append(pid)
        return pids

    def _spawn(self, name: str, command: list[str]) -> None:
        """Start `unshare` and wait until its child has entered the new namespaces."""
        process = subprocess.Popen(
            # Parent death signal: the kernel ends the host even if this process is killed.
            ["setpriv", "--pdeathsig", "KILL", *command],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            # Some versions of `unshare` print a warning when their child was killed.
            stderr=subprocess.DEVNULL,
        )
        self._unshares[name] = process
        children = Path(f"/proc/{process.pid}/task/{process.pid}/children")
        deadline = time.monotonic() + START_TIMEOUT_S
        while not (pids := children.read_text().split()):
            if process.poll() is not None or time.monotonic() > deadline:
                raise NmtError(f"host {name} did not start within {START_TIMEOUT_S:.0f} s")
            time.sleep(POLL_S)
        self._init_pids[name] = int(pids[0])
        # The child has its namespaces once it has replaced `unshare` by its own program.
        while b"unshare" in Path(f"/proc/{self._init_pids[name]}/cmdline").read_bytes():
            time.sleep(POLL_S)

    def _end(self, name: str) -> None:
        """Kill the init process of a host; the kernel then kills all others."""
        process = self._unshares.pop(name)
        with contextlib.suppress(ProcessLookupError):
            os.kill(self._init_pids.pop(name, process.pid), signal.SIGKILL)
        # `unshare` ends after its child, which ends after all other processes of the host.
        while process.poll() is None:
            self._continue_nsenters(name)
            time.sleep(POLL_S)
        self._nsenters.pop(name, None)

    def _continue_nsenters(self, name: str) -> None:
        """Continue `nsenter` processes, which stop with their child.

        The host ends only after they have waited for that child.
        """
        for process in self._nsenters.get(name, []):
            if process.poll() is None:
                process.send_signal(signal.SIGCONT)

    def _members(self, name: str) -> list[int]:
        """Return all processes of a host but its init process."""
        init = self._init_pids[name]
        namespace = os.readlink(f"/proc/{init}/ns/pid")
        pids = []
        for entry in filter(str.isdigit, os.listdir("/proc")):
            with contextlib.suppress(OSError):
                if os.readlink(f"/proc/{entry}/ns/pid") == namespace and int(entry) != init:
                    pids.append(int(entry))
        return pids

    def _signal(self, name: str, number: signal.Signals) -> None:
        for pid in self._members(name):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, number)

    def _enter(self, name: str, *namespaces: str) -> list[str]:
        return ["nsenter", "-t", str(self._init_pids[name]), "-n", *namespaces]

    def _ip(self, name: str, words: str) -> None:
        command = [*self._enter(name), "ip", *words.split()]
        done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode:
            raise NmtError(f"ip {words} failed on {name}: {done.stderr.strip()}")
