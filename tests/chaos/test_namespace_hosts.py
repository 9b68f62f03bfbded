"""Simulated hosts; skipped where namespaces are not permitted."""

import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import namespace_hosts
import pytest
from namespace_hosts import NamespaceHosts, address_of

from nmt.errors import NmtError

SERVER = """
import socket
with socket.create_server(("0.0.0.0", 7000)) as server:
    while True:
        server.accept()[0].close()
"""
CLIENT = """
import socket, sys
try:
    socket.create_connection((sys.argv[1], 7000), timeout=1)
    print("answer", flush=True)
except OSError:
    print("timeout", flush=True)
"""


@pytest.fixture
def two(tmp_path: Path) -> Iterator[NamespaceHosts]:
    if reason := namespace_hosts.missing_requirement():
        pytest.skip(reason)
    with NamespaceHosts(tmp_path) as hosts:
        for name in ("h0", "h1"):
            hosts.start(name)
        yield hosts


def serve(hosts: NamespaceHosts, name: str) -> None:
    hosts.run(name, [sys.executable, "-c", SERVER], os.environ, subprocess.DEVNULL)
    deadline = time.monotonic() + 20
    while connect(hosts, name, name) != "answer":
        assert time.monotonic() < deadline


def connect(hosts: NamespaceHosts, name: str, other: str) -> str:
    command = [sys.executable, "-c", CLIENT, address_of(other)]
    process = hosts.run(name, command, os.environ, subprocess.PIPE)
    return process.communicate()[0].decode().strip()


def becomes_true(condition: Callable[[], bool]) -> bool:
    deadline = time.monotonic() + 10
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.05)
    return True


def is_gone(pid: int) -> bool:
    """Not at once: the parent has yet to wait for it."""
    return becomes_true(lambda: not Path(f"/proc/{pid}").exists())


def test_disconnected_host_is_unreachable(two: NamespaceHosts) -> None:
    serve(two, "h1")
    answers = [connect(two, "h0", "h1")]
    two.disconnect("h1")
    answers.append(connect(two, "h0", "h1"))
    two.reconnect("h1")
    answers.append(connect(two, "h0", "h1"))
    assert answers == ["answer", "timeout", "answer"]


def test_killed_host_has_no_processes(two: NamespaceHosts) -> None:
    serve(two, "h1")
    [server] = two.processes("h1", "create_server")
    two.kill("h1")
    assert is_gone(server)
    two.start("h1")
    assert two.processes("h1", "create_server") == []


def test_frozen_host_stops_until_thawed(two: NamespaceHosts) -> None:
    serve(two, "h1")
    [server] = two.processes("h1", "create_server")

    def state() -> str:
        return Path(f"/proc/{server}/stat").read_text().split()[2]

    two.freeze("h1")
    assert becomes_true(lambda: state() == "T")
    two.thaw("h1")
    assert becomes_true(lambda: state() != "T")
    assert connect(two, "h0", "h1") == "answer"


def test_frozen_host_can_be_killed(two: NamespaceHosts) -> None:
    serve(two, "h1")
    [server] = two.processes("h1", "create_server")
    two.freeze("h1")
    two.kill("h1")
    assert is_gone(server)


def test_host_has_its_own_processes_and_files(two: NamespaceHosts) -> None:
    """Safe by default (nmt/README.md, Guarantees): the machine itself is not changed."""
    words = ["bash", "-c", "echo $$ $(hostname); touch /tmp/ray/of-a-host"]
    process = two.run("h1", words, os.environ, subprocess.PIPE)
    pid, name = process.communicate()[0].split()
    assert int(pid) < 100
    assert name == b"h1"
    assert not Path("/tmp/ray/of-a-host").exists()
    assert os.uname().nodename != "h1"


def test_nothing_remains_after_the_context(tmp_path: Path) -> None:
    if reason := namespace_hosts.missing_requirement():
        pytest.skip(reason)
    with NamespaceHosts(tmp_path) as hosts:
        hosts.start("h0")
        serve(hosts, "h0")
        [server] = hosts.processes("h0", "create_server")
    assert is_gone(server)
    assert not {"h0", "br0"} & set(os.listdir("/sys/class/net"))


def test_hosts_require_root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Actionable errors (nmt/README.md, Guarantees)."""
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    with pytest.raises(NmtError) as error, NamespaceHosts(tmp_path):
        pass
    assert str(error.value) == "hosts in network namespaces need root"


def test_missing_tools_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    """Actionable errors (nmt/README.md, Guarantees)."""
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    monkeypatch.setattr(
        namespace_hosts.shutil, "which", lambda tool: None if tool == "ip" else tool
    )
    assert namespace_hosts.missing_requirement() == (
        "hosts in network namespaces need ip: install iproute2, util-linux"
    )
