"""A head of Ray that is gone."""

import socket
import time
from pathlib import Path

import pytest

from nmt.console import Console
from nmt.jobs import ray_session
from nmt.jobs.ray_session import HeadMonitor


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ray_session, "EVERY_S", 0.02)
    monkeypatch.setattr(ray_session, "PATIENCE_S", 0.2)


def wait_for(ends: list[int], seconds: float) -> list[int]:
    until = time.monotonic() + seconds
    while not ends and time.monotonic() < until:
        time.sleep(0.01)
    return ends


def test_a_head_that_is_gone_is_one_line(capfd: pytest.CaptureFixture[str]) -> None:
    """P9."""
    ends: list[int] = []
    server = socket.create_server(("127.0.0.1", 0))
    address = "{}:{}".format(*server.getsockname())
    with Console() as console, HeadMonitor(address, Path("ray.log"), console, ends.append):
        assert wait_for(ends, 0.5) == []
        server.close()
        assert wait_for(ends, 30) == [2]
    assert capfd.readouterr().err == (
        f"nmt: the head of Ray at {address} is gone, and this command with it; the same command "
        "goes on where it was; more in ray.log\n"
    )


def test_who_leaves_watches_no_more(capfd: pytest.CaptureFixture[str]) -> None:
    ends: list[int] = []
    with (
        Console() as console,
        HeadMonitor("127.0.0.1:1", Path("ray.log"), console, ends.append),
    ):
        pass
    assert wait_for(ends, 0.5) == []
    assert capfd.readouterr().err == ""
