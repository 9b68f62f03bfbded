import pytest
import torch

from nmt.config.experiment import ModelConfig
from nmt.model import quantise, seq2seq
from nmt.model.lstm import LSTM
from nmt.model.quantise import (
    Bf16Linear,
    Int8Linear,
    Precision,
    QuantisedLSTM,
    quantise_model,
    quantise_rows,
    restore,
)


def draw(*shape: int, seed: int = 1) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def test_a_matrix_in_int8_is_off_by_half_a_step_at_most() -> None:
    weight = draw(6, 40) * torch.tensor([1e-6, 0.1, 1, 10, 1e6, 0])[:, None]
    whole, scale = quantise_rows(weight)
    assert whole.dtype == torch.int8
    assert ((restore(whole, scale) - weight).abs() <= scale[:, None] * 0.5001).all()
    assert whole[:5].abs().amax(dim=1).tolist() == [127] * 5


def test_what_was_rounded_once_is_not_rounded_again() -> None:
    whole, scale = quantise_rows(draw(50, 40))
    again, same = quantise_rows(restore(whole, scale))
    assert torch.equal(again, whole)
    torch.testing.assert_close(same, scale, rtol=1e-6, atol=0)


@pytest.mark.parametrize(("linear", "error"), [(Int8Linear, 0.015), (Bf16Linear, 0.005)])
@pytest.mark.parametrize("has_bias", [True, False])
def test_a_cheap_product_is_nearly_the_product(
    linear: type[Int8Linear | Bf16Linear], error: float, has_bias: bool
) -> None:
    weight, x = draw(70, 48), draw(5, 3, 48, seed=2) * torch.tensor([1e-3, 1, 100])[:, None]
    bias = draw(70, seed=3) if has_bias else None
    expected = torch.nn.functional.linear(x, weight, bias)
    found = linear(weight, bias)(x)
    assert found.dtype == torch.float32
    for one, other in zip(found.unbind(1), expected.unbind(1), strict=True):
        assert (one - other).norm() < error * other.norm()


def test_a_row_of_zeros_has_a_product_of_zeros() -> None:
    found = Int8Linear(draw(8, 4), None)(torch.zeros(2, 4))
    assert found.tolist() == [[0.0] * 8] * 2


def test_a_row_in_int8_gets_the_same_in_any_company(monkeypatch: pytest.MonkeyPatch) -> None:
    """P7."""
    linear, x = Int8Linear(draw(600, 128), draw(600, seed=3)), draw(320, 128, seed=2)
    together = linear(x)
    monkeypatch.setattr(quantise, "BLOCK", 1)
    assert torch.equal(linear(x), together)
    for rows in ([0], [5, 3], list(range(40, 61)), list(range(319, -1, -1))):
        assert torch.equal(linear(x[rows]), together[rows])


def model(preset: str) -> seq2seq.Seq2Seq:
    torch.manual_seed(4)
    kind = {"attention": "additive"} if preset == "gnmt" else {}
    return seq2seq.build(ModelConfig.model_validate({"preset": preset, "width": 64, **kind}), 600)


@pytest.mark.parametrize("preset", ["residual", "gnmt"])
@pytest.mark.parametrize(("numbers", "error"), [("int8", 0.06), ("bf16", 0.03)])
def test_a_cheap_model_says_nearly_what_the_model_says(
    preset: str, numbers: Precision, error: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(quantise, "MIN_WEIGHTS", 1)
    src, lengths = torch.tensor([[5, 9, 30, 2], [7, 8, 2, 0]]), torch.tensor([4, 3])
    said = []
    for ours in (model(preset).eval(), quantise_model(model(preset), numbers)):
        with torch.inference_mode():
            memory = ours.encode(src, lengths)
            state, logits = ours.start(memory, 2), torch.empty(0)
            for token in (1, 40, 41):
                logits, state, _ = ours.step(torch.full((4,), token), state, memory)
        said.append(logits)
    assert said[1].dtype == torch.float32
    assert not torch.equal(*said)
    assert (said[1] - said[0]).norm() < error * said[0].norm()


def test_all_layers_and_the_large_matrices_are_made_cheaper(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(quantise, "MIN_WEIGHTS", 64 * 256)
    ours = quantise_model(model("residual"), "int8")
    kinds = {type(module) for module in ours.modules()}
    assert {QuantisedLSTM, Int8Linear} <= kinds
    assert LSTM not in kinds
    assert isinstance(ours.output_layer, Int8Linear)
    assert type(ours.encoder.blocks[0].ffn.expand) is Int8Linear
    assert type(ours.decoder.blocks[0].attention.to_query) is torch.nn.Linear
    assert not ours.training


def test_fp32_stays_what_it_was() -> None:
    ours = model("residual")
    assert quantise_model(ours, "fp32") is ours
    assert QuantisedLSTM not in {type(module) for module in ours.modules()}


def test_what_bf16_brings_is_measured() -> None:
    assert 0.05 < quantise.bf16_gain(64, times=2) < 50
