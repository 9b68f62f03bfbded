import pytest
import torch

from nmt.config.experiment import ModelConfig
from nmt.model import quantise
from nmt.model.lstm import LSTM
from nmt.model.matmul import Linear
from nmt.model.quantise import (
    Bf16Linear,
    Bf16LSTM,
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


@pytest.mark.parametrize("has_bias", [True, False])
def test_product_is_near_fp32(has_bias: bool) -> None:
    weight, x = draw(70, 48), draw(5, 3, 48, seed=2) * torch.tensor([1e-3, 1, 100])[:, None]
    bias = draw(70, seed=3) if has_bias else None
    expected = torch.nn.functional.linear(x, weight, bias)
    actual = Bf16Linear(weight, bias)(x)
    assert actual.dtype == torch.float32
    for one, other in zip(actual.unbind(1), expected.unbind(1), strict=True):
        assert (one - other).norm() < 0.005 * other.norm()


def model(preset: str) -> Seq2Seq:
    torch.manual_seed(4)
    kind = {"attention": "additive"} if preset == "gnmt" else {}
    return Seq2Seq(ModelConfig.model_validate({"preset": preset, "width": 64, **kind}), 600)


@pytest.mark.parametrize("preset", ["residual", "gnmt"])
def test_logits_are_near_fp32(preset: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(quantise, "MIN_WEIGHTS", 1)
    src, lengths = torch.tensor([[5, 9, 30, 2], [7, 8, 2, 0]]), torch.tensor([4, 3])
    logits_of = []
    for converted in (model(preset).eval(), quantise_model(model(preset), "bf16")):
        with torch.inference_mode():
            memory = converted.encode(src, lengths)
            state, logits = converted.start(memory, 2), torch.empty(0)
            for token in (1, 40, 41):
                logits, state, _ = converted.step(torch.full((4,), token), state, memory)
        logits_of.append(logits)
    assert logits_of[1].dtype == torch.float32
    assert not torch.equal(*logits_of)
    assert (logits_of[1] - logits_of[0]).norm() < 0.03 * logits_of[0].norm()


def test_layers_and_large_matrices_are_converted(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(quantise, "MIN_WEIGHTS", 64 * 256)
    converted = quantise_model(model("residual"), "bf16")
    kinds = {type(module) for module in converted.modules()}
    assert {Bf16LSTM, Bf16Linear} <= kinds
    assert LSTM not in kinds
    assert isinstance(converted.output_layer, Bf16Linear)
    assert type(converted.encoder.blocks[0].ffn.expand) is Bf16Linear
    assert type(converted.decoder.blocks[0].attention.to_query) is Linear
    assert not converted.training


def test_fp32_returns_the_model_unchanged() -> None:
    converted = model("residual")
    assert quantise_model(converted, "fp32") is converted
    assert Bf16LSTM not in {type(module) for module in converted.modules()}
