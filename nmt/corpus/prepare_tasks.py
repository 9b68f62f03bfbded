"""The tasks of preparing: each reads and writes files, in a process and on a host of its own.

A task leaves its files whole or not at all, may be done twice with the same bytes, and returns a
small result of plain JSON. It holds one chunk, or one share of the digests, or the words of the
sample: never the corpus. `prepare.py` says which tasks there are, in which order.

Files in work/: `raw/<chunk>.src.zst` and .tgt.zst (TSV: .tsv.zst), the lines as they came;
`clean/<chunk>.src.zst` and .tgt.zst, the lines kept, `.lines.npy`, where they stood in the chunk,
`.digests.npy`; `copies/<part>.npy`, lines (numbered through all corpora) of pairs that stood in an
earlier chunk.
"""

import hashlib
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from nmt.config.corpus import Case, CleaningConfig, ParallelText, SubwordConfig
from nmt.corpus import clean
from nmt.corpus.io import atomic_write, read_blocks, read_zstd, split_lines, write_zstd
from nmt.corpus.manifest import FileInfo
from nmt.corpus.shards import ShardWriter
from nmt.corpus.subword import Subword, tag_token
from nmt.corpus.task_cache import Tree
from nmt.corpus.text import EncodingChecker, missing_tab_message, normalise, read_lines, read_pairs
from nmt.errors import DataError

TOKENIZER = "tokenizer.json"
ENCODE_PAIRS = 5_000
"""Pairs encoded together."""
RECASED = 10
"""A corpus in other letters must not take half of the vocabulary for a few pairs of an epoch."""


@dataclass(frozen=True)
class Chunk:
    """A run of lines of one raw corpus: the unit of work."""

    key: str
    """Names its files: number of the corpus, number of the chunk in it."""
    corpus: str
    first_line: int
    """Its first line in the corpus, from 0."""
    start: int
    """Its first line among the lines of all corpora, from 0."""
    num_lines: int


@dataclass(frozen=True)
class Sample:
    """An even sample of the pairs kept: their lines, source then target, as often as asked for."""

    work: Path
    chunks: list[Chunk]
    kept: dict[str, int]
    """Pairs kept of each chunk."""
    num_parts: int
    """Shares of the digests that copies were looked for in."""
    max_pairs: int
    recased: frozenset[str] = frozenset()
    """Corpora that are others in other letters: one in RECASED of their pairs is looked at."""

    def __iter__(self) -> Iterator[str]:
        """Lines, the same and in the same order each time."""
        steps = {chunk.key: RECASED if chunk.corpus in self.recased else 1 for chunk in self.chunks}
        seen = {key: -(-kept // steps[key]) for key, kept in self.kept.items()}
        total = sum(seen.values())
        wanted = min(total, self.max_pairs)
        end, number = 0, 0
        for chunk in self.chunks:
            start, end = end, end + seen[chunk.key]
            picks = []
            while number < wanted and number * total // wanted < end:
                picks.append(steps[chunk.key] * (number * total // wanted - start))
                number += 1
            if picks:
                src, tgt, _ = _read_clean(self.work, chunk, self.num_parts)
                for row in picks:
                    yield src[row]
                    yield tgt[row]


def split_raw(path: Path, target: str, lines_per_chunk: int, is_tsv: bool, is_strict: bool) -> Tree:
    """Read a raw file once: check it, and write its lines to `target` with {} as 00000, ..."""
    digest = hashlib.sha256()
    checker = EncodingChecker(str(path), is_strict=is_strict)
    num_lines = num_waiting = 0
    waiting: list[bytes] = []
    for first_line, block in read_blocks(path, digest):
        checker.check(first_line, block)
        lines = split_lines(block)
        if is_tsv and not all(b"\t" in line for line in lines):
            row = next(row for row, line in enumerate(lines) if b"\t" not in line)
            raise DataError(missing_tab_message(path, first_line + row))
        while num_waiting + len(lines) >= lines_per_chunk:
            cut = lines_per_chunk - num_waiting
            number = num_lines // lines_per_chunk
            write_zstd(Path(target.format(f"{number:05}")), [*waiting, _joined(lines[:cut])])
            num_lines += lines_per_chunk
            lines, waiting, num_waiting = lines[cut:], [], 0
        waiting.append(_joined(lines))
        num_waiting += len(lines)
    if num_waiting:
        write_zstd(Path(target.format(f"{num_lines // lines_per_chunk:05}")), waiting)
    checker.finish()
    info = FileInfo("", path.stat().st_size, digest.hexdigest(), num_lines + num_waiting)
    return asdict(info)


def copy_held_out(text: ParallelText, root: str, folder: Path, name: str) -> Tree:
    """Lay a dev or test set into the folder: plain UTF-8 lines, strictly checked, not cleaned."""
    paths = [folder / f"{name}.{side}" for side in ("src", "tgt")]
    count = 0
    with atomic_write(paths[0]) as src_path, atomic_write(paths[1]) as tgt_path:
        with src_path.open("wb") as src_file, tgt_path.open("wb") as tgt_file:
            for src, tgt in read_pairs(text, root):
                src_file.write(src.encode() + b"\n")
                tgt_file.write(tgt.encode() + b"\n")
                count += 1
        if not count:
            raise DataError(
                f"{Path(root, text.tsv or text.src)}: no lines; expected a set of pairs"
            )
    files = [FileInfo.from_path(path, path.relative_to(folder).as_posix(), count) for path in paths]
    return {"files": [asdict(file) for file in files]}


def clean_chunk(
    work: Path,
    chunk: Chunk,
    is_tsv: bool,
    cleaning: CleaningConfig,
    cases: tuple[Case, Case] = ("as_is", "as_is"),
) -> Tree:
    """Drop and mend pairs; returns the tally."""
    if is_tsv:
        rows = split_lines(read_zstd(work / f"raw/{chunk.key}.tsv.zst"))
        pairs: Iterable[tuple[bytes, bytes]] = (
            (row.split(b"\t", 2)[0], row.split(b"\t", 2)[1]) for row in rows
        )
    else:
        sides = [
            split_lines(read_zstd(work / f"raw/{chunk.key}.{side}.zst")) for side in ("src", "tgt")
        ]
        pairs = zip(*sides, strict=True)
    kept, tally, digests = clean.clean(pairs, cleaning, cases)
    assert tally.read == chunk.num_lines, (tally, chunk)
    stem = work / "clean" / chunk.key
    write_zstd(stem.with_name(f"{chunk.key}.src.zst"), [f"{pair.src}\n".encode() for pair in kept])
    write_zstd(stem.with_name(f"{chunk.key}.tgt.zst"), [f"{pair.tgt}\n".encode() for pair in kept])
    lines = np.array([pair.line for pair in kept], dtype=np.int64)
    _save(stem.with_name(f"{chunk.key}.lines.npy"), lines)
    if cleaning.duplicates:
        _save(
            stem.with_name(f"{chunk.key}.digests.npy"),
            clean.sort_digests(digests, lines + chunk.start),
        )
    return asdict(tally)


def find_duplicates(work: Path, chunks: list[Chunk], part: int, num_parts: int) -> Tree:
    """Find pairs of one share of the digests that stood in an earlier chunk; counts by chunk."""
    tables = (
        clean.select_part(
            np.load(work / f"clean/{chunk.key}.digests.npy", mmap_mode="r"), part, num_parts
        )
        for chunk in chunks
    )
    copies = clean.find_later_duplicates(tables)
    _save(work / f"copies/{part:05}.npy", copies)
    starts = np.array([chunk.start for chunk in chunks], dtype=np.uint64)
    numbers, counts = np.unique(
        np.searchsorted(starts, copies, side="right") - 1, return_counts=True
    )
    return {
        chunks[number].key: count
        for number, count in zip(numbers.tolist(), counts.tolist(), strict=True)
    }


def train_subword(folder: Path, sample: Sample, config: SubwordConfig) -> Tree:
    """Learn the vocabulary and write it; returns its fingerprint, size and file."""
    subword = Subword.train(sample, config)
    path = folder / TOKENIZER
    with atomic_write(path) as temporary:
        temporary.write_text(subword.to_json(), encoding="utf-8", newline="\n")
    return {
        "fingerprint": subword.fingerprint,
        "num_pieces": subword.num_pieces,
        "file": asdict(FileInfo.from_path(path, TOKENIZER)),
    }


def encode_chunk(
    work: Path,
    chunk: Chunk,
    num_parts: int,
    shard: str,
    held_out: list[str],
    cleaning: CleaningConfig,
    tag: int,
) -> Tree:
    """Write the pairs of a chunk that are no copies as a shard; describes it."""
    folder = work.parent
    subword = _load_subword((folder / TOKENIZER).read_text(encoding="utf-8"))
    src, tgt, lines = _read_clean(work, chunk, num_parts)
    writer = ShardWriter(subword.num_pieces, chunk.corpus)
    mark = [tag_token(tag)] if tag else []
    for first in range(0, len(src), ENCODE_PAIRS):
        rows = slice(first, first + ENCODE_PAIRS)
        writer.add(
            [mark + ids for ids in subword.encode_batch(src[rows])],
            subword.encode_batch(tgt[rows]),
            (lines[rows] + chunk.first_line + 1).tolist(),
        )
    known = _held_out_digests(folder, held_out, cleaning)
    leaked = sum(clean.pair_digest(*pair) in known for pair in zip(src, tgt, strict=True))
    return {"shard": asdict(writer.write(folder / shard, shard)), "leaked": leaked}


# Once in each process: of every vocabulary that has encoded, tokenizers keeps 4 MB for ever.
@lru_cache(maxsize=1)
def _load_subword(text: str) -> Subword:
    return Subword.from_json(text)


def _held_out_digests(folder: Path, names: list[str], cleaning: CleaningConfig) -> set[bytes]:
    """Digests of the dev and test pairs, mended as the training pairs are."""
    digests = set()
    for name in names:
        sides = [read_lines(folder / f"{name}.{side}") for side in ("src", "tgt")]
        for src, tgt in zip(*sides, strict=True):
            digests.add(clean.pair_digest(normalise(src, cleaning), normalise(tgt, cleaning)))
    return digests


def _read_clean(
    work: Path, chunk: Chunk, num_parts: int
) -> tuple[list[str], list[str], npt.NDArray[np.int64]]:
    """Source lines, target lines and line numbers in the chunk of the pairs that are no copies."""
    lines: npt.NDArray[np.int64] = np.load(work / f"clean/{chunk.key}.lines.npy")
    sides = []
    for side in ("src", "tgt"):
        text = read_zstd(work / f"clean/{chunk.key}.{side}.zst").decode()
        sides.append(text.split("\n")[:-1])
        assert len(sides[-1]) == len(lines), chunk
    copies = _copies_in(work, chunk, num_parts)
    if not copies:
        return sides[0], sides[1], lines
    rows = [row for row, line in enumerate(lines.tolist()) if line not in copies]
    return [sides[0][row] for row in rows], [sides[1][row] for row in rows], lines[rows]


def _copies_in(work: Path, chunk: Chunk, num_parts: int) -> set[int]:
    """Lines of a chunk, from 0, that hold copies."""
    bounds = np.array([chunk.start, chunk.start + chunk.num_lines], dtype=np.uint64)
    found: set[int] = set()
    for part in range(num_parts):
        copies = np.load(work / f"copies/{part:05}.npy", mmap_mode="r")
        first, end = np.searchsorted(copies, bounds)
        found.update((copies[first:end] - bounds[0]).tolist())
    return found


def _joined(lines: list[bytes]) -> bytes:
    return b"".join([line + b"\n" for line in lines])


def _save(path: Path, array: npt.NDArray[Any]) -> None:
    with atomic_write(path) as temporary, temporary.open("wb") as file:
        np.save(file, array, allow_pickle=False)
