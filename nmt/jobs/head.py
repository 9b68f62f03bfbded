"""Ends this process with a line where the head of Ray's cluster is gone.

Ray ends a process that has not reached the head for a minute, in C++ and without a word for a
person. Here that is seen a little sooner, and said. A head that hangs still answers, for its host
does; then both wait.
"""

import os
import socket
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Self

from nmt.console import Console

PATIENCE_S = 45.0
"""Seconds without an answer after which the head is gone; Ray's own are 60."""
EVERY_S = 3.0
"""Seconds between two questions."""


class HeadWatch:
    """Watches while it is entered; made where standard error still leads to a person."""

    def __init__(
        self, address: str, chatter: Path, console: Console, end: Callable[[int], None] = os._exit
    ) -> None:
        """Args: address: HOST:PORT of the head; chatter: where Ray's own words are."""
        self._address, self._chatter, self._console, self._end = address, chatter, console, end
        self._is_over = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="head", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._is_over.set()
        self._thread.join()

    def _watch(self) -> None:
        answered = time.monotonic()
        while not self._is_over.wait(EVERY_S):
            if self._answers():
                answered = time.monotonic()
            elif time.monotonic() - answered > PATIENCE_S:
                below = "\n" if self._console.is_terminal else ""  # a bar of somebody else's
                self._console.say(
                    f"{below}nmt: the head of Ray at {self._address} is gone, and this command "
                    f"with it; the same command goes on where it was; more in {self._chatter}"
                )
                self._end(2)
                break

    def _answers(self) -> bool:
        host, _, port = self._address.rpartition(":")
        try:
            with socket.create_connection((host.strip("[]"), int(port)), timeout=EVERY_S):
                return True
        except OSError:
            return False
