import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from nmt.batching.batch import Batch, make_batch
from nmt.training import loss
from nmt.training.loss import LossSums, cross_entropy, cutoff, draw_cutoff, r_drop, tokens_of_chunk

NUM_TOKENS, WIDTH, VOCAB = 150, 8, 30


def inputs(num_tokens: int = NUM_TOKENS) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1)
    hidden = torch.randn(num_tokens, WIDTH, generator=generator).requires_grad_()
    weight = torch.randn(VOCAB, WIDTH, generator=generator).requires_grad_()
    return hidden, weight, torch.randint(0, VOCAB, (num_tokens,), generator=generator)


def gradients_of(total: Tensor, *leaves: Tensor) -> list[Tensor]:
    total.backward()
    assert all(leaf.grad is not None for leaf in leaves)
    return [leaf.grad for leaf in leaves if leaf.grad is not None]


def assert_near(found: Tensor, expected: Tensor, rel: float) -> None:
    assert (found - expected).abs().max() <= rel * expected.abs().max()


def test_a_chunk_has_a_minimum_size() -> None:
    assert tokens_of_chunk("cpu", vocab_size=6_000, width=128) == 174  # a million logits
    assert tokens_of_chunk("cpu", vocab_size=32_000, width=64) == 64
    assert tokens_of_chunk("cpu", vocab_size=32_000, width=1024) == 512
    assert tokens_of_chunk("cuda", vocab_size=32_000, width=1024) == 4194


# A chunk has 64 tokens at least: 150 tokens in chunks of 64, of 100 and of 150.
@pytest.mark.parametrize("chunk_values", [1, 100 * VOCAB, 2**20])
@pytest.mark.parametrize("smoothing", [0.0, 0.1, 0.5])
def test_the_loss_equals_cross_entropy_of_torch(
    smoothing: float, chunk_values: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(loss.CHUNK_VALUES, "cpu", chunk_values)
    hidden, weight, targets = inputs()
    sums = cross_entropy(hidden, weight, targets, smoothing, torch.float32)
    found = gradients_of(sums.smoothed, hidden, weight)
    hidden, weight, targets = inputs()
    logits = hidden @ weight.T
    whole = functional.cross_entropy(logits, targets, reduction="sum", label_smoothing=smoothing)
    expected = gradients_of(whole, hidden, weight)
    assert_near(sums.smoothed, whole, 1e-5)
    assert_near(sums.nll, functional.cross_entropy(logits, targets, reduction="sum"), 1e-5)
    for one, other in zip(found, expected, strict=True):
        assert_near(one, other, 1e-5)


def test_bf16_is_near_fp32_and_sums_in_fp32() -> None:
    hidden, weight, targets = inputs()
    low = hidden.detach().bfloat16().requires_grad_()
    sums = cross_entropy(low, weight, targets, 0.1, torch.bfloat16)
    found = gradients_of(sums.smoothed, low, weight)
    assert (sums.smoothed.dtype, sums.nll.dtype) == (torch.float32, torch.float32)
    assert [gradient.dtype for gradient in found] == [torch.bfloat16, torch.float32]
    hidden, weight, targets = inputs()
    whole = cross_entropy(hidden, weight, targets, 0.1, torch.float32)
    expected = gradients_of(whole.smoothed, hidden, weight)
    assert_near(sums.smoothed, whole.smoothed, 0.01)
    for one, other in zip(found, expected, strict=True):
        assert_near(one.float(), other, 0.03)


def test_no_tokens_give_zero_loss_and_gradients() -> None:
    """A rank without pairs takes part in the all-reduce."""
    hidden, weight, targets = inputs(0)
    sums = cross_entropy(hidden, weight, targets, 0.1, torch.float32)
    assert (sums.smoothed.item(), sums.nll.item()) == (0, 0)
    by_hidden, by_weight = gradients_of(sums.smoothed, hidden, weight)
    assert by_hidden.shape == (0, WIDTH)
    assert not by_weight.any()


def test_gradients_scale_with_the_loss() -> None:
    hidden, weight, targets = inputs()
    once = gradients_of(cross_entropy(hidden, weight, targets, 0.1, torch.float32)[0], weight)
    hidden, weight, targets = inputs()
    sums = cross_entropy(hidden, weight, targets, 0.1, torch.float32)
    thrice = gradients_of(sums.smoothed * 3, weight)
    assert torch.allclose(thrice[0], 3 * once[0])


def test_only_the_smoothed_loss_has_a_gradient() -> None:
    sums = cross_entropy(*inputs(), 0.1, torch.float32)
    assert sums.smoothed.requires_grad
    assert not sums.nll.requires_grad


def test_values_are_the_same_without_gradients() -> None:
    with_gradients = cross_entropy(*inputs(), 0.1, torch.float32)
    with torch.no_grad():
        without = cross_entropy(*inputs(), 0.1, torch.float32)
    with torch.inference_mode():
        inferred = cross_entropy(*inputs(), 0.1, torch.float32)
    assert not without.smoothed.requires_grad
    for sums in (without, inferred):
        assert sums.smoothed.item() == with_gradients.smoothed.item()
        assert sums.nll.item() == with_gradients.nll.item()


def test_a_token_of_probability_0_has_a_finite_loss() -> None:
    hidden = torch.tensor([[1000.0]]).requires_grad_()
    weight = torch.tensor([[1.0], [-1.0]]).requires_grad_()
    sums = cross_entropy(hidden, weight, torch.tensor([1]), 0.1, torch.float32)
    assert sums.smoothed.isfinite()
    assert all(gradient.isfinite().all() for gradient in gradients_of(sums.smoothed, weight))


def test_no_more_logits_than_a_chunk_are_in_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(loss.CHUNK_VALUES, "cpu", 1)
    shapes = []
    softmax = Tensor.softmax

    def watch(logits: Tensor, dim: int) -> Tensor:
        shapes.append(tuple(logits.shape))
        return softmax(logits, dim=dim)

    monkeypatch.setattr(Tensor, "softmax", watch)
    cross_entropy(*inputs(), 0.1, torch.float32)
    assert shapes == [(64, VOCAB), (64, VOCAB), (22, VOCAB)]


# R-Drop.


def r_drop_by_hand(
    hidden: Tensor, weight: Tensor, targets: Tensor, smoothing: float, alpha: float
) -> Tensor:
    """Liang et al. 2021, equations 4 and 5, halved."""
    one, two = (hidden @ weight.T).chunk(2)
    entropies = [
        functional.cross_entropy(logits, targets, reduction="sum", label_smoothing=smoothing)
        for logits in (one, two)
    ]
    p, q = (logits.log_softmax(dim=1) for logits in (one, two))
    forth = functional.kl_div(q, p, reduction="sum", log_target=True)
    back = functional.kl_div(p, q, reduction="sum", log_target=True)
    return (sum(entropies) + alpha / 2 * (forth + back)) / 2


def two_passes(num_tokens: int = NUM_TOKENS) -> tuple[Tensor, Tensor, Tensor]:
    hidden, weight, targets = inputs(2 * num_tokens)
    return hidden, weight, targets[:num_tokens]


def test_r_drop_of_equal_passes_is_cross_entropy() -> None:
    hidden, weight, targets = inputs()
    once = cross_entropy(hidden, weight, targets, 0.1, torch.float32)
    twice = r_drop(torch.cat([hidden, hidden]), weight, targets, 0.1, 3.0, torch.float32)
    assert_near(twice.smoothed, once.smoothed, 1e-5)
    assert_near(twice.nll, once.nll, 1e-5)
    assert not twice.nll.requires_grad


def test_r_drop_in_bf16_is_near_fp32() -> None:
    hidden, weight, targets = two_passes()
    low = hidden.detach().bfloat16().requires_grad_()
    sums = r_drop(low, weight, targets, 0.1, 2.0, torch.bfloat16)
    found = gradients_of(sums.smoothed, low, weight)
    assert [gradient.dtype for gradient in found] == [torch.bfloat16, torch.float32]
    hidden, weight, targets = two_passes()
    whole = r_drop(hidden, weight, targets, 0.1, 2.0, torch.float32)
    expected = gradients_of(whole.smoothed, hidden, weight)
    assert_near(sums.smoothed, whole.smoothed, 0.02)
    for one, other in zip(found, expected, strict=True):
        assert_near(one.float(), other, 0.05)


def test_r_drop_of_no_tokens_is_0() -> None:
    hidden, weight, targets = two_passes(0)
    sums = r_drop(hidden, weight, targets, 0.1, 1.0, torch.float32)
    by_hidden, by_weight = gradients_of(sums.smoothed, hidden, weight)
    assert (sums.smoothed.item(), sums.nll.item(), by_hidden.shape) == (0, 0, (0, WIDTH))
    assert not by_weight.any()


# Cutoff.


def cutoff_by_hand(
    hidden: Tensor, weight: Tensor, targets: Tensor, smoothing: float, beta: float
) -> Tensor:
    """Half of the loss of Shen et al. 2020, with one erased input and alpha 1."""
    passes = (hidden @ weight.T).chunk(2)
    entropies = [
        functional.cross_entropy(logits, targets, reduction="sum", label_smoothing=smoothing)
        for logits in passes
    ]
    probs = [logits.softmax(dim=1) for logits in passes]
    mean = (probs[0] + probs[1]) / 2
    divergence = sum((each * (each / mean).log()).sum() for each in probs) / 2
    return (sum(entropies) + beta * divergence) / 2


@pytest.mark.parametrize("chunk_values", [1, 200 * VOCAB, 2**20])
@pytest.mark.parametrize(("smoothing", "weight_of_distance"), [(0.0, 1.0), (0.1, 5.0), (0.1, 0.0)])
@pytest.mark.parametrize(
    ("function", "by_hand"), [(r_drop, r_drop_by_hand), (cutoff, cutoff_by_hand)]
)
def test_losses_of_two_passes_equal_their_definitions(
    function: Callable[..., LossSums], by_hand: Callable[..., Tensor], smoothing: float,
    weight_of_distance: float, chunk_values: int, monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.setitem(loss.CHUNK_VALUES, "cpu", chunk_values)
    hidden, weight, targets = two_passes()
    sums = function(hidden, weight, targets, smoothing, weight_of_distance, torch.float32)
    found = gradients_of(sums.smoothed, hidden, weight)
    hidden, weight, targets = two_passes()
    whole = by_hand(hidden, weight, targets, smoothing, weight_of_distance)
    expected = gradients_of(whole, hidden, weight)
    assert_near(sums.smoothed, whole, 1e-5)
    for one, other in zip(found, expected, strict=True):
        assert_near(one, other, 1e-5)


def test_cutoff_of_passes_far_apart_is_finite() -> None:
    """The divergence is at most log 2 per token."""
    hidden = torch.tensor([[1000.0], [-1000.0]]).requires_grad_()
    weight = torch.tensor([[1.0], [-1.0]]).requires_grad_()
    near, far = (
        cutoff(hidden, weight, torch.tensor([1]), 0.0, beta, torch.float32) for beta in (0.0, 2.0)
    )
    assert (far.smoothed - near.smoothed).item() == pytest.approx(math.log(2), rel=1e-3)
    assert all(each.isfinite().all() for each in gradients_of(far.smoothed, hidden, weight))


REPEATED = make_batch([([5] * 40, [6] * 10), ([7] * 10, [8] * 40), ([], [])]).repeat()


def erased(batch: Batch, share: float, kind: str) -> tuple[Tensor, Tensor]:
    torch.manual_seed(1)
    src, tgt = draw_cutoff(batch, share, kind, width=64)
    return 1 - src.float(), 1 - tgt.float()


@pytest.mark.parametrize("kind", ["token", "feature", "span"])
def test_cutoff_erases_its_share_in_the_second_pass(kind: str) -> None:
    for side in erased(REPEATED, 0.25, kind):
        assert not side[:3].any()
        assert 0.15 < float(side[3:5].mean() / (1 if kind == "feature" else 25 / 41)) < 0.35


@pytest.mark.parametrize("kind", ["token", "span"])
def test_cutoff_keeps_bos_eos_and_padding(kind: str) -> None:
    src, tgt = erased(REPEATED, 0.99, kind)
    assert not src[3, 40:].any()
    assert not src[4, 10:].any()
    assert not tgt[3, [0, *range(11, 41)]].any()
    assert not tgt[4, 0].any()
    assert not src[5].any()
    assert not tgt[5].any()
    assert min(src[3, :40].mean(), tgt[4, 1:].mean()) > 0.9


def test_cutoff_of_spans_erases_neighbours() -> None:
    for side, row, count in zip(erased(REPEATED, 0.25, "span"), (3, 4), (10, 10), strict=True):
        places = side[row].flatten().nonzero().flatten().tolist()
        assert places == list(range(places[0], places[0] + count))
