import pytest
from hypothesis import given
from hypothesis import strategies as st

from nmt.config.decoding import Protected
from nmt.decoding.placeholders import mask

EVERY: tuple[Protected, ...] = ("urls", "tags", "numbers", "placeholders")


@pytest.mark.parametrize(
    ("line", "masked", "parts"),
    [
        ("see https://a.org/b?c=1.", "see 23 .", ["https://a.org/b?c=1"]),
        ("write to me@a-b.org", "write to 23", ["me@a-b.org"]),
        ("hello {name}, %s or %(n)d", "hello 23 , 24 or 25", ["{name}", "%s", "%(n)d"]),
        ("23 &amp; 4", "23 24 4", ["23", "&amp;", "4"]),
        ("1,000 people, 5th of 3.", "1,000 people, 5th of 3.", ["1,000", "3"]),
        ("a < b and 100 % sure", "a < b and 100 % sure", ["100"]),
    ],
)
def test_each_part_has_a_word_in_its_place(line: str, masked: str, parts: list[str]) -> None:
    found = mask(line, EVERY)
    assert found.text == masked
    assert [span.text for span in found.spans] == parts


def test_only_the_kinds_that_are_asked_for_are_masked() -> None:
    assert mask("<b> 5 {x}", ["tags"]).text == "5 {x}"
    assert mask("<b> 5 {x}", ["urls"]).text == "<b> 5 {x}"
    assert mask("<b> 5 {x}", []).text == "<b> 5 {x}"


def test_what_was_masked_comes_back_with_the_spaces_it_had() -> None:
    found = mask("hello {name}!", EVERY)
    assert found.restored("hallo 23 !") == ("hallo {name}!", 0)


def test_what_is_lost_is_counted_and_what_is_said_twice_is_there_once() -> None:
    found = mask("%s 7 {x}", EVERY)
    assert found.restored("23 sieben 23") == ("%s sieben", 2)


@given(line=st.text(alphabet="a1 {}%s.:ö"))
def test_a_line_that_is_copied_comes_back_but_for_spaces(line: str) -> None:
    found = mask(line, EVERY)
    text, num_lost = found.restored(found.text)
    assert num_lost == 0
    assert text.replace(" ", "") == line.replace(" ", "")
