"""The way to a cluster: what answers, what is refused, and with which words."""

import json
import socket
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import dashboard
import pytest

from nmt.errors import NmtError

ADDRESS = "http://10.0.0.1:8265"


@pytest.fixture
def web(monkeypatch: pytest.MonkeyPatch) -> Iterator[SimpleNamespace]:
    """A web server on loopback that answers with `status` and `text`, and no proxy before it."""
    answer = SimpleNamespace(status=200, text=json.dumps({"ray_version": "2.60.0"}))

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(answer.status)
            self.end_headers()
            self.wfile.write(answer.text.encode())

        def log_message(self, *_: Any) -> None:
            pass

    monkeypatch.setenv("no_proxy", "127.0.0.1")
    server = HTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    answer.address = f"http://127.0.0.1:{server.server_port}"
    yield answer
    server.shutdown()
    server.server_close()


@pytest.mark.parametrize(
    ("status", "text", "reason"),
    [
        (404, "", "HTTP status 404"),
        (200, "<html>", "its answer is not that of a dashboard"),
        (200, "{}", "its answer is not that of a dashboard"),
    ],
)
def test_what_is_not_a_dashboard_is_refused(
    web: SimpleNamespace, status: int, text: str, reason: str
) -> None:
    web.status, web.text = status, text
    with pytest.raises(NmtError) as error:
        dashboard.connect(web.address, print)
    assert str(error.value) == (
        f"no Ray dashboard answers at {web.address} ({reason}): start the cluster, or name the "
        "address of its dashboard, http://HEAD:8265"
    )


def test_a_dashboard_that_does_not_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"http://127.0.0.1:{free.getsockname()[1]}"
    with pytest.raises(NmtError) as error:
        dashboard.connect(address, print)
    assert str(error.value) == (
        f"no Ray dashboard answers at {address} ([Errno 111] Connection refused): start the "
        "cluster, or name the address of its dashboard, http://HEAD:8265"
    )


def test_a_cluster_that_asks_for_a_token_that_is_not_sent(
    web: SimpleNamespace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """P10."""
    web.status = 401
    monkeypatch.delenv("RAY_AUTH_MODE", raising=False)
    monkeypatch.delenv("RAY_AUTH_TOKEN", raising=False)
    monkeypatch.setenv("RAY_AUTH_TOKEN_PATH", str(tmp_path / "token"))
    with pytest.raises(NmtError) as error:
        dashboard.connect(web.address, print)
    assert str(error.value) == (
        f"the cluster at {web.address} asks for a token: set RAY_AUTH_MODE=token, with the token "
        f"of its head in {tmp_path}/token"
    )


def test_a_token_that_is_missing(
    web: SimpleNamespace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """P10."""
    web.status = 401
    monkeypatch.setenv("RAY_AUTH_MODE", "token")
    monkeypatch.delenv("RAY_AUTH_TOKEN", raising=False)
    monkeypatch.setenv("RAY_AUTH_TOKEN_PATH", str(tmp_path / "token"))
    with pytest.raises(NmtError) as error:
        dashboard.connect(web.address, print)
    assert str(error.value) == (
        f"RAY_AUTH_MODE is token, but there is none in {tmp_path}/token: put the token of the "
        "cluster's head there"
    )


def test_a_cluster_that_asks_for_no_token_is_warned_of_and_ray_without_jobs_refused(
    web: SimpleNamespace, monkeypatch: pytest.MonkeyPatch
) -> None:
    """P10."""
    said: list[str] = []
    monkeypatch.delenv("RAY_AUTH_MODE", raising=False)
    monkeypatch.setitem(sys.modules, "ray.job_submission", None)
    with pytest.raises(NmtError) as error:
        dashboard.connect(web.address, said.append)
    assert said == [
        f"warning: the cluster at {web.address} asks for no token: whoever reaches it can run "
        "code there; start it with RAY_AUTH_MODE=token"
    ]
    assert str(error.value).startswith("no Ray job client here (")
    assert str(error.value).endswith("): pip install 'ray[default]'")


@pytest.mark.parametrize(
    ("raised", "message"),
    [
        (
            RuntimeError("Request failed with status code 500: Traceback:\n  at x\nBad thing.\n."),
            f"the cluster at {ADDRESS} refuses: Bad thing",
        ),
        (
            ConnectionError("Connection reset\nby peer"),
            f"the cluster at {ADDRESS} does not answer any more: Connection reset",
        ),
    ],
)
def test_what_a_cluster_refuses_is_one_line(raised: Exception, message: str) -> None:
    """P9."""
    with pytest.raises(NmtError) as error, dashboard.speaking_to(ADDRESS):
        raise raised
    assert str(error.value) == message
