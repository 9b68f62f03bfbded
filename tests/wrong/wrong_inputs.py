"""A table of what a person can get wrong: the command, what it says, what was changed before."""

import shutil
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

Content = bytes | Callable[[bytes], bytes] | None
"""What a file becomes: bytes, a change of those that it has, or None: it is removed."""


@dataclass(frozen=True)
class Wrong:
    """A command in the folder of the tiny model, and what it says after `nmt: `."""

    command: str
    message: str
    files: dict[str, Content] = field(default_factory=dict)
    """Changed before."""
    stdin: bytes = b""


def instead(old: str, new: str) -> Callable[[bytes], bytes]:
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


def ids(wrong: list[Wrong]) -> list[str]:
    return [f"{each.command} | {' '.join(each.files)}" for each in wrong]


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
