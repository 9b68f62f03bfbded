"""Constraints in scripts without spaces, on a model that copies its source."""

import pytest
from test_translator import CopyModel, Queue, experiment
from torch import Tensor, nn

from nmt.config.corpus import SubwordConfig
from nmt.corpus.subword import Subword
from nmt.decoding.constraints import contains_phrase
from nmt.decoding.requests import Request
from nmt.decoding.torch_engine import TorchEngine
from nmt.decoding.translator import Translator

LINES = ["我在北京大学学习。", "我看见了他。", "看见", "他在公园里。", "กำแพงสูง", "a b 1 2"] * 3
SUBWORD = Subword.train(LINES, SubwordConfig(vocab_size=340))


class Copying(CopyModel):
    """Copies its source with some probability for every other token."""

    def step(self, tokens: Tensor, state: Queue, memory: Queue) -> tuple[Tensor, Queue, Tensor]:
        logits = 8 * nn.functional.one_hot(state.rows[:, 0], SUBWORD.num_pieces).float()
        return logits, Queue(state.rows.roll(-1, dims=1)), Tensor(state.rows.shape).fill_(1)


def translate(text: str, **constraints: tuple[str, ...]) -> str:
    [found] = Translator(TorchEngine([Copying()]), SUBWORD, experiment(beam=4)).translate(
        [Request(text, **constraints)]  # type: ignore[arg-type]
    )
    return found


@pytest.mark.parametrize("line", [*LINES[:4], "他看见公园", "看见看见", "在北京看见他"])
@pytest.mark.parametrize("avoid", ["看见", "公园", "北京", "我"])
def test_words_are_avoided_inside_unspaced_text(line: str, avoid: str) -> None:
    assert translate(line) == line
    assert avoid not in translate(line, avoid=(avoid,))


def test_avoiding_a_letter_allows_it_with_marks() -> None:
    assert translate("กำแพงสูง", avoid=("ส",)) == "กำแพงสูง"


@pytest.mark.parametrize("term", ["公园", "北京大学", "看见", "12"])
def test_a_term_gains_no_space_in_unspaced_text(term: str) -> None:
    found = translate("我在学习。", constraints=(term,))
    assert term in found
    assert " " not in found.removesuffix(" 12")


def test_a_term_within_a_longer_token_is_met() -> None:
    assert translate("我看见了他。", constraints=("看见",)) == "我看见了他。"


@pytest.mark.parametrize(
    ("text", "phrase", "expected"),
    [
        ("我在北京大学学习", "北京大学", True),
        ("a big dog", "dog", True),
        ("dogs dog", "dog", True),
        ("hotdogs", "dog", False),
        ("我用iPhone打", "iPhone", True),
        ("cafẹ", "cafe", False),
        ("กำ", "ก", False),
        ("កម្ពុជា", "កម", False),
        ("看23吧", "23", True),
        ("a23", "23", False),
    ],
)
def test_phrases_are_found_as_whole_words(text: str, phrase: str, expected: bool) -> None:
    assert contains_phrase(text, phrase) is expected
