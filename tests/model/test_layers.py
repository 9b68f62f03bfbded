import pytest
import torch

from nmt.config.experiment import ModelConfig
from nmt.model.layers import FeedForward, drop, drop_words, keep_mask


@pytest.mark.parametrize("rate", [0.1, 0.2, 0.5, 0.9])
def test_drop_rate_is_as_configured(rate: float) -> None:
    torch.manual_seed(1)
    dropped = (drop(torch.ones(400, 1000), rate, True) == 0).float().mean().item()
    assert dropped == pytest.approx(round(rate * 256) / 256, abs=0.003)


@pytest.mark.parametrize("rate", [0.1, 0.2, 0.5, 0.9])
def test_drop_keeps_the_mean(rate: float) -> None:
    torch.manual_seed(2)
    assert drop(torch.ones(400, 1000), rate, True).mean().item() == pytest.approx(1, abs=0.02)


def test_kept_values_are_scaled_up() -> None:
    torch.manual_seed(3)
    assert drop(torch.full((100,), 3.0), 0.25, True).unique().tolist() == [0.0, 4.0]


def test_each_of_the_eight_values_of_a_draw_has_the_same_rate() -> None:
    torch.manual_seed(4)
    kept = keep_mask((50_000, 8), 0.5) > 0
    assert kept.float().mean(dim=0).tolist() == pytest.approx([0.5] * 8, abs=0.02)


def test_values_are_dropped_independently() -> None:
    torch.manual_seed(5)
    kept = (keep_mask((50_000, 8), 0.5) > 0).float()
    assert (torch.corrcoef(kept.T) - torch.eye(8)).abs().max() < 0.03


def test_mask_depends_on_the_seed() -> None:
    """World-size independence (nmt/README.md, Guarantees)."""
    draws = []
    for seed in (6, 6, 7):
        torch.manual_seed(seed)
        draws.append(drop(torch.ones(5, 7), 0.5, True))
    assert torch.equal(draws[0], draws[1])
    assert not torch.equal(draws[0], draws[2])


@pytest.mark.parametrize("rate", [0.0001, 0.9999])
def test_extreme_rates_keep_some_and_drop_some(rate: float) -> None:
    torch.manual_seed(8)
    dropped = drop(torch.ones(100_000), rate, True)
    assert 0 < (dropped == 0).sum() < 100_000
    assert dropped.isfinite().all()


@pytest.mark.parametrize(("rate", "is_training"), [(0.5, False), (0.0, True)])
def test_nothing_is_dropped_outside_of_training(rate: float, is_training: bool) -> None:
    x = torch.ones(100)
    assert drop(x, rate, is_training) is x
    assert drop_words(x.view(5, 20, 1), rate, is_training).all()


def test_bf16_stays_bf16() -> None:
    assert drop(torch.ones(8, dtype=torch.bfloat16), 0.5, True).dtype == torch.bfloat16


def test_whole_words_are_dropped_and_not_scaled() -> None:
    torch.manual_seed(9)
    sums = drop_words(torch.ones(100, 100, 3), 0.2, True).sum(dim=2)
    assert sums.unique().tolist() == [0.0, 3.0]
    assert (sums == 0).float().mean().item() == pytest.approx(0.2, abs=0.02)


def test_feed_forward_is_two_linear_layers_around_a_relu() -> None:
    part = FeedForward(ModelConfig(width=2, heads=1, ffn_width=2))
    with torch.no_grad():
        part.expand.weight.copy_(torch.tensor([[1.0, 0.0], [0.0, 1.0]]))
        part.expand.bias.copy_(torch.tensor([0.0, -5.0]))
        part.contract.weight.copy_(torch.tensor([[2.0, 0.0], [0.0, 2.0]]))
        part.contract.bias.copy_(torch.tensor([0.5, 0.5]))
    assert part(torch.tensor([3.0, 4.0])).tolist() == [6.5, 0.5]


def test_locked_dropout_has_one_mask_for_all_positions() -> None:
    torch.manual_seed(1)
    dropped = drop(torch.ones(50, 7, 40), 0.25, is_training=True, is_locked=True)
    assert torch.equal(dropped, dropped[:, :1].expand(-1, 7, -1))
    assert not torch.equal(dropped[0], dropped[1])
    assert (dropped == 0).float().mean().item() == pytest.approx(0.25, abs=0.05)
    assert dropped.mean().item() == pytest.approx(1, abs=0.05)


def test_locked_dropout_is_independent_of_padding() -> None:
    """World-size independence (nmt/README.md, Guarantees)."""
    torch.manual_seed(1)
    short = drop(torch.ones(2, 3, 16), 0.5, is_training=True, is_locked=True)
    torch.manual_seed(1)
    long = drop(torch.ones(2, 9, 16), 0.5, is_training=True, is_locked=True)
    assert torch.equal(short, long[:, :3])


def test_kept_values_are_scaled_by_the_rounded_rate() -> None:
    torch.manual_seed(1)
    assert keep_mask((4000,), 0.1).unique().tolist() == pytest.approx([0, 256 / 230])
