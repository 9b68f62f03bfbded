"""Cleaning rules and their tallies."""

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
RULES = (*DROP_REASONS, *NORMALISATIONS)
PARAMETERS = {"ratio_slack", "max_dropped"}
"""Settings of cleaning that are not rules."""
OFF: dict[str, bool | float] = {
    rule: False if field.annotation is bool else 0
    for rule, field in CleaningConfig.model_fields.items()
    if rule not in PARAMETERS
}
ON: dict[str, bool | float] = {**dict.fromkeys(OFF, True), "max_chars": 30, "max_ratio": 1.5}
GOOD = (b"One cat.", b"Eine Katze.")
EXAMPLES = {
    "invalid_utf8": (b"A dog.", b"Ein Hund\xc3."),
    "empty": (b"", b"Nichts."),
    "no_letters": (b"12:30 - 13:00!", b"12 Uhr 30 bis 13"),
    "max_chars": (b"A dog runs far away from here.", b"Ein Hund, der viel zu lange rennt."),
    "max_ratio": (b"Dogs like cats.", b"Hund"),
    "copies": (b"Berlin", b"Berlin"),
    "duplicates": GOOD,
    "control_characters": ("A\u00a0dog.".encode(), b"Ein\tHund."),
    "nfc": ("A cafe\u0301.".encode(), b"Ein Haus."),
}
"""A pair for each rule that only this rule drops or changes."""


def config(rules: dict[str, bool | float]) -> CleaningConfig:
    return CleaningConfig.model_validate({**rules, "ratio_slack": 0})


def counts(tally: CleaningTally) -> dict[str, int]:
    """Return the rules that counted a pair, after checking read = kept + dropped."""
    assert tally.read == tally.kept + sum(tally.dropped.values()) == 2
    return {rule: count for rule, count in (tally.dropped | tally.normalised).items() if count}


def test_every_setting_is_a_rule_or_a_parameter() -> None:
    assert set(CleaningConfig.model_fields) == {*RULES} | PARAMETERS
    assert EXAMPLES.keys() == {*RULES}


@pytest.mark.parametrize("others", [OFF, ON], ids=["others off", "others on"])
@pytest.mark.parametrize("rule", RULES)
def test_a_rule_counts_its_example(rule: str, others: dict[str, bool | float]) -> None:
    """Line in, line out (nmt/README.md, Guarantees)."""
    cleaning = config({**others, rule: ON[rule]})
    kept, tally, digests = clean([GOOD, EXAMPLES[rule]], cleaning)
    assert counts(tally) == {rule: 1}
    assert len(kept) == len(digests) == (2 if rule in NORMALISATIONS else 1)
    assert kept[0] == (0, "One cat.", "Eine Katze.")


# With invalid_utf8 off, reading fails at the first invalid line: see test_prepare_errors.py.
@pytest.mark.parametrize("rule", [rule for rule in RULES if rule != "invalid_utf8"])
def test_a_rule_has_a_switch(rule: str) -> None:
    pairs = [GOOD, EXAMPLES[rule]]
    kept, tally, _ = clean(pairs, config(OFF))
    assert counts(tally) == {}
    assert kept[1] == (1, *(side.decode() for side in EXAMPLES[rule]))
    _, tally, _ = clean(pairs, config({**ON, rule: OFF[rule]}))
    assert rule not in counts(tally)


@pytest.mark.parametrize("rule", RULES)
def test_a_rule_is_part_of_the_fingerprint(rule: str) -> None:
    assert fingerprint(config({**ON, rule: OFF[rule]})) != fingerprint(config(ON))


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
def test_rules_apply_in_order_and_at_their_limits(src: str, tgt: str, reason: str) -> None:
    assert drop_reason(src, tgt, ALL) == reason


@pytest.mark.parametrize(("num_chars", "reason"), [(64, ""), (65, "max_ratio")])
def test_the_ratio_gives_short_pairs_slack(num_chars: int, reason: str) -> None:
    cleaning = CleaningConfig(max_ratio=4, ratio_slack=20)
    assert drop_reason("a", "b" * num_chars, cleaning) == reason


def test_normalised_pairs_are_kept_and_counted() -> None:
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
def test_read_equals_kept_plus_dropped(pairs: list[tuple[bytes, bytes]]) -> None:
    """Line in, line out (nmt/README.md, Guarantees)."""
    kept, tally, digests = clean(pairs, ALL)
    assert tally.read == len(pairs) == tally.kept + sum(tally.dropped.values())
    assert tally.kept == len(kept) == len(digests)


def test_an_inconsistent_tally_fails() -> None:
    with pytest.raises(AssertionError):
        CleaningTally(read=2, kept=1)


def test_tallies_add_up() -> None:
    one = CleaningTally(3, 2, dict.fromkeys(DROP_REASONS, 0) | {"empty": 1})
    two = CleaningTally(5, 5).without_duplicates(2)
    both = one + two
    assert (both.read, both.kept, both.num_dropped) == (8, 5, 3)
    assert (both.dropped["empty"], both.dropped["duplicates"]) == (1, 2)


def test_a_tally_without_later_rules_adds_up() -> None:
    """Unfinished work of an earlier version is resumed."""
    assert CleaningTally(2, 1, {"empty": 1}, {}) + CleaningTally() == CleaningTally(
        2, 1, dict.fromkeys(DROP_REASONS, 0) | {"empty": 1}
    )


def test_the_digest_separates_the_sides() -> None:
    assert pair_digest("a", "b c") != pair_digest("a b", "c")


@given(st.lists(st.lists(st.integers(0, 6), max_size=8), min_size=1), st.integers(1, 5))
def test_duplicates_are_found_across_chunks_and_parts(
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


def test_extreme_digests_belong_to_one_part() -> None:
    table = sort_digests([b"\xff" * 16, b"\0" * 16], np.array([0, 1]))
    parts = [select_part(table, part, 3)[2].tolist() for part in range(3)]
    assert parts == [[1], [], [0]]


def test_the_fingerprint_ignores_max_dropped() -> None:
    assert fingerprint(ALL) == fingerprint(ALL.model_copy(update={"max_dropped": 1.0}))
    assert fingerprint(ALL) != fingerprint(ALL.model_copy(update={"max_chars": 31}))


def test_case_changes_after_cleaning_before_duplicates() -> None:
    pairs = [(b"A dog.", b"Ein Hund."), (b"a DOG.", b"Ein Hund."), (b"Berlin", b"Berlin")]
    kept, tally, digests = clean(pairs, ALL, ("upper", "as_is"))
    assert [(pair.src, pair.tgt) for pair in kept] == [("A DOG.", "Ein Hund.")]
    assert (tally.dropped["duplicates"], tally.dropped["copies"]) == (1, 1)
    assert digests == [pair_digest("A DOG.", "Ein Hund.")]
    assert digests != clean(pairs[:1], ALL)[2]
