"""Ensemble of models: the mean of their next-token probabilities.

Shapes: B sentences, R rows, V vocabulary, S padded source length.
"""

from dataclasses import dataclass
from typing import Generic, Self, TypeVar, cast

import torch
from torch import Tensor, nn

from nmt.model.decoder import DecoderState, Memory
from nmt.model.seq2seq import Seq2Seq

ItemT = TypeVar("ItemT", Memory, DecoderState)


@dataclass(frozen=True)
class PerModel(Generic[ItemT]):
    """Memory or state of each model of an ensemble."""

    items: tuple[ItemT, ...]

    def select(self, rows: Tensor) -> Self:
        """Return the tensors of these rows for each model."""
        return type(self)(tuple(item.select(rows) for item in self.items))


class Ensemble(nn.Module):
    """Models with one vocabulary, searched as one (`nmt.decoding.interface.StepModel`).

    The attention is the mean of the models' attention.
    """

    def __init__(self, models: list[Seq2Seq]) -> None:
        super().__init__()
        self.models = nn.ModuleList(models)

    def encode(self, src: Tensor, src_lengths: Tensor) -> PerModel[Memory]:
        """Encode sources, [B, S] with `src_lengths` real tokens, once with each model."""
        return PerModel(tuple(model.encode(src, src_lengths) for model in self._models()))

    def start(self, memory: PerModel[Memory], beam: int) -> PerModel[DecoderState]:
        """Return the states of B * beam rows before the first token."""
        pairs = zip(self._models(), memory.items, strict=True)
        return PerModel(tuple(model.start(of_model, beam) for model, of_model in pairs))

    def step(
        self, tokens: Tensor, state: PerModel[DecoderState], memory: PerModel[Memory]
    ) -> tuple[Tensor, PerModel[DecoderState], Tensor]:
        """Decode one token per row, [R].

        Returns:
            Log of the summed probabilities [R, V] (the search normalises it), the next states, and
            the mean attention [R, S].
        """
        # Each model sees the same tokens and keeps a state of its own.
        each = zip(self._models(), state.items, memory.items, strict=True)
        steps = [model.step(tokens, before, of_model) for model, before, of_model in each]
        logits, states, attentions = zip(*steps, strict=True)
        # Summed model by model: the order of a reduction over a stacked tensor could depend on the
        # batch size.
        total, attention = logits[0].log_softmax(dim=-1), attentions[0]
        for other_logits, other_attention in zip(logits[1:], attentions[1:], strict=True):
            total = torch.logaddexp(total, other_logits.log_softmax(dim=-1))
            attention = attention + other_attention
        return total, PerModel(states), attention / len(steps)

    def _models(self) -> list[Seq2Seq]:
        return cast(list[Seq2Seq], list(self.models))
