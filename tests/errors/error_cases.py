"""Commands with invalid input: the error message and the changed files of each case."""

import shutil
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

Content = bytes | Callable[[bytes], bytes] | None
"""New content of a file, a function of its content, or None to remove it."""


@dataclass(frozen=True)
class ErrorCase:
    """Command in the directory of the tiny model, and its error message after `nmt: `."""

    command: str
    message: str
    files: dict[str, Content] = field(default_factory=dict)
    """Files changed before the command runs."""
    stdin: bytes = b""


def replaced(old: str, new: str) -> Callable[[bytes], bytes]:
    def change(data: bytes) -> bytes:
        assert data.count(old.encode()) == 1
        return data.replace(old.encode(), new.encode())

    return change


def recoded(encoding: str) -> Callable[[bytes], bytes]:
    return lambda data: data.decode().encode(encoding)


def flipped(data: bytes) -> bytes:
    return data[:-9] + bytes([data[-9] ^ 1]) + data[-8:]


BEST = "runs/tiny/checkpoints/update-00000060"
EARLIER = "runs/tiny/checkpoints/update-00000030"
OTHER = "use another checkpoint, such as runs/tiny/checkpoints/update-00000030"
RAW: dict[str, Content] = {"prepared": None}


def ids(cases: list[ErrorCase]) -> list[str]:
    return [f"{case.command} | {' '.join(case.files)}" for case in cases]


def change(folder: Path, files: dict[str, Content]) -> None:
    for name, content in files.items():
        path = folder / name
        if content is None and path.is_dir():
            shutil.rmtree(path)
        elif content is None:
            path.unlink()
        else:
            data = content(path.read_bytes()) if callable(content) else content
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(data)


def contents(folder: Path) -> dict[Path, bytes | None]:
    return {path: path.read_bytes() if path.is_file() else None for path in folder.rglob("*")}
