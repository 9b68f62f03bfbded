import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nmt.config.corpus import SubwordConfig
from nmt.config.experiment import Experiment
from nmt.corpus.subword import CASE_MARKS, EOS, Subword
from nmt.decoding.preprocess import Preprocessor, split_line
from nmt.decoding.requests import Request
from nmt.decoding.translation import Candidate, Gap, Translation


def words(text: str) -> int:
    return len(text.split())


def parts_of(text: str, limit: int = 100) -> list[str]:
    return [part for part, _, _ in split_line(text, limit, words)]


@pytest.mark.parametrize(
    ("limit", "parts"),
    [
        (9, ["One two three four, five six seven eight nine."]),
        (8, ["One two three four,", "five six seven eight nine."]),
        (2, ["One two", "three four,", "five", "six seven", "eight nine."]),
    ],
)
def test_long_sentences_are_cut_at_the_limit(limit: int, parts: list[str]) -> None:
    found = list(split_line("One two three four, five six seven eight nine. Ten.", limit, words))
    assert [part for part, _, _ in found] == [*parts, "Ten."]
    assert [is_cut for _, _, is_cut in found] == [True] * (len(parts) - 1) + [False, False]


def test_each_part_of_a_long_line_has_its_case_mark() -> None:
    subword = Subword.train(["one two three. four"] * 9, SubwordConfig(vocab_size=300))
    text = {"name": "text", "src": "a", "tgt": "b"}
    corpus = {"src": "en", "tgt": "de", "train": [text], "dev": text}
    settings = {"training": {"robust": True}, "decoding": {"max_source_length": 15}}
    config = Experiment.model_validate({"name": "test", "corpus": corpus, **settings})
    request = Request("ONE TWO THREE. One two. Three Four.")
    found = list(Preprocessor(subword, config).segments([request]))
    assert [segment.source for segment in found] == [
        [CASE_MARKS["upper"], *subword.encode("one two three."), EOS],
        [*subword.encode("One two."), EOS],
        [CASE_MARKS["title"], *subword.encode("three four."), EOS],
    ]
    assert [{*segment.src_words} for segment in found] == [{-1, 0, 1, 2}, {-1, 3, 4}, {-1, 5, 6}]


def test_a_text_without_spaces_is_cut_between_letters() -> None:
    text = "e\u0301" * 50
    parts = [part for part, _, _ in split_line(text, 16, len)]
    assert "".join(parts) == text
    assert max(map(len, parts)) <= 16
    assert not any(unicodedata.combining(part[0]) for part in parts)


@given(text=st.text(alphabet="abÄ.!?“「」。 \u0301", min_size=1), limit=st.integers(1, 9))
def test_splitting_loses_no_character(text: str, limit: int) -> None:
    """Line in, line out (nmt/README.md, Guarantees)."""
    assert "".join(part + gap for part, gap, _ in split_line(text, limit, words)) == text


@pytest.mark.parametrize(
    ("gaps", "texts", "joined"),
    [
        # The white space of the input, if both sides use it in the same way.
        ([("One.", " ", False)], ["Eins.", "Zwei."], "Eins. Zwei."),
        ([("One.", "  ", False)], ["Eins.", "Zwei."], "Eins.  Zwei."),
        ([("一。", "", False)], ["二。", "三。"], "二。三。"),
        ([("一。", " ", False)], ["二。", "三。"], "二。 三。"),
        ([("One.", " ", False)], ["一。", "二。"], "一。二。"),
        ([("一。", "", False)], ["One.", "Two."], "One. Two."),
        ([("है।", "", False)], ["One.", "Two."], "One. Two."),
        # Cuts: inside a word, between words of a script without spaces, between words.
        ([("abc", "", True)], ["abc", "def"], "abcdef"),
        ([("แมว", "", True)], ["a cat", "sleeps"], "a cat sleeps"),
        ([("a cat", " ", True)], ["eine Katze", "schläft"], "eine Katze schläft"),
        ([("One.", " ", False)], ["", "Zwei."], "Zwei."),
    ],
)
def test_segments_are_joined_like_the_input(
    gaps: list[tuple[str, str, bool]], texts: list[str], joined: str
) -> None:
    segments = [Translation([], [Candidate(text, 0.0, [], [])]) for text in texts]
    found = Translation.join(segments, [*(Gap.after(*gap) for gap in gaps), Gap()])
    assert found.text == joined
    assert (found.num_segments, found.num_cuts) == (2, sum(cut for _, _, cut in gaps))
