"""Which pairs are dropped or mended, and that every one of them is counted."""

import hashlib

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from nmt.config.corpus import CleaningConfig
from nmt.corpus.clean import (
    DROP_REASONS,
    NORMALISATIONS,
    CleaningTally,
    clean,
    drop_reason,
    find_later_duplicates,
    fingerprint,
    pair_digest,
    select_part,
    sort_digests,
)

ALL = CleaningConfig(max_chars=30)
OFF = CleaningConfig(
    nfc=False,
    control_characters=False,
    empty=False,
    no_letters=False,
    copies=False,
    duplicates=False,
    max_chars=0,
    max_ratio=0,
)
DIRTY = {
    "invalid_utf8": (b"A dog.", b"Ein Hund\xc3."),
    "empty": (b"\xe2\x80\x8b ", b"Nichts."),
    "no_letters": (b"12:30 - 13:00!", b"12 Uhr"),
    "max_chars": (b"A dog runs.", b"Ein Hund, der viel zu lange rennt."),
    "max_ratio": (b"A dog.", b"Hund"),
    "copies": (b"Berlin", b" Berlin"),
    "duplicates": (b"A cat.", "Eine\u00a0Katze.".encode()),
}


@pytest.mark.parametrize("reason", DROP_REASONS)
def test_each_rule_drops_its_pair_and_counts_it(reason: str) -> None:
    """P6."""
    ratio = {"max_ratio": 1.4, "ratio_slack": 0} if reason == "max_ratio" else {}
    cleaning = ALL.model_copy(update=ratio)
    pairs = [(b"A cat.", b"Eine Katze."), DIRTY[reason]]
    if reason == "max_ratio":
        pairs[0] = (b"One cat.", b"Eine Katze.")
    kept, tally, _ = clean(pairs, cleaning)
    assert [pair.line for pair in kept] == [0]
    assert tally.dropped == dict.fromkeys(DROP_REASONS, 0) | {reason: 1}


@pytest.mark.parametrize("reason", DROP_REASONS[1:])
def test_each_rule_has_a_switch(reason: str) -> None:
    pairs = [(b"A cat.", b"Eine Katze."), DIRTY[reason]]
    kept, tally, _ = clean(pairs, OFF)
    assert (len(kept), tally.num_dropped) == (2, 0)


@pytest.mark.parametrize(
    ("src", "tgt", "reason"),
    [
        ("a", "b", ""),
        ("a", "", "empty"),
        ("", "", "empty"),
        ("a", "7", "no_letters"),
        ("_", "a", "no_letters"),
        ("字", "я", ""),
        ("a" * 30, "b" * 30, ""),
        ("a" * 30, "b" * 31, "max_chars"),
        ("a" * 1, "b" * 26, ""),
        ("same", "same", "copies"),
        ("same", "Same", ""),
    ],
)
def test_the_rules_ask_in_order_and_at_their_limits(src: str, tgt: str, reason: str) -> None:
    assert drop_reason(src, tgt, ALL) == reason


@pytest.mark.parametrize(("num_chars", "reason"), [(64, ""), (65, "max_ratio")])
def test_the_ratio_gives_short_pairs_slack(num_chars: int, reason: str) -> None:
    cleaning = CleaningConfig(max_ratio=4, ratio_slack=20)
    assert drop_reason("a", "b" * num_chars, cleaning) == reason


def test_mended_pairs_are_kept_and_counted_besides() -> None:
    pairs = [
        (b"a\tb", b"c"),
        ("e\u0301".encode(), "d\u200be\u0301".encode()),
        (b"plain", b"text"),
    ]
    kept, tally, _ = clean(pairs, ALL)
    assert [(pair.src, pair.tgt) for pair in kept] == [("a b", "c"), ("é", "dé"), ("plain", "text")]
    assert tally == CleaningTally(3, 3, normalised={"control_characters": 2, "nfc": 1})
    assert tuple(tally.normalised) == NORMALISATIONS


@given(st.lists(st.tuples(st.binary(max_size=4), st.binary(max_size=4))))
def test_read_is_kept_and_dropped(pairs: list[tuple[bytes, bytes]]) -> None:
    """P6."""
    kept, tally, digests = clean(pairs, ALL)
    assert tally.read == len(pairs) == tally.kept + sum(tally.dropped.values())
    assert tally.kept == len(kept) == len(digests)


def test_a_tally_that_breaks_the_law_cannot_be() -> None:
    with pytest.raises(AssertionError):
        CleaningTally(read=2, kept=1)


def test_tallies_add_up() -> None:
    one = CleaningTally(3, 2, dict.fromkeys(DROP_REASONS, 0) | {"empty": 1})
    two = CleaningTally(5, 5).without_duplicates(2)
    both = one + two
    assert (both.read, both.kept, both.num_dropped) == (8, 5, 3)
    assert (both.dropped["empty"], both.dropped["duplicates"]) == (1, 2)


def test_a_pair_is_not_another_split_elsewhere() -> None:
    assert pair_digest("a", "b c") != pair_digest("a b", "c")


@given(st.lists(st.lists(st.integers(0, 6), max_size=8), min_size=1), st.integers(1, 5))
def test_copies_in_earlier_chunks_are_found_whatever_the_parts(
    chunks: list[list[int]], num_parts: int
) -> None:
    seen: set[int] = set()
    expected, tables, line = [], [], 0
    for chunk in chunks:
        unique = list(dict.fromkeys(chunk))  # copies within a chunk are gone already
        lines = np.arange(line, line + len(unique))
        expected += [int(n) for n, text in zip(lines, unique, strict=True) if text in seen]
        seen.update(unique)
        digests = [hashlib.blake2b(bytes([text]), digest_size=16).digest() for text in unique]
        tables.append(sort_digests(digests, lines))
        line += len(unique)
    found = [
        find_later_duplicates(select_part(table, part, num_parts) for table in tables)
        for part in range(num_parts)
    ]
    assert np.sort(np.concatenate(found)).tolist() == expected


def test_the_extreme_digests_are_in_a_part() -> None:
    table = sort_digests([b"\xff" * 16, b"\0" * 16], np.array([0, 1]))
    parts = [select_part(table, part, 3)[2].tolist() for part in range(3)]
    assert parts == [[1], [], [0]]


def test_the_fingerprint_is_of_the_rules_alone() -> None:
    assert fingerprint(ALL) == fingerprint(ALL.model_copy(update={"max_dropped": 1.0}))
    assert fingerprint(ALL) != fingerprint(ALL.model_copy(update={"max_chars": 31}))


def test_a_pair_in_other_letters_is_cleaned_as_it_was_and_is_another_pair() -> None:
    pairs = [(b"A dog.", b"Ein Hund."), (b"a DOG.", b"Ein Hund."), (b"Berlin", b"Berlin")]
    kept, tally, digests = clean(pairs, ALL, ("upper", "as_is"))
    assert [(pair.src, pair.tgt) for pair in kept] == [("A DOG.", "Ein Hund.")]
    assert (tally.dropped["duplicates"], tally.dropped["copies"]) == (1, 1)
    assert digests == [pair_digest("A DOG.", "Ein Hund.")]
    assert digests != clean(pairs[:1], ALL)[2]
