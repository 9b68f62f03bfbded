"""Recorded activations: gates of the fused layers, attention of each head, probabilities."""

from typing import Any

import pytest
import torch
from torch import Tensor

from nmt.config.experiment import ModelConfig
from nmt.corpus.subword import BOS
from nmt.model.activations import Activations, lstm_layers, record_activations
from nmt.model.seq2seq import Seq2Seq

SMALL: dict[str, Any] = {"width": 8, "heads": 2, "ffn_width": 12, "encoder_layers": 2}
PRESETS = {
    "multi_head": SMALL | {"decoder_layers": 3},
    "additive": SMALL | {"decoder_layers": 1, "attention": "additive"},
    "gnmt": SMALL | {"encoder_layers": 3, "decoder_layers": 3, "attention": "additive",
                     "preset": "gnmt"},
}  # fmt: skip
SRC, TGT_IN = [5, 6, 7, 2], [BOS, 4, 3]


def make(preset: str, **settings: Any) -> Seq2Seq:
    torch.manual_seed(1)
    return Seq2Seq(ModelConfig(**PRESETS[preset] | settings), 11)


def record(preset: str) -> tuple[Seq2Seq, Activations]:
    model = make(preset, dropout=0.5)
    return model, record_activations(model, SRC, TGT_IN)


@pytest.mark.parametrize("direction", ["forward", "backward"])
def test_gates_equal_those_computed_by_hand(direction: str) -> None:
    """Inputs 1, -1, 0.5; weights of input and candidate 1, of the last hidden state to forget 1."""
    model = make("gnmt", width=1)
    with torch.no_grad():
        model.src_embedding.weight[[5, 6, 2]] = torch.tensor([[1.0], [-1.0], [0.5]])
        for lstm in (model.encoder.first.forwards, model.encoder.first.backwards):
            lstm.weight_ih.copy_(torch.tensor([[1.0], [0.0], [1.0], [0.0]]))
            lstm.weight_hh.copy_(torch.tensor([[0.0], [1.0], [0.0], [0.0]]))
            lstm.bias.copy_(torch.tensor([0.0, 1.0, 0.0, 2.0]))
    found = {each.layer.name: each for each in record_activations(model, [5, 6, 2], [BOS]).lstms}
    each = found[f"encoder 1 {direction}"]
    columns = [*each.gates, each.cell, each.hidden]
    # Input, forget, candidate, output, cell state, hidden state.
    expected = {
        "forward": [
            [0.7311, 0.7311, 0.7616, 0.8808, 0.5568, 0.4453],
            [0.2689, 0.8093, -0.7616, 0.8808, 0.2458, 0.2122],
            [0.6225, 0.7707, 0.4621, 0.8808, 0.4771, 0.3910],
        ],
        # The last row is read first.
        "backward": [
            [0.7311, 0.7343, 0.7616, 0.8808, 0.5704, 0.4542],
            [0.2689, 0.7767, -0.7616, 0.8808, 0.0186, 0.0164],
            [0.6225, 0.7311, 0.4621, 0.8808, 0.2876, 0.2466],
        ],
    }[direction]
    assert torch.cat(columns, dim=1).tolist() == [pytest.approx(row, abs=1e-4) for row in expected]


@pytest.mark.parametrize("preset", PRESETS)
def test_hidden_states_equal_those_of_the_fused_layers(preset: str) -> None:
    model = make(preset)
    fused: dict[str, Tensor] = {}
    for layer in lstm_layers(model):

        def keep(_: Any, __: Any, out: Tensor, name: str = layer.name) -> None:
            fused[name] = out[0].flip(0) if name.endswith("backward") else out[0]

        layer.lstm.register_forward_hook(keep)
    recorded = record_activations(model, SRC, TGT_IN)
    assert [each.layer.name for each in recorded.lstms] == list(fused)
    for each in recorded.lstms:
        assert (each.hidden - fused[each.layer.name]).abs().max() <= 1e-6, each.layer.name
        assert torch.allclose(each.hidden, each.gates.output * each.cell.tanh())


@pytest.mark.parametrize(
    ("preset", "names"),
    [
        (
            "multi_head",
            ["encoder 1 forward", "encoder 1 backward", "encoder 2 forward", "encoder 2 backward",
             "decoder 1", "decoder 2", "decoder 3"],
        ),
        (
            "gnmt",
            ["encoder 1 forward", "encoder 1 backward", "encoder 2", "encoder 3", "decoder 1",
             "decoder 2", "decoder 3"],
        ),
    ],
)  # fmt: skip
def test_every_lstm_layer_has_a_name(preset: str, names: list[str]) -> None:
    assert [layer.name for layer in lstm_layers(make(preset))] == names


@pytest.mark.parametrize("preset", PRESETS)
def test_attention_and_probabilities_are_those_of_the_search(preset: str) -> None:
    model, recorded = record(preset)
    memory = model.encode(torch.tensor([SRC]), torch.tensor([len(SRC)]))
    state = model.start(memory, beam=1)
    for position, token in enumerate(TGT_IN):
        logits, state, attention = model.step(torch.tensor([token]), state, memory)
        own = recorded.log_probs[position]
        assert torch.allclose(own, logits[0].log_softmax(dim=-1), atol=1e-5)
        mean = recorded.attentions[-1][:, position].mean(dim=0)
        assert torch.allclose(mean, attention[0], atol=1e-6)


@pytest.mark.parametrize(
    ("preset", "shapes"),
    [("multi_head", [(2, 3, 4)] * 3), ("additive", [(1, 3, 4)]), ("gnmt", [(1, 3, 4)])],
)
def test_attention_has_the_weights_of_each_head(
    preset: str, shapes: list[tuple[int, int, int]]
) -> None:
    _, recorded = record(preset)
    assert [tuple(weights.shape) for weights in recorded.attentions] == shapes
    for weights in recorded.attentions:
        assert torch.allclose(weights.sum(dim=-1), torch.ones(weights.shape[:2]))


def test_hooks_are_removed_also_after_an_error() -> None:
    model, _ = record("gnmt")
    with pytest.raises(IndexError):
        record_activations(model, [999], [BOS])
    assert not any(module._forward_pre_hooks for module in model.modules())
