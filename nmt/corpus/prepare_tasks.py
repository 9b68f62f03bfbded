"""The tasks that clean and encode a corpus, in any process on any host.

A task reads files, writes its own atomically, gives the same bytes when it runs twice, and returns
a small JSON object. It holds one chunk, one range of the digests, or the words of the sample in
memory, never the corpus. `prepare.py` lists the tasks and their order.

Files in work/: `raw/`, see `read_tasks.py`; `clean/<chunk>.src.zst` and .tgt.zst, lines kept,
`.lines.npy`, their numbers in the chunk, `.copies.npy` and `.near.npy`, digests, `.verdicts.npy`,
drop reason and repairs of each raw line; `copies/<part>.npy` and `near/<part>.npy`, line numbers
(through all corpora) of pairs that occur in an earlier chunk; `judged/`, see `judge_tasks.py`.
"""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass
from functools import lru_cache
from itertools import count as count_from
from itertools import takewhile
from pathlib import Path
from typing import Any, TypeVar
from zipfile import BadZipFile

import numpy as np
import numpy.typing as npt

from nmt.config.corpus import CleaningConfig, ParallelText, SubwordConfig
from nmt.config.settings import Count
from nmt.corpus import clean
from nmt.corpus.io import atomic_write, read_zstd, split_lines, write_zstd
from nmt.corpus.languages import Languages
from nmt.corpus.manifest import FileInfo, ShardInfo, unusable
from nmt.corpus.rules import repair
from nmt.corpus.shards import ShardWriter
from nmt.corpus.subword import Subword, tag_token
from nmt.corpus.task_cache import Tree
from nmt.corpus.text import read_lines
from nmt.errors import DataError

T = TypeVar("T")

TOKENIZER = "tokenizer.json"
SIDES = ("src", "tgt")
ENCODE_PAIRS = 5_000
"""Pairs encoded together."""
RECASED_STRIDE = 10
"""One pair in this many of a corpus in another letter case goes into the vocabulary's sample."""


@dataclass(frozen=True)
class Chunk:
    """Consecutive lines of one raw corpus."""

    key: str
    """Name of its files: number of the corpus, number of the chunk in it."""
    text: ParallelText
    """The corpus."""
    first_line: int
    """Its first line in the corpus, from 0."""
    start: int
    """Its first line among the lines of all corpora, from 0."""
    num_lines: int

    def path(self, work: Path, stage: str, ending: str) -> Path:
        """Return the path of one of its files in the folder of a stage."""
        return work / stage / f"{self.key}.{ending}"


@dataclass(frozen=True)
class VocabularyInfo:
    """Result of training the vocabulary."""

    fingerprint: str
    num_pieces: Count
    file: FileInfo


@dataclass(frozen=True)
class EncodedChunk:
    """Result of encoding a chunk."""

    shard: ShardInfo
    leaked: Count
    """Pairs that are also in a dev or test set."""


@dataclass(frozen=True)
class Later:
    """Stages after cleaning that drop further pairs."""

    copies: int = 0
    """Number of digest ranges in which duplicates were searched."""
    near: int = 0
    """The same of near duplicates."""
    is_judged: bool = False
    """True if the rules of `judge_tasks.py` were applied."""


@dataclass(frozen=True)
class Sample:
    """An even sample of the pairs kept: iterates over their lines, source before target."""

    work: Path
    chunks: list[Chunk]
    kept: dict[str, int]
    """Pairs kept of each chunk."""
    later: Later
    max_pairs: int

    def __iter__(self) -> Iterator[str]:
        """Yield lines, the same in the same order each time."""
        # A corpus in upper case must not take half of the vocabulary for a few pairs per epoch.
        strides = [RECASED_STRIDE if c.text.is_recased else 1 for c in self.chunks]
        counts = [-(-self.kept[c.key] // n) for c, n in zip(self.chunks, strides, strict=True)]
        total = sum(counts)
        wanted = min(total, self.max_pairs)
        # Candidates are numbered through all chunks; those chosen are evenly spaced.
        chosen = np.arange(wanted) * total // max(1, wanted)
        start = 0
        for chunk, stride, count in zip(self.chunks, strides, counts, strict=True):
            first, end = np.searchsorted(chosen, [start, start + count])
            rows = (chosen[first:end] - start) * stride
            start += count
            if len(rows):
                src, tgt, _ = read_clean(self.work, chunk, self.later)
                for row in rows.tolist():
                    yield src[row]
                    yield tgt[row]


def clean_chunk(
    work: Path, chunk: Chunk, cleaning: CleaningConfig, languages: Languages, held_out: list[str]
) -> Tree:
    """Clean a chunk and write the pairs kept; return the `CleaningTally`.

    Args:
        work: folder of unfinished work.
        chunk: a chunk of raw lines.
        cleaning: the rules.
        languages: of source and target.
        held_out: names of the dev and test sets.
    """
    pairs = tuple(_read_held_out(work.parent, held_out))
    known = _held_out_keys(pairs, cleaning, languages)
    context = clean.Context(languages, (chunk.text.src_case, chunk.text.tgt_case), known)
    result = clean.clean(read_raw(work, chunk), cleaning, context)
    if result.tally.read != chunk.num_lines:
        where = chunk.path(work, "raw", "*")
        raise unusable(where, f"{result.tally.read:,} lines, expected {chunk.num_lines:,}")
    for side in ("src", "tgt"):
        lines_of_side = [f"{getattr(pair, side)}\n".encode() for pair in result.kept]
        write_zstd(chunk.path(work, "clean", f"{side}.zst"), lines_of_side)
    lines = np.array([pair.line for pair in result.kept], dtype=np.int64)
    # Line numbers survive cleaning: rows of shards keep their origin.
    save_array(chunk.path(work, "clean", "lines.npy"), lines)
    save_array(
        chunk.path(work, "clean", "verdicts.npy"), np.stack([result.reasons, result.repairs])
    )
    if cleaning.duplicates:
        table = clean.sort_digests(result.digests, lines + chunk.start)
        save_array(chunk.path(work, "clean", "copies.npy"), table)
    if cleaning.near_duplicates:
        start = np.array([[0], [0], [chunk.start]], dtype=np.uint64)
        save_array(chunk.path(work, "clean", "near.npy"), result.near_digests + start)
    return asdict(result.tally)


def read_raw(work: Path, chunk: Chunk) -> Iterable[tuple[bytes, bytes]]:
    """Read the raw pairs of a chunk; DataError if they are damaged."""
    paths = [chunk.path(work, "raw", f"{side}.zst") for side in SIDES]
    src, tgt = (split_lines(load_file(path, read_zstd)) for path in paths)
    if len(src) != len(tgt):
        raise unusable(paths[1], f"{len(tgt):,} lines, expected {len(src):,}")
    return zip(src, tgt, strict=True)


def find_duplicates(
    work: Path, chunks: list[Chunk], kind: str, part: int, num_parts: int, num_copies: int = 0
) -> Tree:
    """Find pairs in one range of the digests that occur in an earlier chunk.

    Args:
        work: folder of unfinished work.
        chunks: all chunks.
        kind: copies or near.
        part: number of the range.
        num_parts: number of all ranges.
        num_copies: number of ranges of duplicates found before, which do not count again.

    Returns:
        Their number by chunk.
    """
    paths = (chunk.path(work, "clean", f"{kind}.npy") for chunk in chunks)
    tables = (clean.select_part(load_file(path, _map_array), part, num_parts) for path in paths)
    duplicates = clean.find_later_duplicates(tables)
    for number in range(num_copies):
        copies = load_file(work / f"copies/{number:05}.npy", _map_array)
        duplicates = np.setdiff1d(duplicates, copies, assume_unique=True)
    save_array(work / f"{kind}/{part:05}.npy", duplicates)
    # Lines count through all corpora: the chunk is the last one that starts at or before.
    starts = np.array([chunk.start for chunk in chunks], dtype=np.uint64)
    numbers = np.searchsorted(starts, duplicates, side="right") - 1
    counts = np.bincount(numbers, minlength=len(chunks)).tolist()
    return {chunk.key: count for chunk, count in zip(chunks, counts, strict=True) if count}


def train_subword(folder: Path, sample: Sample, config: SubwordConfig) -> Tree:
    """Train the vocabulary, or take a given one, and write it; return its `VocabularyInfo`."""
    subword = given_vocabulary(config) or Subword.train(sample, config)
    path = folder / TOKENIZER
    with atomic_write(path) as temporary:
        temporary.write_text(subword.to_json(), encoding="utf-8", newline="\n")
    file = FileInfo.from_path(path, TOKENIZER)
    return asdict(VocabularyInfo(subword.fingerprint, subword.num_pieces, file))


def given_vocabulary(config: SubwordConfig) -> Subword | None:
    """Return the vocabulary of subword.tokenizer; None: it is empty.

    Raises:
        DataError: it cannot be read, is not a vocabulary of nmt, or is of another kind.
    """
    if not config.tokenizer:
        return None
    subword = Subword.read(Path(config.tokenizer))
    found = "bpe" if subword.is_bpe else "unigram"
    if found != config.kind:
        raise DataError(
            f"{config.tokenizer}: a {found} vocabulary, but corpus.subword.kind is {config.kind}: "
            f"set corpus.subword.kind={found}"
        )
    return subword


def encode_chunk(
    work: Path,
    chunk: Chunk,
    later: Later,
    shard: str,
    held_out: list[str],
    cleaning: CleaningConfig,
    languages: Languages,
) -> Tree:
    """Encode the pairs of a chunk that no stage dropped, and write a shard.

    Args:
        work: folder of unfinished work.
        chunk: a cleaned chunk.
        later: stages that dropped further pairs.
        shard: path of the shard in the prepared corpus.
        held_out: names of the dev and test sets.
        cleaning: the rules.
        languages: of source and target.

    Returns:
        The `EncodedChunk`.
    """
    folder = work.parent
    subword = _load_subword(load_file(folder / TOKENIZER, Path.read_bytes))
    src, tgt, lines = read_clean(work, chunk, later)
    writer = ShardWriter(subword.num_pieces, chunk.text.name)
    prefix = [tag_token(chunk.text.tag)] if chunk.text.tag else []
    # In batches: tokenizers' encodings take far more memory than the token ids.
    for first in range(0, len(src), ENCODE_PAIRS):
        rows = slice(first, first + ENCODE_PAIRS)
        writer.add(
            [prefix + ids for ids in subword.encode_batch(src[rows])],
            subword.encode_batch(tgt[rows]),
            (lines[rows] + chunk.first_line + 1).tolist(),
        )
    # Pairs that also occur in dev or test sets stay, but are counted and reported.
    known = _held_out_digests(folder, held_out, cleaning, languages)
    leaked = sum(clean.pair_digest(*pair) in known for pair in zip(src, tgt, strict=True))
    return asdict(EncodedChunk(writer.write(folder / shard, shard), leaked))


# One per process: tokenizers never frees about 4 MB of each vocabulary that has encoded.
@lru_cache(maxsize=1)
def _load_subword(data: bytes) -> Subword:
    return Subword.from_json(data)


def _held_out_digests(
    folder: Path, names: list[str], cleaning: CleaningConfig, languages: Languages
) -> set[bytes]:
    """Return digests of the dev and test pairs, repaired like training pairs."""
    pairs = _read_held_out(folder, names)
    return {clean.pair_digest(*repair(src, tgt, cleaning, languages)[:2]) for src, tgt in pairs}


# One per process, which cleans many chunks. By content: the same process can prepare changed sets.
@lru_cache(maxsize=1)
def _held_out_keys(
    pairs: tuple[tuple[str, str], ...], cleaning: CleaningConfig, languages: Languages
) -> frozenset[bytes]:
    # Repaired like training pairs: a copy with `&quot;` on both sides is a leak.
    return clean.held_out_keys(repair(src, tgt, cleaning, languages)[:2] for src, tgt in pairs)


def _read_held_out(folder: Path, names: Iterable[str]) -> Iterator[tuple[str, str]]:
    """Yield the pairs of dev and test sets, with each of their references."""
    for name in names:
        source = folder / f"{name}.src"
        src = list(read_lines(source))
        files = (folder / f"{name}.ref{number}" for number in count_from(1))
        for path in (folder / f"{name}.tgt", *takewhile(Path.is_file, files)):
            tgt = list(read_lines(path))
            if len(src) != len(tgt):
                raise unusable(path, f"{len(tgt):,} lines, expected {len(src):,}")
            yield from zip(src, tgt, strict=True)


def read_clean(
    work: Path, chunk: Chunk, later: Later
) -> tuple[list[str], list[str], npt.NDArray[np.int64]]:
    """Return source lines, target lines and line numbers of a chunk that no stage dropped."""
    lines: npt.NDArray[np.int64] = load_file(chunk.path(work, "clean", "lines.npy"), np.load)
    sides = []
    for side in SIDES:
        path = chunk.path(work, "clean", f"{side}.zst")
        text = load_file(path, lambda path: read_zstd(path).decode())
        sides.append(text.split("\n")[:-1])
        if lines.shape != (len(sides[-1]),):
            raise unusable(path, f"{len(sides[-1]):,} lines, expected {lines.size:,}")
    rows = np.flatnonzero(later_reasons(work, chunk, later, lines) == 0)
    # Usual case: no copy of the lists.
    if len(rows) == len(lines):
        return sides[0], sides[1], lines
    chosen = rows.tolist()
    return [sides[0][row] for row in chosen], [sides[1][row] for row in chosen], lines[rows]


def later_reasons(
    work: Path, chunk: Chunk, later: Later, lines: npt.NDArray[np.int64]
) -> clean.Codes:
    """Return the reason for which a stage after cleaning drops each pair, by its row.

    Args:
        work: folder of unfinished work.
        chunk: a cleaned chunk.
        later: the stages.
        lines: the pairs' line numbers in the chunk.
    """
    codes = np.zeros(len(lines), dtype=np.uint8)
    if later.is_judged:
        codes = load_file(chunk.path(work, "judged", "npy"), np.load)
    for rule, kind, num in (
        ("near_duplicates", "near", later.near),
        ("duplicates", "copies", later.copies),
    ):
        for part in range(num):
            found = load_file(work / f"{kind}/{part:05}.npy", _map_array)
            bounds = np.array([chunk.start, chunk.start + chunk.num_lines], dtype=np.uint64)
            first, end = np.searchsorted(found, bounds)
            if first < end:
                codes[np.isin(lines, (found[first:end] - bounds[0]).astype(np.int64))] = (
                    clean.reason_code(rule)
                )
    return codes


def load_file(path: Path, read: Callable[[Path], T]) -> T:
    """Read a file of unfinished work; DataError if it is missing or damaged."""
    try:
        return read(path)
    except (OSError, ValueError, EOFError, BadZipFile) as error:
        raise unusable(path, f"cannot be read: {error}") from None


def _map_array(path: Path) -> npt.NDArray[Any]:
    array: npt.NDArray[Any] = np.load(path, mmap_mode="r")
    return array


def save_array(path: Path, array: npt.NDArray[Any]) -> None:
    """Write an array atomically."""
    with atomic_write(path) as temporary, temporary.open("wb") as file:
        np.save(file, array, allow_pickle=False)
