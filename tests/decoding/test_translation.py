import pytest
import torch

from nmt.decoding.constraints import TokenText
from nmt.decoding.output_formats import format_translation
from nmt.decoding.requests import Request
from nmt.decoding.translation import Candidate, Translation, hard_alignment, word_attention

ATTENTION = torch.tensor(
    [[0.1, 0.2, 0.6, 0.1], [0.2, 0.2, 0.5, 0.1], [0.3, 0.3, 0.3, 0.1], [0.0, 0.0, 0.0, 1.0]]
)
WORDS = word_attention(ATTENTION, tgt_words=[0, 0, 1, -1], src_words=[0, 0, 1, -1])
CROSSED = Translation(
    ["s"] * 4,
    [Candidate("t", -1.0, ["x"] * 4, [0.0] * 4, attention=ATTENTION, word_attention=WORDS)],
)


def formatted(form: str, translation: Translation) -> str:
    return format_translation(form, Request("s"), translation, 0)


def test_word_attention_is_mean_over_target_sum_over_source() -> None:
    assert WORDS.tolist() == [pytest.approx([0.35, 0.55]), pytest.approx([0.6, 0.3])]


def test_each_target_word_is_aligned_with_its_most_attended() -> None:
    assert CROSSED.alignment == CROSSED.best.alignment == [(0, 1), (1, 0)]
    assert hard_alignment(torch.zeros(0, 3)) == hard_alignment(torch.zeros(3, 0)) == []


def test_alignment_formats() -> None:
    assert formatted("pharaoh", CROSSED) == "t ||| 0-1 1-0\n"
    assert formatted("soft", CROSSED) == "t ||| 0.3500,0.5500 0.6000,0.3000\n"


def test_segments_of_a_line_attend_to_their_own_source() -> None:
    joined = Translation.join([CROSSED, CROSSED])
    assert joined.num_segments == 2
    assert joined.alignment == [(0, 1), (1, 0), (2, 3), (3, 2)]
    assert joined.best.attention is not None
    assert torch.equal(joined.best.attention[4:, 4:], ATTENTION)
    assert joined.best.attention[:4, 4:].count_nonzero() == 0


def test_a_segment_without_attention_leaves_the_line_without() -> None:
    plain = Translation(["s"], [Candidate("t", -2.0, ["x"], [-2.0])])
    joined = Translation.join([CROSSED, plain])
    assert (joined.text, joined.score, joined.alignment) == ("t t", -1.5, None)
    assert (joined.tokens, joined.best.attention) == (["x"] * 5, None)


def test_a_translation_without_attention_has_no_alignment() -> None:
    plain = Translation([], [Candidate("", 0.0, [], [])])
    assert plain.alignment is None
    assert formatted("pharaoh", plain) == formatted("soft", plain) == " |||\n"


def test_words_are_separated_by_spaces() -> None:
    token_text = TokenText([b"", b"", b"", b" ein", b"e", b" ", b"."])
    assert token_text.word_indices([3, 4, 5, 4, 6, 3, 2]) == [0, 0, -1, 1, 1, 2, -1]
