"""Test sets: sources to translate and references to score against, from files or sacreBLEU.

References are scored as they are read.
"""

import contextlib
import logging
import os
import re
import socket
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from sacrebleu.dataset import DATASETS

from nmt.corpus.io import COMPRESSED
from nmt.corpus.manifest import MANIFEST, read_manifest, verify_files
from nmt.corpus.text import read_lines
from nmt.errors import DataError, did_you_mean

SACREBLEU_PREFIX = "sacrebleu:"
DOWNLOAD_TIMEOUT_S = 30.0


@dataclass(frozen=True)
class TestSet:
    """Segments with one or more references each."""

    name: str
    src: tuple[str, ...]
    references: tuple[tuple[str, ...], ...]
    """References, each as long as `src`."""

    @property
    def file_name(self) -> str:
        """Name without characters that a file name cannot contain."""
        return file_name(self.name)


def file_name(name: str) -> str:
    """Return the name of a test set without characters that a file name cannot contain."""
    return re.sub(r"[^A-Za-z0-9._-]+", "_", name)


def name_of(file: Path) -> str:
    """Return the default name of a set: newstest2014 for newstest2014.en.gz."""
    stem = file.name.removesuffix(file.suffix) if file.suffix in COMPRESSED else file.name
    # Not the suffix of a hidden file, which would leave no name.
    return printable(re.sub(r"(?<=.)\.[^.]+$", "", stem))


def printable(name: str) -> str:
    """Return a file name with bytes that are not UTF-8 as escapes: results are written in UTF-8."""
    return os.fsencode(name).decode(errors="backslashreplace")


def from_files(src: Path, refs: Sequence[Path], name: str = "") -> TestSet:
    """Read a test set from line-parallel files; its name defaults to that of the source file.

    Raises:
        DataError: a file is missing, empty or not UTF-8, or the line counts differ.
    """
    src_lines = tuple(read_lines(src))
    if not src_lines:
        raise DataError(f"{src} is empty: a test set needs at least one line")
    references = []
    for ref in refs:
        lines = tuple(read_lines(ref))
        if len(lines) != len(src_lines):
            raise DataError(
                f"{ref} has {len(lines):,} lines, {src} has {len(src_lines):,}: the two files "
                "must be line-parallel"
            )
        references.append(lines)
    return TestSet(name or name_of(src), src_lines, tuple(references))


def find(name: str, prepared: Path, src_lang: str, tgt_lang: str) -> TestSet:
    """Return a test set by name: `sacrebleu:wmt16` of sacreBLEU, any other of a prepared corpus.

    Raises:
        DataError: there is no set of that name, or it cannot be read or downloaded.
    """
    if name.startswith(SACREBLEU_PREFIX):
        return from_sacrebleu(name.removeprefix(SACREBLEU_PREFIX), src_lang, tgt_lang)
    # `nmt prepare` copies the test sets of the config beside the shards.
    src, tgt = (prepared / "tests" / f"{name}.{side}" for side in ("src", "tgt"))
    if not prepared.is_dir():
        raise DataError(
            f"{prepared}: no prepared corpus here, and no test set {name!r}; use --src and --ref, "
            "or run the command where the model was trained"
        )
    if not (src.is_file() and tgt.is_file()):
        known = sorted(path.stem for path in (prepared / "tests").glob("*.src"))
        raise DataError(
            f"{prepared} has no test set {name!r}{did_you_mean(name, known)}; name it in "
            "corpus.tests and run `nmt prepare` again"
        )
    refs = [tgt]
    while (further := src.with_name(f"{name}.ref{len(refs)}")).is_file():
        refs.append(further)
    if (prepared / MANIFEST).exists():
        files = read_manifest(prepared).files
        names = {path.relative_to(prepared).as_posix() for path in (src, *refs)}
        # A reference that is listed must not be missing.
        pattern = re.compile(rf"tests/{re.escape(name)}\.ref[0-9]+")
        verify_files(prepared, [f for f in files if f.name in names or pattern.fullmatch(f.name)])
    return from_files(src, refs, name)


def from_sacrebleu(name: str, src_lang: str, tgt_lang: str) -> TestSet:
    """Return a test set of sacreBLEU with all references, from its cache or downloaded into it.

    Raises:
        DataError: the set or language pair is unknown, or the download failed.
    """
    if name not in DATASETS:
        hint = did_you_mean(name, sorted(DATASETS))
        raise DataError(f"sacreBLEU has no test set {name!r}{hint}")
    dataset, pair = DATASETS[name], f"{src_lang}-{tgt_lang}"
    if pair not in dataset.langpairs:
        pairs = ", ".join(sorted(dataset.langpairs))
        raise DataError(f"sacreBLEU's {name} has no {pair} (corpus.src-corpus.tgt); it has {pairs}")
    try:
        with _quiet_download():
            src = Path(dataset.get_source_file(pair))
            refs = [Path(file) for file in dataset.get_reference_files(pair)]
    except SystemExit:  # sacreBLEU exits on a wrong checksum
        raise DataError(
            f"sacreBLEU's {name} {pair}: the download has a wrong checksum: remove "
            f"{dataset._outdir} and try again"
        ) from None
    except Exception as error:  # parsers, archives and sockets raise many kinds
        reason = getattr(error, "reason", None) or error
        raise DataError(
            f"sacreBLEU's {name} {pair} is not in its cache ({dataset._outdir}) and cannot be "
            f"downloaded: {reason}; on a machine with network access run sacrebleu -t {name} "
            f"-l {pair} --echo src, and copy that folder here"
        ) from None
    return from_files(src, refs, SACREBLEU_PREFIX + name)


def concatenate(sets: Sequence[TestSet], name: str) -> TestSet:
    """Return the segments of several sets as one set.

    Raises:
        DataError: the sets have different numbers of references.
    """
    if len({len(test_set.references) for test_set in sets}) > 1:
        counts = ", ".join(f"{test_set.name} {len(test_set.references)}" for test_set in sets)
        raise DataError(
            f"test sets with different numbers of references cannot be scored together: {counts}: "
            "leave some of them out"
        )
    src = tuple(line for test_set in sets for line in test_set.src)
    # The n-th reference of the result joins the n-th references of the sets.
    sides = zip(*(test_set.references for test_set in sets), strict=True)
    references = tuple(tuple(line for refs in side for line in refs) for side in sides)
    return TestSet(name, src, references)


@contextlib.contextmanager
def _quiet_download() -> Iterator[None]:
    """Silence sacreBLEU's log, and set a timeout, which its downloads lack."""
    # Its log lines would precede our one-line error.
    logger, timeout = logging.getLogger("sacrebleu"), socket.getdefaulttimeout()
    was_disabled, logger.disabled = logger.disabled, True
    socket.setdefaulttimeout(DOWNLOAD_TIMEOUT_S)
    try:
        yield
    finally:
        logger.disabled = was_disabled
        socket.setdefaulttimeout(timeout)
