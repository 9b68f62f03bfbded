import pytest
import torch

from nmt.config.decoding import Precision
from nmt.config.experiment import ModelConfig
from nmt.model import quantise
from nmt.model.lstm import LSTM
from nmt.model.quantise import (
    Bf16Linear,
    Int8Linear,
    QuantisedLSTM,
    dequantise_rows,
    quantise_model,
    quantise_rows,
)
from nmt.model.seq2seq import Seq2Seq


def draw(*shape: int, seed: int = 1) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def test_int8_error_is_at_most_half_a_step() -> None:
    weight = draw(6, 40) * torch.tensor([1e-6, 0.1, 1, 10, 1e6, 0])[:, None]
    quantised, scale = quantise_rows(weight)
    assert quantised.dtype == torch.int8
    assert ((dequantise_rows(quantised, scale) - weight).abs() <= scale[:, None] * 0.5001).all()
    assert quantised[:5].abs().amax(dim=1).tolist() == [127] * 5


def test_quantising_again_changes_nothing() -> None:
    quantised, scale = quantise_rows(draw(50, 40))
    again, same = quantise_rows(dequantise_rows(quantised, scale))
    assert torch.equal(again, quantised)
    torch.testing.assert_close(same, scale, rtol=1e-6, atol=0)


@pytest.mark.parametrize(("linear", "error"), [(Int8Linear, 0.015), (Bf16Linear, 0.005)])
@pytest.mark.parametrize("has_bias", [True, False])
def test_product_is_near_fp32(
    linear: type[Int8Linear | Bf16Linear], error: float, has_bias: bool
) -> None:
    weight, x = draw(70, 48), draw(5, 3, 48, seed=2) * torch.tensor([1e-3, 1, 100])[:, None]
    bias = draw(70, seed=3) if has_bias else None
    expected = torch.nn.functional.linear(x, weight, bias)
    actual = linear(weight, bias)(x)
    assert actual.dtype == torch.float32
    for one, other in zip(actual.unbind(1), expected.unbind(1), strict=True):
        assert (one - other).norm() < error * other.norm()


def test_row_of_zeros_gives_zeros() -> None:
    actual = Int8Linear(draw(8, 4), None)(torch.zeros(2, 4))
    assert actual.tolist() == [[0.0] * 8] * 2


def test_int8_row_is_independent_of_other_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    """Batch-invariant translation (nmt/README.md, Guarantees)."""
    linear, x = Int8Linear(draw(600, 128), draw(600, seed=3)), draw(320, 128, seed=2)
    together = linear(x)
    monkeypatch.setattr(quantise, "BLOCK", 1)
    assert torch.equal(linear(x), together)
    for rows in ([0], [5, 3], list(range(40, 61)), list(range(319, -1, -1))):
        assert torch.equal(linear(x[rows]), together[rows])


def model(preset: str) -> Seq2Seq:
    torch.manual_seed(4)
    kind = {"attention": "additive"} if preset == "gnmt" else {}
    return Seq2Seq(ModelConfig.model_validate({"preset": preset, "width": 64, **kind}), 600)


@pytest.mark.parametrize("preset", ["residual", "gnmt"])
@pytest.mark.parametrize(("precision", "error"), [("int8", 0.06), ("bf16", 0.03)])
def test_logits_are_near_fp32(
    preset: str, precision: Precision, error: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(quantise, "MIN_WEIGHTS", 1)
    src, lengths = torch.tensor([[5, 9, 30, 2], [7, 8, 2, 0]]), torch.tensor([4, 3])
    logits_of = []
    for converted in (model(preset).eval(), quantise_model(model(preset), precision)):
        with torch.inference_mode():
            memory = converted.encode(src, lengths)
            state, logits = converted.start(memory, 2), torch.empty(0)
            for token in (1, 40, 41):
                logits, state, _ = converted.step(torch.full((4,), token), state, memory)
        logits_of.append(logits)
    assert logits_of[1].dtype == torch.float32
    assert not torch.equal(*logits_of)
    assert (logits_of[1] - logits_of[0]).norm() < error * logits_of[0].norm()


def test_layers_and_large_matrices_are_converted(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(quantise, "MIN_WEIGHTS", 64 * 256)
    converted = quantise_model(model("residual"), "int8")
    kinds = {type(module) for module in converted.modules()}
    assert {QuantisedLSTM, Int8Linear} <= kinds
    assert LSTM not in kinds
    assert isinstance(converted.output_layer, Int8Linear)
    assert type(converted.encoder.blocks[0].ffn.expand) is Int8Linear
    assert type(converted.decoder.blocks[0].attention.to_query) is torch.nn.Linear
    assert not converted.training


def test_fp32_returns_the_model_unchanged() -> None:
    converted = model("residual")
    assert quantise_model(converted, "fp32") is converted
    assert QuantisedLSTM not in {type(module) for module in converted.modules()}


def test_bf16_gain_is_measured() -> None:
    assert 0.05 < quantise.bf16_gain(64, times=2) < 50
