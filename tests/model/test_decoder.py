import pytest
import torch
from torch import Tensor, nn

from nmt.config.experiment import ModelConfig
from nmt.model.decoder import (
    DecoderBlock,
    DecoderState,
    GnmtDecoder,
    Memory,
    ResidualDecoder,
    make_decoder,
)

SMALL = {"width": 6, "heads": 2, "decoder_layers": 2, "ffn_width": 8}
PRESETS = {
    "multi_head": ModelConfig(**SMALL),
    "additive": ModelConfig(**SMALL, attention="additive"),
    "no feed-forward": ModelConfig(**SMALL | {"ffn_width": 0}),
    "gnmt": ModelConfig(**SMALL | {"decoder_layers": 3}, preset="gnmt", attention="additive"),
}
X = torch.randn(2, 5, 6, generator=torch.Generator().manual_seed(3))


def make(preset: str) -> tuple[ResidualDecoder | GnmtDecoder, Memory]:
    """Return a decoder and two encoded sources of 4 and 2 positions."""
    torch.manual_seed(1)
    decoder = make_decoder(PRESETS[preset], memory_width=6).eval()
    encoded = torch.randn(2, 4, 6)
    keys, values = zip(*(each.project(encoded) for each in decoder.attentions), strict=True)
    lengths = torch.tensor([4, 2])
    return decoder, Memory(keys, values, lengths, torch.arange(4) >= lengths[:, None])


@pytest.mark.parametrize("preset", PRESETS)
def test_step_equals_forward(preset: str) -> None:
    decoder, memory = make(preset)
    whole = decoder(X, memory)
    state = DecoderState.zeros(decoder.num_lstms, 2, decoder.width, X.device)
    for t in range(5):
        out, state, weights = decoder.step(X[:, t], state, memory)
        assert (out - whole[:, t]).abs().max() <= 1e-5
        assert torch.allclose(weights.sum(dim=1), torch.ones(2))
        assert not weights[1, 2:].any()


@pytest.mark.parametrize("preset", PRESETS)
def test_no_position_depends_on_later_ones(preset: str) -> None:
    decoder, memory = make(preset)
    changed = X.clone()
    changed[:, 3:] = 9.0
    assert torch.equal(decoder(changed, memory)[:, :3], decoder(X, memory)[:, :3])


@pytest.mark.parametrize("preset", PRESETS)
def test_every_hypothesis_attends_to_its_own_source(preset: str) -> None:
    decoder, memory = make(preset)
    state = DecoderState.zeros(decoder.num_lstms, 4, decoder.width, X.device)
    tokens = X[[0, 1, 0, 1], 0]  # two hypotheses of each sentence
    out, _, weights = decoder.step(tokens, state, memory)
    for sentence in (0, 1):
        alone = memory.select(torch.tensor([sentence]))
        state = DecoderState.zeros(decoder.num_lstms, 2, decoder.width, X.device)
        out_alone, _, weights_alone = decoder.step(tokens[:2], state, alone)
        assert torch.allclose(out[2 * sentence : 2 * sentence + 2], out_alone, atol=1e-6)
        assert torch.allclose(weights[2 * sentence : 2 * sentence + 2], weights_alone, atol=1e-6)


def test_state_select_reorders_rows() -> None:
    state = DecoderState(
        hidden=(torch.tensor([[1.0], [2.0], [3.0]]),),
        cell=(torch.tensor([[4.0], [5.0], [6.0]]),),
    )
    actual = state.select(torch.tensor([2, 2, 0]))
    assert actual.hidden[0].tolist() == [[3.0], [3.0], [1.0]]
    assert actual.cell[0].tolist() == [[6.0], [6.0], [4.0]]


@pytest.mark.parametrize("preset", PRESETS)
def test_step_after_select_is_that_of_the_selected_rows(preset: str) -> None:
    decoder, memory = make(preset)
    state = DecoderState.zeros(decoder.num_lstms, 2, decoder.width, X.device)
    _, state, _ = decoder.step(X[:, 0], state, memory)
    out, _, _ = decoder.step(X[:, 1], state, memory)
    swap = torch.tensor([1, 0])
    swapped, _, _ = decoder.step(X[swap, 1], state.select(swap), memory.select(swap))
    assert torch.allclose(swapped, out[swap], atol=1e-6)


def test_memory_select_keeps_padding() -> None:
    """Batch-invariant translation (nmt/README.md, Guarantees)."""
    _, memory = make("multi_head")
    actual = memory.select(torch.tensor([1]))
    assert actual.src_lengths.tolist() == [2]
    assert actual.is_pad.tolist() == [[False, False, True, True]]
    for depth in range(2):
        assert torch.equal(actual.keys[depth], memory.keys[depth][1:])
        assert torch.equal(actual.values[depth], memory.values[depth][1:])


def test_block_is_residual() -> None:
    _, memory = make("multi_head")
    block = DecoderBlock(PRESETS["multi_head"], memory_width=6)
    for parameter in block.parameters():
        nn.init.zeros_(parameter)
    assert torch.equal(block(X, memory.keys[0], memory.values[0], memory.is_pad), X)


def test_gnmt_feeds_context_of_first_layer_to_all_others() -> None:
    decoder, memory = make("gnmt")
    assert isinstance(decoder, GnmtDecoder)
    assert [lstm.weight_ih.shape[1] for lstm in decoder.rest] == [12, 12]
    read: list[Tensor] = []
    decoder.attention.register_forward_hook(lambda module, inputs, out: read.append(inputs[0]))
    decoder(X, memory)
    assert torch.equal(read[0], decoder.first(X))


@pytest.mark.parametrize("preset", PRESETS)
def test_values_are_dropped_in_training_only(preset: str) -> None:
    decoder, memory = make(preset)
    still = decoder(X, memory)
    assert torch.equal(decoder(X, memory), still)
    assert not torch.equal(decoder.train()(X, memory), still)
