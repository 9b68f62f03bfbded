import pytest
import torch
from torch import Tensor, nn

from nmt.config.experiment import ModelConfig
from nmt.model.encoder import EncoderBlock, GnmtEncoder, ResidualEncoder, make_encoder

LENGTHS = torch.tensor([4, 2])
PRESETS = {
    "residual": ModelConfig(width=6, heads=2, encoder_layers=2, ffn_width=8),
    "gnmt": ModelConfig(
        preset="gnmt", attention="additive", width=6, encoder_layers=3, decoder_layers=2
    ),
}


def make(preset: str) -> ResidualEncoder | GnmtEncoder:
    torch.manual_seed(1)
    return make_encoder(PRESETS[preset]).eval()


def sources() -> Tensor:
    return torch.randn(2, 4, 6, generator=torch.Generator().manual_seed(2))


@pytest.mark.parametrize("preset", PRESETS)
def test_output_has_one_vector_per_position(preset: str) -> None:
    assert make(preset)(sources(), LENGTHS).shape == (2, 4, 6)


@pytest.mark.parametrize("preset", PRESETS)
@pytest.mark.parametrize("num_more", [0, 3])
def test_padding_changes_no_output_and_no_gradient(preset: str, num_more: int) -> None:
    is_real = (torch.arange(4) < LENGTHS[:, None])[..., None]
    results = []
    for filling, more in ((0.0, 0), (7.0, num_more)):
        encoder = make(preset)
        x = nn.functional.pad(sources(), (0, 0, 0, more), value=filling)
        x[1, 2:] = filling
        x.requires_grad_()
        out = encoder(x, LENGTHS)
        # Not squares: those of a normalised output have a constant sum, whose gradient is rounding.
        weights = torch.randn(2, 4, out.size(2), generator=torch.Generator().manual_seed(3))
        (out[:, :4] * weights * is_real).sum().backward()
        gradients = [parameter.grad for parameter in encoder.parameters()]
        assert not x.grad[1, 2:].any()
        results.append([out[0, :4], out[1, :2], x.grad[0, :4], x.grad[1, :2], *gradients])
    for one, other in zip(*results, strict=True):
        assert torch.allclose(one, other, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("preset", PRESETS)
def test_every_position_depends_on_all_others(preset: str) -> None:
    encoder = make(preset)
    x = sources().requires_grad_()
    for position in (0, 3):
        x.grad = None
        encoder(x, LENGTHS)[0, position, 0].backward()
        assert (x.grad[0].abs().sum(dim=1) > 0).all()
        assert not x.grad[1].any()


def test_block_is_residual() -> None:
    block = EncoderBlock(PRESETS["residual"])
    for parameter in block.parameters():
        nn.init.zeros_(parameter)
    positions = torch.arange(4).expand(2, 4)
    assert torch.equal(block(sources(), positions), sources())


def test_block_without_feed_forward_layer() -> None:
    block = EncoderBlock(ModelConfig(width=6, heads=2, ffn_width=0))
    assert {name.split(".")[0] for name, _ in block.named_parameters()} == {"lstm", "lstm_norm"}


def test_gnmt_is_residual_from_the_third_layer() -> None:
    encoder = make("gnmt")
    assert isinstance(encoder, GnmtEncoder)
    third = encoder.rest[1]
    for parameter in third.parameters():
        nn.init.zeros_(parameter)
    with_third = encoder(sources(), LENGTHS)
    encoder.rest = encoder.rest[:1]
    assert torch.equal(with_third, encoder(sources(), LENGTHS))


@pytest.mark.parametrize("preset", PRESETS)
def test_values_are_dropped_in_training_only(preset: str) -> None:
    encoder = make(preset)
    still = encoder(sources(), LENGTHS)
    assert torch.equal(encoder(sources(), LENGTHS), still)
    assert not torch.equal(encoder.train()(sources(), LENGTHS), still)
