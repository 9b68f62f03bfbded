"""Activations of a model on one pair: gates and cell states, attention, log-probabilities.

The model runs as in training (teacher forcing) but without dropout. Its LSTM layers are fused calls
without gates. Therefore forward hooks, removed afterwards, record the input of each layer, and the
reference cell (`LSTM.step_with_gates`) runs over it. No preset is written a second time.

Shapes: S source positions, T target positions, P either of them, N heads, H state size, V
vocabulary.
"""

from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor, nn

from nmt.model.lstm import LSTM, BiLSTM, Gates
from nmt.model.seq2seq import Seq2Seq


class LstmLayer(NamedTuple):
    """LSTM layer of a model."""

    side: Literal["encoder", "decoder"]
    depth: int
    """Number of the layer in encoder or decoder, from 1; both directions have the same."""
    direction: Literal["", "forward", "backward"]
    """Direction of reading in a bidirectional layer."""
    lstm: LSTM

    @property
    def name(self) -> str:
        """Name for readers, such as "encoder 1 forward"."""
        return f"{self.side} {self.depth} {self.direction}".rstrip()


@dataclass(frozen=True, eq=False)
class LstmActivations:
    """Activations of one LSTM layer, in the order of the text, also if it reads backward."""

    layer: LstmLayer
    gates: Gates
    """Each [P, H]."""
    cell: Tensor
    """Cell states, [P, H]."""
    hidden: Tensor
    """Hidden states, [P, H]."""


@dataclass(frozen=True, eq=False)
class Activations:
    """Activations of a model on one pair."""

    lstms: list[LstmActivations]
    """LSTM layers of the encoder, then those of the decoder."""
    attentions: list[Tensor]
    """Weights of each attention layer, [N, T, S]; additive attention counts as one head."""
    log_probs: Tensor
    """Natural log-probabilities of all tokens at each target position, [T, V]."""


def lstm_layers(model: Seq2Seq) -> Iterator[LstmLayer]:
    """Yield the LSTM layers of a model, those of the encoder first."""
    parts: tuple[tuple[Literal["encoder", "decoder"], nn.Module], ...]
    parts = ("encoder", model.encoder), ("decoder", model.decoder)
    for side, part in parts:
        inside = [each for each in part.modules() if isinstance(each, BiLSTM)]
        directions = {direction for each in inside for direction in (each.forwards, each.backwards)}
        whole = [
            each for each in part.modules()
            if isinstance(each, BiLSTM) or (isinstance(each, LSTM) and each not in directions)
        ]  # fmt: skip
        for depth, layer in enumerate(whole, start=1):
            if isinstance(layer, BiLSTM):
                yield LstmLayer(side, depth, "forward", layer.forwards)
                yield LstmLayer(side, depth, "backward", layer.backwards)
            else:
                yield LstmLayer(side, depth, "", layer)


@torch.no_grad()
def record_activations(model: Seq2Seq, src: Sequence[int], tgt_in: Sequence[int]) -> Activations:
    """Run a model in evaluation mode on one pair and record its activations.

    Args:
        model: model on the CPU; put into evaluation mode.
        src: source ids with EOS.
        tgt_in: target ids shifted right, BOS first.
    """
    model.eval()
    layers = list(lstm_layers(model))
    attentions = model.decoder.attentions
    inputs: dict[nn.Module, tuple[Any, ...]] = {}

    def record(module: nn.Module, args: tuple[Any, ...]) -> None:
        inputs[module] = args

    with ExitStack() as hooks:
        for module in [*(layer.lstm for layer in layers), *attentions]:
            hooks.callback(module.register_forward_pre_hook(record).remove)
        # One sentence: no padding anywhere.
        hidden = model(
            torch.tensor([src]), torch.tensor([len(src)]), torch.tensor([tgt_in]),
            torch.arange(len(tgt_in)),
        )  # fmt: skip
    weights = []
    for attention in attentions:
        query, keys, _, is_pad = inputs[attention]
        of_heads = attention.weights(query, keys, is_pad)[0]
        weights.append(of_heads if of_heads.dim() == 3 else of_heads[None])
    return Activations(
        [_run_reference(layer, inputs[layer.lstm][0]) for layer in layers],
        weights,
        (hidden @ model.output_weight.T).float().log_softmax(dim=-1),
    )


def _run_reference(layer: LstmLayer, x: Tensor) -> LstmActivations:
    """Run the reference cell over the input of a layer, [1, P, I], in the order it is read."""
    lstm = layer.lstm
    state = (x.new_zeros(1, lstm.hidden_size), x.new_zeros(1, lstm.hidden_size))
    steps = []
    for position in range(x.size(1)):
        state, gates = lstm.step_with_gates(x[:, position], state)
        steps.append((*gates, state[1], state[0]))
    # A backward layer reads the text from its end.
    in_order = steps[::-1] if layer.direction == "backward" else steps
    *gate_rows, cell, hidden = (torch.cat(rows) for rows in zip(*in_order, strict=True))
    return LstmActivations(layer, Gates(*gate_rows), cell, hidden)
