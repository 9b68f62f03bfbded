import pytest
from hypothesis import given
from hypothesis import strategies as st

from nmt.decoding.preprocess import split_sentences


def words(text: str) -> int:
    return len(text.split())


@pytest.mark.parametrize(
    ("text", "limit", "segments"),
    [
        ("A b. C d! E?", 4, ["A b. C d!", "E?"]),
        ("A b. C d! E?", 2, ["A b.", "C d!", "E?"]),
        ("A b c d e. F", 2, ["A b c d e.", "F"]),
        ("„A.“ B", 1, ["„A.“", "B"]),
        ("a。b！c", 1, ["a。", "b！", "c"]),
        ("no end at all", 1, ["no end at all"]),
        ("3.5 a", 1, ["3.5 a"]),
    ],
)
def test_long_lines_are_split_at_sentence_ends(text: str, limit: int, segments: list[str]) -> None:
    assert split_sentences(text, limit, words) == segments


@given(text=st.text(alphabet="ab.!“ ", min_size=1), limit=st.integers(1, 9))
def test_splitting_loses_no_character(text: str, limit: int) -> None:
    """Line in, line out (nmt/README.md, Guarantees)."""
    assert "".join(split_sentences(text, limit, words)).replace(" ", "") == text.replace(" ", "")
