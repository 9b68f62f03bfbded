"""Pair ledger: the pairs that each update was trained on, in ledger.jsonl of a run.

Every rank records the rows of a micro-batch after its backward pass. Before a checkpoint the
records of all ranks are gathered, and rank 0 appends a line for each update since the previous
checkpoint:

    {"update": 41, "pairs": 152, "tgt_tokens": 1890, "is_skipped": false, "rows": "eJxj...",
     "workers": 2, "chain": "9f3c..."}

`rows` are the sorted row numbers: differences as uint32, zlib, base64. `chain` is the SHA-256 of
the previous chain and of the content of the update; the checkpoint stores it too. A line that is
changed, removed or inserted is therefore detected, and two runs with the same chain trained on the
same pairs in the same updates, at any world size. A resumed run first removes the lines after its
checkpoint: the ledger holds the updates that led to the current weights.
"""

import base64
import errno
import hashlib
import json
import os
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from nmt.batching.schedule import Rows
from nmt.config.settings import Count, PositiveInt, parse_record
from nmt.training.distributed import World

NAME = "ledger.jsonl"
MAX_PAIRS = 1 << 26
"""Pairs of an update that a reader accepts: compressed rows of a damaged file may expand to more
than the memory of the host."""

RankRecord = tuple[int, int, bool, str]
"""Share of one rank in an update: updates done, target tokens, is skipped, packed rows."""


@dataclass(frozen=True)
class LedgerEntry:
    """Line of the ledger: one update on all ranks."""

    update: PositiveInt
    """Updates done, including this one."""
    pairs: Count
    """Number of pairs; a pair used twice counts twice."""
    tgt_tokens: Count
    """Target tokens trained on, EOS included."""
    is_skipped: bool
    """True if the gradient was not finite and the optimizer step was skipped."""
    rows: str
    """Packed row numbers in the prepared corpus (`pack_rows`)."""
    workers: Count
    """World size."""
    chain: str
    """SHA-256 of all entries up to this one."""


class Ledger:
    """Records of one rank since the last checkpoint; on rank 0 also the writer of the file."""

    def __init__(self, run_dir: Path, update: int, chain: str, world: World) -> None:
        """Continue a ledger; rank 0 removes the lines after the update.

        Args:
            run_dir: run directory.
            update: updates done.
            chain: chain after that update; empty for a new run.
            world: ranks of the run.
        """
        self._path = run_dir / NAME
        self._chain = chain
        self._world = world
        self._records: list[RankRecord] = []
        self._unwritten: list[bytes] = []
        if world.is_main:
            _truncate(self._path, update)

    def add(self, update: int, rows: Sequence[Rows], tgt_tokens: int, is_skipped: bool) -> None:
        """Record what this rank trained on in an update.

        Args:
            update: updates done, including this one.
            rows: row numbers in the prepared corpus, of each micro-batch.
            tgt_tokens: target tokens, EOS counted.
            is_skipped: True if the optimizer step was skipped.
        """
        packed = pack_rows(np.concatenate(rows))
        self._records.append((update, tgt_tokens, is_skipped, packed))

    def write(self) -> str:
        """Append the updates since the last call and return the chain.

        Collective: call on every rank.

        Raises:
            OSError: on rank 0: the disk is full; the next call writes these updates too.
        """
        # Sent before a checkpoint only: an update itself has no extra communication.
        by_rank, self._records = self._world.all_gather(self._records), []
        for shares in zip(*by_rank, strict=True):
            updates, tgt_tokens, is_skipped, packed = zip(*shares, strict=True)
            assert len(set(updates)) == 1
            # Sorted: the entry does not depend on which rank had which micro-batch.
            rows = np.sort(np.concatenate([unpack_rows(each) for each in packed]))
            update, num_tokens, skipped = updates[0], sum(tgt_tokens), any(is_skipped)
            self._chain = chain_digest(self._chain, update, num_tokens, skipped, rows)
            entry = LedgerEntry(
                update, len(rows), num_tokens, skipped, pack_rows(rows), self._world.size,
                self._chain,
            )  # fmt: skip
            self._unwritten.append(json.dumps(asdict(entry)).encode() + b"\n")
        if self._world.is_main:
            self._append(b"".join(self._unwritten))
        self._unwritten = []
        return self._chain

    def _append(self, lines: bytes) -> None:
        # Unbuffered: a full disk is noticed by the number of bytes written.
        with self._path.open("ab", buffering=0) as file:
            end = os.fstat(file.fileno()).st_size
            try:
                if file.write(lines) != len(lines):
                    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(self._path))
                # Synced before the checkpoint: one that survives a power cut has its pairs here.
                os.fsync(file.fileno())
            except OSError:
                # A partial line would end the ledger for readers.
                file.truncate(end)
                raise


def chain_digest(chain: str, update: int, tgt_tokens: int, is_skipped: bool, rows: Rows) -> str:
    """Return the chain after an update, equal for any world size and version of zlib."""
    head = f"{chain} {update} {tgt_tokens} {int(is_skipped)} ".encode()
    return hashlib.sha256(head + rows.astype("<u4").tobytes()).hexdigest()


def pack_rows(rows: Rows) -> str:
    """Compress row numbers to text; their order is lost."""
    # Differences of sorted numbers are small and compress well.
    steps = np.diff(np.sort(rows), prepend=0).astype("<u4")
    return base64.b64encode(zlib.compress(steps.tobytes())).decode()


def unpack_rows(packed: str) -> npt.NDArray[np.int64]:
    """Return the sorted row numbers of `pack_rows`.

    Raises:
        ValueError: the text is not valid.
    """
    try:
        stream = zlib.decompressobj()
        raw = stream.decompress(base64.b64decode(packed, validate=True), 4 * MAX_PAIRS)
    except zlib.error as error:
        raise ValueError(str(error)) from None
    if not stream.eof:
        raise ValueError(f"incomplete, or more than {MAX_PAIRS:,} rows")
    return np.cumsum(np.frombuffer(raw, dtype="<u4"), dtype=np.int64)


def read_ledger(run_dir: Path) -> Iterator[LedgerEntry]:
    """Read the ledger of a run line by line.

    Raises:
        OSError: it cannot be read.
        ValueError: a line is not valid.
    """
    with (run_dir / NAME).open("rb") as file:
        for number, line in enumerate(file, start=1):
            try:
                yield parse_record(LedgerEntry, line)
            except ValueError as error:
                raise ValueError(f"line {number} is not a ledger entry: {error}") from None


def _truncate(path: Path, update: int) -> None:
    """Remove the lines after an update; a torn or corrupt line ends the ledger."""
    if not path.exists():
        return
    scratch = path.with_suffix(".tmp")
    with path.open("rb") as old, scratch.open("wb") as new:
        for line in old:
            try:
                is_kept = line.endswith(b"}\n") and parse_record(LedgerEntry, line).update <= update
            except ValueError:
                is_kept = False
            # A torn or corrupt line is removed with all that follow it.
            if not is_kept:
                break
            new.write(line)
        new.flush()
        os.fsync(new.fileno())
    scratch.replace(path)
