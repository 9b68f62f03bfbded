"""Terminal output: result lines, log lines with a time stamp, and one progress bar.

A console writes to a duplicate of standard error, so that its lines still reach the terminal while
`redirect_output` sends standard output and error, with all output of Ray and torch, to a file.
"""

import contextlib
import io
import os
import sys
import time
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any, Self

from tqdm import tqdm

from nmt.errors import NmtError, escape_controls

PROGRESS_INTERVAL_S = 10.0
"""Seconds between two progress lines where standard error is not a terminal."""


class TerminalText(io.TextIOWrapper):
    """Text stream to a terminal: control characters of the text are escaped."""

    _of: io.TextIOWrapper | None = None

    @classmethod
    def of(cls, stream: io.TextIOWrapper) -> "TerminalText":
        """Return a stream to the same terminal."""
        text = cls(
            stream.buffer, encoding="utf-8", errors="backslashreplace", newline="\n",
            line_buffering=True,
        )  # fmt: skip
        # Without this reference the old stream would be collected, which closes the terminal.
        text._of = stream
        return text

    def write(self, text: str) -> int:
        """Write a text, which may come from a file or a model."""
        super().write(escape_controls(text))
        return len(text)


class Console:
    """Lines and at most one progress bar at a time; not thread-safe."""

    def __init__(self) -> None:
        self._stream = os.fdopen(os.dup(2), "w", encoding="utf-8", errors="replace", buffering=1)
        self.is_terminal = self._stream.isatty()
        """True if a progress bar can be shown."""
        self._bar: tqdm[Any] | None = None
        self._label = ""
        self._start_s = self._logged_s = time.monotonic()
        self._start_count = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.clear()
        with contextlib.suppress(OSError):
            self._stream.close()

    def print(self, line: str) -> None:
        """Print a line as it is, above the progress bar if there is one."""
        line = escape_controls(line)
        # Logs are no results: a full disk or a closed terminal does not end the command.
        with contextlib.suppress(OSError):
            if self._bar is None:
                print(line, file=self._stream)
            else:
                self._bar.write(line, file=self._stream)

    def log(self, line: str) -> None:
        """Print a line after the local time, as `17:34:05 update 600 | ...`."""
        self.print(f"{time.strftime('%H:%M:%S')} {line}")

    def progress(self, label: str, done: int, total: int, unit: str = "tasks") -> None:
        """Show progress: a bar in a terminal, else a log line every PROGRESS_INTERVAL_S.

        The bar is removed when it is full, when another label follows, or by `clear`.

        Args:
            label: the activity; a new label starts a new bar.
            done: units done so far.
            total: units in all; 0 if unknown.
            unit: plural noun.
        """
        if not self.is_terminal:
            self._log_progress(label, done, total, unit)
            return
        if self._bar is None or label != self._label:
            self.clear()
            self._label = label
            self._bar = tqdm(
                total=total or None, initial=done, desc=label, unit=f" {unit}", file=self._stream,
                dynamic_ncols=True, leave=False, unit_scale=unit in ("lines", "tokens"),
            )  # fmt: skip
        self._bar.update(done - self._bar.n)
        if 0 < total <= done:
            self.clear()

    def clear(self) -> None:
        """Remove the progress bar."""
        if self._bar is not None:
            self._bar.close()
        self._bar = None

    def _log_progress(self, label: str, done: int, total: int, unit: str) -> None:
        now = time.monotonic()
        if label != self._label:
            # No line yet: an activity shorter than the interval leaves none.
            self._label, self._logged_s = label, now
            self._start_s, self._start_count = now, done
        elif now - self._logged_s >= PROGRESS_INTERVAL_S and (done < total or not total):
            self._logged_s = now
            if not total:
                self.log(f"{label}: {done:,} {unit}")
                return
            # Work resumed from an earlier command does not count for the speed.
            speed = (done - self._start_count) / (now - self._start_s)
            eta = timedelta(seconds=round((total - done) / speed)) if speed > 0 else "unknown"
            self.log(f"{label}: {done:,}/{total:,} {unit} | ETA {eta}")


def release_terminal() -> None:
    """Redirect output to /dev/null after the terminal was closed, when writing to it fails."""
    with open(os.devnull, "r+b") as null:
        for name in os.listdir("/proc/self/fd"):
            with contextlib.suppress(OSError):
                if os.readlink(f"/proc/self/fd/{name}").startswith(("/dev/pts/", "/dev/tty")):
                    os.dup2(null.fileno(), int(name))


@contextlib.contextmanager
def redirect_output(file: Path) -> Iterator[None]:
    """Append standard output and error, of this process and its children, to a file.

    Raises:
        NmtError: the file cannot be written.
    """
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        stream = file.open("ab")
    except OSError as error:
        raise NmtError(f"{file}: cannot be written: {error.strerror}; set another folder") from None
    sys.stdout.flush()
    sys.stderr.flush()
    # Descriptors, not sys.stdout: Ray's C++ code and child processes write to 1 and 2 directly.
    saved = os.dup(1), os.dup(2)
    with stream:
        os.dup2(stream.fileno(), 1)
        os.dup2(stream.fileno(), 2)
        try:
            yield
        finally:
            sys.stdout.flush()
            sys.stderr.flush()
            for number, duplicate in enumerate(saved, start=1):
                os.dup2(duplicate, number)
                os.close(duplicate)
