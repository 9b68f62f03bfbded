"""Cleaning rules and their tallies."""

import hashlib
import time

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from nmt.config.corpus import CleaningConfig
from nmt.corpus.clean import (
    CleanedChunk,
    CleaningTally,
    Context,
    clean,
    find_later_duplicates,
    fingerprint,
    held_out_keys,
    pair_digest,
    select_part,
    sort_digests,
)
from nmt.corpus.repairs import strip_markup, unescape_entities
from nmt.corpus.rules import DROP_REASONS, REPAIRS, drop_reason, is_near_copy, repair

RULES = (*DROP_REASONS, *REPAIRS)
OF_THE_CORPUS = ("length", "truncated", "word_order", "min_adequacy")
"""Rules that learn from the corpus; test_judge_tasks.py has their examples."""
OF_A_PAIR = [rule for rule in RULES if rule not in OF_THE_CORPUS]
PARAMETERS = {"ratio_slack", "max_dropped"}
"""Settings of cleaning that are not rules."""
LIMITS: dict[str, float] = {"max_chars": 30, "max_ratio": 1.5, "max_token_chars": 20}
Rules = dict[str, bool | float | None]
OFF: Rules = {
    rule: {bool: False, float | None: None}.get(field.annotation, 0)  # type: ignore[arg-type]
    for rule, field in CleaningConfig.model_fields.items()
    if rule not in PARAMETERS
}
OFF["min_adequacy"] = None
ON: Rules = {**dict.fromkeys(OFF, True), **LIMITS, "min_adequacy": -3.0}
ALL = CleaningConfig(max_chars=30, repetition=False)
HELD_OUT = [
    ("A bird sings.", "Ein Vogel singt."),
    ("The bird sings in a tree.", "Der Vogel singt im Baum."),
]
CONTEXT = Context(("en", "de"), held_out=held_out_keys(HELD_OUT))
GOOD = (b"One cat.", b"Eine Katze.")
EXAMPLES = {
    "invalid_utf8": (b"A dog.", b"Ein Hund\xc3."),
    "lost_characters": (b"A dog.", "Ein H\ufffdnd.".encode()),
    "empty": (b"", b"Nichts."),
    "no_letters": (b"12:30 - 13:00!", b"12 Uhr 30 bis 13"),
    "max_chars": (b"A dog runs far away from here.", b"Ein Hund, der viel zu lange rennt."),
    "max_ratio": (b"Dogs like cats.", b"Hund"),
    "copies": (b"Berlin", b"Berlin"),
    "near_copies": (b"Hotel Astoria in Berlin", b"hotel Astoria in Berlin!"),
    "max_token_chars": (b"See org/pages/index/of/abc.", b"Dort unter pages/index/of/abc."),
    "repetition": (b"Noooooooooooooo.", b"Neiiiiiiiiiiiiin."),
    "script": (b"A dog runs.", "Собака бежит.".encode()),
    "language": (b"Two dogs run in the park.", b"Deux chiens courent au parc."),
    "numbers": (b"It is 150 metres high.", b"Er ist 320 Meter hoch."),
    "leaks": (b"a bird sings", b"ein Vogel singt!"),
    "source_leaks": (b"the bird sings in a tree", b"Ein Vogel sitzt im Baum."),
    "duplicates": GOOD,
    "near_duplicates": (b"one cat!", b"eine Katze"),
    "encoding": (b"A dog for you.", "Ein Hund fÃ¼r dich.".encode()),
    "html_entities": (b"You &amp; me.", b"Du &amp;amp; ich."),
    "markup": (b"<b>A dog.</b>", b"<p>Ein Hund.</p>"),
    "control_characters": ("A\u00a0dog.".encode(), b"Ein\tHund."),
    "nfc": ("A cafe\u0301.".encode(), b"Ein Haus."),
    "swapped": (b"Die Katze sitzt im Baum.", b"The cat is in the tree."),
}
"""A pair for each rule that only this rule drops or changes."""


def config(rules: Rules) -> CleaningConfig:
    return CleaningConfig.model_validate({**rules, "ratio_slack": 0})


def counts(tally: CleaningTally) -> dict[str, int]:
    """Return the rules that counted a pair, after checking read = kept + dropped."""
    assert tally.read == tally.kept + sum(tally.dropped.values()) == 2
    return {rule: count for rule, count in (tally.dropped | tally.normalised).items() if count}


def texts(result: CleanedChunk) -> list[tuple[str, str]]:
    return [(pair.src, pair.tgt) for pair in result.kept]


def test_every_setting_is_a_rule_or_a_parameter() -> None:
    assert set(CleaningConfig.model_fields) == {*RULES} | PARAMETERS
    assert EXAMPLES.keys() == {*OF_A_PAIR}


@pytest.mark.parametrize("others", [OFF, ON], ids=["others off", "others on"])
@pytest.mark.parametrize("rule", OF_A_PAIR)
def test_a_rule_counts_its_example(rule: str, others: Rules) -> None:
    """Line in, line out (nmt/README.md, Guarantees)."""
    cleaning = config({**others, rule: ON[rule]})
    result = clean([GOOD, EXAMPLES[rule]], cleaning, CONTEXT)
    assert counts(result.tally) == {rule: 1}
    assert len(result.kept) == len(result.digests) == (2 if rule in REPAIRS else 1)
    assert result.kept[0] == (0, "One cat.", "Eine Katze.")


# With invalid_utf8 off, reading fails at the first invalid line: see test_prepare_errors.py.
@pytest.mark.parametrize("rule", [rule for rule in OF_A_PAIR if rule != "invalid_utf8"])
def test_a_rule_has_a_switch(rule: str) -> None:
    pairs = [GOOD, EXAMPLES[rule]]
    result = clean(pairs, config(OFF), CONTEXT)
    assert counts(result.tally) == {}
    assert result.kept[1] == (1, *(side.decode() for side in EXAMPLES[rule]))
    result = clean(pairs, config({**ON, rule: OFF[rule]}), CONTEXT)
    assert rule not in counts(result.tally)


@pytest.mark.parametrize("rule", RULES)
def test_a_rule_is_part_of_the_fingerprint(rule: str) -> None:
    assert fingerprint(config({**ON, rule: OFF[rule]})) != fingerprint(config(ON))


CHILDREN = {
    "en": "The children are playing in the garden behind the house.",
    "ar": "الأطفال يلعبون في الحديقة خلف المنزل.",
    "he": "הילדים משחקים בגינה מאחורי הבית.",
    "fa": "بچه‌ها در باغ پشت خانه بازی می‌کنند.",
    "hi": "बच्चे घर के पीछे बगीचे में खेल रहे हैं।",
    "ja": "子供たちは家の裏の庭で遊んでいます。",
    "zh": "孩子们正在屋后的花园里玩耍。",
    "th": "เด็กๆ กำลังเล่นอยู่ในสวนหลังบ้าน",
    "km": "ក្មេងៗកំពុងលេងនៅក្នុងសួនច្បារក្រោយផ្ទះ។",
    "ko": "아이들이 집 뒤 정원에서 놀고 있습니다.",
    "el": "Τα παιδιά παίζουν στον κήπο πίσω από το σπίτι.",
}
"""A sentence in languages with and without spaces, from left and from right."""
UKRAINIAN = "Діти граються в саду за будинком."


@pytest.mark.parametrize("tgt", list(CHILDREN)[1:])
@pytest.mark.parametrize("src", ["en", "ja", "ar"])
def test_rules_hold_for_every_script(src: str, tgt: str) -> None:
    rules, languages = CleaningConfig(), (src, tgt)
    pair = CHILDREN[src], CHILDREN[tgt]
    if src == tgt:
        assert drop_reason(*pair, rules, languages) == "copies"
        return
    assert repair(*pair, rules, languages)[2] == []
    assert drop_reason(*pair, rules, languages) == ""
    assert repair(*pair[::-1], rules, languages) == (*pair, ["swapped"])
    assert drop_reason(pair[0], UKRAINIAN, rules, languages) in ("script", "language")
    assert drop_reason(UKRAINIAN, pair[1], rules, languages) in ("script", "language")


@pytest.mark.parametrize(
    ("language", "line"),
    [
        ("hi_Latn", "Bachche ghar ke peechhe bageeche mein khel rahe hain."),
        ("ms-Arab", "کانق٢ برماين د تامن د بلاکڠ رومه ايت."),
        ("uz_Cyrl", "Болалар уй орқасидаги боғда ўйнамоқда."),
        ("kk_Latn", "Balalar üidıñ artyndağy baqşada oinap jatyr."),
        ("mn_Mong", "ᠬᠦᠦᠬᠡᠳ ᠭᠡᠷ ᠦᠨ ᠠᠷᠤ ᠳᠤ ᠲᠣᠭᠯᠠᠵᠤ ᠪᠠᠢᠨᠠ"),
        ("pa_Arab", "بچے گھر دے پچھے باغ وچ کھیڈ رہے نیں۔"),
        ("ku", "منداڵەکان لە باخی پشتی ماڵەکە یاری دەکەن."),
        ("zh", "我用 iPhone 12 Pro Max，系统是 iOS 14.5。"),
        ("ja", "Windowsの更新をする。"),
        ("ko", "나는 iPhone 12 Pro Max를 샀다."),
    ],
)
def test_another_script_of_a_language_is_kept(language: str, line: str) -> None:
    assert drop_reason(CHILDREN["en"], line, CleaningConfig(numbers=False), ("en", language)) == ""


def test_text_of_another_script_is_foreign_among_a_few_letters() -> None:
    line = "好 The children play here."
    rules = CleaningConfig(language=False)
    assert drop_reason("Tom has a dog.", line, rules, ("en", "zh")) == "script"


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
    cleaning = CleaningConfig(max_ratio=4, ratio_slack=20, repetition=False)
    assert drop_reason("a", "b" * num_chars, cleaning) == reason


def test_near_copies_of_long_lines_are_found_in_time() -> None:
    line = " ".join(hashlib.sha256(bytes([n % 256, n // 256])).hexdigest() for n in range(2_000))
    started = time.process_time()
    assert is_near_copy(line, f"{line[:-60]} and other words")
    assert not is_near_copy(line, line.replace("a", "b"))
    assert time.process_time() - started < 10


@pytest.mark.parametrize("start", ["<!-- a ", "<script> ", "<STYLE> <!-- "])
def test_markup_without_an_end_is_removed_in_time(start: str) -> None:
    line = f"<b>bold</b> {start * 30_000}text"
    started = time.process_time()
    assert strip_markup(line).startswith("bold ")
    assert time.process_time() - started < 5


@pytest.mark.parametrize(
    ("start", "end"),
    [
        ("<script>", "-->"),
        ("<!--", "</script>"),
        ("<style>", "</script>"),
        ("<script>", "</style>"),
        ("<b a= ", " " * 30_000),
        ("<b checked ", " " * 30_000),
    ],
)
def test_markup_with_another_end_is_removed_in_time(start: str, end: str) -> None:
    started = time.process_time()
    strip_markup(start * 30_000 + end)
    assert time.process_time() - started < 5


@pytest.mark.parametrize(
    ("line", "text"),
    [
        ("Click <b>Save</b>, then <i>W</i>ord (H<sub>2</sub>O)", "Click Save, then Word (H2O)"),
        ('<FONT size="2">W</FONT>ord<a href=x>s</a>.', "Words."),
        ("one<br>two<p>three</p><td nowrap>four", "one two three four"),
        ("one<br/>two <br /> three<hr noshade>four", "one two three four"),
        ("<table border>q</table> <a name>r</a>", "q r"),
        ("c=a<p or q>r and a<b or c>d", "c=a<p or q>r and a<b or c>d"),
        ("<script>a<b</script>text<style x='1'>p{}</style >", "text"),
        ("a <!-- <b> --> b", "a b"),
    ],
)
def test_markup_is_removed_without_changing_words(line: str, text: str) -> None:
    assert strip_markup(line) == text


@pytest.mark.parametrize(
    ("line", "text"),
    [
        ("a\rb", "a\rb"),
        ("a\rb &amp; c", "a\rb & c"),
        ("a&#10;b&#13;c&NewLine;d", "a b c d"),
        ("a&amp;#10;b", "a b"),
    ],
)
def test_entities_become_characters(line: str, text: str) -> None:
    assert unescape_entities(line) == text


def test_markup_is_removed_around_the_end_of_a_comment() -> None:
    line = "a <!-- <b> --> <i>b</i> <script>x</script> <!-- c <br> d"
    assert strip_markup(line) == "a b <!-- c d"


def test_repaired_pairs_are_kept_and_counted() -> None:
    pairs = [
        (b"a\tb", b"c"),
        ("e\u0301".encode(), "d\u200be\u0301".encode()),
        (b"plain", b"text"),
    ]
    result = clean(pairs, ALL)
    assert texts(result) == [("a b", "c"), ("é", "dé"), ("plain", "text")]
    repaired = dict.fromkeys(REPAIRS, 0) | {"control_characters": 2, "nfc": 1}
    assert result.tally == CleaningTally(3, 3, normalised=repaired)
    assert tuple(result.tally.normalised) == REPAIRS


def test_repairs_restore_the_text() -> None:
    cleaning = config({**OFF, **dict.fromkeys(REPAIRS, True)})
    rules = ("encoding", "html_entities", "markup", "swapped")
    result = clean([EXAMPLES[rule] for rule in rules], cleaning, CONTEXT)
    assert texts(result) == [
        ("A dog for you.", "Ein Hund für dich."),
        ("You & me.", "Du & ich."),
        ("A dog.", "Ein Hund."),
        ("The cat is in the tree.", "Die Katze sitzt im Baum."),
    ]


def test_of_near_duplicates_the_one_in_usual_case_stays() -> None:
    pairs = [(b"one cat", b"eine katze"), GOOD, (b"ONE CAT", b"EINE KATZE"), GOOD]
    result = clean(pairs, CleaningConfig(), CONTEXT)
    assert [pair.line for pair in result.kept] == [1]
    assert counts_of(result) == {"near_duplicates": 2, "duplicates": 1}


def counts_of(result: CleanedChunk) -> dict[str, int]:
    return {rule: count for rule, count in result.tally.dropped.items() if count}


@given(st.lists(st.tuples(st.binary(max_size=4), st.binary(max_size=4))))
def test_read_equals_kept_plus_dropped(pairs: list[tuple[bytes, bytes]]) -> None:
    """Line in, line out (nmt/README.md, Guarantees)."""
    result = clean(pairs, ALL, CONTEXT)
    tally = result.tally
    assert tally.read == len(pairs) == tally.kept + sum(tally.dropped.values())
    assert tally.kept == len(result.kept) == len(result.digests) == result.near_digests.shape[1]
    assert result.reasons.tolist().count(0) == tally.kept


def test_an_inconsistent_tally_fails() -> None:
    with pytest.raises(AssertionError):
        CleaningTally(read=2, kept=1)


def test_tallies_add_up() -> None:
    one = CleaningTally(3, 2, dict.fromkeys(DROP_REASONS, 0) | {"empty": 1})
    two = CleaningTally(5, 5).without("duplicates", 2)
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
    result = clean(pairs, ALL, Context(cases=("upper", "as_is")))
    assert texts(result) == [("A DOG.", "Ein Hund.")]
    assert counts_of(result) == {"duplicates": 1, "copies": 1}
    assert result.digests == [pair_digest("A DOG.", "Ein Hund.")]
    plain = clean(pairs[:1], ALL)
    # A corpus in another case repeats others on purpose.
    assert result.digests != plain.digests
    assert (result.near_digests[:2] != plain.near_digests[:2]).all()


def test_repairs_of_dropped_pairs_are_not_counted() -> None:
    assert not any(clean([(b"a\tb", b"")], CleaningConfig()).tally.normalised.values())
