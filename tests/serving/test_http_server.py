"""Answers of the HTTP server that the tiny model cannot give: failures and a full queue."""

import asyncio
import json
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest

from nmt.decoding.requests import Request
from nmt.serving.batcher import Batcher
from nmt.serving.http_server import make_app


class Broken:
    """Translator whose engine fails."""

    decoding = SimpleNamespace(batch_sentences=4)

    def check(self, num_best: int, requests: Any) -> None:
        pass

    def stream(self, requests: list[Request], **_: Any) -> Iterator[Any]:
        raise RuntimeError("secret")


async def ask(app: Any, *texts: str) -> tuple[int, dict[bytes, bytes], Any]:
    """Return status, headers and body of the answer to `POST /translate`."""
    body = json.dumps({"lines": texts}).encode()
    scope = {
        "type": "http", "method": "POST", "path": "/translate", "query_string": b"",
        "headers": [(b"content-type", b"application/json")],
    }  # fmt: skip
    incoming = [{"type": "http.request", "body": body, "more_body": False}]
    sent: list[dict[str, Any]] = []

    async def receive() -> dict[str, Any]:
        return incoming.pop() if incoming else await asyncio.sleep(60, {"type": "http.disconnect"})

    async def send(message: dict[str, Any]) -> None:
        sent.append(message)

    try:
        await app(scope, receive, send)
    except RuntimeError:
        # Starlette raises it again for the log of the server.
        assert sent[0]["status"] == 500
    text = b"".join(message.get("body", b"") for message in sent[1:])
    return sent[0]["status"], dict(sent[0]["headers"]), json.loads(text)


def test_a_failure_of_the_engine_has_no_details() -> None:
    batcher = Batcher(Broken())  # type: ignore[arg-type]
    status, _, tree = asyncio.run(ask(make_app(batcher, {}, lambda each: each), "a"))
    batcher.close()
    assert (status, tree) == (500, {"error": "RuntimeError: the log of the server has more"})


def test_a_full_queue_asks_to_try_again(monkeypatch: pytest.MonkeyPatch) -> None:
    batcher = Batcher(Broken(), max_waiting=2)  # type: ignore[arg-type]
    monkeypatch.setattr(Batcher, "num_waiting", 2)
    status, headers, tree = asyncio.run(ask(make_app(batcher, {}, lambda each: each), "a"))
    batcher.close()
    assert (status, headers[b"retry-after"]) == (503, b"1")
    assert tree == {"error": "too many lines are waiting: try again later"}
