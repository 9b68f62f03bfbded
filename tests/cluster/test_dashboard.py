"""Connection to a cluster: answers of the dashboard and error messages."""

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
    """Web server on loopback that answers with `status` and `text`; no proxy is used."""
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
        (200, "<html>", "not the answer of a Ray dashboard"),
        (200, "{}", "not the answer of a Ray dashboard"),
    ],
)
def test_server_that_is_not_a_dashboard_is_refused(
    web: SimpleNamespace, status: int, text: str, reason: str
) -> None:
    web.status, web.text = status, text
    with pytest.raises(NmtError) as error:
        dashboard.connect(web.address, print)
    assert str(error.value) == (
        f"no Ray dashboard at {web.address} ({reason}): start the cluster, or set the address of "
        "its dashboard, http://HEAD:8265"
    )


def test_unreachable_dashboard_is_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"http://127.0.0.1:{free.getsockname()[1]}"
    with pytest.raises(NmtError) as error:
        dashboard.connect(address, print)
    assert str(error.value) == (
        f"no Ray dashboard at {address} ([Errno 111] Connection refused): start the cluster, or "
        "set the address of its dashboard, http://HEAD:8265"
    )


def test_required_token_must_be_enabled(
    web: SimpleNamespace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Safe by default (nmt/README.md, Guarantees)."""
    web.status = 401
    monkeypatch.delenv("RAY_AUTH_MODE", raising=False)
    monkeypatch.delenv("RAY_AUTH_TOKEN", raising=False)
    monkeypatch.setenv("RAY_AUTH_TOKEN_PATH", str(tmp_path / "token"))
    with pytest.raises(NmtError) as error:
        dashboard.connect(web.address, print)
    assert str(error.value) == (
        f"the cluster at {web.address} requires a token: set RAY_AUTH_MODE=token, with the token "
        f"of its head in {tmp_path}/token"
    )


def test_missing_token_is_reported(
    web: SimpleNamespace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Safe by default (nmt/README.md, Guarantees)."""
    web.status = 401
    monkeypatch.setenv("RAY_AUTH_MODE", "token")
    monkeypatch.delenv("RAY_AUTH_TOKEN", raising=False)
    monkeypatch.setenv("RAY_AUTH_TOKEN_PATH", str(tmp_path / "token"))
    with pytest.raises(NmtError) as error:
        dashboard.connect(web.address, print)
    assert str(error.value) == (
        f"RAY_AUTH_MODE is token, but {tmp_path}/token contains no token: put the token of the "
        "cluster's head there"
    )


def test_cluster_without_token_causes_a_warning(
    web: SimpleNamespace, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Safe by default (nmt/README.md, Guarantees)."""
    printed: list[str] = []
    monkeypatch.delenv("RAY_AUTH_MODE", raising=False)
    monkeypatch.setitem(sys.modules, "ray.job_submission", None)
    with pytest.raises(NmtError) as error:
        dashboard.connect(web.address, printed.append)
    assert printed == [
        f"warning: the cluster at {web.address} requires no token: anyone who can connect to it "
        "can run code there; start it with RAY_AUTH_MODE=token"
    ]
    assert str(error.value).startswith("Ray's job client is not installed (")
    assert str(error.value).endswith("): pip install 'ray[default]'")


@pytest.mark.parametrize(
    ("raised", "message"),
    [
        (
            RuntimeError("Request failed with status code 500: Traceback:\n  at x\nBad thing.\n."),
            f"error of the cluster at {ADDRESS}: Bad thing",
        ),
        (
            ConnectionError("Connection reset\nby peer"),
            f"lost connection to the cluster at {ADDRESS}: Connection reset",
        ),
    ],
)
def test_exceptions_of_the_client_become_one_line(raised: Exception, message: str) -> None:
    """Actionable errors (nmt/README.md, Guarantees)."""
    with pytest.raises(NmtError) as error, dashboard.translate_errors(ADDRESS):
        raise raised
    assert str(error.value) == message
