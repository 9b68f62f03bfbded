"""The pair ledger: which pairs the workers really trained on, update by update, in ledger.jsonl.

Each worker notes the rows of a micro-batch once it has its gradient. Before a checkpoint the notes
of all come together, and the first worker adds a line for each update since the checkpoint before:

    {"update": 41, "pairs": 152, "tgt_tokens": 1890, "is_skipped": false, "rows": "eJxj...",
     "workers": 2, "chain": "9f3c..."}

`rows` are the sorted row numbers: their differences as uint32, zlib, base64. `chain` is the SHA-256
of the chain before it and of what the update trained on; the checkpoint has it too. So a line that
was changed, left out or put in is found, and two runs with one chain trained on the same pairs in
the same updates, whatever their numbers of workers. A run that goes on first cuts off the updates
that it will train again: what is left is the surviving lineage.
"""

import base64
import contextlib
import errno
import hashlib
import json
import os
import zlib
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from nmt.batching.loader import MicroBatch
from nmt.batching.schedule import Rows
from nmt.training.distributed import World

NAME = "ledger.jsonl"

Packed = tuple[int, int, bool, str]
"""What one worker did in an update: updates done, target tokens, is skipped, packed rows."""


@dataclass(frozen=True)
class LedgerEntry:
    """What all workers trained on in one update."""

    update: int
    """Updates done, with this one."""
    pairs: int
    """Pairs in it; one that was used twice counts twice."""
    tgt_tokens: int
    """Target tokens in the tensors that were trained on, EOS counted."""
    is_skipped: bool
    """Whether its gradient was not finite, so that nothing was learnt."""
    rows: str
    """Row numbers in the prepared corpus, packed."""
    workers: int
    """Workers that shared it."""
    chain: str
    """SHA-256 of all up to here."""


class Ledger:
    """One worker's notes since the last checkpoint; the first worker's writes the file."""

    def __init__(self, run_dir: Path, update: int, chain: str, world: World) -> None:
        """Go on after that many updates, where the chain was this; later lines are cut off."""
        self._path = run_dir / NAME
        self._chain = chain
        self._world = world
        self._rows: list[Rows] = []
        self._tgt_tokens = 0
        self._notes: list[Packed] = []
        self._lines: list[bytes] = []
        if world.is_main:
            _cut(self._path, update)

    def record(self, micro_batch: MicroBatch) -> None:
        """The gradient of this micro-batch is there."""
        self._rows.append(micro_batch.rows)
        self._tgt_tokens += len(micro_batch.batch.tgt_out)

    def end_update(self, update: int, is_skipped: bool) -> None:
        """What was noted since the last call is all that this worker did in the update."""
        rows = np.concatenate(self._rows) if self._rows else np.empty(0, dtype=np.int64)
        self._notes.append((update, self._tgt_tokens, is_skipped, pack_rows(rows)))
        self._rows, self._tgt_tokens = [], 0

    def write(self) -> str:
        """Add the updates since the last call to the file, and return the chain; all must ask.

        Raises:
            OSError: at the first worker: the disk is full; the next call writes them too.
        """
        notes, self._notes = self._world.all_gather(self._notes), []
        for of_update in zip(*notes, strict=True):
            updates, tgt_tokens, is_skipped, packed = zip(*of_update, strict=True)
            assert len(set(updates)) == 1
            rows = np.sort(np.concatenate([unpack_rows(each) for each in packed]))
            done, tokens, skipped = updates[0], sum(tgt_tokens), any(is_skipped)
            self._chain = chain_digest(self._chain, done, tokens, skipped, rows)
            entry = LedgerEntry(
                done, len(rows), tokens, skipped, pack_rows(rows), self._world.size, self._chain
            )
            self._lines.append(json.dumps(asdict(entry)).encode() + b"\n")
        if self._world.is_main:
            self._append(b"".join(self._lines))
        self._lines = []
        return self._chain

    def _append(self, lines: bytes) -> None:
        with self._path.open("ab", buffering=0) as file:
            end = os.fstat(file.fileno()).st_size
            try:
                if file.write(lines) != len(lines):
                    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(self._path))
                # Before the checkpoint is: one that survives a power cut has its pairs recorded.
                os.fsync(file.fileno())
            except OSError:
                file.truncate(end)
                raise


def chain_digest(chain: str, update: int, tgt_tokens: int, is_skipped: bool, rows: Rows) -> str:
    """The chain after an update: the same for any number of workers, any version of zlib."""
    head = f"{chain} {update} {tgt_tokens} {int(is_skipped)} ".encode()
    return hashlib.sha256(head + rows.astype("<u4").tobytes()).hexdigest()


def pack_rows(rows: Rows) -> str:
    """Row numbers in few bytes; their order is lost."""
    steps = np.diff(np.sort(rows), prepend=0).astype("<u4")
    return base64.b64encode(zlib.compress(steps.tobytes())).decode()


def unpack_rows(packed: str) -> npt.NDArray[np.int64]:
    """Sorted row numbers; ValueError where they are not what `pack` made."""
    try:
        raw = zlib.decompress(base64.b64decode(packed, validate=True))
    except zlib.error as error:
        raise ValueError(str(error)) from None
    return np.cumsum(np.frombuffer(raw, dtype="<u4"), dtype=np.int64)


def read_ledger(run_dir: Path) -> Iterator[LedgerEntry]:
    """The lines of a run's ledger; ValueError, OSError where one cannot be read."""
    with (run_dir / NAME).open(encoding="utf-8") as file:
        for number, line in enumerate(file, start=1):
            try:
                yield LedgerEntry(**json.loads(line))
            except (ValueError, TypeError):
                raise ValueError(f"line {number} is not one of a ledger") from None


def _cut(path: Path, update: int) -> None:
    """Keep the lines of that many updates."""
    if not path.exists():
        return
    scratch = path.with_suffix(".tmp")
    with path.open(encoding="utf-8") as old, scratch.open("w", encoding="utf-8") as new:
        for line in old:
            # A line that was torn or damaged stays out, with all that follow it.
            with contextlib.suppress(ValueError, KeyError, TypeError):
                if line.endswith("}\n") and json.loads(line)["update"] <= update:
                    new.write(line)
                    continue
            break
        new.flush()
        os.fsync(new.fileno())
    scratch.replace(path)
