"""Dynamic batching: rounds, order, errors and limits."""

import queue
import threading
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest

from nmt.decoding.requests import Request
from nmt.serving.batcher import Batcher


class Upper:
    """Translator into capitals that waits for `go` in each round."""

    def __init__(self, batch_sentences: int = 4) -> None:
        self.decoding = SimpleNamespace(batch_sentences=batch_sentences)
        self.go, self.started = threading.Semaphore(0), threading.Semaphore(0)
        self.rounds: list[list[str]] = []

    def check(self, num_best: int, requests: Any) -> None:
        pass

    def stream(self, requests: list[Request], **_: Any) -> Iterator[str]:
        self.rounds.append([each.text for each in requests])
        self.started.release()
        self.go.acquire()
        for each in requests:
            if each.text == "bad":
                raise RuntimeError("bad")
            yield each.text.upper()


@pytest.fixture
def translator() -> Upper:
    return Upper()


@pytest.fixture
def batcher(translator: Upper) -> Iterator[Any]:
    made: Any = Batcher(translator, max_waiting=10)  # type: ignore[arg-type]
    yield made
    translator.go.release(100)
    made.close()


def lines(*texts: str) -> list[Request]:
    return [Request(text) for text in texts]


def hold(batcher: Any, translator: Upper) -> Any:
    """Submit a line, and return its future once its round has started."""
    future = batcher.submit(lines("first"), 1)
    translator.started.acquire()
    return future


def test_waiting_clients_share_a_round(batcher: Any, translator: Upper) -> None:
    first = hold(batcher, translator)
    others = [batcher.submit(lines(text), 1) for text in "abc"]
    translator.go.release(2)
    assert [each.result(5) for each in (first, *others)] == [["FIRST"], ["A"], ["B"], ["C"]]
    assert translator.rounds == [["first"], ["a", "b", "c"]]


def test_a_long_client_does_not_hold_up_a_short_one(batcher: Any, translator: Upper) -> None:
    hold(batcher, translator)
    long = batcher.submit(lines(*"abcdefg"), 1)
    short = batcher.submit(lines("x"), 1)
    translator.go.release(2)
    assert short.result(5) == ["X"]
    assert not long.done()
    translator.go.release(10)
    assert long.result(5) == list("ABCDEFG")
    assert translator.rounds[1:] == [["x", "a", "b", "c"], ["d", "e", "f", "g"]]


def test_clients_with_another_n_best_have_their_own_round(batcher: Any, translator: Upper) -> None:
    hold(batcher, translator)
    for text, num_best in (("a", 1), ("b", 2), ("c", 1)):
        last = batcher.submit(lines(text), num_best)
    translator.go.release(10)
    last.result(5)
    assert translator.rounds[1:] in ([["a", "c"], ["b"]], [["a", "c"]])


def test_more_clients_than_a_round_has_lines(batcher: Any, translator: Upper) -> None:
    hold(batcher, translator)
    futures = [batcher.submit(lines(text), 1) for text in "abcdefg"]
    translator.go.release(10)
    assert [each.result(5) for each in futures] == [[text] for text in "ABCDEFG"]
    assert [len(each) for each in translator.rounds] == [1, 4, 3]


def test_an_error_ends_only_the_round_it_is_in(batcher: Any, translator: Upper) -> None:
    translator.go.release(10)
    with pytest.raises(RuntimeError, match=r"^bad$"):
        batcher.submit(lines("bad"), 1).result(5)
    assert batcher.submit(lines("good"), 1).result(5) == ["GOOD"]


def test_a_cancelled_client_is_not_translated(batcher: Any, translator: Upper) -> None:
    hold(batcher, translator)
    batcher.submit(lines("a"), 1).cancel()
    last = batcher.submit(lines("b"), 1)
    assert batcher.num_waiting == 2
    translator.go.release(10)
    last.result(5)
    assert translator.rounds == [["first"], ["b"]]


def test_a_full_queue_refuses(batcher: Any, translator: Upper) -> None:
    hold(batcher, translator)
    batcher.submit(lines(*"abcdefghi"), 1)
    with pytest.raises(queue.Full):
        batcher.submit(lines("j"), 1)


def test_an_idle_batcher_takes_any_number_of_lines(batcher: Any, translator: Upper) -> None:
    translator.go.release(100)
    assert len(batcher.submit(lines(*"abcdefghijklmnop"), 1).result(5)) == 16


def test_close_translates_what_is_waiting(translator: Upper) -> None:
    batcher: Any = Batcher(translator)  # type: ignore[arg-type]
    futures = [batcher.submit(lines(text), 1) for text in "abc"]
    translator.go.release(10)
    batcher.close()
    assert [each.result(0) for each in futures] == [["A"], ["B"], ["C"]]
    with pytest.raises(queue.Full):
        batcher.submit(lines("d"), 1)
