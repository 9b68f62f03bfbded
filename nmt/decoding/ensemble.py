"""Several models as one: their probabilities of the next token, averaged."""

from dataclasses import dataclass
from typing import Generic, Self, TypeVar, cast

import torch
from torch import Tensor, nn

from nmt.model.decoder import DecoderState, Memory
from nmt.model.seq2seq import Seq2Seq

PartT = TypeVar("PartT", Memory, DecoderState)


@dataclass(frozen=True)
class Parts(Generic[PartT]):
    """Memory or state of each model."""

    parts: tuple[PartT, ...]

    def select(self, rows: Tensor) -> Self:
        """The same of these rows."""
        return type(self)(tuple(part.select(rows) for part in self.parts))


class Ensemble(nn.Module):
    """Models of one vocabulary that can be searched as one; `nmt.decoding.interface.StepModel`.

    Their attention is averaged too.
    """

    def __init__(self, models: list[Seq2Seq]) -> None:
        super().__init__()
        self.models = nn.ModuleList(models)

    def encode(self, src: Tensor, src_lengths: Tensor) -> Parts[Memory]:
        """Read sources, [B, S] with `src_lengths` real tokens, once with each model."""
        return Parts(tuple(model.encode(src, src_lengths) for model in self._each()))

    def start(self, memory: Parts[Memory], beam: int) -> Parts[DecoderState]:
        """The states of B * beam rows before the first token."""
        pairs = zip(self._each(), memory.parts, strict=True)
        return Parts(tuple(model.start(of_model, beam) for model, of_model in pairs))

    def step(
        self, tokens: Tensor, state: Parts[DecoderState], memory: Parts[Memory]
    ) -> tuple[Tensor, Parts[DecoderState], Tensor]:
        """From the last tokens, [R], to logits [R, V], the next state, attention [R, S]."""
        each = zip(self._each(), state.parts, memory.parts, strict=True)
        steps = [model.step(tokens, before, of_model) for model, before, of_model in each]
        logits, states, looks = zip(*steps, strict=True)
        # Summed one after the other: the order of a reduction could depend on the batch (P7).
        total, attention = logits[0].log_softmax(dim=-1), looks[0]
        for one_logits, one_look in zip(logits[1:], looks[1:], strict=True):
            total = torch.logaddexp(total, one_logits.log_softmax(dim=-1))
            attention = attention + one_look
        return total, Parts(states), attention / len(steps)

    def _each(self) -> list[Seq2Seq]:
        return cast(list[Seq2Seq], list(self.models))
