"""HTTP interface of a translator: JSON, and a page for the browser.

`POST /translate` takes `{"lines": [...], "n_best": 1}`. Lines are strings or the objects of `nmt
translate --json-input`; each result is an object of `nmt translate --format jsonl`. `GET /health`
describes the model, and `GET /` is the page.
"""

import asyncio
import queue
import socket
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request as HttpRequest
from starlette.responses import HTMLResponse, JSONResponse, Response
from starlette.routing import Route

from nmt.decoding.output_formats import json_object
from nmt.decoding.requests import Request, parse_json, request_of
from nmt.errors import ConfigError, DataError
from nmt.serving.batcher import Batcher

MAX_LINES = 1000
"""Lines of a request."""
MAX_CHARS = 20_000
"""Characters of a line: it is translated in one round, for which all other clients wait."""
MAX_BYTES = 1 << 22
"""Size of the body of a request."""
DISCONNECT_CHECK_S = 0.5
"""Interval in which a waiting request checks that its client is still there."""
GRACE_S = 30
"""Time for running requests after SIGTERM or Ctrl-C."""
EXAMPLE = '{"lines": ["...", ...]}'
"""Body of a request, for error messages."""
PAGE = Path(__file__).with_name("page.html")
HEADERS = {
    "Content-Security-Policy": "default-src 'none'; style-src 'unsafe-inline'; "
    "script-src 'unsafe-inline'; connect-src 'self'; img-src data:; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
}

Constrain = Callable[[Request], Request]
"""Adds the constraints of the server, such as those of a glossary, to a request."""


class _RefusedError(Exception):
    """Invalid HTTP request: status and message."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


def make_app(batcher: Batcher, facts: dict[str, str], constrain: Constrain) -> Starlette:
    """Return the ASGI application of a translator.

    Args:
        batcher: translates; it is closed when the server ends.
        facts: entries of `GET /health` about the model.
        constrain: applied to each request.
    """

    @asynccontextmanager
    async def lifespan(_: Starlette) -> AsyncIterator[None]:
        yield
        await asyncio.to_thread(batcher.close)

    async def translate(request: HttpRequest) -> Response:
        try:
            tree = _parse(await _read_body(request))
            num_best = tree.get("n_best", 1)
            requests = [constrain(each) for each in _requests(tree)]
            future = asyncio.wrap_future(batcher.submit(requests, num_best))
        except _RefusedError as error:
            return _failed(error.status, str(error))
        except (ConfigError, DataError) as error:
            return _failed(400, str(error))
        except queue.Full:
            return _failed(503, "too many lines are waiting: try again later", "1")
        try:
            while not (await asyncio.wait([future], timeout=DISCONNECT_CHECK_S))[0]:
                if await request.is_disconnected():
                    return Response(status_code=499)
            translations = future.result()
        except DataError as error:
            return _failed(400, str(error))
        finally:
            # Nobody waits for what is left.
            future.cancel()
        pairs = zip(requests, translations, strict=True)
        results = [json_object(each, found, num_best > 1) for each, found in pairs]
        return JSONResponse({"translations": results})

    async def health(_: HttpRequest) -> Response:
        counts = {"translated": batcher.num_translated, "waiting": batcher.num_waiting}
        return JSONResponse({"status": "ok", **facts, **counts})

    async def page(_: HttpRequest) -> Response:
        return HTMLResponse(PAGE.read_text(encoding="utf-8"), headers=HEADERS)

    async def failed(_: HttpRequest, error: Exception) -> Response:
        return _failed(500, f"{type(error).__name__}: the log of the server has more")

    return Starlette(
        routes=[
            Route("/translate", translate, methods=["POST"]),
            Route("/health", health),
            Route("/", page),
        ],
        lifespan=lifespan,
        exception_handlers={404: _not_found, 405: _not_found, Exception: failed},
    )


async def _not_found(request: HttpRequest, error: Exception) -> Response:
    ways = "POST /translate, GET /health or GET /"
    status = getattr(error, "status_code", 404)
    return _failed(status, f"there is no {request.method} {request.url.path}: use {ways}")


def _failed(status: int, message: str, retry_after: str | None = None) -> Response:
    headers = {"Retry-After": retry_after} if retry_after else None
    return JSONResponse({"error": message}, status, headers)


async def _read_body(request: HttpRequest) -> bytes:
    # Pages of other sites cannot send this type without asking the server before (CORS).
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind != "application/json":
        raise _RefusedError(
            415, f"Content-Type is {kind or 'missing'}, but it must be application/json"
        )
    body = bytearray()
    async for part in request.stream():
        body += part
        if len(body) > MAX_BYTES:
            raise _RefusedError(
                413, f"the body has more than {MAX_BYTES:,} bytes: send fewer lines"
            )
    return bytes(body)


def _parse(body: bytes) -> dict[str, Any]:
    try:
        text = body.decode()
    except UnicodeDecodeError:
        raise DataError("the body is not UTF-8") from None
    tree = parse_json(text, "the body", EXAMPLE)
    if not isinstance(tree, dict) or not isinstance(tree.get("lines"), list):
        raise DataError(f"the body has no list of lines; expected {EXAMPLE}")
    if unknown := sorted(tree.keys() - {"lines", "n_best"}):
        raise DataError(f"the body has an unknown key {unknown[0]!r}; known are lines and n_best")
    if isinstance(tree.get("n_best"), bool):
        raise DataError(f"n_best is {tree['n_best']}, but it must be an integer")
    if len(tree["lines"]) > MAX_LINES:
        raise _RefusedError(
            413, f"{len(tree['lines']):,} lines, but a request can have {MAX_LINES:,}: send more "
            "requests"
        )  # fmt: skip
    return tree


def _requests(tree: dict[str, Any]) -> list[Request]:
    requests = [
        Request(line, where=f"line {number}") if isinstance(line, str)
        else request_of(line, f"line {number}")
        for number, line in enumerate(tree["lines"], start=1)
    ]  # fmt: skip
    for each in requests:
        if (size := len(each.text)) > MAX_CHARS:
            rule = f"a line can have {MAX_CHARS:,}: send paragraphs or sentences as lines"
            raise _RefusedError(413, f"{each.where} has {size:,} characters, but {rule}")
    return requests


def open_socket(host: str, port: int) -> socket.socket:
    """Return a socket that listens on an address.

    Raises:
        ConfigError: the address is taken, or it is not one of this machine.
    """
    try:
        family, *_, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        return socket.create_server(address[:2], family=family)
    except (OSError, UnicodeError) as error:
        reason = str(getattr(error, "strerror", None) or error).partition(" (")[0]
        rule = f"the server cannot listen there ({reason}): use another --host or --port"
        raise ConfigError("the address", f"{host}:{port}", rule) from None


def serve_http(app: Starlette, listening: socket.socket) -> None:
    """Answer requests until SIGTERM or Ctrl-C, then those that are running."""
    config = uvicorn.Config(app, log_level="warning", timeout_graceful_shutdown=GRACE_S)
    # uvicorn raises the signal again after the end.
    with suppress(KeyboardInterrupt):
        uvicorn.Server(config).run(sockets=[listening])
