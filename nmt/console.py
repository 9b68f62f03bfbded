"""What a person sees while something runs: lines, and a progress bar where there is a terminal.

It writes to a copy of standard error, so it still reaches the person while standard output and
error of the process, and with them all that Ray and torch say, are sent to a file (`quiet`).
"""

import contextlib
import os
import sys
import time
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any, Self

from tqdm import tqdm

from nmt.errors import NmtError

LOG_EVERY_S = 10.0
"""Seconds between two lines about the same progress where there is no terminal."""


class Console:
    """Lines and one progress bar at a time; not for several threads at once."""

    def __init__(self) -> None:
        self._stream = os.fdopen(os.dup(2), "w", encoding="utf-8", errors="replace", buffering=1)
        self.is_terminal = self._stream.isatty()
        """Whether a progress bar can be shown."""
        self._bar: tqdm[Any] | None = None
        self._what = ""
        self._logged = time.monotonic()
        self._began, self._begun_with = self._logged, 0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.clear()
        self._stream.close()

    def say(self, line: str) -> None:
        """Print a line, above the bar if there is one."""
        if self._bar is None:
            print(line, file=self._stream)
        else:
            self._bar.write(line, file=self._stream)

    def progress(self, what: str, done: int, total: int, unit: str = "tasks") -> None:
        """Show that `done` of `total` is done; the bar goes when it is full or another begins.

        A total of 0: nobody knows; the bar goes when it is cleared.
        """
        if not self.is_terminal:
            self._log(what, done, total, unit)
            return
        if self._bar is None or what != self._what:
            self.clear()
            self._what = what
            self._bar = tqdm(
                total=total or None, initial=done, desc=what, unit=f" {unit}", file=self._stream,
                dynamic_ncols=True, leave=False, unit_scale=unit in ("lines", "tokens"),
            )  # fmt: skip
        self._bar.update(done - self._bar.n)
        if 0 < total <= done:
            self.clear()

    def clear(self) -> None:
        """Take the bar away."""
        if self._bar is not None:
            self._bar.close()
        self._bar = None

    def _log(self, what: str, done: int, total: int, unit: str) -> None:
        now = time.monotonic()
        if what != self._what:
            self._what, self._logged = what, now
            self._began, self._begun_with = now, done
        elif now - self._logged >= LOG_EVERY_S and (done < total or not total):
            self._logged = now
            speed = (done - self._begun_with) / (now - self._began)
            left = (
                timedelta(seconds=round((total - done) / speed)) if speed > 0 else "not known yet"
            )
            known = f" of {total:,}" if total else ""
            self.say(f"{what}: {done:,}{known} {unit}{f', ETA {left}' if total else ''}")


@contextlib.contextmanager
def quiet(chatter: Path) -> Iterator[None]:
    """Send standard output and error, of this process and all it starts, to the end of a file.

    Raises:
        NmtError: the file cannot be written.
    """
    try:
        chatter.parent.mkdir(parents=True, exist_ok=True)
        file = chatter.open("ab")
    except OSError as error:
        raise NmtError(
            f"{chatter}: cannot be written: {error.strerror}; set another folder"
        ) from None
    sys.stdout.flush()
    sys.stderr.flush()
    saved = os.dup(1), os.dup(2)
    with file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
        try:
            yield
        finally:
            sys.stdout.flush()
            sys.stderr.flush()
            for number, copy in enumerate(saved, start=1):
                os.dup2(copy, number)
                os.close(copy)
