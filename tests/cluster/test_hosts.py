"""Hosts that are namespaces of this machine; skipped where there can be none."""

import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import hosts
import pytest
from hosts import Hosts, address_of

from nmt.errors import NmtError

LISTEN = """
import socket
with socket.create_server(("0.0.0.0", 7000)) as server:
    while True:
        server.accept()[0].close()
"""
ASK = """
import socket, sys
try:
    socket.create_connection((sys.argv[1], 7000), timeout=1)
    print("answer", flush=True)
except OSError:
    print("silence", flush=True)
"""


@pytest.fixture
def two(tmp_path: Path) -> Iterator[Hosts]:
    if reason := hosts.lacking():
        pytest.skip(reason)
    with Hosts(tmp_path) as some:
        for name in ("h0", "h1"):
            some.start(name)
        yield some


def listen(on: Hosts, name: str) -> None:
    on.run(name, [sys.executable, "-c", LISTEN], os.environ, subprocess.DEVNULL)  # type: ignore[arg-type]
    until = time.monotonic() + 20
    while ask(on, name, name) != "answer":
        assert time.monotonic() < until


def ask(on: Hosts, name: str, other: str) -> str:
    process = on.run(
        name,
        [sys.executable, "-c", ASK, address_of(other)],
        os.environ,
        subprocess.PIPE,  # type: ignore[arg-type]
    )
    return process.communicate()[0].decode().strip()


def soon(is_so: Callable[[], bool]) -> bool:
    until = time.monotonic() + 10
    while not is_so():
        if time.monotonic() > until:
            return False
        time.sleep(0.05)
    return True


def is_gone(pid: int) -> bool:
    """Soon: who started it has yet to be told."""
    return soon(lambda: not Path(f"/proc/{pid}").exists())


def test_hosts_hear_each_other_until_the_wire_is_cut(two: Hosts) -> None:
    listen(two, "h1")
    heard = [ask(two, "h0", "h1")]
    two.cut("h1")
    heard.append(ask(two, "h0", "h1"))
    two.heal("h1")
    heard.append(ask(two, "h0", "h1"))
    assert heard == ["answer", "silence", "answer"]


def test_a_host_that_lost_its_power_has_no_processes_left(two: Hosts) -> None:
    listen(two, "h1")
    [server] = two.processes("h1", "create_server")
    two.kill("h1")
    assert is_gone(server)
    two.start("h1")
    assert two.processes("h1", "create_server") == []


def test_a_frozen_host_stands_still_until_it_thaws(two: Hosts) -> None:
    listen(two, "h1")
    [server] = two.processes("h1", "create_server")

    def state() -> str:
        return Path(f"/proc/{server}/stat").read_text().split()[2]

    two.freeze("h1")
    assert soon(lambda: state() == "T")
    two.thaw("h1")
    assert soon(lambda: state() != "T")
    assert ask(two, "h0", "h1") == "answer"


def test_a_frozen_host_can_lose_its_power(two: Hosts) -> None:
    listen(two, "h1")
    [server] = two.processes("h1", "create_server")
    two.freeze("h1")
    two.kill("h1")
    assert is_gone(server)


def test_a_host_has_processes_and_files_of_its_own(two: Hosts) -> None:
    """P10: nothing of this machine is touched."""
    words = ["bash", "-c", "echo $$ $(hostname); touch /tmp/ray/of-a-host"]
    process = two.run("h1", words, os.environ, subprocess.PIPE)  # type: ignore[arg-type]
    pid, name = process.communicate()[0].split()
    assert int(pid) < 100
    assert name == b"h1"
    assert not Path("/tmp/ray/of-a-host").exists()
    assert os.uname().nodename != "h1"


def test_all_is_gone_after_the_block(tmp_path: Path) -> None:
    if reason := hosts.lacking():
        pytest.skip(reason)
    with Hosts(tmp_path) as some:
        some.start("h0")
        listen(some, "h0")
        [server] = some.processes("h0", "create_server")
    assert is_gone(server)
    assert not {"h0", "br0"} & set(os.listdir("/sys/class/net"))


def test_without_root_there_are_no_hosts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """P9."""
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    with pytest.raises(NmtError) as error, Hosts(tmp_path):
        pass
    assert str(error.value) == "hosts in network namespaces need root"


def test_tools_that_are_missing_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    """P9."""
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    monkeypatch.setattr(hosts.shutil, "which", lambda tool: None if tool == "ip" else tool)
    assert hosts.lacking() == ("hosts in network namespaces need ip: install iproute2, util-linux")
