"""Cleaning rules: which pairs are dropped or normalised before training, with a count per rule.

Each rule has the name of its switch in `CleaningConfig`. A pair is counted under the first rule
that drops it, so that read = kept + dropped. Normalised pairs are kept and counted besides. A new
rule is a switch in `CleaningConfig`, a name in `DROP_REASONS` and a condition in `drop_reason`.

Duplicates are found by a 128-bit digest of both sides, so that a corpus of any size takes 24 bytes
per pair, and those on disk. Two different pairs among a billion share a digest with a probability
below 10^-20. Of equal pairs the first one stays.
"""

import hashlib
import json
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from nmt.config.corpus import Case, CleaningConfig, CorpusConfig
from nmt.config.settings import Count, drop_legacy_values
from nmt.corpus.pair_files import PairFiles
from nmt.corpus.text import change_case, normalise, read_lines, strip_controls, to_nfc
from nmt.errors import DataError

DROP_REASONS = (
    "invalid_utf8",
    "empty",
    "no_letters",
    "max_chars",
    "max_ratio",
    "copies",
    "duplicates",
)
"""Rules that drop a pair, in the order in which they are applied."""
NORMALISATIONS = ("control_characters", "nfc")
"""Rules that change the text of a pair and keep it."""
RULES_VERSION = 1
"""Increased when a rule changes its result: a corpus prepared by another version is refused."""
KEPT = "kept"
"""Key of the lines that stay, in the tallies of one language."""
HELD_OUT = "in the dev or a test set"
"""Drop reason of lines of one language whose translation is used for evaluation."""

Digests = npt.NDArray[np.uint64]

_LETTER = re.compile(r"[^\W\d_]")


class CleanPair(NamedTuple):
    """A pair that is kept."""

    line: int
    """Its line in the chunk, from 0."""
    src: str
    tgt: str


@dataclass
class CleaningTally:
    """Numbers of pairs read, kept, dropped and normalised; read = kept + dropped."""

    read: Count = 0
    kept: Count = 0
    dropped: dict[str, Count] = field(default_factory=lambda: dict.fromkeys(DROP_REASONS, 0))
    normalised: dict[str, Count] = field(default_factory=lambda: dict.fromkeys(NORMALISATIONS, 0))

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
            add(NORMALISATIONS, self.normalised, other.normalised),
        )

    def without_duplicates(self, count: int) -> "CleaningTally":
        """Move `count` kept pairs to the duplicates: they occur in an earlier chunk."""
        dropped = {**self.dropped, "duplicates": self.dropped["duplicates"] + count}
        return CleaningTally(self.read, self.kept - count, dropped, self.normalised)


def fingerprint(cleaning: CleaningConfig) -> str:
    """Return a digest of the rules: where it is equal, the same text gives the same pairs."""
    # max_dropped is a limit of the whole corpus and decides about no pair.
    tree = cleaning.model_dump(mode="json", exclude={"max_dropped"})
    # A rule that is off, added after a corpus was prepared, leaves its digest as it was.
    rules = {**drop_legacy_values(type(cleaning), tree), "version": RULES_VERSION}
    return hashlib.sha256(json.dumps(rules, sort_keys=True).encode()).hexdigest()


def drop_reason(src: str, tgt: str, cleaning: CleaningConfig) -> str:
    """Return the first rule that drops a pair of normalised lines, or "" if none does.

    Duplicates are not covered: this function sees one pair.
    """
    num_src, num_tgt = len(src), len(tgt)
    if cleaning.empty and not (src.strip() and tgt.strip()):
        return "empty"
    if cleaning.no_letters and not (_LETTER.search(src) and _LETTER.search(tgt)):
        return "no_letters"
    # Characters, not tokens: there is no vocabulary yet.
    longer, shorter = max(num_src, num_tgt), min(num_src, num_tgt)
    if cleaning.max_chars and longer > cleaning.max_chars:
        return "max_chars"
    slack = cleaning.ratio_slack
    # The slack on both sides lets short pairs differ more: 2 and 9 characters can be a translation.
    if cleaning.max_ratio and longer + slack > cleaning.max_ratio * (shorter + slack):
        return "max_ratio"
    if cleaning.copies and src == tgt:
        return "copies"
    return ""


def clean(
    pairs: Iterable[tuple[bytes, bytes]],
    cleaning: CleaningConfig,
    cases: tuple[Case, Case] = ("as_is", "as_is"),
) -> tuple[list[CleanPair], CleaningTally, list[bytes]]:
    """Clean a chunk of raw pairs that fits in memory.

    Args:
        pairs: source and target lines as bytes.
        cleaning: the rules.
        cases: letter case of source and target after cleaning; duplicates are compared in it.

    Returns:
        The pairs kept, in order; the tally; the digest of each pair kept (`pair_digest`).
        Duplicates within the chunk are dropped; `find_later_duplicates` finds the others.
    """
    kept: list[CleanPair] = []
    digests: list[bytes] = []
    seen: set[bytes] = set()
    dropped = dict.fromkeys(DROP_REASONS, 0)
    normalised = dict.fromkeys(NORMALISATIONS, 0)
    num_read = 0
    for line, (raw_src, raw_tgt) in enumerate(pairs):
        num_read += 1
        # Bytes first: all other rules need text.
        try:
            src, tgt = raw_src.decode("utf-8"), raw_tgt.decode("utf-8")
        except UnicodeDecodeError:
            dropped["invalid_utf8"] += 1
            continue
        # Rules see normalised text, so that a pair of invisible characters counts as empty.
        src, tgt, rules = normalise_pair(src, tgt, cleaning)
        if reason := drop_reason(src, tgt, cleaning):
            dropped[reason] += 1
            continue
        if cases != ("as_is", "as_is"):
            sides = (change_case(text, case) for text, case in zip((src, tgt), cases, strict=True))
            # Another case can leave characters that are not composed.
            src, tgt = (normalise(text, cleaning) for text in sides)
        digest = pair_digest(src, tgt)
        if cleaning.duplicates:
            if digest in seen:
                dropped["duplicates"] += 1
                continue
            seen.add(digest)
        # Counted last: only pairs that are kept count as normalised.
        for rule in rules:
            normalised[rule] += 1
        kept.append(CleanPair(line, src, tgt))
        digests.append(digest)
    return kept, CleaningTally(num_read, len(kept), dropped, normalised), digests


def normalise_pair(src: str, tgt: str, cleaning: CleaningConfig) -> tuple[str, str, Sequence[str]]:
    """Normalise both sides as `normalise` does; also return the rules that changed either."""
    rules = []
    for name, change in (("control_characters", strip_controls), ("nfc", to_nfc)):
        if getattr(cleaning, name):
            new_src, new_tgt = change(src), change(tgt)
            if (new_src, new_tgt) != (src, tgt):
                rules.append(name)
            src, tgt = new_src, new_tgt
    return src, tgt, rules


def pair_digest(src: str, tgt: str) -> bytes:
    """Return 16 bytes that identify a pair; lines hold no line feed, so it separates the sides."""
    return _digest(f"{src}\n{tgt}")


def sort_digests(digests: Sequence[bytes], lines: npt.NDArray[np.int64]) -> Digests:
    """Return a table [3, N] of high halves, low halves and lines, sorted by digest."""
    # numpy has no 128-bit integers: big-endian halves sort like the digests themselves.
    halves = np.frombuffer(b"".join(digests), dtype=">u8").reshape(-1, 2).astype(np.uint64)
    table = np.stack([halves[:, 0], halves[:, 1], lines.astype(np.uint64)])
    return table[:, np.lexsort(table[::-1])]


def select_part(table: Digests, part: int, num_parts: int) -> Digests:
    """Return the columns of a `sort_digests` table in one of `num_parts` equal digest ranges."""
    bounds = [(part * 2**64) // num_parts, ((part + 1) * 2**64) // num_parts]
    inner = np.array([min(bound, 2**64 - 1) for bound in bounds], dtype=np.uint64)
    first, end = np.searchsorted(table[0], inner)
    # The bound 2^64 does not fit into 64 bits: the last range is open.
    return table[:, first : None if part == num_parts - 1 else end]


def find_later_duplicates(tables: Iterator[Digests]) -> npt.NDArray[np.uint64]:
    """Return the sorted lines of pairs that occur earlier; lines count through all tables."""
    # An empty table first: concatenate needs at least one.
    table = np.concatenate([np.zeros((3, 0), dtype=np.uint64), *tables], axis=1)
    table = table[:, np.lexsort(table[::-1])]
    # Sorted by digest, then by line: all but the first of equal digests are duplicates.
    is_duplicate = (table[:2, 1:] == table[:2, :-1]).all(axis=0)
    return np.sort(table[2, 1:][is_duplicate])


def held_out_digests(corpus: CorpusConfig, language: str) -> set[bytes]:
    """Return digests of the lines of one language in the dev and test sets.

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
    return {
        _digest(normalise(pair[side], corpus.cleaning))
        for text in (corpus.dev, *corpus.tests)
        for pair in PairFiles.of(text, corpus).read()
    }


def select_lines(
    files: Iterable[Path], cleaning: CleaningConfig, held_out: set[bytes], tally: Counter[str]
) -> Iterator[str]:
    """Normalise lines of one language and drop those that make no good pair, before translating.

    Rules about one side apply here, so that no time is spent on lines that would be dropped after
    translation. Lines of the dev and test sets are dropped: a score must not come from text seen
    in training.

    Args:
        files: text files.
        cleaning: the rules.
        held_out: digests from `held_out_digests`.
        tally: updated with the counts of `KEPT` and of each drop reason.

    Yields:
        Each different line once. Memory: 16 bytes per line, to find duplicates.
    """
    seen: set[bytes] = set()
    # A line paired with itself passes all rules that compare two sides, except `copies`.
    one_side = cleaning.model_copy(update={"copies": False})
    for file in files:
        for raw in read_lines(file):
            line = normalise(raw, cleaning)
            reason = drop_reason(line, line, one_side)
            digest = _digest(line)
            # Held-out lines count as such even where they occur twice.
            if not reason and digest in held_out:
                reason = HELD_OUT
            if not reason and digest in seen:
                reason = "duplicates"
            tally[reason or KEPT] += 1
            if not reason:
                seen.add(digest)
                yield line


def format_tally(tally: Counter[str]) -> str:
    """Format a tally of `select_lines`: read = kept + dropped (by reason)."""
    kept, read = tally[KEPT], tally.total()
    dropped = ", ".join(f"{count:,} {reason}" for reason, count in tally.items() if reason != KEPT)
    return f"{read:,} read = {kept:,} kept + {read - kept:,} dropped{dropped and f' ({dropped})'}"


def _digest(text: str) -> bytes:
    return hashlib.blake2b(text.encode(), digest_size=16).digest()
