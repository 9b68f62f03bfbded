import re
import time

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from nmt.config.decoding import Protected
from nmt.decoding.placeholders import extract_tags, insert_tags, mask_line

ALL_KINDS: tuple[Protected, ...] = ("urls", "tags", "numbers", "placeholders")


@pytest.mark.parametrize(
    ("line", "masked", "spans"),
    [
        ("see https://a.org/b?c=1.", "see 23 .", ["https://a.org/b?c=1"]),
        ("write to me@a-b.org", "write to 23", ["me@a-b.org"]),
        ("hello {name}, %s or %(n)d", "hello 23 , 24 or 25", ["{name}", "%s", "%(n)d"]),
        ("23 &amp; 4", "23 24 4", ["23", "&amp;", "4"]),
        ("1,000 people, 5th of 3.", "1,000 people, 5th of 3.", ["1,000", "3"]),
        ("a < b and 100 % sure", "a < b and 100 % sure", ["100"]),
    ],
)
def test_a_mask_replaces_each_span(line: str, masked: str, spans: list[str]) -> None:
    found = mask_line(line, ALL_KINDS)
    assert found.text == masked
    assert [span.text for span in found.spans] == spans


PLACEHOLDERS = (
    "%.2f %02d %u %ld %x %1$.2f %1$s %-10s %5.1lf %lu %zu %@ %% %(size).1f %(name)s "
    "{{ user.name }} {{x}} $name $user_id ${name} #{name} %{count} %count% {0} "
    "{} {name} {n,number} &nbsp; __a__"
)


@pytest.mark.parametrize("placeholder", [
    *re.findall(r"\{\{ .*? \}\}|\S+", PLACEHOLDERS), "{% if a %}",
    "{count, plural, one {# dog} other {# {name} dogs}}", "{n, number, percent}",
    "{g, select, male {{n, plural, one {his dog} other {his # dogs}}} other {theirs}}",
])  # fmt: skip
@pytest.mark.parametrize("line", ["a {}.", "{} dogs", "its ({})", "see:{},{}"])
def test_placeholders_are_protected_as_a_whole(placeholder: str, line: str) -> None:
    line = line.replace("{}", placeholder)
    found = mask_line(line, ["placeholders"])
    assert {span.text for span in found.spans} == {placeholder}
    assert found.restore(found.text) == (line, 0)


@pytest.mark.parametrize(
    "line",
    ["100 %d'accord", "100%d'accord", "50 %discount", "100 % sure", "5 %, so", "$5", "US$ 10",
     "{ a b }", "a %share", "100%ig", "%", "{n, plural, one {# dog}"],
)  # fmt: skip
def test_other_text_is_not_protected(line: str) -> None:
    assert mask_line(line, ["placeholders"]).text == line


def test_numbers_and_masks_are_words_in_unspaced_text() -> None:
    found = mask_line("我有100个%s。", ["numbers", "placeholders"])
    assert found.text == "我有100个 23 。"
    assert found.restore("他有100个23。") == ("他有100个%s。", 0)


def test_only_requested_kinds_are_masked() -> None:
    assert mask_line("<b> 5 {x}", ["tags"]).text == "5 {x}"
    assert mask_line("<b> 5 {x}", ["urls"]).text == "<b> 5 {x}"
    assert mask_line("<b> 5 {x}", []).text == "<b> 5 {x}"


def test_a_span_returns_with_the_spaces_it_had() -> None:
    found = mask_line("hello {name}!", ALL_KINDS)
    assert found.restore("hallo 23 !") == ("hallo {name}!", 0)


def test_lost_spans_are_counted_and_repeated_ones_removed() -> None:
    found = mask_line("%s 7 {x}", ALL_KINDS)
    assert found.restore("23 sieben 23") == ("%s sieben", 2)


@pytest.mark.parametrize(
    "line",
    ["%s{}", "{}%s", "%s{}%d{a}", "x%s{}y", "%s {}%d", "{a}{b}{c}", "1{}%s 2", "&amp;%s&lt;__a__"],
)
def test_adjacent_placeholders_return_unchanged(line: str) -> None:
    found = mask_line(line, ALL_KINDS)
    assert found.restore(found.text) == (line, 0)


def test_adjacent_placeholders_may_change_places() -> None:
    found = mask_line("a %s{}", ALL_KINDS)
    assert found.text == "a 23 24"
    assert found.restore("24 a 23") == ("{} a %s", 0)
    assert found.restore("23 a 24 23") == ("%sa{}", 0)


def test_a_mask_occurs_in_no_tag() -> None:
    found = mask_line('<a id="23">{x}</a>', ALL_KINDS)
    assert found.text == "24"
    assert found.restore("24", [(0, 0)]) == ('<a id="23">{x}</a>', 0)


@pytest.mark.parametrize(
    "part",
    ["x", "{%", "<!--", "%s ", "a<b>", "0", "%0", "23", "www.", "a@", "{{", "{a,", "<a b=", "_",
     "&a", "http://", "$a", "%a"],
)  # fmt: skip
def test_a_hostile_line_takes_linear_time(part: str) -> None:
    line = "-->%(a)%" + part * (40_000 // len(part))
    started = time.process_time()
    found = mask_line(line, ALL_KINDS)
    assert found.num_protected <= len(line)
    # Quadratic: 10 s or more.
    assert time.process_time() - started < 3


@pytest.mark.parametrize(
    ("before", "after"),
    [("<a>", "</b>"), ("<a>", "</a>"), ("<a><b>", "</a>"), ("</a>", "<a>"), ("<a></b>", "</a><b>"),
     ("<a>", "</b></a>"), ("<a/>", "</a>")],
)  # fmt: skip
def test_hostile_tags_are_restored_in_linear_time(before: str, after: str) -> None:
    text = f"{before * (60_000 // len(before))}x{after * (60_000 // len(after))}"
    started = time.process_time()
    found = mask_line(text, ALL_KINDS)
    restored, _ = found.restore("x", [(0, 0)])
    # Quadratic: 10 s or more.
    assert time.process_time() - started < 3
    assert sorted(re.findall(r"<.*?>", restored)) == sorted(tag.text for tag in found.tags)


def test_a_word_between_tags_is_counted_once() -> None:
    _, tags = extract_tags("a<b>b</b>c <i>d</i> <b></b>e<br>f<b>")
    assert [tag.word for tag in tags] == [1, 1, 1, 2, 2, 2, 3, 4]


@pytest.mark.parametrize(
    "line",
    ["Hi {name}, press <b>OK</b> now", "see (https://x.org) the <b>red</b> dog",
     "{{ user name }} has <i>two</i> dogs", "%s{} a <b>b</b>", "a <b>{x}</b> b, <i>c</i> d",
     "a&nbsp;b <b>c</b> d"],
)  # fmt: skip
def test_tags_after_a_span_keep_their_words(line: str) -> None:
    found = mask_line(line, ["tags", "urls", "placeholders"])
    links = [(number, number) for number in range(len(found.text.split()))]
    assert found.restore(found.text, links) == (line, 0)


@example(line="%s{}")
@given(line=st.text(alphabet="a1 {}%s.:ö"))
def test_restoring_a_copied_line_changes_spaces_only(line: str) -> None:
    found = mask_line(line, ALL_KINDS)
    text, num_lost = found.restore(found.text)
    assert num_lost == 0
    assert text.replace(" ", "") == line.replace(" ", "")


@pytest.mark.parametrize(
    ("line", "text", "words"),
    [
        ("a <b>red</b> dog", "a red dog", [1, 2]),
        ("<p>a dog</p>", "a dog", [0, 2]),
        ("one<br/>two", "one two", [1]),
        ("hel<i>lo</i> you", "hello you", [1, 1]),
        ("a <!-- no --> b", "a b", [1]),
        ("a < b > c", "a < b > c", []),
        ("a<b and c>d", "a<b and c>d", []),
        ("if x<y or z >3", "if x<y or z >3", []),
        ("<a title=\"x > y\" href='<z>'>dog</a>", "dog", [0, 1]),
        ('a <input type="x" disabled/> b', "a b", [1]),
        ("a <option selected>b</option>", "a b", [1, 2]),
        ("a <img src=/a/b.png alt=x/> b", "a b", [1]),
        ("mail <me@a.org> now", "mail <me@a.org> now", []),
    ],
)
def test_tags_are_extracted(line: str, text: str, words: list[int]) -> None:
    found, tags = extract_tags(line)
    assert found == text
    assert [tag.word for tag in tags] == words


@pytest.mark.parametrize(
    ("line", "text", "links", "expected"),
    [
        ("a <b>red</b> dog", "ein roter Hund", [(0, 0), (1, 1), (2, 2)],
         "ein <b>roter</b> Hund"),
        ("<b>red</b> dog", "Hund roter", [(0, 1), (1, 0)], "Hund <b>roter</b>"),
        ("<p>a <i>red dog</i>.</p>", "ein roter Hund.", [(0, 0), (1, 1), (2, 2)],
         "<p>ein <i>roter Hund</i>.</p>"),
        ("one<br/>two", "eins zwei", [(0, 0), (1, 1)], "eins<br/>zwei"),
        ("a <x/> b", "c d", [(0, 0), (1, 1)], "c <x/> d"),
        ("a <b>", "c", [(0, 0)], "c <b>"),
        ("a <b>b</b> c", "d", [(0, 0)], "d <b></b>"),
    ],
)  # fmt: skip
def test_tags_enclose_the_words_aligned_with_their_content(
    line: str, text: str, links: list[tuple[int, int]], expected: str
) -> None:
    _, tags = extract_tags(line)
    assert insert_tags(text, tags, links) == expected


parts = st.sampled_from(["a", " ", "bc", "<b>", "</b>", "<i>", "</i>", "<br/>", "."])
pairs = st.tuples(st.integers(0, 4), st.integers(0, 2))


@given(line=st.lists(parts, max_size=12).map("".join), links=st.lists(pairs, max_size=4))
def test_no_tag_is_lost_and_no_word_changes(line: str, links: list[tuple[int, int]]) -> None:
    text, tags = extract_tags(line)
    assert "".join(text.split()) == re.sub(r"<.*?>| ", "", line)
    written = insert_tags("x y z", tags, links)
    assert sorted(tag.text for tag in extract_tags(written)[1]) == sorted(tag.text for tag in tags)
    assert "".join(extract_tags(written)[0].split()) == "xyz"
