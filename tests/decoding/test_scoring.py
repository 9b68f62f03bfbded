import math
import random
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from nmt.checkpoint.load import load_checkpoint
from nmt.config.corpus import SubwordConfig
from nmt.config.experiment import Experiment, ModelConfig
from nmt.corpus.subword import BOS, EOS, Subword
from nmt.decoding import interface
from nmt.decoding.beam_search import search
from nmt.decoding.interface import pad_sources
from nmt.decoding.scoring import LineScore, ScoreTotals, log_probs, score_pairs
from nmt.decoding.torch_engine import TorchEngine
from nmt.decoding.translator import Translator
from nmt.model import seq2seq

LINES = ["ein Haus", "zwei alte Häuser am Fluss", "das Haus", "ja", "ein alter Baum am Haus"]
SUBWORD = Subword.train(LINES, SubwordConfig(vocab_size=300))


def small_model(preset: str = "residual") -> seq2seq.Seq2Seq:
    torch.manual_seed(8)
    kind = {"attention": "additive"} if preset == "gnmt" else {}
    shape = {"preset": preset, "width": 32, "encoder_layers": 2, "decoder_layers": 2, **kind}
    return seq2seq.Seq2Seq(ModelConfig.model_validate(shape), SUBWORD.num_pieces).eval()


def make_translator(preset: str = "residual", **decoding: float) -> Translator:
    text = {"name": "text", "src": "a", "tgt": "b"}
    corpus = {"src": "en", "tgt": "de", "train": [text], "dev": text}
    settings = {"name": "test", "corpus": corpus, "decoding": decoding}
    return Translator(
        TorchEngine([small_model(preset)]), SUBWORD, Experiment.model_validate(settings)
    )


def some_lines(num_lines: int, seed: int) -> list[str]:
    words = ["ein", "zwei", "alte", "alter", "Haus", "Häuser", "Baum", "am", "Fluss", "ja"]
    draw = random.Random(seed)
    return [" ".join(draw.choices(words, k=1 + n * 5 % 23)) for n in range(num_lines)]


@pytest.mark.parametrize("preset", ["residual", "gnmt"])
def test_scores_equal_those_of_the_search(preset: str) -> None:
    model = small_model(preset)
    config = make_translator(beam=5, max_length_ratio=0.5).decoding
    source = [*SUBWORD.encode("zwei alte Häuser"), EOS]
    engine = TorchEngine([model])
    found = search(engine, [source], config, num_best=5)[0]
    scored = log_probs(engine, [source] * 5, [hypothesis.tokens for hypothesis in found])
    for hypothesis, of_tokens in zip(found, scored, strict=True):
        assert of_tokens == pytest.approx(hypothesis.token_log_probs, abs=1e-5)


def test_a_translated_line_gets_the_score_of_its_search(tiny: Path) -> None:
    bundle = load_checkpoint(tiny / "runs/tiny")
    translator = Translator(TorchEngine([bundle.model()]), bundle.subword, bundle.experiment)
    lines = (tiny / "raw/train.en").read_text(encoding="utf-8").splitlines()
    found = [translation.best for translation in translator.stream(lines)]
    scores = list(score_pairs(translator, zip(lines, [best.text for best in found], strict=True)))
    assert [score.tokens for score in scores] == [best.tokens for best in found]
    for score, best in zip(scores, found, strict=True):
        assert score.token_log_probs == pytest.approx(best.token_log_probs, abs=1e-5)
        assert score.penalised(1.0) == pytest.approx(best.score, abs=1e-5)


@pytest.mark.parametrize("preset", ["residual", "gnmt"])
def test_scores_equal_the_teacher_forced_model(preset: str) -> None:
    model = small_model(preset)
    source, target = [[*SUBWORD.encode(text), EOS] for text in ("das Haus", "ein alter Baum am")]
    src, src_lengths = map(torch.from_numpy, pad_sources([source]))
    with torch.inference_mode():
        tgt_in = torch.tensor([[BOS, *target[:-1]]])
        hidden = model(src, src_lengths, tgt_in, torch.arange(len(target)))
        expected = model.output_layer(hidden).log_softmax(dim=-1)[range(len(target)), target]
    (found,) = log_probs(TorchEngine([model]), [source], [target])
    assert found == pytest.approx(expected.tolist(), abs=1e-5)


@pytest.mark.parametrize("preset", ["residual", "gnmt"])
def test_a_score_is_independent_of_the_batch(preset: str) -> None:
    """Batch-invariant translation (nmt/README.md, Guarantees)."""
    pairs = list(zip(some_lines(24, seed=1), some_lines(24, seed=2)[::-1], strict=True))
    shuffled = random.Random(3).sample(pairs, len(pairs))
    outcomes = []
    for batch_sentences, order in [(64, pairs), (1, pairs), (7, pairs), (7, shuffled)]:
        scores = score_pairs(make_translator(preset, batch_sentences=batch_sentences), order)
        outcomes.append(dict(zip(order, scores, strict=True)))
    assert all(outcome == outcomes[0] for outcome in outcomes)


def test_blank_sources_never_reach_the_model() -> None:
    """Line in, line out (nmt/README.md, Guarantees)."""
    pairs = [("", ""), (" ", "ja"), ("ja", "\t"), ("​", " "), ("ja", "ja")]
    scores = list(score_pairs(make_translator(), pairs))
    assert scores[0] == scores[3] == LineScore([], [], is_possible=True)
    assert scores[1] == LineScore([], [], is_possible=False)
    assert (scores[0].log_prob, scores[1].log_prob) == (0.0, -math.inf)
    assert scores[2].tokens == ["</s>"]
    assert scores[4].tokens[-1] == "</s>"
    assert list(score_pairs(make_translator(), [("", "")])) == [scores[0]]
    assert list(score_pairs(make_translator(), [])) == []


def test_totals_exclude_blank_sources() -> None:
    totals = ScoreTotals()
    totals.add("zwei alte", LineScore(["zwei", "alte", "</s>"], [-1.0, -2.0, -0.5], True))
    totals.add("", LineScore([], [], True))
    totals.add("ja", LineScore([], [], False))
    assert totals == ScoreTotals(
        num_pairs=3, num_blank=2, num_impossible=1, num_tokens=3, num_words=2, log_prob=-3.5
    )


def test_scoring_reads_no_further_than_its_window(monkeypatch: pytest.MonkeyPatch) -> None:
    """Bounded memory (nmt/README.md, Guarantees)."""
    monkeypatch.setattr("nmt.decoding.scoring.WINDOW_BATCHES", 2)
    num_read = 0

    def endless() -> Iterator[tuple[str, str]]:
        nonlocal num_read
        while True:
            num_read += 1
            yield "das Haus", "ja"

    counts: list[int] = []
    next(score_pairs(make_translator(batch_sentences=4), endless(), counts.append))
    assert num_read == 8
    assert counts == [4, 8]


def test_long_lines_go_in_small_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(interface, "BATCH_TOKENS", 64)
    pairs = [("Haus " * 30, "ja")] * 5 + [("ja", "Haus " * 30)]
    scores = list(score_pairs(make_translator(), pairs))
    assert scores[:5] == [scores[0]] * 5
    assert len(scores[5].tokens) > 30
