import math

import pytest
import torch
from torch import Tensor

from nmt.model.attention import AdditiveAttention, MultiHeadAttention

Attention = MultiHeadAttention | AdditiveAttention
KINDS = ["multi_head", "additive"]
IS_PAD = torch.tensor([[False, False, False, False], [False, False, True, True]])


def make(kind: str, dropout: float = 0.0) -> Attention:
    torch.manual_seed(1)
    if kind == "multi_head":
        return MultiHeadAttention(width=6, memory_width=8, heads=2, dropout=dropout)
    return AdditiveAttention(width=6, memory_width=8, dropout=dropout)


def memory() -> Tensor:
    return torch.randn(2, 4, 8, generator=torch.Generator().manual_seed(2))


def queries() -> Tensor:
    """Three target positions, or three hypotheses, of two sentences."""
    return torch.randn(2, 3, 6, generator=torch.Generator().manual_seed(3))


@pytest.mark.parametrize("kind", KINDS)
def test_weights_sum_to_1_and_are_0_on_padding(kind: str) -> None:
    attention = make(kind)
    _, weights = attention.step(queries().flatten(0, 1), *attention.remember(memory()), IS_PAD)
    assert weights.shape == (6, 4)
    assert torch.allclose(weights.sum(dim=1), torch.ones(6))
    assert (weights[:3] > 0).all()
    assert (weights[3:, :2] > 0).all()
    assert not weights[3:, 2:].any()


@pytest.mark.parametrize("kind", KINDS)
def test_step_reads_what_forward_reads(kind: str) -> None:
    attention = make(kind)
    remembered = attention.remember(memory())
    whole = attention(queries(), *remembered, IS_PAD)
    stepped, _ = attention.step(queries().flatten(0, 1), *remembered, IS_PAD)
    assert torch.allclose(stepped, whole.flatten(0, 1), atol=1e-6)


@pytest.mark.parametrize("kind", KINDS)
def test_what_stands_in_padding_is_never_read(kind: str) -> None:
    results = []
    for filling in (0.0, 1e3):
        attention = make(kind)
        encoded = memory()
        encoded[1, 2:] = filling
        encoded.requires_grad_()
        out = attention(queries(), *attention.remember(encoded), IS_PAD)
        out.square().sum().backward()
        gradients = [parameter.grad for parameter in attention.parameters()]
        results.append([out, encoded.grad, *gradients])
        assert not encoded.grad[1, 2:].any()
    for one, other in zip(*results, strict=True):
        assert torch.equal(one, other)


def test_multi_head_is_scaled_dot_product_attention() -> None:
    attention = make("multi_head")
    query = attention.to_query(queries()).view(2, 3, 2, 3).transpose(1, 2)  # two heads
    keys, values = attention.remember(memory())
    read = torch.nn.functional.scaled_dot_product_attention(
        query, keys, values, attn_mask=~IS_PAD[:, None, None]
    )
    expected = attention.to_out(read.transpose(1, 2).flatten(2))
    assert torch.allclose(attention(queries(), keys, values, IS_PAD), expected, atol=1e-6)


def test_additive_is_the_formula_of_bahdanau_with_a_normalised_vector() -> None:
    attention = make("additive")
    with torch.no_grad():
        attention.bias.uniform_(-1, 1)
        attention.scale.fill_(3.0)
    encoded, query = memory()[1, :2], queries()[1, 0]
    vector = 3.0 * attention.direction / attention.direction.norm()
    scores = [
        (attention.from_query(query) + attention.from_memory(key) + attention.bias).tanh() @ vector
        for key in encoded
    ]
    weights = torch.stack(scores).softmax(dim=0)
    expected = weights[0] * encoded[0] + weights[1] * encoded[1]
    found = attention(queries(), *attention.remember(memory()), IS_PAD)[1, 0]
    assert torch.allclose(found, expected, atol=1e-6)


def test_the_score_vector_starts_as_published() -> None:
    attention = make("additive")
    assert attention.scale.item() == pytest.approx(1 / math.sqrt(6))
    assert not attention.bias.any()


@pytest.mark.parametrize("kind", KINDS)
def test_weights_are_dropped_in_training_only(kind: str) -> None:
    attention = make(kind, dropout=0.5)
    remembered = attention.remember(memory())
    trained = attention(queries(), *remembered, IS_PAD)
    attention.eval()
    assert not torch.equal(attention(queries(), *remembered, IS_PAD), trained)
    undropped = make(kind)
    assert torch.equal(
        attention(queries(), *remembered, IS_PAD), undropped(queries(), *remembered, IS_PAD)
    )


@pytest.mark.parametrize("kind", KINDS)
def test_weights_are_fp32_in_bf16(kind: str) -> None:
    attention = make(kind)
    with torch.autocast("cpu", torch.bfloat16):
        remembered = attention.remember(memory())
        out = attention(queries(), *remembered, IS_PAD)
        _, weights = attention.step(queries().flatten(0, 1), *remembered, IS_PAD)
    assert weights.dtype == torch.float32
    full = attention(queries(), *attention.remember(memory()), IS_PAD)
    assert (out.float() - full).abs().max() < 0.05
