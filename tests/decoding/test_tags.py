import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nmt.decoding.placeholders import put_back, take_out


@pytest.mark.parametrize(
    ("line", "text", "words"),
    [
        ("a <b>red</b> dog", "a red dog", [1, 2]),
        ("<p>a dog</p>", "a dog", [0, 2]),
        ("one<br/>two", "one two", [1]),
        ("hel<i>lo</i> you", "hello you", [1, 1]),
        ("a <!-- no --> b", "a b", [1]),
        ("a < b > c", "a < b > c", []),
    ],
)
def test_tags_are_taken_out(line: str, text: str, words: list[int]) -> None:
    found, tags = take_out(line)
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
def test_tags_are_put_back_around_the_words_that_look_there(
    line: str, text: str, links: list[tuple[int, int]], expected: str
) -> None:
    _, tags = take_out(line)
    assert put_back(text, tags, links) == expected


parts = st.sampled_from(["a", " ", "bc", "<b>", "</b>", "<i>", "</i>", "<br/>", "."])
pairs = st.tuples(st.integers(0, 4), st.integers(0, 2))


@given(line=st.lists(parts, max_size=12).map("".join), links=st.lists(pairs, max_size=4))
def test_no_tag_is_lost_and_no_word_changed(line: str, links: list[tuple[int, int]]) -> None:
    text, tags = take_out(line)
    assert "".join(text.split()) == re.sub(r"<.*?>| ", "", line)
    written = put_back("x y z", tags, links)
    assert sorted(tag.text for tag in take_out(written)[1]) == sorted(tag.text for tag in tags)
    assert "".join(take_out(written)[0].split()) == "xyz"
