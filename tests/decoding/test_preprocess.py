import time
import unicodedata
from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nmt.config.corpus import SubwordConfig
from nmt.config.decoding import Protected
from nmt.config.experiment import Experiment
from nmt.corpus.subword import CASE_MARKS, EOS, Subword
from nmt.decoding.placeholders import hide_spans
from nmt.decoding.preprocess import LinePart, Preprocessor, split_line
from nmt.decoding.requests import Glossary, Request
from nmt.decoding.translation import Candidate, Gap, Translation
from nmt.errors import DataError


def words(text: str) -> int:
    return len(text.split())


def split(text: str, limit: int, kinds: Sequence[Protected] = ()) -> list[LinePart]:
    return list(split_line(text, hide_spans(text, kinds), limit, words))


def make_preprocessor(**settings: Any) -> Preprocessor:
    subword = Subword.train(["one two three. four"] * 9, SubwordConfig(vocab_size=300))
    text = {"name": "text", "src": "a", "tgt": "b"}
    corpus = {"src": "en", "tgt": "de", "train": [text], "dev": text}
    config = Experiment.model_validate({"name": "test", "corpus": corpus, **settings})
    return Preprocessor(subword, config)


@pytest.mark.parametrize(
    ("limit", "parts"),
    [
        (9, ["One two three four, five six seven eight nine."]),
        (8, ["One two three four,", "five six seven", "eight nine."]),
        (4, ["One two", "three four,", "five", "six seven", "eight nine."]),
    ],
)
def test_long_sentences_are_cut_at_the_limit(limit: int, parts: list[str]) -> None:
    found = split("One two three four, five six seven eight nine. Ten.", limit)
    assert [part.text for part in found] == [*parts, "Ten."]
    assert [part.is_cut for part in found] == [True] * (len(parts) - 1) + [False, False]
    assert not any(part.is_copied for part in found)


def test_each_part_of_a_long_line_has_its_case_mark() -> None:
    settings = {"training": {"robust": True}, "decoding": {"max_source_length": 15}}
    preprocessor = make_preprocessor(**settings)
    subword = preprocessor.subword
    found = list(preprocessor.segments([Request("ONE TWO THREE. One two. Three Four.")]))
    assert [segment.source for segment in found] == [
        [CASE_MARKS["upper"], *subword.encode("one two three."), EOS],
        [*subword.encode("One two."), EOS],
        [CASE_MARKS["title"], *subword.encode("three four."), EOS],
    ]
    assert [{*segment.src_words} for segment in found] == [{-1, 0, 1, 2}, {-1, 3, 4}, {-1, 5, 6}]


def test_parts_of_a_long_line_have_their_own_glossary_terms() -> None:
    preprocessor = make_preprocessor(decoding={"max_source_length": 8, "protect": ["urls"]})
    subword, cleaning = preprocessor.subword, preprocessor.cleaning
    glossary = Glossary({"one": "four", "two": "three two"}, cleaning, ["urls"])
    line = "One two three. Three at www.two.one now. Then one two four. A two."

    def terms(request: Request) -> list[list[str]]:
        return [
            [subword.decode(term) for term in segment.constraints.terms[: segment.num_terms]]
            if segment.constraints else []
            for segment in preprocessor.segments([glossary.apply(request)])
        ]  # fmt: skip

    assert terms(Request(line)) == [["three two"], [], ["four", "three two"], ["three two"]]
    # A requested term can belong to any part.
    assert terms(Request(line, constraints=("one",))) == [["one", "three two", "four"]]
    # No term is cut.
    glossary = Glossary({"two. A": "four"}, cleaning)
    assert terms(Request(f"{line} one two. A three.")) == [[], [], [], ["four"]]


@pytest.mark.parametrize(("max_source_length", "limit"), [(8, 256), (40, 320), (0, 1024)])
def test_a_line_with_constraints_has_a_limit(max_source_length: int, limit: int) -> None:
    """Actionable errors (nmt/README.md, Guarantees)."""
    preprocessor = make_preprocessor(decoding={"max_source_length": max_source_length})

    def num_segments(num_tokens: int, **constraints: Any) -> int:
        text = " ".join(["one"] * (num_tokens - 1))
        return len(list(preprocessor.segments([Request(text, where="line 3", **constraints)])))

    assert num_segments(limit, constraints=("two",)) == 1
    with pytest.raises(DataError) as error:
        num_segments(limit + 1, constraints=("two",))
    assert str(error.value) == (
        f"line 3: {limit + 1:,} tokens, but a line with constraints can have at most {limit:,}: "
        "split it, or increase decoding.max_source_length"
    )
    # Other lines are split.
    for other in ({}, {"avoid": ("two",)}, {"target_prefix": "two"}):
        assert num_segments(limit + 1, **other) > 1
    glossary = {"constraints": ("two",), "glossary": (("one", "two"),)}
    assert num_segments(limit + 1, **glossary) > 1


@pytest.mark.parametrize("sentence", ["One two. ", "one, ", "\u4e00\u3002"])
def test_words_of_a_long_line_take_linear_time(sentence: str) -> None:
    preprocessor = make_preprocessor(decoding={"max_source_length": 8})
    line = sentence * 8000
    started = time.process_time()
    segments = list(preprocessor.segments([Request(line)]))
    # Quadratic: 10 s or more.
    assert time.process_time() - started < 5
    words = [word for segment in segments for word in segment.src_words if word >= 0]
    assert sorted(set(words)) == list(range(len(line.split())))
    assert words == sorted(words)


def test_scripts_without_spaces_are_cut_between_letters() -> None:
    text = "\u0e01\u0e34" * 50
    parts = list(split_line(text, text, 16, len))
    assert "".join(part.text for part in parts) == text
    assert max(len(part.text) for part in parts) <= 16
    assert not any(unicodedata.category(part.text[0]) == "Mn" for part in parts)


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("a" * 40, ["a" * 40]),
        # Punctuation without white space, as in numbers and addresses, is no place to cut.
        ("1,2;3:4," * 5, ["1,2;3:4," * 5]),
        (f"See {'a' * 40}: yes. No.", ["See", f"{'a' * 40}:", "yes.", "No."]),
        (f"看{'a' * 40}，好", ["看", f"{'a' * 40}，", "好"]),
        ("\u0e01" + "\u0e34" * 40, ["\u0e01" + "\u0e34" * 40]),
    ],
)
def test_what_cannot_be_cut_is_copied(text: str, parts: list[str]) -> None:
    found = list(split_line(text, text, 9, len))
    assert [part.text for part in found] == parts
    assert [part.is_copied for part in found] == [len(part) > 9 for part in parts]


def test_no_cut_is_inside_a_protected_span() -> None:
    spans = ["{count, plural, one {# dog. The} other {# dogs}}", "<a title='b. C d e'>two</a>"]
    parts = split(f"one {spans[0]} two {spans[1]} three", 2, ["placeholders", "tags"])
    assert [part.text for part in parts] == ["one", spans[0], "two", spans[1], "three"]


@given(text=st.text(alphabet="abÄ.!?,“「」。 \u0301\u0e01{}", min_size=1), limit=st.integers(1, 9))
def test_splitting_loses_no_character(text: str, limit: int) -> None:
    """Line in, line out (nmt/README.md, Guarantees)."""
    for kinds in ((), ("placeholders",)):
        assert "".join(part.text + part.gap for part in split(text, limit, kinds)) == text


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
        # Cuts: between words of a script without spaces, beside a word in it, between words.
        ([("แมว", "", True)], ["a cat", "sleeps"], "a cat sleeps"),
        ([("abc", "", True)], ["abc", "a cat"], "abc a cat"),
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
