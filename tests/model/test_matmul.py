"""Padded products of bf16 training on CPUs: equal numbers, few shapes."""

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from nmt.batching.schedule import Schedule
from nmt.config.experiment import BatchingConfig
from nmt.model.matmul import (
    ROWS_STEP,
    Linear,
    matmul,
    multiply_rows,
    padded_batch,
    round_up,
    sum_outer_products,
)

BF16 = torch.bfloat16
HAS_AMX = torch.cpu._is_amx_tile_supported()
"""There oneDNN multiplies in tiles, and bits are equal; elsewhere rounding may differ."""


def draw(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(1))


def assert_same(found: Tensor, expected: Tensor) -> None:
    if HAS_AMX:
        assert torch.equal(found, expected)
    # One unit in the last place of bf16.
    torch.testing.assert_close(found, expected, rtol=2**-7, atol=1e-3)


def gradients_of(out: Tensor, *inputs: Tensor) -> list[Tensor]:
    return list(torch.autograd.grad(out, inputs, draw(*out.shape).to(out.dtype)))


@pytest.mark.parametrize("shape", [(1, 1), (31, 2), (4, 8), (46, 22), (113, 9)])
@pytest.mark.parametrize("bias", [True, False])
def test_padded_layer_equals_torch(shape: tuple[int, int], bias: bool) -> None:
    ours = Linear(128, 256, bias=bias)
    theirs = nn.Linear(128, 256, bias=bias)
    theirs.load_state_dict(ours.state_dict())
    outs = []
    for layer in (theirs, ours):
        x = draw(*shape, 128).requires_grad_()
        with torch.autocast("cpu", BF16):
            out = layer(x)
        outs.append([out, *gradients_of(out, x, *layer.parameters())])
    for expected, found in zip(*outs, strict=True):
        assert found.dtype == expected.dtype
        assert_same(found, expected)


@pytest.mark.parametrize(("queries", "sources"), [(1, 1), (22, 20), (9, 33), (40, 37)])
def test_padded_products_of_attention_equal_torch(queries: int, sources: int) -> None:
    outs = []
    for multiply in (torch.matmul, matmul):
        query = draw(5, queries, 4, 32).to(BF16).transpose(1, 2).requires_grad_()
        keys = draw(5, sources, 4, 32).to(BF16).transpose(1, 2).requires_grad_()
        weights = draw(5, 4, queries, sources).requires_grad_()
        with torch.autocast("cpu", BF16):
            scores = multiply(query, keys.transpose(2, 3))
            contexts = multiply(weights, keys)
        outs.append([scores, *gradients_of(scores, query, keys)])
        outs[-1] += [contexts, *gradients_of(contexts, weights, keys)]
    for expected, found in zip(*outs, strict=True):
        assert found.dtype == expected.dtype
        assert_same(found, expected)


@pytest.mark.parametrize("rows", [0, 1, 63, 101, 174])
def test_padded_products_of_the_loss_equal_torch(rows: int) -> None:
    inputs, logits, weight = (draw(*s).to(BF16) for s in ((rows, 128), (rows, 600), (600, 128)))
    assert_same(multiply_rows(inputs, weight.T, 174), inputs @ weight.T)
    assert_same(multiply_rows(logits, weight, 174, step=2), logits @ weight)
    assert_same(sum_outer_products(logits, inputs, 174), logits.T @ inputs)


def test_fp32_products_are_not_padded(monkeypatch: pytest.MonkeyPatch) -> None:
    x, layer = draw(3, 5, 128), Linear(128, 128)
    for name in ("pad", "_pad_batch"):
        monkeypatch.delattr(f"nmt.model.matmul.{name}")
    assert layer(x).shape == (3, 5, 128)
    assert matmul(x, x.mT).shape == (3, 5, 5)
    assert multiply_rows(x[0], layer.weight, 174).shape == (5, 128)


def test_frozen_weights_get_no_gradient() -> None:
    layer = Linear(128, 128)
    layer.weight.requires_grad_(False)
    with torch.autocast("cpu", BF16):
        layer(draw(3, 128)).sum().backward()
    assert layer.weight.grad is None
    assert layer.bias.grad is not None


def test_an_epoch_has_few_shapes_of_products() -> None:
    """Each shape costs milliseconds and about 1 MB in the cache of oneDNN."""
    lengths = np.random.default_rng(1).lognormal(2.7, 0.3, (29_000, 2)).clip(3, 40).astype(int)
    lengths[:, 1] = lengths[:, 0] + lengths[:, 1] % 3
    schedule = Schedule(*lengths.T, BatchingConfig(max_tokens=1024, micro_batches=2), seed=1)
    rows, batches = set(), set()
    for number in range(3 * schedule.updates_per_epoch):
        for pairs in filter(len, schedule.update(number).micro_batches):
            num, (src, tgt) = len(pairs), (lengths[pairs].max(axis=0) + 1).tolist()
            rows |= {num * src, num * tgt}
            batches |= {(4 * num, tgt, 32, src), (4 * num, tgt, src, 32)}
    assert len(rows) > 20
    assert len({round_up(num, ROWS_STEP) for num in rows}) < 8
    assert len(batches) > 80
    assert len({padded_batch(*shape) for shape in batches}) < 50
