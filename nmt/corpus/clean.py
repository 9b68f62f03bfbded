"""Cleaning: which pairs are dropped or mended before training, and a tally for each rule.

A rule has the name of its switch in `CleaningConfig`, and a pair is counted under the first rule
that drops it. The law of the tallies: read = kept + the sum of dropped. Mended pairs are kept and
counted besides.

Duplicates are found by a 128-bit digest of both sides, so that a corpus of any size needs 24 bytes
a pair, and those on disk; two different pairs among a billion share one with a chance below 10^-20.
Of equal pairs the first stays.
"""

import hashlib
import json
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from nmt.config.corpus import Case, CleaningConfig
from nmt.config.settings import drop_legacy_values
from nmt.corpus.text import compose, in_case, normalise, tidy

REASONS = ("invalid_utf8", "empty", "no_letters", "max_chars", "max_ratio", "copies", "duplicates")
"""Why a pair is dropped, in the order in which the rules are asked."""
MENDS = ("control_characters", "nfc")
"""How a pair is mended."""
RULES_VERSION = 1
"""Raised when a rule changes what it does: what was prepared by another version is refused."""

Digests = npt.NDArray[np.uint64]

_LETTER = re.compile(r"[^\W\d_]")


class Cleaned(NamedTuple):
    """A pair that is kept."""

    line: int
    """Where it stood, from 0."""
    src: str
    tgt: str


@dataclass
class CleaningTally:
    """What became of the pairs that were read."""

    read: int = 0
    kept: int = 0
    dropped: dict[str, int] = field(default_factory=lambda: dict.fromkeys(REASONS, 0))
    mended: dict[str, int] = field(default_factory=lambda: dict.fromkeys(MENDS, 0))

    def __post_init__(self) -> None:
        """Hold the law."""
        assert self.read == self.kept + self.num_dropped, self

    @property
    def num_dropped(self) -> int:
        """Pairs dropped for any reason."""
        return sum(self.dropped.values())

    def __add__(self, other: "CleaningTally") -> "CleaningTally":
        """Both together."""
        return CleaningTally(
            self.read + other.read,
            self.kept + other.kept,
            {reason: self.dropped[reason] + other.dropped[reason] for reason in REASONS},
            {mend: self.mended[mend] + other.mended[mend] for mend in MENDS},
        )

    def without_duplicates(self, count: int) -> "CleaningTally":
        """After `count` kept pairs turned out to have stood in an earlier part of the corpus."""
        dropped = {**self.dropped, "duplicates": self.dropped["duplicates"] + count}
        return CleaningTally(self.read, self.kept - count, dropped, self.mended)


def fingerprint(cleaning: CleaningConfig) -> str:
    """Return the digest of the rules, equal where the same text gives the same pairs."""
    tree = cleaning.model_dump(mode="json", exclude={"max_dropped"})
    # Rules that are off, added after a corpus was prepared, leave its digest as it was.
    rules = {**drop_legacy_values(type(cleaning), tree), "version": RULES_VERSION}
    return hashlib.sha256(json.dumps(rules, sort_keys=True).encode()).hexdigest()


def why_dropped(src: str, tgt: str, cleaning: CleaningConfig) -> str:
    """The rule that drops a pair of mended lines, or ""; it alone does not tell duplicates."""
    num_src, num_tgt = len(src), len(tgt)
    if cleaning.empty and not (src.strip() and tgt.strip()):
        return "empty"
    if cleaning.no_letters and not (_LETTER.search(src) and _LETTER.search(tgt)):
        return "no_letters"
    longer, shorter = max(num_src, num_tgt), min(num_src, num_tgt)
    if cleaning.max_chars and longer > cleaning.max_chars:
        return "max_chars"
    slack = cleaning.ratio_slack
    if cleaning.max_ratio and longer + slack > cleaning.max_ratio * (shorter + slack):
        return "max_ratio"
    if cleaning.copies and src == tgt:
        return "copies"
    return ""


def clean(
    pairs: Iterable[tuple[bytes, bytes]],
    cleaning: CleaningConfig,
    cases: tuple[Case, Case] = ("as_is", "as_is"),
) -> tuple[list[Cleaned], CleaningTally, list[bytes]]:
    """Clean a chunk of raw pairs that fits in memory.

    Args:
        cases: what source and target are written in; duplicates are looked for after that.

    Returns:
        The pairs kept, in order; the tally; the digest of each pair kept (`pair_digest`). Pairs
        that stood before in this chunk are dropped already; those of earlier chunks are for
        `later_copies`.
    """
    kept: list[Cleaned] = []
    digests: list[bytes] = []
    seen: set[bytes] = set()
    dropped = dict.fromkeys(REASONS, 0)
    mended = dict.fromkeys(MENDS, 0)
    num_read = 0
    for line, (raw_src, raw_tgt) in enumerate(pairs):
        num_read += 1
        try:
            src, tgt = raw_src.decode("utf-8"), raw_tgt.decode("utf-8")
        except UnicodeDecodeError:
            dropped["invalid_utf8"] += 1
            continue
        src, tgt, mends = mend(src, tgt, cleaning)
        if reason := why_dropped(src, tgt, cleaning):
            dropped[reason] += 1
            continue
        if cases != ("as_is", "as_is"):
            sides = (in_case(text, case) for text, case in zip((src, tgt), cases, strict=True))
            src, tgt = (normalise(text, cleaning) for text in sides)
        digest = pair_digest(src, tgt)
        if cleaning.duplicates:
            if digest in seen:
                dropped["duplicates"] += 1
                continue
            seen.add(digest)
        for name in mends:
            mended[name] += 1
        kept.append(Cleaned(line, src, tgt))
        digests.append(digest)
    return kept, CleaningTally(num_read, len(kept), dropped, mended), digests


def mend(src: str, tgt: str, cleaning: CleaningConfig) -> tuple[str, str, Sequence[str]]:
    """Both sides as `normalise` makes them, and the names of the rules that changed one."""
    mends = []
    if cleaning.control_characters:
        tidy_src, tidy_tgt = tidy(src), tidy(tgt)
        if tidy_src != src or tidy_tgt != tgt:
            mends.append("control_characters")
        src, tgt = tidy_src, tidy_tgt
    if cleaning.nfc:
        nfc_src, nfc_tgt = compose(src), compose(tgt)
        if nfc_src != src or nfc_tgt != tgt:
            mends.append("nfc")
        src, tgt = nfc_src, nfc_tgt
    return src, tgt, mends


def pair_digest(src: str, tgt: str) -> bytes:
    """16 bytes that stand for a pair; a line never holds the line feed between the two."""
    return hashlib.blake2b(f"{src}\n{tgt}".encode(), digest_size=16).digest()


def sorted_digests(digests: Sequence[bytes], lines: npt.NDArray[np.int64]) -> Digests:
    """Digests of a chunk as rows of high halves, low halves and lines, in the order of digests."""
    halves = np.frombuffer(b"".join(digests), dtype=">u8").reshape(-1, 2).astype(np.uint64)
    table = np.stack([halves[:, 0], halves[:, 1], lines.astype(np.uint64)])
    return table[:, np.lexsort(table[::-1])]


def in_part(table: Digests, part: int, num_parts: int) -> Digests:
    """The columns of a `sorted_digests` table in one of `num_parts` equal shares of all digests."""
    bounds = [(part * 2**64) // num_parts, ((part + 1) * 2**64) // num_parts]
    inner = np.array([min(bound, 2**64 - 1) for bound in bounds], dtype=np.uint64)
    first, end = np.searchsorted(table[0], inner)
    return table[:, first : None if part == num_parts - 1 else end]


def later_copies(tables: Iterator[Digests]) -> npt.NDArray[np.uint64]:
    """Lines of pairs that stood before, in rising order; lines are numbered through all tables."""
    table = np.concatenate([np.zeros((3, 0), dtype=np.uint64), *tables], axis=1)
    table = table[:, np.lexsort(table[::-1])]
    is_copy = (table[:2, 1:] == table[:2, :-1]).all(axis=0)
    return np.sort(table[2, 1:][is_copy])
