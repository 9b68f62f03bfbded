"""The tasks that read raw text: corpora in chunks of lines, dev and test sets as they are.

Files in work/: `raw/<chunk>.src.zst` and .tgt.zst, raw lines of any format.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from itertools import islice, repeat
from pathlib import Path

from nmt.corpus.io import atomic_write, read_blocks, split_lines, write_zstd
from nmt.corpus.manifest import FileInfo
from nmt.corpus.pair_files import PairFiles
from nmt.corpus.task_cache import Tree
from nmt.corpus.text import EncodingChecker
from nmt.errors import DataError


@dataclass(frozen=True)
class ReadFiles:
    """Result of reading a raw file, or of copying a dev or test set."""

    files: list[FileInfo]
    """The raw file, or source, target and further references of a set."""


@dataclass(frozen=True)
class ChunkFiles:
    """Raw chunks of one corpus, one file per side."""

    folder: Path
    key: str
    """Number of the corpus, with which the file names begin."""
    lines_per_chunk: int
    """Lines of each chunk but the last."""

    def path(self, number: int, side: str) -> Path:
        """Return the path of one side of a chunk."""
        return self.folder / f"{self.key}-{number:05}.{side}.zst"


def split_raw(path: Path, name: str, chunks: ChunkFiles, side: str, is_strict: bool) -> Tree:
    """Read and check a file of lines once, and write it in chunks.

    Args:
        path: the raw file.
        name: its path below corpus.root.
        chunks: files to write.
        side: src or tgt.
        is_strict: True if a line that is not UTF-8 is an error.

    Returns:
        The `ReadFiles` of the raw file.
    """
    digest = hashlib.sha256()
    checker = EncodingChecker(str(path), is_strict=is_strict)

    num_lines = num_waiting = 0
    waiting: list[bytes] = []

    def write() -> None:
        write_zstd(chunks.path(num_lines // chunks.lines_per_chunk, side), waiting)

    for first_line, block in read_blocks(path, digest):
        checker.check(first_line, block)
        lines = split_lines(block)
        # A block of lines can complete several chunks.
        while num_waiting + len(lines) >= chunks.lines_per_chunk:
            cut = chunks.lines_per_chunk - num_waiting
            waiting.append(_join(lines[:cut]))
            write()
            num_lines += chunks.lines_per_chunk
            lines, waiting, num_waiting = lines[cut:], [], 0
        waiting.append(_join(lines))
        num_waiting += len(lines)
    if num_waiting:
        write()
    # After the last chunk: the share of invalid lines is known only now.
    checker.finish()
    info = FileInfo(name, path.stat().st_size, digest.hexdigest(), num_lines + num_waiting)
    return asdict(ReadFiles([info]))


def split_records(files: PairFiles, chunks: ChunkFiles, is_strict: bool) -> Tree:
    """Read the pairs of a file and write both sides in chunks; return `ReadFiles`.

    Args:
        files: a corpus in a format other than lines.
        chunks: files to write.
        is_strict: True if text that is not UTF-8 is an error.
    """
    num_pairs = 0
    pairs = files.read_raw(is_strict=is_strict)
    # A chunk at a time: one pass over the file gives both sides.
    while sides := list(zip(*islice(pairs, chunks.lines_per_chunk), strict=True)):
        number = num_pairs // chunks.lines_per_chunk
        for side, lines in zip(("src", "tgt"), sides, strict=True):
            write_zstd(chunks.path(number, side), [_join(lines)])
        num_pairs += len(sides[0])
    [path], [name] = files.paths(), files.text.files
    return asdict(ReadFiles([FileInfo.from_path(path, name, num_pairs)]))


def copy_held_out(files: PairFiles, folder: Path, name: str) -> Tree:
    """Copy a dev or test set into the prepared corpus: plain UTF-8, checked, not cleaned.

    Returns:
        The `ReadFiles` of the set.
    """
    paths = [folder / f"{name}.{side}" for side in ("src", "tgt")]
    num_pairs = 0
    with atomic_write(paths[0]) as src_path, atomic_write(paths[1]) as tgt_path:
        with src_path.open("wb") as src_file, tgt_path.open("wb") as tgt_file:
            for src, tgt in files.read():
                src_file.write(src.encode() + b"\n")
                tgt_file.write(tgt.encode() + b"\n")
                num_pairs += 1
        if not num_pairs:
            raise DataError(f"{files.paths()[0]}: no lines; expected a set of pairs")
    for number, lines in enumerate(files.read_refs(num_pairs), start=1):
        paths.append(folder / f"{name}.ref{number}")
        with atomic_write(paths[-1]) as temporary:
            temporary.write_bytes(b"".join(line.encode() + b"\n" for line in lines))
    names = [path.relative_to(folder).as_posix() for path in paths]
    infos = map(FileInfo.from_path, paths, names, repeat(num_pairs))
    return asdict(ReadFiles(list(infos)))


def held_out_digests(files: PairFiles, name: str) -> dict[str, str]:
    """Return the SHA-256 of each file that `copy_held_out` would write, by its name."""
    sides = {f"{name}.src": hashlib.sha256(), f"{name}.tgt": hashlib.sha256()}
    num_pairs = 0
    for pair in files.read():
        for digest, line in zip(sides.values(), pair, strict=True):
            digest.update(line.encode() + b"\n")
        num_pairs += 1
    for number, lines in enumerate(files.read_refs(num_pairs), start=1):
        text = _join([line.encode() for line in lines])
        sides[f"{name}.ref{number}"] = hashlib.sha256(text)
    return {copy: digest.hexdigest() for copy, digest in sides.items()}


def _join(lines: Sequence[bytes]) -> bytes:
    return b"".join([line + b"\n" for line in lines])
