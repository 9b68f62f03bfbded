"""`nmt serve` over HTTP, with the tiny model."""

import http.client
import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from nmt.cli.main import main
from tests.conftest import Answer

TEXT = ["1 a dog runs.", "2 two cats sleep.", "", "3 my dog sees a cat."]
START = [sys.executable, "-m", "nmt", "serve", "runs/tiny", "--port", "0"]


class Server:
    """Process of `nmt serve`."""

    def __init__(self, folder: Path, *options: str) -> None:
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
        self.process = subprocess.Popen(
            [*START, *options], cwd=folder, stderr=subprocess.PIPE, text=True, env=environment
        )
        self.log = ""
        assert self.process.stderr is not None
        for line in self.process.stderr:
            self.log += line
            if found := re.search(r"http://127\.0\.0\.1:(\d+)", line):
                self.port = int(found[1])
                return
        raise AssertionError(self.log)

    def ask(
        self, path: str = "/translate", body: bytes | None = None, method: str = "POST",
        kind: str = "application/json",
    ) -> tuple[int, Any]:  # fmt: skip
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)
        connection.request(method, path, body, {"Content-Type": kind})
        answer = connection.getresponse()
        text = answer.read()
        connection.close()
        is_json = answer.headers["content-type"] == "application/json"
        return answer.status, json.loads(text) if is_json else text.decode()

    def translate(self, *lines: Any, **keys: Any) -> list[dict[str, Any]]:
        status, tree = self.ask(body=json.dumps({"lines": lines, **keys}).encode())
        assert status == 200, tree
        return list(tree["translations"])

    def end(self, number: int = signal.SIGTERM) -> int:
        self.process.send_signal(number)
        _, rest = self.process.communicate(timeout=60)
        self.log += rest
        return self.process.returncode


@pytest.fixture(scope="module")
def server(tiny: Path) -> Iterator[Server]:
    made = Server(tiny)
    yield made
    made.end()


def test_results_are_those_of_nmt_translate(server: Server, here: Path, nmt: Any) -> None:
    lines = [*TEXT, {"text": TEXT[0], "avoid": ["Hund"], "id": 7}]
    inputs = "".join(
        json.dumps(line if isinstance(line, dict) else {"text": line}) + "\n" for line in lines
    )
    answer = nmt("translate runs/tiny --json-input --format jsonl --n-best 2", inputs.encode())
    expected = [json.loads(line) for line in answer.out.splitlines()]
    assert server.translate(*lines, n_best=2) == expected


def test_many_clients_get_their_own_lines(server: Server) -> None:
    """Batch-invariant translation (nmt/README.md, Guarantees)."""
    alone = server.translate(*TEXT)
    found: dict[int, list[dict[str, Any]]] = {}

    def ask(number: int) -> None:
        found[number] = server.translate(*TEXT[number % 4 :], *TEXT[: number % 4])

    threads = [threading.Thread(target=ask, args=[number]) for number in range(12)]
    for each in threads:
        each.start()
    for each in threads:
        each.join()
    assert all(
        found[number] == [*alone[number % 4 :], *alone[: number % 4]] for number in range(12)
    )


@pytest.mark.parametrize(
    ("body", "status", "message"),
    [
        (b"x", 400, 'the body: not JSON: Expecting value; expected an object such as {"lines": '
         '["...", ...]}'),
        (b"\xff", 400, "the body is not UTF-8"),
        (b"[1]", 400, 'the body has no list of lines; expected {"lines": ["...", ...]}'),
        (b'{"lines": "a"}', 400, 'the body has no list of lines; expected {"lines": ["...", ...]}'),
        (b'{"lines": [1]}', 400, 'line 1: JSON, but not an object; expected {"text": "..."}'),
        (b'{"lines": ["a", {"text": 1}]}', 400, "line 2: text is 1, but it must be a string"),
        (b'{"lines": ["\\ud83d"]}', 400,
         "the body: '\\ud83d' is half of a character (a lone surrogate): complete or remove it"),
        (b'{"lines": [{"text": "a", "x": NaN}]}', 400,
         "the body: a number is NaN or infinite: write it as a string, or remove it"),
        (b'{"lines": [], "beam": 5}', 400,
         "the body has an unknown key 'beam'; known are lines and n_best"),
        (b'{"lines": [], "n_best": true}', 400, "n_best is True, but it must be an integer"),
        (b'{"lines": [], "n_best": "2"}', 400,
         "the number of candidates per line is '2', but it must be an integer"),
        (b'{"lines": ["a"], "n_best": 99}', 400,
         "the number of candidates per line is 99, but it must be 1 to decoding.beam (2): increase "
         "decoding.beam"),
        (json.dumps({"lines": ["a"] * 1001}).encode(), 413,
         "1,001 lines, but a request can have 1,000: send more requests"),
        (json.dumps({"lines": ["b", {"text": "a" * 20_001}]}).encode(), 413,
         "line 2 has 20,001 characters, but a line can have 20,000: send paragraphs or sentences "
         "as lines"),
        (b" " * ((1 << 22) + 1), 413, "the body has more than 4,194,304 bytes: send fewer lines"),
    ],
)  # fmt: skip
def test_a_wrong_body_is_one_message(
    body: bytes, status: int, message: str, server: Server
) -> None:
    assert server.ask(body=body) == (status, {"error": message})


def test_other_types_and_paths_are_refused(server: Server) -> None:
    body = b'{"lines": ["a"]}'
    assert server.ask(body=body, kind="text/plain") == (
        415, {"error": "Content-Type is text/plain, but it must be application/json"}
    )  # fmt: skip
    for method, path, status in (("GET", "/translate", 405), ("POST", "/other", 404)):
        message = f"there is no {method} {path}: use POST /translate, GET /health or GET /"
        assert server.ask(path, body, method) == (status, {"error": message})


def test_health_counts_lines(server: Server) -> None:
    before = server.ask("/health", method="GET")[1]["translated"]
    server.translate(*TEXT)
    assert server.ask("/health", method="GET") == (
        200,
        {"status": "ok", "model": "tiny", "src": "en", "tgt": "de", "translated": before + 4,
         "waiting": 0},
    )  # fmt: skip


def test_the_page_needs_no_other_host(server: Server) -> None:
    """Safe by default (nmt/README.md, Guarantees)."""
    status, page = server.ask("/", method="GET")
    assert status == 200
    assert "http" not in page.replace("HTTP", "")


def test_the_page_translates(server: Server, browser: Any) -> None:
    browser.get(f"http://127.0.0.1:{server.port}/")
    wait(browser, "title", "tiny: en to de")
    browser.find_element("id", "source").send_keys("\n".join(TEXT))
    browser.find_element("id", "button").click()
    expected = [each["translation"] for each in server.translate(*TEXT)]
    wait(browser, "result", "\n".join(expected))
    assert browser.get_log("browser") == []


def test_the_page_shows_an_error(server: Server, browser: Any) -> None:
    browser.get(f"http://127.0.0.1:{server.port}/")
    script = "document.getElementById('source').value = 'a\\n'.repeat(1000) + 'a'"
    browser.execute_script(script)
    browser.find_element("id", "button").click()
    wait(browser, "status", "1,001 lines, but a request can have 1,000: send more requests")
    assert browser.find_element("id", "button").is_enabled()


def wait(browser: Any, name: str, text: str) -> None:
    """Wait until an element has a text."""
    end = time.monotonic() + 30
    while (found := browser.find_element("id", name).text) != text:
        assert time.monotonic() < end, found
        time.sleep(0.05)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_the_server_after_its_requests(number: int, tiny: Path) -> None:
    server = Server(tiny, "--beam", "1", "--max-length-ratio", "1")
    results: list[Any] = []
    client = threading.Thread(
        target=lambda: results.append(server.translate(*["1 a dog runs. " * 20] * 100))
    )
    client.start()
    while not server.ask("/health", method="GET")[1]["waiting"]:
        time.sleep(0.01)
    assert server.end(number) == 0
    client.join()
    assert len(results[0]) == 100
    assert "ended after 100 lines" in server.log


def test_a_client_that_leaves_is_dropped(server: Server) -> None:
    body = json.dumps({"lines": ["1 a dog runs. " * 40] * 1000}).encode()
    connection = http.client.HTTPConnection("127.0.0.1", server.port)
    connection.request("POST", "/translate", body, {"Content-Type": "application/json"})
    while not server.ask("/health", method="GET")[1]["waiting"]:
        time.sleep(0.01)
    before = server.ask("/health", method="GET")[1]["translated"]
    connection.close()
    while server.ask("/health", method="GET")[1]["waiting"]:
        time.sleep(0.05)
    assert server.ask("/health", method="GET")[1]["translated"] - before < 1000


def test_a_taken_port_is_refused_before_the_model_is_read(nmt: Any) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        answer: Answer = nmt(f"serve runs/none --port {port}")
    assert (answer.status, answer.err) == (
        2,
        f"nmt: the address is 127.0.0.1:{port}, but the server cannot listen there (Address "
        "already in use): use another --host or --port\n",
    )


def test_without_the_extra_the_error_says_so(nmt: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "nmt.serving.http_server", raising=False)
    monkeypatch.setitem(sys.modules, "uvicorn", None)
    answer: Answer = nmt("serve runs/none")
    assert (answer.status, answer.err) == (
        2,
        "nmt: nmt serve needs the package uvicorn: install the extra `serve`: pip install -e "
        "'.[serve]'\n",
    )


def test_a_server_for_other_machines_warns(
    here: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("nmt.serving.http_server.serve_http", lambda app, listening: None)
    monkeypatch.setattr(sys, "argv", ["nmt", *START[3:], "--host", "0.0.0.0"])
    with pytest.raises(SystemExit):
        main()
    warning = "warning: other machines can use the server; it has no authentication\n"
    assert warning in capfd.readouterr().err
