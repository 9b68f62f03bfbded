"""Cleaning of a corpus: pairs are dropped or repaired before training, with a count per rule.

`rules.py` has the rules about one pair; this module adds those that compare pairs with others:
duplicates, and leaks of dev and test sets. A pair is counted under the first rule that drops it, so
that read = kept + dropped. Repaired pairs are kept and counted besides.

Duplicates are found by a 128-bit digest of both sides, so that a corpus of any size takes 24 bytes
per pair, on disk. Two different pairs among a billion share a digest with a probability below
10^-20. Of equal pairs the first one stays; of near duplicates the first that is not all in upper or
lower case.
"""

import hashlib
import json
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import chain
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from nmt.config.corpus import Case, CleaningConfig, CorpusConfig
from nmt.config.settings import Count, drop_legacy_values
from nmt.corpus.languages import Languages
from nmt.corpus.pair_files import PairFiles
from nmt.corpus.rules import (
    DROP_REASONS,
    REPAIRS,
    drop_reason,
    has_chars,
    near_key,
    repair,
)
from nmt.corpus.text import change_case, normalise
from nmt.errors import DataError

RULES_VERSION = 1
"""Increased when a rule changes its result: a corpus prepared by another version is refused."""
KEPT = "kept"
"""Key of the lines that stay, in the tallies of one language."""
HELD_OUT = "in the dev or a test set"
"""Drop reason of lines of one language whose translation is used for evaluation."""

MIN_LEAK_CHARS = 20
"""Characters of a source from which on it counts as leaked without its target."""

Digests = npt.NDArray[np.uint64]
Codes = npt.NDArray[np.uint8]
"""Drop reason of each line: 0 if it is kept, else its place in DROP_REASONS, from 1."""

_UNUSUAL_CASE = 1 << 62
"""Added to the line numbers of pairs in lower or upper case, so that they sort after others."""


class CleanPair(NamedTuple):
    """A pair that is kept."""

    line: int
    """Its line in the chunk, from 0."""
    src: str
    tgt: str


@dataclass
class CleaningTally:
    """Numbers of pairs read, kept, dropped and repaired; read = kept + dropped."""

    read: Count = 0
    kept: Count = 0
    dropped: dict[str, Count] = field(default_factory=lambda: dict.fromkeys(DROP_REASONS, 0))
    normalised: dict[str, Count] = field(default_factory=lambda: dict.fromkeys(REPAIRS, 0))

    def __post_init__(self) -> None:
        """Assert read = kept + dropped."""
        assert self.read == self.kept + self.num_dropped, self

    @property
    def num_dropped(self) -> int:
        """Number of pairs dropped for any reason."""
        return sum(self.dropped.values())

    def __add__(self, other: "CleaningTally") -> "CleaningTally":
        """Add all counts of two tallies."""

        def add(rules: Sequence[str], one: dict[str, int], two: dict[str, int]) -> dict[str, int]:
            # A stored tally of an earlier version has no counts of later rules.
            return {rule: one.get(rule, 0) + two.get(rule, 0) for rule in rules}

        return CleaningTally(
            self.read + other.read,
            self.kept + other.kept,
            add(DROP_REASONS, self.dropped, other.dropped),
            add(REPAIRS, self.normalised, other.normalised),
        )

    def without(self, rule: str, count: int) -> "CleaningTally":
        """Move `count` kept pairs to those that a rule drops."""
        dropped = {**self.dropped, rule: self.dropped.get(rule, 0) + count}
        return CleaningTally(self.read, self.kept - count, dropped, self.normalised)


@dataclass(frozen=True)
class Context:
    """Facts about a corpus that rules need."""

    languages: Languages = ("", "")
    """Languages of both sides; the rules about languages do not apply to ""."""
    cases: tuple[Case, Case] = ("as_is", "as_is")
    """Letter case of source and target after cleaning; duplicates are compared in it."""
    held_out: frozenset[bytes] = frozenset()
    """Digests of the dev and test sets (`held_out_keys`)."""


@dataclass(frozen=True)
class CleanedChunk:
    """Result of cleaning a chunk."""

    kept: list[CleanPair]
    tally: CleaningTally
    digests: list[bytes]
    """Digest of each pair kept (`pair_digest`)."""
    near_digests: Digests
    """Table of the pairs kept for the search for near duplicates (`sort_digests`)."""
    reasons: Codes
    """Drop reason of each line read."""
    repairs: Codes
    """Repairs of each line read, as bits in the order of REPAIRS."""


def fingerprint(cleaning: CleaningConfig) -> str:
    """Return a digest of the rules: where it is equal, the same text gives the same pairs."""
    # max_dropped is a limit of the whole corpus and decides about no pair.
    tree = cleaning.model_dump(mode="json", exclude={"max_dropped"})
    # A rule that is off, added after a corpus was prepared, leaves its digest as it was.
    rules = {**drop_legacy_values(type(cleaning), tree), "version": RULES_VERSION}
    return hashlib.sha256(json.dumps(rules, sort_keys=True).encode()).hexdigest()


def clean(
    pairs: Iterable[tuple[bytes, bytes]], cleaning: CleaningConfig, context: Context = Context()
) -> CleanedChunk:
    """Clean a chunk of raw pairs that fits in memory.

    Duplicates within the chunk are dropped; `find_later_duplicates` finds the others.
    """
    kept: list[CleanPair] = []
    digests: list[bytes] = []
    reasons, repairs = bytearray(), bytearray()
    seen: set[bytes] = set()
    for line, (raw_src, raw_tgt) in enumerate(pairs):
        repaired: Sequence[str] = ()
        # Bytes first: all other rules need text.
        try:
            src, tgt = raw_src.decode("utf-8"), raw_tgt.decode("utf-8")
        except UnicodeDecodeError:
            reason = "invalid_utf8"
        else:
            # Rules see repaired text, so that a pair of invisible characters counts as empty.
            src, tgt, repaired = repair(src, tgt, cleaning, context.languages)
            reason = drop_reason(src, tgt, cleaning, context.languages)
            reason = reason or leak_reason(src, tgt, cleaning, context.held_out)
        if not reason:
            src, tgt = _recase(src, tgt, cleaning, context.cases)
            digest = pair_digest(src, tgt)
            if cleaning.duplicates and digest in seen:
                reason = "duplicates"
            else:
                seen.add(digest)
                digests.append(digest)
                kept.append(CleanPair(line, src, tgt))
        reasons.append(reason_code(reason))
        repairs.append(sum(1 << REPAIRS.index(rule) for rule in repaired))
    codes = np.frombuffer(reasons, dtype=np.uint8)
    near = near_table(kept, context.cases) if cleaning.near_duplicates else _NO_DIGESTS
    repeated = find_later_duplicates(iter([near]))
    if len(repeated):
        codes[repeated.astype(np.int64)] = reason_code("near_duplicates")
        near = near[:, ~np.isin(near[2] & np.uint64(_UNUSUAL_CASE - 1), repeated)]
        rows = [row for row, pair in enumerate(kept) if not codes[pair.line]]
        kept, digests = [kept[row] for row in rows], [digests[row] for row in rows]
    bits = np.frombuffer(repairs, dtype=np.uint8)
    return CleanedChunk(kept, _tally(codes, bits), digests, near, codes, bits)


def reason_code(reason: str) -> int:
    """Return the number that stands for a drop reason in `Codes`; 0 for none."""
    return DROP_REASONS.index(reason) + 1 if reason else 0


def leak_reason(src: str, tgt: str, cleaning: CleaningConfig, held_out: frozenset[bytes]) -> str:
    """Return the rule that drops a pair of the dev or a test set, or ""."""
    if held_out and (cleaning.leaks or cleaning.source_leaks):
        src_key = near_key(src)
        if cleaning.leaks and _digest(src_key + b"\n" + near_key(tgt)) in held_out:
            return "leaks"
        # Short sources such as "Thank you." are in every corpus.
        if cleaning.source_leaks and _digest(src_key) in held_out:
            return "source_leaks"
    return ""


def held_out_keys(pairs: Iterable[tuple[str, str]]) -> frozenset[bytes]:
    """Return digests that `leak_reason` compares with: of pairs, and of sources that are not short.

    Case, punctuation and spaces do not count.
    """
    keys = set()
    for src, tgt in pairs:
        keys.add(_digest(near_key(src) + b"\n" + near_key(tgt)))
        if has_chars(src, MIN_LEAK_CHARS):
            keys.add(_digest(near_key(src)))
    return frozenset(keys)


def near_table(pairs: Sequence[CleanPair], cases: tuple[Case, Case]) -> Digests:
    """Return the `sort_digests` table of pairs without case, punctuation and spaces."""
    digests, lines = [], np.zeros(len(pairs), dtype=np.int64)
    suffix = " ".join(cases).encode()
    for row, pair in enumerate(pairs):
        # A corpus in another letter case repeats others on purpose: it has keys of its own.
        digests.append(_digest(b"\n".join([near_key(pair.src), near_key(pair.tgt), suffix])))
        text = pair.src + pair.tgt
        is_unusual = text.islower() or pair.src.isupper() or pair.tgt.isupper()
        lines[row] = pair.line + is_unusual * _UNUSUAL_CASE
    return sort_digests(digests, lines)


def _recase(
    src: str, tgt: str, cleaning: CleaningConfig, cases: tuple[Case, Case]
) -> tuple[str, str]:
    if cases == ("as_is", "as_is"):
        return src, tgt
    sides = (change_case(text, case) for text, case in zip((src, tgt), cases, strict=True))
    # Another case can leave characters that are not composed.
    src, tgt = (normalise(text, cleaning) for text in sides)
    return src, tgt


def _tally(codes: Codes, bits: Codes) -> CleaningTally:
    counts = np.bincount(codes, minlength=len(DROP_REASONS) + 1).tolist()
    is_kept = codes == 0
    return CleaningTally(
        len(codes),
        counts[0],
        dict(zip(DROP_REASONS, counts[1:], strict=True)),
        # Only pairs that are kept count as repaired.
        {
            rule: int((is_kept & (bits >> bit & 1).astype(bool)).sum())
            for bit, rule in enumerate(REPAIRS)
        },
    )


def pair_digest(src: str, tgt: str) -> bytes:
    """Return 16 bytes that identify a pair; lines hold no line feed, so it separates the sides."""
    return _digest(f"{src}\n{tgt}".encode())


def sort_digests(digests: Sequence[bytes], lines: npt.NDArray[np.int64]) -> Digests:
    """Return a table [3, N] of high halves, low halves and lines, sorted by digest."""
    # numpy has no 128-bit integers: big-endian halves sort like the digests themselves.
    halves = np.frombuffer(b"".join(digests), dtype=">u8").reshape(-1, 2).astype(np.uint64)
    table = np.stack([halves[:, 0], halves[:, 1], lines.astype(np.uint64)])
    return table[:, np.lexsort(table[::-1])]


_NO_DIGESTS: Digests = np.zeros((3, 0), dtype=np.uint64)


def select_part(table: Digests, part: int, num_parts: int) -> Digests:
    """Return the columns of a `sort_digests` table in one of `num_parts` equal digest ranges."""
    bounds = [(part * 2**64) // num_parts, ((part + 1) * 2**64) // num_parts]
    inner = np.array([min(bound, 2**64 - 1) for bound in bounds], dtype=np.uint64)
    first, end = np.searchsorted(table[0], inner)
    # The bound 2^64 does not fit into 64 bits: the last range is open.
    return table[:, first : None if part == num_parts - 1 else end]


def find_later_duplicates(tables: Iterator[Digests]) -> npt.NDArray[np.uint64]:
    """Return the sorted lines of pairs that occur earlier; lines count through all tables.

    Pairs in lower or upper case count as later than all others.
    """
    # An empty table first: concatenate needs at least one.
    table = np.concatenate([_NO_DIGESTS, *tables], axis=1)
    table = table[:, np.lexsort(table[::-1])]
    # Sorted by digest, then by line: all but the first of equal digests are duplicates.
    is_duplicate = (table[:2, 1:] == table[:2, :-1]).all(axis=0)
    return np.sort(table[2, 1:][is_duplicate] & np.uint64(_UNUSUAL_CASE - 1))


def held_out_digests(corpus: CorpusConfig, language: str) -> set[bytes]:
    """Return digests of the lines of one language in the dev and test sets (`_line_digest`).

    Raises:
        DataError: a file cannot be read, or the corpus does not have this language.
    """
    if language not in (corpus.src, corpus.tgt):
        raise DataError(
            f"the text is in {language!r}, but the experiment translates {corpus.src} to "
            f"{corpus.tgt}: its dev and test sets could not be kept out"
        )
    # The text may be in either language: back-translation uses the target side.
    side = 0 if language == corpus.src else 1
    lines: list[str] = []
    for text in (corpus.dev, *corpus.tests):
        files = PairFiles.of(text, corpus)
        pairs = list(files.read())
        lines += [pair[side] for pair in pairs]
        if side:
            lines += chain.from_iterable(files.read_refs(len(pairs)))
    return {_line_digest(line, corpus.cleaning) for line in lines}


def _line_digest(line: str, cleaning: CleaningConfig) -> bytes:
    """Return the digest of a repaired line without case, punctuation and spaces."""
    # Paired with itself, as in `select_lines`.
    return _digest(near_key(repair(line, line, cleaning)[0]))


def select_lines(
    lines: Iterable[str], cleaning: CleaningConfig, held_out: set[bytes], tally: Counter[str]
) -> Iterator[tuple[int, str]]:
    """Normalise lines of one language, and drop unsuitable ones before they are translated.

    Rules about one side apply here, so that no time is spent on lines that would be dropped after
    translation. Lines of the dev and test sets are dropped: a score must not come from text seen
    in training.

    Args:
        lines: raw lines.
        cleaning: the rules.
        held_out: digests from `held_out_digests`.
        tally: updated with the counts of `KEPT` and of each drop reason.

    Yields:
        Each different line once, with its number from 0. Memory: 16 bytes per line, to find
        duplicates.
    """
    seen: set[bytes] = set()
    # A line paired with itself passes all rules that compare two sides, except `copies`.
    one_side = cleaning.model_copy(update={"copies": False, "near_copies": False})
    for number, raw in enumerate(lines):
        line = normalise(raw, cleaning)
        reason = drop_reason(line, line, one_side)
        digest = _digest(line.encode())
        # Held-out lines count as such even where they occur twice.
        if not reason and _line_digest(raw, cleaning) in held_out:
            reason = HELD_OUT
        if not reason and digest in seen:
            reason = "duplicates"
        tally[reason or KEPT] += 1
        if not reason:
            seen.add(digest)
            yield number, line


def format_tally(tally: Counter[str]) -> str:
    """Format a tally of `select_lines`: read = kept + dropped (by reason)."""
    kept, read = tally[KEPT], tally.total()
    dropped = ", ".join(f"{count:,} {reason}" for reason, count in tally.items() if reason != KEPT)
    return f"{read:,} read = {kept:,} kept + {read - kept:,} dropped{dropped and f' ({dropped})'}"


def _digest(data: bytes) -> bytes:
    return hashlib.blake2b(data, digest_size=16).digest()
