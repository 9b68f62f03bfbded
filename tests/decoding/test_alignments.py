import torch

from nmt.decoding import alignments
from nmt.decoding.token_text import Spelling
from nmt.decoding.translation import Candidate, Translation, join, nothing


def translation(looks: list[list[float]], words: list[int], src_words: list[int]) -> Translation:
    pieces = ["x"] * len(words)
    best = Candidate("t", -1.0, pieces, [0.0] * len(words), True, torch.tensor(looks), words)
    return Translation(["s"] * len(src_words), [best], src_words)


CROSSED = translation(
    [[0.1, 0.2, 0.6, 0.1], [0.2, 0.2, 0.5, 0.1], [0.3, 0.3, 0.3, 0.1], [0.0, 0.0, 0.0, 1.0]],
    words=[0, 0, 1, -1],
    src_words=[0, 0, 1, -1],
)


def test_a_word_looks_as_its_pieces_do() -> None:
    assert alignments.hard(CROSSED, CROSSED.best) == "0-1 1-0"
    assert alignments.soft(CROSSED, CROSSED.best) == "0.3500,0.5500 0.6000,0.3000"


def test_parts_of_a_line_look_at_their_own_source() -> None:
    joined = join([CROSSED, CROSSED])
    assert joined.num_parts == 2
    assert alignments.hard(joined, joined.best) == "0-1 1-0 2-3 3-2"


def test_a_blank_line_has_no_alignment() -> None:
    blank = Translation([], [nothing()], [])
    assert alignments.hard(blank, blank.best) == alignments.soft(blank, blank.best) == ""


def test_words_are_what_spaces_part() -> None:
    spelling = Spelling([b"", b"", b"", b" ein", b"e", b" ", b"."])
    assert spelling.words([3, 4, 5, 4, 6, 3, 2]) == [0, 0, -1, 1, 1, 2, -1]
