from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from nmt.decoding.output_formats import OutputCounts, format_translation
from nmt.decoding.requests import Request
from nmt.decoding.translation import (
    NO_GAP,
    Candidate,
    Translation,
    WordAttention,
    replace_invalid,
    split_words,
    word_indices,
)

ATTENTION = np.array(
    [[0.1, 0.2, 0.6, 0.1], [0.2, 0.2, 0.5, 0.1], [0.3, 0.3, 0.3, 0.1], [0.0, 0.0, 0.0, 1.0]],
    np.float32,
)
WORDS = WordAttention.between(ATTENTION, [0, 0, 1, -1], [0, 0, 1, -1], num_src_words=2)
CROSSED = Translation(
    ["s"] * 4,
    [Candidate("t u", -1.0, ["x"] * 4, [0.0] * 4, attentions=(ATTENTION,), words=WORDS)],
)


def formatted(form: str, translation: Translation) -> str:
    return format_translation(form, Request("s"), translation, 0, len(translation.n_best))


def test_word_attention_is_mean_over_target_sum_over_source() -> None:
    assert WORDS.matrix().tolist() == [pytest.approx([0.35, 0.55]), pytest.approx([0.6, 0.3])]


def test_each_target_word_is_aligned_with_its_most_attended() -> None:
    assert CROSSED.alignment == CROSSED.best.alignment == [(0, 1), (1, 0)]
    assert WordAttention([], [], 3).alignment() == []
    empty = WordAttention.between(np.zeros((1, 1)), [0], [-1], 0)
    assert (empty.alignment(), empty.matrix().shape) == ([], (1, 0))


def test_alignment_formats() -> None:
    assert formatted("pharaoh", CROSSED) == "t u ||| 0-1 1-0\n"
    assert formatted("soft", CROSSED) == "t u ||| 0.3500,0.5500 0.6000,0.3000\n"


def test_segments_of_a_line_attend_to_their_own_source() -> None:
    first, second = (
        replace(CROSSED.best, words=WordAttention(WORDS.rows, [start] * 2, 4)) for start in (0, 2)
    )
    parts = [replace(CROSSED, n_best=[candidate]) for candidate in (first, second)]
    joined = Translation.join(parts, [NO_GAP] * 2)
    assert joined.num_segments == 2
    assert joined.alignment == [(0, 1), (1, 0), (2, 3), (3, 2)]
    assert joined.best.attentions is not None
    # A line of 512 segments kept 9 GB of zeros.
    assert all(each is ATTENTION for each in joined.best.attentions)
    assert joined.best.attention is not None
    assert np.array_equal(joined.best.attention[4:, 4:], ATTENTION)
    assert not joined.best.attention[:4, 4:].any()
    assert joined.best.word_attention is not None
    assert np.array_equal(joined.best.word_attention, np.kron(np.eye(2), WORDS.matrix()))


def test_word_attention_of_a_long_line_is_kept_by_segment() -> None:
    """A line of 50,000 characters took 1.4 GB."""
    num = 8192
    parts = [
        WordAttention.between(np.eye(2), [0, 1], [start, start + 1], num)
        for start in range(0, num, 2)
    ]
    joined = WordAttention.join(parts, range(num))
    assert sum(row.nbytes for row in joined.rows) == 2 * 8 * num
    assert joined.alignment() == [(word, word) for word in range(num)]


def test_word_across_segments_gets_their_mean() -> None:
    parts = [WordAttention([np.array([1.0, 3.0])], [0], 4), WordAttention([np.ones(1)], [3], 4)]
    assert WordAttention.join(parts, [0, 0]).matrix().tolist() == [[0.5, 1.5, 0.0, 0.5]]


def test_a_segment_without_attention_leaves_the_line_without() -> None:
    plain = Translation(["s"], [Candidate("t", -2.0, ["x"], [-2.0])])
    joined = Translation.join([CROSSED, plain], [NO_GAP] * 2)
    assert (joined.text, joined.score, joined.alignment) == ("t u t", -1.5, None)
    assert (joined.tokens, joined.best.attention) == (["x"] * 5, None)


def test_a_translation_without_attention_has_no_alignment() -> None:
    plain = Translation([], [Candidate("", 0.0, [], [])])
    assert plain.alignment is None
    assert formatted("pharaoh", plain) == formatted("soft", plain) == " |||\n"


def test_a_separator_in_the_text_is_escaped() -> None:
    best = Candidate("a ||| b", 0.0, [], [], words=WordAttention(list(np.eye(3)), [0] * 3, 3))
    found = Translation([], [best])
    assert formatted("pharaoh", found) == "a &#124;&#124;&#124; b ||| 0-0 1-1 2-2\n"
    assert formatted("soft", found).startswith("a &#124;&#124;&#124; b ||| 1.0000,0.0000")


@pytest.mark.parametrize(
    ("tokens", "text", "indices"),
    [
        ([b" ein", b"e", b" ", b"e", b".", b" ein", b""], "eine e. ein", [0, 0, -1, 1, 1, 2, -1]),
        # The model reads "a big dog" where the line has two words.
        ([b" a", b" big", b" dog"], "a bigdog", [0, 1, 1]),
        ([b" a", b"b"], "a b", [0, 1]),
        (["ä".encode()[:1], "ä".encode()[1:], b" b"], "ä b", [0, 0, 1]),
        ([b" a", b"\xff"], "a", [0, 0]),
    ],
)
def test_a_token_belongs_to_the_word_of_its_bytes(
    tokens: list[bytes], text: str, indices: list[int]
) -> None:
    assert word_indices(tokens, split_words(text)) == indices


@pytest.mark.parametrize(
    ("tokens", "indices"),
    [
        ([b" a\xff", b" b", b" c", b""], [0, 1, 2, -1]),
        ([b"\xff", b"\xfe", b" b", b" c"], [0, 0, 1, 2]),
        ([b" a", b"\xe2\x82", b" b", b" \xe2\x82\xac"], [0, 0, 1, 2]),
        ([b" a\xf0", b"\x9f", b"\x98", b"z", b" b"], [0, -1, -1, 0, 1]),
    ],
)
def test_words_after_invalid_bytes_keep_their_tokens(
    tokens: list[bytes], indices: list[int]
) -> None:
    text = b"".join(tokens).decode(errors="replace").strip()
    assert word_indices(replace_invalid(tokens), split_words(text)) == indices


@pytest.mark.parametrize(
    ("counts", "summary"),
    [
        ({}, ""),
        ({"num_missing_terms": 2}, "terms missing 2"),
        ({"num_unsaid": 3}, "terms missing 3"),
        ({"num_unsaid": 3, "num_missing_terms": 2, "num_cut": 1},
         "long lines split at sentence ends 1 | terms missing 5"),
    ],
)  # fmt: skip
def test_counts_of_earlier_versions_are_read(counts: dict[str, int], summary: str) -> None:
    assert OutputCounts.of_chunks(counts).summary() == summary


@given(st.lists(st.binary(max_size=4), max_size=6))
def test_invalid_bytes_are_replaced_as_in_the_text(tokens: list[bytes]) -> None:
    assert b"".join(replace_invalid(tokens)).decode() == b"".join(tokens).decode(errors="replace")
