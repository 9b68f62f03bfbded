import math

import pytest
import torch
from torch import Tensor

from nmt.config.experiment import ModelConfig
from nmt.model.attention import AdditiveAttention, Attention, MultiHeadAttention, make_attention

KINDS = ["multi_head", "additive"]
IS_PAD = torch.tensor([[False, False, False, False], [False, False, True, True]])


def make(kind: str, dropout: float = 0.0) -> Attention:
    torch.manual_seed(1)
    settings = {"attention": kind, "width": 6, "heads": 2, "attention_dropout": dropout}
    return make_attention(ModelConfig.model_validate(settings), memory_width=8)


def encoded() -> Tensor:
    return torch.randn(2, 4, 8, generator=torch.Generator().manual_seed(2))


def queries() -> Tensor:
    """Three target positions, or three hypotheses, of two sentences."""
    return torch.randn(2, 3, 6, generator=torch.Generator().manual_seed(3))


@pytest.mark.parametrize("kind", KINDS)
def test_weights_sum_to_1_and_are_0_at_padding(kind: str) -> None:
    attention = make(kind)
    _, weights = attention.step(queries().flatten(0, 1), *attention.project(encoded()), IS_PAD)
    assert weights.shape == (6, 4)
    assert torch.allclose(weights.sum(dim=1), torch.ones(6))
    assert (weights[:3] > 0).all()
    assert (weights[3:, :2] > 0).all()
    assert not weights[3:, 2:].any()


@pytest.mark.parametrize("kind", KINDS)
def test_step_equals_forward(kind: str) -> None:
    attention = make(kind)
    projected = attention.project(encoded())
    whole = attention(queries(), *projected, IS_PAD)
    stepped, _ = attention.step(queries().flatten(0, 1), *projected, IS_PAD)
    assert torch.allclose(stepped, whole.flatten(0, 1), atol=1e-6)


@pytest.mark.parametrize("kind", KINDS)
def test_values_at_padding_are_ignored(kind: str) -> None:
    results = []
    for filling in (0.0, 1e3):
        attention = make(kind)
        memory = encoded()
        memory[1, 2:] = filling
        memory.requires_grad_()
        out = attention(queries(), *attention.project(memory), IS_PAD)
        out.square().sum().backward()
        gradients = [parameter.grad for parameter in attention.parameters()]
        results.append([out, memory.grad, *gradients])
        assert not memory.grad[1, 2:].any()
    for one, other in zip(*results, strict=True):
        assert torch.equal(one, other)


def test_multi_head_equals_torch_scaled_dot_product() -> None:
    attention = make("multi_head")
    assert isinstance(attention, MultiHeadAttention)
    query = attention.to_query(queries()).view(2, 3, 2, 3).transpose(1, 2)  # two heads
    keys, values = attention.project(encoded())
    context = torch.nn.functional.scaled_dot_product_attention(
        query, keys, values, attn_mask=~IS_PAD[:, None, None]
    )
    expected = attention.to_out(context.transpose(1, 2).flatten(2))
    assert torch.allclose(attention(queries(), keys, values, IS_PAD), expected, atol=1e-6)


def test_additive_equals_the_normalised_formula() -> None:
    attention = make("additive")
    assert isinstance(attention, AdditiveAttention)
    with torch.no_grad():
        attention.bias.uniform_(-1, 1)
        attention.scale.fill_(3.0)
    memory, query = encoded()[1, :2], queries()[1, 0]
    vector = 3.0 * attention.direction / attention.direction.norm()
    scores = [
        (attention.from_query(query) + attention.from_memory(key) + attention.bias).tanh() @ vector
        for key in memory
    ]
    weights = torch.stack(scores).softmax(dim=0)
    expected = weights[0] * memory[0] + weights[1] * memory[1]
    actual = attention(queries(), *attention.project(encoded()), IS_PAD)[1, 0]
    assert torch.allclose(actual, expected, atol=1e-6)


def test_additive_score_vector_starts_as_published() -> None:
    attention = make("additive")
    assert isinstance(attention, AdditiveAttention)
    assert attention.scale.item() == pytest.approx(1 / math.sqrt(6))
    assert not attention.bias.any()


@pytest.mark.parametrize("kind", KINDS)
def test_weights_are_dropped_in_training_only(kind: str) -> None:
    attention = make(kind, dropout=0.5)
    projected = attention.project(encoded())
    trained = attention(queries(), *projected, IS_PAD)
    attention.eval()
    assert not torch.equal(attention(queries(), *projected, IS_PAD), trained)
    undropped = make(kind)
    assert torch.equal(
        attention(queries(), *projected, IS_PAD), undropped(queries(), *projected, IS_PAD)
    )


@pytest.mark.parametrize("kind", KINDS)
def test_weights_are_fp32_under_bf16_autocast(kind: str) -> None:
    attention = make(kind)
    with torch.autocast("cpu", torch.bfloat16):
        projected = attention.project(encoded())
        out = attention(queries(), *projected, IS_PAD)
        _, weights = attention.step(queries().flatten(0, 1), *projected, IS_PAD)
    assert weights.dtype == torch.float32
    full = attention(queries(), *attention.project(encoded()), IS_PAD)
    assert (out.float() - full).abs().max() < 0.05
