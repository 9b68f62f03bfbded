"""Inspection of the tiny model: tokens, probabilities, gates."""

from pathlib import Path

import pytest

from nmt.checkpoint.load import Checkpoint, load_checkpoint
from nmt.decoding.loading import make_translator
from nmt.decoding.requests import Request
from nmt.decoding.scoring import score_pairs
from nmt.errors import DataError
from nmt.report.inspection import Spread, inspect_lines
from nmt.report.inspector_page import facts

SRC, TGT = "1 a dog runs.", "1 ein Hund rennt."


@pytest.fixture
def checkpoint(tiny: Path) -> Checkpoint:
    return load_checkpoint(tiny / "runs/tiny")


def request(text: str, where: str = "line 1") -> Request:
    return Request(text, where=where)


def test_translation_is_that_of_the_translator(checkpoint: Checkpoint) -> None:
    translator = make_translator(checkpoint, engine="torch", device="cpu")
    [expected] = translator.translate_detailed([SRC])
    [line] = inspect_lines(checkpoint, [request(SRC)]).lines
    assert (line.src, line.tgt, line.notes) == (SRC, expected.text, [])
    assert (line.src_tokens, line.tgt_tokens) == (expected.src_tokens, expected.tokens)
    log_probs = [choice.log_prob for choice in line.choices]
    assert log_probs == pytest.approx(expected.best.token_log_probs, abs=1e-4)
    assert expected.best.attention is not None
    mean = line.attentions[-1].mean(dim=0).numpy()
    assert mean == pytest.approx(expected.best.attention, abs=1e-5)


def test_given_target_has_the_probability_of_nmt_score(checkpoint: Checkpoint) -> None:
    translator = make_translator(checkpoint, engine="torch", device="cpu")
    [score] = score_pairs(translator, [(SRC, TGT)])
    inspection = inspect_lines(checkpoint, [request(SRC)], [request(TGT)])
    [line] = inspection.lines
    assert (line.tgt, line.tgt_tokens, inspection.is_forced) == (TGT, score.tokens, True)
    log_probs = [choice.log_prob for choice in line.choices]
    assert log_probs == pytest.approx(score.token_log_probs, abs=1e-4)


def test_alternatives_are_the_most_probable_other_tokens(checkpoint: Checkpoint) -> None:
    [line] = inspect_lines(checkpoint, [request(SRC)], [request("9 zwei Katzen")]).lines
    for choice in line.choices:
        values = [log_prob for _, log_prob in choice.alternatives]
        assert len(values) == 4
        assert values == sorted(values, reverse=True)
        assert choice.token not in [token for token, _ in choice.alternatives]
        assert (choice.rank == 1) == (choice.log_prob > values[0])


def test_saturated_gates_are_counted(checkpoint: Checkpoint) -> None:
    bias = checkpoint.weights["decoder.blocks.0.lstm.bias"]
    size = len(bias) // 4
    bias[:size], bias[size : 2 * size] = -50, 50  # input gate, forget gate
    bias[2 * size : 3 * size], bias[3 * size :] = 50, 0  # candidate, output gate
    inspection = inspect_lines(checkpoint, [request(SRC), request("2 two dogs run.")])
    spreads = inspection.layers["decoder 1"]
    assert spreads["input gate"] == pytest.approx(Spread(0, 0, 0, below=1, above=0))
    assert spreads["forget gate"] == pytest.approx(Spread(1, 1, 1, below=0, above=1))
    assert spreads["candidate"] == pytest.approx(Spread(1, 1, 1, below=0, above=1))
    assert spreads["cell state"] == pytest.approx(Spread(0, 0, 0, below=0, above=0))
    [mostly] = [fact for fact in facts(inspection) if fact.startswith("gates with more than half")]
    assert "decoder 1, input gate (100.0 % below 0.1)" in mostly
    assert "decoder 1, forget gate (100.0 % above 0.9)" in mostly
    for line in inspection.lines:
        decoder = line.layers[-1]
        assert decoder.tokens == ["<s>", *line.tgt_tokens[:-1]]
        assert len(decoder.spreads["input gate"]) == len(line.tgt_tokens)
        assert line.layers[0].tokens == line.src_tokens


def test_target_without_text_is_refused(checkpoint: Checkpoint) -> None:
    """Actionable errors (nmt/README.md, Guarantees)."""
    with pytest.raises(DataError, match=r"^--tgt: the target has no text; give its words$"):
        inspect_lines(checkpoint, [request(SRC)], [request(" ", "--tgt")])
