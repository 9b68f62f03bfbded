"""Folder of a damaged case, and the limits within which commands end on it."""

import io
import os
import resource
import shutil
import signal
import subprocess
import sys
import traceback
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from typing import NoReturn

from nmt.cli.main import main
from nmt.errors import NmtError

ROOT = Path(__file__).resolve().parents[2]
LIMIT_S = 60
"""Wall-clock seconds of a case, on a busy machine."""
LIMIT_BYTES = 3 << 30
"""Address space of a case beyond that of the test process."""


class ReachedError(BaseException):
    """The command got as far as Ray or a measurement: its input was accepted."""


class TooSlowError(BaseException):
    """The command did not end in time."""


@dataclass
class DamagedFolder:
    """Copies of the folder of the tiny model, one per case; the working folder."""

    master: Path
    here: Path
    kinds: dict[str, Callable[[Random, "DamagedFolder"], tuple[str, str]]]
    """Functions that damage the working folder and run something on it. They return the damage and
    what is wrong with the end of the run, if anything."""
    read: Callable[[], tuple[bytes, bytes]]
    """Read standard output and standard error so far."""
    has_processes: bool = False
    """True: each command has a process of its own."""
    ends: Counter[object] = field(default_factory=Counter)
    """Cases by status."""

    def check(self, kind: str, seeds: Sequence[int]) -> None:
        """Run the cases of a kind and assert that each ends as it should."""
        problems = []
        for seed in seeds:
            random = Random(f"{kind} {seed}")
            os.chdir("/")
            shutil.rmtree(self.here, ignore_errors=True)
            shutil.copytree(self.master, self.here, symlinks=True)
            os.chdir(self.here)
            what, problem = self.kinds[kind](random, self)
            if problem:
                problems.append(f"{kind} {seed}: {what}: {problem}")
        assert not problems, f"{len(problems)} of {len(seeds)}\n\n" + "\n\n".join(problems[:9])

    def command(self, *arguments: str, stdin: bytes = b"1 a dog runs.\n") -> str:
        """Run a command and describe what is wrong with its end, if anything."""
        if self.has_processes:
            return self.process(*arguments, stdin=stdin)
        sys.argv = ["nmt", *arguments]
        sys.stdin = io.TextIOWrapper(io.BytesIO(stdin))
        self.read()
        status, problem = self.limited(main)
        return self.judge(arguments, status, self.read()[1], problem)

    def process(self, *arguments: str, stdin: bytes) -> str:
        """Run a command in a process of its own, as `command` does in this one."""
        command = ["bash", "-c", f'ulimit -v {LIMIT_BYTES * 3 // 1024}; exec "$@"', "-"]
        command += [sys.executable, "-m", "nmt", *arguments]
        path = f"{ROOT}:{os.environ.get('PYTHONPATH', '')}"
        environment = {**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1"}
        try:
            done = subprocess.run(
                command, input=stdin, capture_output=True, timeout=2 * LIMIT_S, env=environment
            )
        except subprocess.TimeoutExpired:
            return f"{' '.join(arguments)[:300]!r}: more than {2 * LIMIT_S} s"
        self.ends[done.returncode] += 1
        return self.judge(arguments, done.returncode, done.stderr)

    def judge(
        self, arguments: Sequence[str], status: object, errors: bytes, problem: str = ""
    ) -> str:
        """Describe what is wrong with the status or the standard error of a command."""
        text = errors.decode(errors="replace")
        if not problem and (status not in (0, 1, 2) or "Traceback" in text):
            problem = f"status {status}"
        if not problem and status == 2 and len(text.splitlines()) > 3:
            problem = "more than 3 lines"
        return problem and f"{' '.join(arguments)[:300]!r}: {problem}\n{text[-3000:]}"

    def call(self, function: Callable[[], object]) -> str:
        """Call a function that may raise NmtError; describe any other error."""
        return self.limited(function)[1]

    def limited(self, function: Callable[[], object]) -> tuple[object, str]:
        """Call a function in bounded time and memory; return a status and a problem."""
        status, problem = self._limited(function)
        self.ends[status] += 1
        return status, problem

    def _limited(self, function: Callable[[], object]) -> tuple[object, str]:
        used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
        _, most = resource.getrlimit(resource.RLIMIT_AS)
        before = signal.signal(signal.SIGALRM, _raise_too_slow)
        signal.alarm(LIMIT_S)
        resource.setrlimit(resource.RLIMIT_AS, (used + LIMIT_BYTES, most))
        try:
            function()
        except SystemExit as ended:
            return ended.code or 0, ""
        except (NmtError, ReachedError) as error:
            text = str(error)
            return 2, "" if len(text.splitlines()) <= 3 else f"{len(text.splitlines())} lines"
        except BaseException:
            return None, traceback.format_exc(limit=-6)
        finally:
            signal.alarm(0)
            signal.signal(signal.SIGALRM, before)
            resource.setrlimit(resource.RLIMIT_AS, (most, most))
        return 0, ""


def _raise_too_slow(*_: object) -> NoReturn:
    raise TooSlowError
