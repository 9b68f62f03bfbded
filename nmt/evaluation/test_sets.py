"""Test sets: sources to translate and references to score against, from files or from sacreBLEU.

References are never touched: what is read is what is scored.
"""

import contextlib
import difflib
import logging
import re
import socket
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from sacrebleu.dataset import DATASETS

from nmt.corpus.text import read_lines
from nmt.errors import DataError

SACREBLEU = "sacrebleu:"
FETCH_TIMEOUT_S = 30.0


@dataclass(frozen=True)
class TestSet:
    """Segments with one or more references each."""

    name: str
    src: tuple[str, ...]
    references: tuple[tuple[str, ...], ...]
    """One tuple a reference, each as long as src."""

    @property
    def file_name(self) -> str:
        """The name with nothing in it that a file name cannot hold."""
        return file_name(self.name)


def file_name(name: str) -> str:
    """The name of a test set with nothing in it that a file name cannot hold."""
    return re.sub(r"[^A-Za-z0-9._-]+", "_", name)


def from_files(src: Path, refs: Sequence[Path], name: str = "") -> TestSet:
    """Line-parallel files, compressed or not; without a name they have that of the source file.

    Raises:
        DataError: a file is missing, empty or not UTF-8, or their line counts differ.
    """
    src_lines = tuple(read_lines(src))
    if not src_lines:
        raise DataError(f"{src} is empty; a test set needs one line or more")
    references = []
    for ref in refs:
        lines = tuple(read_lines(ref))
        if len(lines) != len(src_lines):
            raise DataError(
                f"{src} has {len(src_lines):,} lines, but {ref} has {len(lines):,}; "
                "a reference needs one line for each source line"
            )
        references.append(lines)
    return TestSet(name or name_of(src), src_lines, tuple(references))


def find(name: str, prepared: Path, src_lang: str, tgt_lang: str) -> TestSet:
    """A test set by name: sacreBLEU's own as `sacrebleu:wmt16`, any other of a prepared corpus.

    Raises:
        DataError: there is none of that name, or it cannot be read or fetched.
    """
    if name.startswith(SACREBLEU):
        return from_sacrebleu(name.removeprefix(SACREBLEU), src_lang, tgt_lang)
    return from_prepared(prepared, name)


def from_prepared(prepared: Path, name: str) -> TestSet:
    """A test set that the config names and `nmt prepare` has laid beside the shards.

    Raises:
        DataError: there is none of that name.
    """
    src, tgt = (prepared / "tests" / f"{name}.{side}" for side in ("src", "tgt"))
    if not (src.is_file() and tgt.is_file()):
        known = sorted(path.stem for path in (prepared / "tests").glob("*.src"))
        next_move = "name it in corpus.tests and run `nmt prepare` again"
        raise DataError(f"{prepared} has no test set {name!r}{_nearest(name, known)}; {next_move}")
    return from_files(src, [tgt], name)


def from_sacrebleu(name: str, src_lang: str, tgt_lang: str) -> TestSet:
    """One of sacreBLEU's own test sets, from its cache or fetched into it, with all references.

    Raises:
        DataError: it knows no such set or language pair, or cannot fetch it.
    """
    if name not in DATASETS:
        raise DataError(f"sacreBLEU has no test set {name!r}{_nearest(name, sorted(DATASETS))}")
    dataset, pair = DATASETS[name], f"{src_lang}-{tgt_lang}"
    if pair not in dataset.langpairs:
        pairs = ", ".join(sorted(dataset.langpairs))
        raise DataError(f"sacreBLEU's {name} has no {pair} (corpus.src-corpus.tgt); it has {pairs}")
    try:
        with _quiet_and_bounded():
            src = Path(dataset.get_source_file(pair))
            refs = [Path(file) for file in dataset.get_reference_files(pair)]
    except SystemExit:  # its answer to a wrong checksum
        raise DataError(
            f"sacreBLEU's {name} {pair} was fetched, but is not what was published; "
            f"remove {dataset._outdir} and try again"
        ) from None
    except Exception as error:  # parsers, archives and sockets raise all kinds
        reason = getattr(error, "reason", None) or error
        raise DataError(
            f"sacreBLEU's {name} {pair} is not in its cache ({dataset._outdir}) and cannot be "
            f"fetched: {reason}; where there is a network, run: sacrebleu -t {name} -l {pair} "
            "--echo src, and copy that folder here"
        ) from None
    return from_files(src, refs, SACREBLEU + name)


def joined(sets: Sequence[TestSet], name: str) -> TestSet:
    """All segments of several sets as one.

    Raises:
        DataError: they have not the same number of references.
    """
    counts = [len(test_set.references) for test_set in sets]
    if len(set(counts)) > 1:
        each = ", ".join(
            f"{test_set.name} {count}" for test_set, count in zip(sets, counts, strict=True)
        )
        raise DataError(
            f"these test sets cannot be scored as one, for their references differ in number: "
            f"{each}; leave some of them out"
        )
    src = tuple(line for test_set in sets for line in test_set.src)
    sides = zip(*(test_set.references for test_set in sets), strict=True)
    return TestSet(
        name, src, tuple(tuple(line for refs in side for line in refs) for side in sides)
    )


@contextlib.contextmanager
def _quiet_and_bounded() -> Iterator[None]:
    """sacreBLEU logs several lines for an error and waits for a silent network for ever."""
    logger, timeout = logging.getLogger("sacrebleu"), socket.getdefaulttimeout()
    was_disabled, logger.disabled = logger.disabled, True
    socket.setdefaulttimeout(FETCH_TIMEOUT_S)
    try:
        yield
    finally:
        logger.disabled = was_disabled
        socket.setdefaulttimeout(timeout)


def name_of(file: Path) -> str:
    """What a set without a name is called: newstest2014 for newstest2014.en.gz."""
    stem = re.sub(r"\.(gz|xz|zst)$", "", file.name)
    return re.sub(r"(?<=.)\.[^.]+$", "", stem)


def _nearest(name: str, known: Sequence[str]) -> str:
    near = difflib.get_close_matches(name, known, n=1, cutoff=0.4)
    if near:
        return f"; did you mean {near[0]}?"
    return f"; known here: {', '.join(known)}" if known else ""
