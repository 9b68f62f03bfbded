import math
from typing import Any

import pytest
import torch
from torch import Tensor

from nmt.config.experiment import ModelConfig
from nmt.corpus.subword import BOS
from nmt.model.seq2seq import Seq2Seq, max_parameters, num_parameters

VOCAB = 11
SMALL: dict[str, Any] = {"width": 8, "heads": 2, "encoder_layers": 2, "ffn_width": 12}
PRESETS = {
    "multi_head": SMALL | {"decoder_layers": 2},
    "additive": SMALL | {"decoder_layers": 2, "attention": "additive"},
    "gnmt": SMALL | {"decoder_layers": 3, "attention": "additive", "preset": "gnmt"},
}
SRC = torch.tensor([[5, 6, 7, 2], [9, 2, 0, 0]])
SRC_LENGTHS = torch.tensor([4, 2])
TGT_IN = torch.tensor([[1, 4, 3], [1, 8, 0]])
REAL = torch.tensor([0, 1, 2, 3, 4])


def make(preset: str, **settings: Any) -> Seq2Seq:
    torch.manual_seed(1)
    return Seq2Seq(ModelConfig(**PRESETS[preset] | settings), VOCAB).eval()


def logits_of(model: Seq2Seq, *inputs: Tensor) -> Tensor:
    hidden: Tensor = model(*inputs)
    return hidden @ model.output_weight.T


@pytest.mark.parametrize("preset", PRESETS)
def test_sentence_is_independent_of_its_batch(preset: str) -> None:
    model = make(preset)
    together = logits_of(model, SRC, SRC_LENGTHS, TGT_IN, REAL)
    alone = logits_of(model, SRC[1:, :2], SRC_LENGTHS[1:], TGT_IN[1:, :2], torch.tensor([0, 1]))
    assert torch.allclose(together[3:], alone, atol=1e-6)


def test_forward_returns_real_positions_only() -> None:
    model = make("multi_head")
    every = model(SRC, SRC_LENGTHS, TGT_IN, torch.arange(6))
    assert torch.equal(model(SRC, SRC_LENGTHS, TGT_IN, REAL), every[:5])


def test_hypotheses_of_a_sentence_start_equal() -> None:
    model = make("multi_head")
    memory = model.encode(SRC, SRC_LENGTHS)
    state = model.start(memory, beam=3)
    assert [h.shape for h in (*state.hidden, *state.cell)] == [(6, 8)] * 4
    logits, _, _ = model.step(torch.full((6,), BOS), state, memory)
    assert torch.equal(logits[0], logits[2])
    assert not torch.allclose(logits[2], logits[3])


@pytest.mark.parametrize(
    ("preset", "is_tied", "expected"),
    [("multi_head", True, 1), ("multi_head", False, 3), ("gnmt", True, 2), ("gnmt", False, 3)],
)
def test_embeddings_are_tied_as_configured(preset: str, is_tied: bool, expected: int) -> None:
    model = make(preset, tie_embeddings=is_tied)
    weights = (model.src_embedding.weight, model.tgt_embedding.weight, model.output_weight)
    assert len({id(weight) for weight in weights}) == expected


def test_gnmt_has_the_published_size() -> None:
    config = ModelConfig(
        preset="gnmt", attention="additive", width=1024, encoder_layers=4, decoder_layers=4
    )
    with torch.device("meta"):
        model = Seq2Seq(config, 32_320)
    assert round(num_parameters(model) / 1e6, 1) == 160.6


def test_gnmt_starts_as_published() -> None:
    model = make("gnmt")
    for name, parameter in model.named_parameters():
        if name == "decoder.attention.scale":
            assert parameter.item() == pytest.approx(1 / math.sqrt(8))
        elif name == "decoder.attention.bias":
            assert not parameter.any()
        else:
            assert 0.05 < parameter.abs().max() <= 0.1


def test_logits_start_near_unit_variance() -> None:
    torch.manual_seed(2)
    model = Seq2Seq(ModelConfig(width=64, heads=2), 500).eval()
    src = torch.randint(3, 500, (20, 10))
    logits = logits_of(model, src, torch.full((20,), 10), src, torch.arange(200))
    assert 0.5 < logits.std().item() < 2


def test_same_seed_builds_the_same_model() -> None:
    """World-size independence (nmt/README.md, Guarantees)."""
    first, second = make("multi_head").state_dict(), make("multi_head").state_dict()
    assert all(torch.equal(first[name], second[name]) for name in first)


@pytest.mark.parametrize("preset", PRESETS)
def test_bf16_is_near_fp32(preset: str) -> None:
    model = make(preset)
    with torch.autocast("cpu", torch.bfloat16):
        hidden = model(SRC, SRC_LENGTHS, TGT_IN, REAL)
    full = model(SRC, SRC_LENGTHS, TGT_IN, REAL)
    assert (hidden.float() - full).abs().max() < 0.1


@pytest.mark.parametrize("preset", ["residual", "gnmt"])
@pytest.mark.parametrize("attention", ["multi_head", "additive"])
@pytest.mark.parametrize(("width", "ffn_width", "layers"), [(4, 0, 2), (8, 64, 2), (64, 8, 6)])
def test_max_parameters_is_an_upper_bound(
    preset: str, attention: str, width: int, ffn_width: int, layers: int
) -> None:
    settings = {"preset": preset, "attention": "additive" if preset == "gnmt" else attention}
    config = ModelConfig.model_validate(
        settings
        | {"width": width, "heads": 2, "ffn_width": ffn_width, "tie_embeddings": False}
        | {"encoder_layers": layers, "decoder_layers": layers}
    )
    for vocab_size in (10, 1000):
        exact = num_parameters(Seq2Seq(config, vocab_size))
        assert exact <= max_parameters(config, vocab_size) < 10 * exact
