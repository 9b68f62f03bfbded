"""Shards: memory-mapped token ids on disk.

A shard is an Arrow IPC file, uncompressed, with one record batch. Each row is a pair:

    src, tgt    token ids without BOS and EOS, in the smallest unsigned type for the vocabulary
    corpus      name of its corpus
    line        its line there, from 1

Rows are numbered through all shards in the order of the manifest, which is the order of the raw
corpora. Lengths come from the offsets of the lists, so that no token is read for them. Opening
reads the manifest and the file sizes; a shard is mapped read-only when one of its rows is first
accessed, so that processes share the pages and may fork.
"""

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from nmt.corpus.folder_lock import lock_shared
from nmt.corpus.io import atomic_write
from nmt.corpus.manifest import (
    FileInfo,
    Manifest,
    ShardInfo,
    read_manifest,
    unusable,
    verify_files,
)
from nmt.corpus.subword import FIRST_BYTE
from nmt.errors import DataError, shorten

Lengths = npt.NDArray[np.int32]
Tokens = npt.NDArray[Any]
Rows = Sequence[int] | npt.NDArray[Any]


@dataclass(frozen=True)
class _Side:
    """One side of a mapped shard."""

    offsets: npt.NDArray[np.int32]
    """Start of each row in `tokens`, and the end of the last row."""
    tokens: Tokens

    def row(self, row: int) -> Tokens:
        return self.tokens[self.offsets[row] : self.offsets[row + 1]]


@dataclass(frozen=True)
class _MappedShard:
    src: _Side
    tgt: _Side
    lines: npt.NDArray[np.int64]


class Shards:
    """The pairs of a prepared corpus, by row number."""

    def __init__(self, folder: Path, manifest: Manifest) -> None:
        """Use `open`."""
        self.folder = folder
        self.manifest = manifest
        # Held as long as this object: the folder must not be replaced under a run.
        self._lock = lock_shared(folder)
        self._ends = np.cumsum([shard.pairs for shard in manifest.shards], dtype=np.int64)
        self._mapped: dict[int, _MappedShard] = {}

    @classmethod
    def open(cls, folder: str | Path) -> "Shards":
        """Open a prepared corpus: read its manifest and compare the sizes of its files.

        Raises:
            DataError: the manifest is missing or damaged, or a file is missing or of another size.
        """
        folder = Path(folder)
        manifest = read_manifest(folder)
        # Sizes only: digests of a large corpus take minutes; `verify` compares them.
        for info in manifest.all_files:
            path = folder / info.name
            size = path.stat().st_size if path.is_file() else None
            if size != info.size:
                found = "missing" if size is None else f"{size} bytes"
                raise unusable(path, f"{found}, but the manifest lists {info.size} bytes")
        return cls(folder, manifest)

    def verify(self, *, again: bool = False) -> None:
        """Compare the digest of every file with the manifest; DataError names the first error.

        Args:
            again: also read files that this host has verified before.
        """
        verify_files(self.folder, self.manifest.all_files, again=again)

    def __len__(self) -> int:
        """Return the number of pairs in all shards."""
        return self.manifest.pairs

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickle the path: another process opens the folder itself."""
        return Shards.open, (str(self.folder),)

    @cached_property
    def src_lengths(self) -> Lengths:
        """Source tokens of each row, without EOS."""
        return self._lengths("src")

    @cached_property
    def tgt_lengths(self) -> Lengths:
        """Target tokens of each row, without BOS and EOS."""
        return self._lengths("tgt")

    @cached_property
    def corpora(self) -> npt.NDArray[np.int32]:
        """Number of each row's corpus, in the order of the experiment."""
        names = [corpus.name for corpus in self.manifest.corpora]
        numbers = [names.index(shard.corpus) for shard in self.manifest.shards]
        counts = [shard.pairs for shard in self.manifest.shards]
        return np.repeat(np.array(numbers, dtype=np.int32), counts)

    def pairs(self, rows: Rows) -> list[tuple[Tokens, Tokens]]:
        """Return source and target token ids of rows, without BOS and EOS.

        The arrays are read-only views of the mapped files.

        Raises:
            DataError: a shard is damaged, or a token is not in the vocabulary.
        """
        places = self._locate(rows)
        pairs = []
        for number, row in places:
            shard = self._shard(number)
            pairs.append((shard.src.row(row), shard.tgt.row(row)))
        num_pieces = self.manifest.num_pieces
        tokens = np.concatenate([side for pair in pairs for side in pair]) if pairs else None
        # One comparison per micro-batch; the row is searched only after a violation.
        if tokens is not None and tokens.size and not _is_text(tokens, num_pieces):
            for (number, row), pair in zip(places, pairs, strict=True):
                if any(side.size and not _is_text(side, num_pieces) for side in pair):
                    path = self.folder / self.manifest.shards[number].file.name
                    raise unusable(
                        path,
                        f"row {row} has a token outside {FIRST_BYTE} to {num_pieces - 1}, "
                        "the vocabulary without special tokens",
                    )
        return pairs

    def origin(self, row: int) -> tuple[str, int]:
        """Return the name of a row's corpus and its line there, from 1."""
        number, local = self._locate([row])[0]
        return self.manifest.shards[number].corpus, int(self._shard(number).lines[local])

    def _locate(self, rows: Rows) -> list[tuple[int, int]]:
        """Return the shard, and the row in it, of rows numbered through all shards."""
        wanted = np.asarray(rows, dtype=np.int64)
        if wanted.size and not 0 <= wanted.min() <= wanted.max() < len(self):
            raise IndexError(f"rows {wanted.min()} to {wanted.max()} of {len(self)}")
        # `_ends` is exclusive: a row equal to an end belongs to the next shard.
        numbers = np.searchsorted(self._ends, wanted, side="right")
        starts = np.concatenate([[0], self._ends])[numbers]
        return list(zip(numbers.tolist(), (wanted - starts).tolist(), strict=True))

    def _shard(self, number: int) -> _MappedShard:
        # Mapped on first use: a worker that reads a part of the corpus opens only that part.
        if number not in self._mapped:
            info = self.manifest.shards[number]
            self._mapped[number] = _map_shard(self.folder / info.file.name, info)
        return self._mapped[number]

    def _lengths(self, side: str) -> Lengths:
        shards = map(self._shard, range(len(self.manifest.shards)))
        parts = [np.diff(getattr(shard, side).offsets) for shard in shards]
        lengths = np.concatenate([np.zeros(0, dtype=np.int32), *parts])
        # Cached and shared by all callers.
        lengths.setflags(write=False)
        return lengths


class ShardWriter:
    """Collects the pairs of one shard and writes it."""

    def __init__(self, num_pieces: int, corpus: str) -> None:
        """Write pairs of one corpus, with tokens below `num_pieces`."""
        self._type = np.min_scalar_type(num_pieces - 1)
        self._corpus = corpus
        self._lines: list[int] = []
        self._tokens: tuple[list[Tokens], list[Tokens]] = ([], [])
        self._lengths: tuple[list[int], list[int]] = ([], [])

    def add(self, src: list[list[int]], tgt: list[list[int]], lines: Iterable[int]) -> None:
        """Add pairs: token ids without BOS and EOS, and line numbers from 1."""
        self._lines.extend(lines)
        for side, rows in enumerate((src, tgt)):
            self._lengths[side].extend(map(len, rows))
            # As arrays at once: Python integers would take 28 bytes per token.
            self._tokens[side].append(np.fromiter(chain.from_iterable(rows), dtype=self._type))

    def write(self, path: Path, name: str) -> ShardInfo:
        """Write the file atomically.

        Args:
            path: the file.
            name: its path in the prepared corpus.

        Raises:
            DataError: there are too many tokens for 32-bit offsets.
        """
        lengths = [np.array(side, dtype=np.int64) for side in self._lengths]
        num_tokens = [int(side.sum()) for side in lengths]
        # Arrow lists have 32-bit offsets.
        if max(num_tokens) >= 2**31:
            raise DataError(
                f"{path}: {max(num_tokens)} tokens on one side, but a shard holds fewer than 2^31; "
                f"set corpus.shard_pairs to a smaller number"
            )
        # Dictionary-encoded: the name is stored once per shard.
        corpora = pa.DictionaryArray.from_arrays(
            pa.array(np.zeros(len(self._lines), dtype=np.int16)), pa.array([self._corpus])
        )
        columns = {
            "src": _list_array(lengths[0], self._tokens[0], self._type),
            "tgt": _list_array(lengths[1], self._tokens[1], self._type),
            "corpus": corpora,
            "line": pa.array(np.array(self._lines, dtype=np.int64)),
        }
        batch = pa.record_batch(list(columns.values()), names=list(columns))
        with (
            atomic_write(path) as temporary,
            pa.OSFile(str(temporary), "wb") as file,
            pa.ipc.new_file(file, batch.schema) as writer,
        ):
            writer.write_batch(batch)
        return ShardInfo(
            file=FileInfo.from_path(path, name),
            corpus=self._corpus,
            pairs=len(self._lines),
            src_tokens=num_tokens[0],
            tgt_tokens=num_tokens[1],
            longest=int(np.maximum(*lengths).max(initial=0)),
        )


@contextmanager
def open_parquet(path: Path) -> Iterator[Any]:
    """Open a raw corpus in Parquet as a `pyarrow.parquet.ParquetFile`.

    Raises:
        DataError: it is not a Parquet file, or damaged; also while it is read.
    """
    # Slow to import, and only needed for this format.
    import pyarrow.parquet as pq

    try:
        # Buffered: the columns of a row group can be larger than memory.
        with pq.ParquetFile(path, buffer_size=1 << 20) as file:
            yield file
    except FileNotFoundError:
        raise
    except (OSError, ValueError, pa.ArrowException) as error:
        reason = shorten(" ".join(str(error).split()), 200)
        raise DataError(
            f"{path}: not a readable Parquet file ({reason}); copy or download it again"
        ) from None


def _list_array(lengths: npt.NDArray[np.int64], tokens: list[Tokens], dtype: Any) -> Any:
    offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int32)
    values = np.concatenate([np.zeros(0, dtype=dtype), *tokens])
    return pa.ListArray.from_arrays(pa.array(offsets), pa.array(values))


def _is_text(tokens: Tokens, num_pieces: int) -> bool:
    return bool(tokens.min() >= FIRST_BYTE and tokens.max() < num_pieces)


def _map_shard(path: Path, info: ShardInfo) -> _MappedShard:
    """Map a shard; DataError if it is not one or differs from the manifest."""
    try:
        # zero_copy_only: an implicit copy would load the whole shard into memory.
        batch = pa.ipc.open_file(pa.memory_map(str(path))).get_batch(0)
        sides = [
            _Side(
                column.offsets.to_numpy(zero_copy_only=True),
                column.values.to_numpy(zero_copy_only=True),
            )
            for column in (batch.column("src"), batch.column("tgt"))
        ]
        lines = batch.column("line").to_numpy(zero_copy_only=True)
        # Sizes of buffers only; offsets are compared below, tokens where they are read.
        batch.validate()
    except (OSError, KeyError, AttributeError, ValueError, pa.ArrowException) as error:
        reason = " ".join(str(error).split())
        raise unusable(path, f"not a shard of nmt ({reason})") from None
    if any(side.tokens.dtype.kind != "u" for side in sides) or lines.dtype != np.int64:
        raise unusable(path, "not a shard of nmt (a column has another type)")
    if batch.num_rows != info.pairs:
        raise unusable(path, f"{batch.num_rows} pairs, but the manifest lists {info.pairs}")
    counts = (info.src_tokens, info.tgt_tokens)
    for name, side, num_tokens in zip(("src", "tgt"), sides, counts, strict=True):
        lengths = np.diff(side.offsets)
        wrong = np.flatnonzero((lengths < 0) | (lengths > info.longest))
        if len(wrong):
            raise unusable(
                path,
                f"row {wrong[0]} has {lengths[wrong[0]]} {name} tokens; expected 0 to "
                f"{info.longest}, the longest in the manifest",
            )
        if side.offsets[0] or not side.offsets[-1] == len(side.tokens) == num_tokens:
            raise unusable(
                path,
                f"rows use {name} tokens {side.offsets[0]} to {side.offsets[-1]} of "
                f"{len(side.tokens)}; the manifest lists {num_tokens}",
            )
    return _MappedShard(sides[0], sides[1], lines)
