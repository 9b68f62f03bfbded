import math
import random
import re
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from nmt.config.corpus import SubwordConfig
from nmt.config.experiment import Experiment, ModelConfig
from nmt.corpus.subword import EOS, FIRST_BYTE, Subword
from nmt.decoding import interface
from nmt.decoding import translator as translator_module
from nmt.decoding.output_formats import OutputCounts
from nmt.decoding.requests import Request
from nmt.decoding.torch_engine import TorchEngine
from nmt.decoding.translation import Translation
from nmt.decoding.translator import Translator, plan_batches
from nmt.errors import ConfigError, DataError
from nmt.model import seq2seq

LINES = ["ein Haus", "zwei alte Häuser am Fluss", "das Haus", "ja", "ein alter Baum am Haus"]
SUBWORD = Subword.train(LINES, SubwordConfig(vocab_size=300))


class Queue:
    """Memory and state of the models below: tokens that each row has yet to generate."""

    def __init__(self, rows: Tensor) -> None:
        self.rows = rows

    def select(self, rows: Tensor) -> "Queue":
        return Queue(self.rows.index_select(0, rows))


class CopyModel(nn.Module):
    """Copies its source, token by token."""

    def __init__(self) -> None:
        super().__init__()
        self.batches: list[tuple[int, ...]] = []

    def encode(self, src: Tensor, src_lengths: Tensor) -> Queue:
        self.batches.append(tuple(src.shape))
        return Queue(src)

    def start(self, memory: Queue, beam: int) -> Queue:
        return Queue(memory.rows.repeat_interleave(beam, dim=0))

    def step(self, tokens: Tensor, state: Queue, memory: Queue) -> tuple[Tensor, Queue, Tensor]:
        logits = 20 * nn.functional.one_hot(state.rows[:, 0], SUBWORD.num_pieces).float()
        return logits, Queue(state.rows.roll(-1, dims=1)), torch.ones_like(state.rows).float()


class ConstantModel(CopyModel):
    """Generates the same tokens for any source."""

    def __init__(self, tokens: list[int]) -> None:
        super().__init__()
        self.tokens = torch.tensor(tokens)

    def encode(self, src: Tensor, src_lengths: Tensor) -> Queue:
        return super().encode(self.tokens.repeat(len(src), 1), src_lengths)


class MonotoneModel(CopyModel):
    """Copies its source and attends to the token that it copies."""

    def step(self, tokens: Tensor, state: Queue, memory: Queue) -> tuple[Tensor, Queue, Tensor]:
        logits, following, _ = super().step(tokens, state, memory)
        position = (memory.rows[0] == state.rows[0, 0]).float().argmax()
        attention = nn.functional.one_hot(position, state.rows.size(1)).float()
        return logits, following, attention.repeat(len(tokens), 1)


def experiment(cleaning: dict[str, bool] | None = None, **decoding: Any) -> Experiment:
    text = {"name": "text", "src": "a", "tgt": "b"}
    corpus = {"src": "en", "tgt": "de", "train": [text], "dev": text, "cleaning": cleaning or {}}
    return Experiment.model_validate({"name": "test", "corpus": corpus, "decoding": decoding})


def copying(**decoding: Any) -> Translator:
    return Translator(TorchEngine([CopyModel()]), SUBWORD, experiment(**decoding))


def model_of(translator: Translator) -> Any:
    engine = translator.engine
    assert isinstance(engine, TorchEngine)
    return engine.models[0]


@pytest.mark.parametrize("beam", [1, 3])
@pytest.mark.parametrize("batch_sentences", [1, 2, 64])
def test_translations_come_in_the_order_of_the_lines(beam: int, batch_sentences: int) -> None:
    """Line in, line out (nmt/README.md, Guarantees)."""
    lines = [f"{'Haus ' * (n * 7 % 11)}{n}" for n in range(70)]
    assert copying(beam=beam, batch_sentences=batch_sentences).translate(lines) == lines


def test_blank_lines_stay_blank_and_skip_the_model() -> None:
    """Line in, line out (nmt/README.md, Guarantees)."""
    translator = copying()
    lines = ["", "ja", "  ", "\t\u200b", "\u3000", ""]
    translations = translator.translate_detailed(lines)
    assert [translation.text for translation in translations] == ["", "ja", "", "", "", ""]
    assert [shape[0] for shape in model_of(translator).batches] == [4]
    assert translations[0].score == 0.0
    assert translations[0].tokens == translations[0].src_tokens == []
    assert translations[0].alignment == []


def test_only_blank_lines_give_as_many_blank_lines() -> None:
    """Line in, line out (nmt/README.md, Guarantees)."""
    assert copying().translate(["", " "]) == ["", ""]


def test_no_lines_give_no_lines() -> None:
    """Line in, line out (nmt/README.md, Guarantees)."""
    assert copying().translate([]) == []


@pytest.mark.parametrize("cleaning", [True, False])
def test_a_generated_line_feed_does_not_break_the_line(cleaning: bool) -> None:
    """Line in, line out (nmt/README.md, Guarantees)."""
    ja = SUBWORD.encode("ja")
    breaks = [FIRST_BYTE + 13, FIRST_BYTE + 10]
    rules = {"control_characters": cleaning}
    engine = TorchEngine([ConstantModel([*ja, *breaks, *ja, EOS])])
    translator = Translator(engine, SUBWORD, experiment(rules))
    (text,) = translator.translate(["ein Haus"])
    assert text.split() == ["ja", "ja"]
    assert not {"\r", "\n"} & set(text)


@pytest.mark.parametrize(
    ("line", "options"),
    [
        ("ein\nHaus", {}),
        ('<a href="x\ny"></a>', {"protect": ["tags"]}),
        ('<a href="x\ry">ja</a>', {"protect": ["tags"]}),
        ("{{ a\r\nb }}", {"protect": ["placeholders"]}),
        ("Haus" * 60 + "\n", {"max_source_length": 8}),
    ],
)
def test_a_line_feed_of_the_source_does_not_break_the_line(
    line: str, options: dict[str, Any]
) -> None:
    """Line in, line out (nmt/README.md, Guarantees)."""
    config = experiment({"control_characters": False}, beam=1, **options)
    [found] = Translator(TorchEngine([CopyModel()]), SUBWORD, config).translate([line])
    assert found.strip() == re.sub(r"[\r\n]+", " ", line).strip()


def test_lines_are_normalised_like_those_of_training() -> None:
    """Line in, line out (nmt/README.md, Guarantees)."""
    assert copying().translate(["ein\tHa\u0308user\x07 am\u2028Fluss "]) == ["ein Häuser am Fluss"]


def test_a_stream_reads_no_further_than_its_window(monkeypatch: pytest.MonkeyPatch) -> None:
    """Bounded memory (nmt/README.md, Guarantees)."""
    monkeypatch.setattr(translator_module, "WINDOW_BATCHES", 3)
    num_read = 0

    def endless() -> Iterator[str]:
        nonlocal num_read
        while True:
            num_read += 1
            yield f"Haus {num_read}"

    stream = copying(batch_sentences=4).stream(endless())
    assert num_read == 0
    assert next(stream).text == "Haus 1"
    assert num_read == 12
    assert [next(stream).text for _ in range(12)][-1] == "Haus 13"
    assert num_read == 24


def test_a_line_is_answered_before_the_next_one_is_written() -> None:
    """Line in, line out (nmt/README.md, Guarantees)."""
    lines = iter(["ja", None, "das Haus", "ein Haus"])
    stream = copying().stream(lines)
    assert next(stream).text == "ja"
    assert next(lines) == "das Haus"


def test_a_window_of_long_lines_closes_early(monkeypatch: pytest.MonkeyPatch) -> None:
    """Bounded memory (nmt/README.md, Guarantees)."""
    monkeypatch.setattr(translator_module, "WINDOW_CHARS", 50)
    lines = iter(["Haus " * 20, "ja", "ja"])
    next(copying().stream(lines))
    assert list(lines) == ["ja", "ja"]


def test_long_lines_go_in_small_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    """Line in, line out (nmt/README.md, Guarantees)."""
    monkeypatch.setattr(interface, "BATCH_TOKENS", 200)
    translator = copying(beam=2)
    lines = ["Haus " * 99 + "ja", *["Fluss " * 9 + "ja"] * 8, "ja"]
    assert translator.translate(lines) == lines
    assert all(rows == 4 or rows * width <= 200 for rows, width in model_of(translator).batches)
    assert len(model_of(translator).batches) > 3


def test_a_line_far_longer_than_any_of_training() -> None:
    """Line in, line out (nmt/README.md, Guarantees)."""
    translator = random_model(beam=2, max_length_ratio=0.01)
    (translation,) = translator.stream(["Haus " * 1000])
    assert len(translation.src_tokens) > 1000
    assert translation.text


WORD = "Zx" * 40
"""Word of more tokens than the limit below."""


@pytest.mark.parametrize(
    ("line", "links"),
    [
        (WORD, [(0, 0)]),
        (f"ein Haus {WORD} ja. das Haus", [(n, n) for n in range(6)]),
        # Without spaces the words of three segments are one; their translations are not.
        (f"{WORD}\u4e00 ja", [(0, 0), (0, 1), (1, 2)]),
    ],
)
def test_a_word_that_exceeds_the_limit_is_copied(line: str, links: list[tuple[int, int]]) -> None:
    """Line in, line out (nmt/README.md, Guarantees)."""
    config = experiment(beam=2, max_source_length=8, batch_sentences=1)
    translator = Translator(TorchEngine([MonotoneModel()]), SUBWORD, config)
    short, found = translator.translate_detailed(["ja", line], n_best=2)
    assert found.text.replace(" ", "") == line.replace(" ", "")
    assert found.alignment == links
    assert found.num_copied == 1
    assert all(WORD in candidate.text for candidate in found.n_best)
    assert len(found.n_best) == (1 if line == WORD else 2)
    assert found.score == 0 or line != WORD
    counts = OutputCounts()
    for each in (short, found):
        counts.add(each)
    assert "words too long to translate, copied 1" in counts.summary()


def test_a_copied_word_follows_the_prefix_and_is_avoided() -> None:
    translator = copying(max_source_length=8)
    lines = [Request(WORD, target_prefix="das Haus"), Request(WORD, target_prefix=WORD[:9])]
    assert translator.translate(lines) == [f"das Haus {WORD}", WORD]
    [found] = translator.translate_detailed([lines[0]])
    assert found.best.words is not None
    assert [row.tolist() for row in found.best.words.rows] == [[0], [0], [1]]
    [found] = translator.translate_detailed([Request(WORD, avoid=(WORD,))])
    assert (found.text, found.score) == ("", -math.inf)
    spaced = Request(WORD, target_prefix=f"{WORD[:9]} ")
    assert translator.translate([spaced]) == [f"{WORD[:9]} {WORD}"]


@pytest.mark.parametrize(
    "decoding", [{"beam": 1}, {"beam": 4}, {"beam": 4, "diverse_groups": 2}, {"method": "sample"}]
)
@pytest.mark.parametrize("prefix", ["1 ", "ein H\t", "1\u00a0"])
def test_no_word_continues_a_prefix_with_a_space(decoding: Any, prefix: str) -> None:
    requests = [Request("12 ein Haus", target_prefix=prefix), Request("12 ja", target_prefix="1")]
    texts = random_model(**decoding).translate(requests)
    assert re.match(rf"{prefix.strip()}( |$)", texts[0])
    if decoding == {"beam": 4}:
        term = replace(requests[0], constraints=("Haus",))
        [text] = random_model(**decoding).translate([term])
        assert re.match(rf"{prefix.strip()} .*\bHaus\b", text)


def test_a_script_without_spaces_continues_a_prefix() -> None:
    [segment] = copying().preprocessor.segments([Request("ja", target_prefix="我 ")])
    assert segment.constraints is not None
    assert not segment.constraints.has_space_after_prefix


def test_progress_counts_every_line_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(translator_module, "WINDOW_BATCHES", 2)
    counts: list[int] = []
    lines = ["ja", "", "das Haus", "ja", "ja", " ", "ja"]
    copying(batch_sentences=2).translate(lines, progress=counts.append)
    assert counts == [3, 4, 7]


def test_candidates_have_tokens_scores_and_attention() -> None:
    translator = random_model(beam=4, max_length_extra=3)
    (translation,) = translator.translate_detailed(["ein alter Baum"], n_best=3)
    assert len(translation.n_best) == 3
    assert translation.best is translation.n_best[0]
    assert translation.src_tokens == [*SUBWORD.pieces(SUBWORD.encode("ein alter Baum")), "</s>"]
    for candidate in translation.n_best:
        assert len(candidate.token_log_probs) == len(candidate.tokens)
        assert candidate.attention is not None
        assert candidate.attention.shape == (len(candidate.tokens), len(translation.src_tokens))
        assert candidate.is_finished == (candidate.tokens[-1] == "</s>")
        penalty = (5 + len(candidate.tokens)) / 6
        assert candidate.score == pytest.approx(sum(candidate.token_log_probs) / penalty)


def test_detailed_translations_have_an_alignment() -> None:
    (translation,) = random_model(beam=3, max_length_extra=3).translate_detailed(["ein Baum"])
    assert translation.text == translation.best.text
    assert translation.score == translation.best.score
    assert translation.tokens == translation.best.tokens
    assert translation.alignment is not None
    assert {tgt for _, tgt in translation.alignment} == set(range(len(translation.text.split())))
    assert {src for src, _ in translation.alignment} <= {0, 1}
    (plain,) = random_model(beam=3).stream(["ein Baum"])
    assert (plain.alignment, plain.best.attention) == (None, None)


def test_words_after_an_invalid_byte_are_aligned() -> None:
    tokens = [*SUBWORD.encode("ein"), FIRST_BYTE + 0xFF, *SUBWORD.encode("Haus ja"), EOS]
    translator = Translator(TorchEngine([ConstantModel(tokens)]), SUBWORD, experiment())
    [found] = translator.translate_detailed(["ja"])
    assert found.text == "ein\ufffd Haus ja"
    assert found.best.words is not None
    # The model attends to all tokens alike: no row is empty.
    assert [row.all() for row in found.best.words.rows] == [True, True, True]


@pytest.mark.parametrize(
    ("line", "links"),
    [
        ("ein Haus ja", [(0, 0), (1, 1), (2, 2)]),
        ("ein\u00a0Haus ja", [(0, 0), (0, 1), (1, 2)]),
        ("ein \u200b Haus", [(0, 0), (2, 1)]),
        ("ein\u200bHaus \u00adja", [(0, 0), (1, 1)]),
        ("  ein  Haus", [(0, 0), (1, 1)]),
        ("Ha\u0308user ja", [(0, 0), (1, 1)]),
        ("ein\tHaus", [(0, 0), (0, 1)]),
    ],
)
def test_alignment_refers_to_the_line_as_given(line: str, links: list[tuple[int, int]]) -> None:
    config = experiment(beam=1, batch_sentences=1)
    translator = Translator(TorchEngine([MonotoneModel()]), SUBWORD, config)
    [found] = translator.translate_detailed([line])
    assert found.alignment == links
    assert found.best.word_attention is not None
    assert found.best.word_attention.shape[1] == len([word for word in line.split(" ") if word])


def test_a_protected_line_has_no_alignment() -> None:
    translator = random_model(beam=2, protect=["tags"])
    protected, plain = translator.translate_detailed(["ein <b>Baum</b>", "ein Baum"])
    assert protected.alignment is None
    assert protected.best.attention is not None
    assert plain.alignment is not None


@pytest.mark.parametrize(
    ("line", "num_protected"),
    [
        ("http://a.org/b", 1), ("%s {name}", 2), ("12", 1), ("<br>", 1),
        ("<b>http://a.org</b> %d", 4), ("x@y.org " * 40, 40),
    ],
)  # fmt: skip
def test_line_of_protected_spans_is_copied(line: str, num_protected: int) -> None:
    translator = random_model(protect=["tags", "urls", "placeholders", "numbers"])
    [found] = translator.translate_detailed([f" {line} "])
    assert (found.text, found.num_protected) == (line.strip(), num_protected)
    assert found.best.num_lost == 0


@pytest.mark.parametrize(
    "constraints",
    [{"constraints": ("23 Hunde",)}, {"target_prefix": "23 Hunde"}, {"avoid": ("23",)}],
)
@pytest.mark.parametrize("text", ["{name} ja", "{name} ja. " * 30])
def test_no_mask_is_a_number_of_the_constraints(constraints: Any, text: str) -> None:
    translator = copying(protect=["placeholders"], max_source_length=40)
    request = Request(text, **constraints)
    for segment in translator.preprocessor.segments([request]):
        assert [span.mask for span in segment.masked.spans][:1] == ["24"]


def test_a_number_to_avoid_is_lost() -> None:
    """The search would find no translation, or one at the maximum length."""
    translator = copying(protect=["numbers"])
    [found] = translator.translate_detailed([Request("2 ja", avoid=("2",))])
    assert (found.best.is_finished, found.best.num_lost) == (True, 1)
    assert "2" not in found.text


@pytest.mark.parametrize(
    ("lines", "kind"), [("ja", "a string"), (None, "NoneType"), (Request("ja"), "Request")]
)
def test_lines_that_are_no_list_are_refused(lines: Any, kind: str) -> None:
    """Actionable errors (nmt/README.md, Guarantees)."""
    with pytest.raises(DataError) as caught:
        copying().translate(lines)
    assert str(caught.value) == f"lines is {kind}, but it must be a list of lines"


@pytest.mark.parametrize("line", [None, b"a dog runs.", 5])
def test_a_line_that_is_no_string_is_an_error(line: Any) -> None:
    with pytest.raises(DataError) as caught:
        copying().translate(["ja", line, "ja"])
    kind = type(line).__name__
    rule = 'it must be a string: use "" for a line without text'
    assert str(caught.value) == f"line 2 is {kind}, but {rule}"


@pytest.mark.parametrize("number", [0, 10_001])
def test_number_of_samples_is_limited(number: int) -> None:
    """Actionable errors (nmt/README.md, Guarantees)."""
    with pytest.raises(ConfigError) as caught:
        copying(method="sample").translate_detailed(["ja"], n_best=number)
    assert str(caught.value) == (
        f"the number of candidates per line is {number}, but it must be 1 to 10,000"
    )


@pytest.mark.parametrize("number", [2.0, "2", None])
def test_number_of_candidates_is_an_integer(number: Any) -> None:
    with pytest.raises(ConfigError) as error:
        copying(beam=3).translate_detailed(["ja"], n_best=number)
    assert str(error.value) == (
        f"the number of candidates per line is {number!r}, but it must be an integer"
    )


def test_more_candidates_than_the_beam_are_refused() -> None:
    """Actionable errors (nmt/README.md, Guarantees)."""
    with pytest.raises(ConfigError) as caught:
        copying(beam=4).translate_detailed(["ja"], n_best=5)
    assert str(caught.value) == (
        "the number of candidates per line is 5, but it must be 1 to decoding.beam (4): increase "
        "decoding.beam"
    )


def test_a_model_in_training_mode_is_set_to_eval() -> None:
    translator = random_model()
    model_of(translator).train()
    translator.translate(["ja"])
    assert not model_of(translator).training


@pytest.mark.parametrize("beam", [1, 5])
def test_a_translation_is_independent_of_the_batch(beam: int) -> None:
    """Batch-invariant translation (nmt/README.md, Guarantees)."""
    words = ["ein", "zwei", "alte", "alter", "Haus", "Häuser", "Baum", "am", "Fluss", "ja"]
    shuffle = random.Random(7)
    lines = [" ".join(shuffle.choices(words, k=1 + n % 23)) for n in range(24)]
    shuffled = shuffle.sample(lines, len(lines))
    outcomes = []
    for batch_sentences, order in [(64, lines), (1, lines), (7, lines), (7, shuffled)]:
        translator = random_model(beam=beam, batch_sentences=batch_sentences, max_length_ratio=0.3)
        translations = translator.stream(order, num_best=beam)
        outcomes.append({line: facts(t) for line, t in zip(order, translations, strict=True)})
    assert all(outcome == outcomes[0] for outcome in outcomes)


def facts(translation: Translation) -> list[tuple[str, float, list[float]]]:
    return [(each.text, each.score, each.token_log_probs) for each in translation.n_best]


def random_model(**decoding: Any) -> Translator:
    torch.manual_seed(8)
    config = ModelConfig(width=32, encoder_layers=2, decoder_layers=2, ffn_width=48)
    model = seq2seq.Seq2Seq(config, SUBWORD.num_pieces)
    return Translator(TorchEngine([model]), SUBWORD, experiment(**decoding))


def test_every_sentence_is_in_one_batch_of_its_width() -> None:
    lengths = [1 + (index * 37) % 50 for index in range(300)]
    batches = list(plan_batches(lengths, max_sentences=16, max_tokens=8192))
    assert sorted(index for batch in batches for index in batch) == list(range(300))
    for batch in batches:
        assert len(batch) <= 16
        assert len({-(-lengths[index] // 16) for index in batch}) == 1
    assert batches[0][0] == max(range(300), key=lengths.__getitem__)
