import random
from collections.abc import Iterator

import pytest
import torch
from torch import Tensor, nn

from nmt.config.corpus import SubwordConfig
from nmt.config.experiment import Experiment, ModelConfig
from nmt.corpus.subword import EOS, FIRST_BYTE, Subword
from nmt.decoding import translator
from nmt.decoding.translation import Translation
from nmt.decoding.translator import Translator, plan_batches
from nmt.errors import ConfigError
from nmt.model import seq2seq

LINES = ["ein Haus", "zwei alte Häuser am Fluss", "das Haus", "ja", "ein alter Baum am Haus"]
SUBWORD = Subword.train(LINES, SubwordConfig(vocab_size=300))


class Said:
    """Memory and state of the models below: what each row is to say from now on."""

    def __init__(self, rows: Tensor) -> None:
        self.rows = rows

    def select(self, rows: Tensor) -> "Said":
        return Said(self.rows.index_select(0, rows))


class Parrot(nn.Module):
    """Says what it reads, token by token."""

    def __init__(self) -> None:
        super().__init__()
        self.batches: list[tuple[int, ...]] = []

    def encode(self, src: Tensor, src_lengths: Tensor) -> Said:
        self.batches.append(tuple(src.shape))
        return Said(src)

    def start(self, memory: Said, beam: int) -> Said:
        return Said(memory.rows.repeat_interleave(beam, dim=0))

    def step(self, tokens: Tensor, state: Said, memory: Said) -> tuple[Tensor, Said, Tensor]:
        logits = 20 * nn.functional.one_hot(state.rows[:, 0], SUBWORD.num_pieces).float()
        return logits, Said(state.rows.roll(-1, dims=1)), torch.ones_like(state.rows).float()


class Stubborn(Parrot):
    """Says the same whatever it reads."""

    def __init__(self, tokens: list[int]) -> None:
        super().__init__()
        self.tokens = torch.tensor(tokens)

    def encode(self, src: Tensor, src_lengths: Tensor) -> Said:
        return super().encode(self.tokens.repeat(len(src), 1), src_lengths)


def experiment(cleaning: dict[str, bool] | None = None, **decoding: float) -> Experiment:
    text = {"name": "text", "src": "a", "tgt": "b"}
    corpus = {"train": [text], "dev": text, "cleaning": cleaning or {}}
    return Experiment.model_validate({"name": "test", "corpus": corpus, "decoding": decoding})


def parrot(**decoding: float) -> Translator:
    return Translator(Parrot(), SUBWORD, experiment(**decoding))


def texts(translations: Iterator[Translation]) -> list[str]:
    return [translation.text for translation in translations]


@pytest.mark.parametrize("beam", [1, 3])
@pytest.mark.parametrize("batch_sentences", [1, 2, 64])
def test_lines_come_out_in_the_order_they_went_in(beam: int, batch_sentences: int) -> None:
    """P6."""
    lines = [f"{'Haus ' * (n * 7 % 11)}{n}" for n in range(200)]
    assert texts(parrot(beam=beam, batch_sentences=batch_sentences).translate(lines)) == lines


def test_a_blank_line_stays_blank_and_never_reaches_the_model() -> None:
    """P6."""
    ours = parrot()
    lines = ["", "ja", "  ", "\t\u200b", "\u3000", ""]
    translations = list(ours.translate(lines))
    assert [translation.text for translation in translations] == ["", "ja", "", "", "", ""]
    assert [shape[0] for shape in ours.model.batches] == [4]
    assert translations[0].score == 0.0
    assert translations[0].best.pieces == translations[0].src_pieces == []


def test_blank_lines_alone_give_as_many_blank_lines() -> None:
    """P6."""
    assert texts(parrot().translate(["", " "])) == ["", ""]


def test_no_lines_give_no_lines() -> None:
    """P6."""
    assert texts(parrot().translate([])) == []


@pytest.mark.parametrize("cleaning", [True, False])
def test_a_line_feed_that_the_model_says_does_not_break_the_line(cleaning: bool) -> None:
    """P6."""
    ja = SUBWORD.encode("ja")
    breaks = [FIRST_BYTE + 13, FIRST_BYTE + 10]
    rules = {"control_characters": cleaning}
    ours = Translator(Stubborn([*ja, *breaks, *ja, EOS]), SUBWORD, experiment(rules))
    (text,) = texts(ours.translate(["ein Haus"]))
    assert text.split() == ["ja", "ja"]
    assert not {"\r", "\n"} & set(text)


def test_lines_are_mended_like_those_of_training() -> None:
    """P6."""
    assert texts(parrot().translate(["ein\tHa\u0308user\x07 am\u2028Fluss "])) == [
        "ein Häuser am Fluss"
    ]


def test_it_reads_no_further_than_its_window(monkeypatch: pytest.MonkeyPatch) -> None:
    """P6: a file of any size streams."""
    monkeypatch.setattr(translator, "WINDOW_BATCHES", 3)
    num_read = 0

    def endless() -> Iterator[str]:
        nonlocal num_read
        while True:
            num_read += 1
            yield f"Haus {num_read}"

    stream = parrot(batch_sentences=4).translate(endless())
    assert num_read == 0
    assert next(stream).text == "Haus 1"
    assert num_read == 12
    assert [next(stream).text for _ in range(12)][-1] == "Haus 13"
    assert num_read == 24


def test_in_windows_of_one_line_each_is_answered_before_the_next_is_read() -> None:
    """P6."""
    lines = iter(["ja", "das Haus", "ein Haus"])
    stream = parrot().translate(lines, window_lines=1)
    assert next(stream).text == "ja"
    assert next(lines) == "das Haus"


def test_a_window_of_long_lines_is_closed_early(monkeypatch: pytest.MonkeyPatch) -> None:
    """P6: a file of any size streams."""
    monkeypatch.setattr(translator, "WINDOW_CHARS", 50)
    lines = iter(["Haus " * 20, "ja", "ja"])
    next(parrot().translate(lines))
    assert list(lines) == ["ja", "ja"]


def test_long_lines_come_in_small_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    """P6."""
    monkeypatch.setattr(translator, "BATCH_TOKENS", 200)
    ours = parrot(beam=2)
    lines = ["Haus " * 99 + "ja", *["Fluss " * 9 + "ja"] * 8, "ja"]
    assert texts(ours.translate(lines)) == lines
    assert all(rows == 4 or rows * width <= 200 for rows, width in ours.model.batches)
    assert len(ours.model.batches) > 3


def test_a_line_far_longer_than_any_of_training_is_translated() -> None:
    """P6."""
    (translation,) = real(beam=2, max_length_ratio=0.01).translate(["Haus " * 1000])
    assert len(translation.src_pieces) > 1000
    assert translation.text


def test_progress_counts_every_line_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(translator, "WINDOW_BATCHES", 2)
    counts: list[int] = []
    lines = ["ja", "", "das Haus", "ja", "ja", " ", "ja"]
    list(parrot(batch_sentences=2).translate(lines, progress=counts.append))
    assert counts == [3, 4, 7]


def test_candidates_carry_pieces_scores_and_attention() -> None:
    ours = real(beam=4, max_length_extra=3)
    (translation,) = ours.translate(["ein alter Baum"], num_best=3, with_attention=True)
    assert len(translation.n_best) == 3
    assert translation.best is translation.n_best[0]
    assert translation.src_pieces == [*SUBWORD.pieces(SUBWORD.encode("ein alter Baum")), "</s>"]
    for candidate in translation.n_best:
        assert len(candidate.token_scores) == len(candidate.pieces)
        assert candidate.attention is not None
        assert candidate.attention.shape == (len(candidate.pieces), len(translation.src_pieces))
        assert candidate.is_finished == (candidate.pieces[-1] == "</s>")
        penalty = (5 + len(candidate.pieces)) / 6
        assert candidate.score == pytest.approx(sum(candidate.token_scores) / penalty)


def test_more_candidates_than_the_beam_holds_are_refused() -> None:
    """P9."""
    with pytest.raises(ConfigError) as caught:
        parrot(beam=4).translate(["ja"], num_best=5)
    assert str(caught.value) == (
        "the number of candidates for each line is 5, but 1 to decoding.beam (4) can be had; "
        "set decoding.beam higher"
    )


def test_a_model_that_was_training_is_put_into_eval_mode() -> None:
    ours = real()
    ours.model.train()
    list(ours.translate(["ja"]))
    assert not ours.model.training


@pytest.mark.parametrize("beam", [1, 5])
def test_a_line_is_translated_the_same_in_any_company(beam: int) -> None:
    """P7."""
    words = ["ein", "zwei", "alte", "alter", "Haus", "Häuser", "Baum", "am", "Fluss", "ja"]
    shuffle = random.Random(7)
    lines = [" ".join(shuffle.choices(words, k=1 + n % 23)) for n in range(40)]
    shuffled = shuffle.sample(lines, len(lines))
    outcomes = []
    for batch_sentences, order in [(64, lines), (1, lines), (7, lines), (7, shuffled)]:
        ours = real(beam=beam, batch_sentences=batch_sentences, max_length_ratio=0.3)
        translations = ours.translate(order, num_best=beam)
        outcomes.append({line: facts(t) for line, t in zip(order, translations, strict=True)})
    assert all(outcome == outcomes[0] for outcome in outcomes)


def facts(translation: Translation) -> list[tuple[str, float, list[float]]]:
    return [(each.text, each.score, each.token_scores) for each in translation.n_best]


def real(**decoding: float) -> Translator:
    torch.manual_seed(8)
    config = ModelConfig(width=32, encoder_layers=2, decoder_layers=2, ffn_width=48)
    model = seq2seq.Seq2Seq(config, SUBWORD.num_pieces)
    return Translator(model, SUBWORD, experiment(**decoding))


def test_every_sentence_is_in_one_batch_of_its_own_width() -> None:
    lengths = [1 + (index * 37) % 50 for index in range(300)]
    batches = list(plan_batches(range(0, 300, 2), lengths, max_sentences=16))
    assert sorted(index for batch in batches for index in batch) == list(range(0, 300, 2))
    for batch in batches:
        assert len(batch) <= 16
        assert len({-(-lengths[index] // 16) for index in batch}) == 1
    assert batches[0][0] == max(range(0, 300, 2), key=lengths.__getitem__)
