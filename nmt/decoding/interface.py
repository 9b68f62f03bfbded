"""Stepping: what a search and a scoring ask of a model, and the shapes in which they ask.

Neither mixes sentences, so what is left of their company (P7; fp32, CPU) are kernels whose rounding
depends on a shape. Matrix products treat the last one to three rows in another way, so a model
always sees a multiple of SENTENCES; Intel's would treat up to ten so (`nmt.model.mkl`). Sums
over the source are cut into blocks by its padded length, so that is a function of the sentence
alone (`padded_length`).

Shapes: B sentences, R = B * beam rows, V vocabulary, S padded source length.
"""

from collections.abc import Sequence
from typing import Protocol, Self, TypeVar

import torch
from torch import Tensor

from nmt.corpus.subword import PAD

SENTENCES = 4
"""Sentences in a batch are filled up to a multiple of this."""
COMPACT_SHARE = 0.1
"""Share of a batch that must be done before the others are moved together."""


class Selectable(Protocol):
    """A model's tensors of a batch, of which some rows can be taken, in any order and number."""

    def select(self, rows: Tensor, /) -> Self:
        """The same of these rows."""


MemoryT = TypeVar("MemoryT", bound=Selectable)
StateT = TypeVar("StateT", bound=Selectable)


class StepModel(Protocol[MemoryT, StateT]):
    """What can be searched: `nmt.model.seq2seq.Seq2Seq`, or several of them as one."""

    def encode(self, src: Tensor, src_lengths: Tensor) -> MemoryT:
        """Read sources, [B, S] with [B] real tokens."""

    def start(self, memory: MemoryT, beam: int) -> StateT:
        """The state of B * beam rows before the first token; row b * beam + k is of sentence b."""

    def step(self, tokens: Tensor, state: StateT, memory: MemoryT) -> tuple[Tensor, StateT, Tensor]:
        """From the last tokens, [R], to logits [R, V], the next state, attention [R, S]."""


def padded_length(num_tokens: int) -> int:
    """Positions that a source takes: the next multiple of 16, coarser from 128 tokens on."""
    step = max(16, 1 << max(0, (num_tokens - 1).bit_length() - 3))
    return -(-num_tokens // step) * step


def pad_sources(sources: Sequence[Sequence[int]], device: torch.device) -> tuple[Tensor, Tensor]:
    """Source ids, [B, S], and how many are real, [B]."""
    width = max(padded_length(len(source)) for source in sources)
    padded = [[*source, *[PAD] * (width - len(source))] for source in sources]
    lengths = [len(source) for source in sources]
    return torch.tensor(padded, device=device), torch.tensor(lengths, device=device)
