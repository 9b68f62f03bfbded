"""Interface between the search and a model, and the tensor shapes that it guarantees.

Batch-invariant translation (fp32, CPU) needs more than a search that never mixes sentences: the
kernels of a model round differently for different shapes. Two rules keep the shapes independent of
the other sentences of a batch.

- Matrix products treat the last one to three rows differently, so a model always gets a multiple of
  `BATCH_MULTIPLE` sentences (MKL needs more care: `nmt.model.mkl`).
- Sums over the source are split into blocks by its padded length, so the padded length is a
  function of the sentence alone (`padded_length`).

Shapes: B sentences, K beam, R = B * K rows, V vocabulary, S padded source length.
"""

from collections.abc import Sequence
from typing import Protocol, Self, TypeVar

import torch
from torch import Tensor

from nmt.corpus.subword import PAD

BATCH_MULTIPLE = 4
"""Batches are filled up to a multiple of this many sentences."""
COMPACT_SHARE = 0.1
"""Share of a batch that must be finished before the remaining sentences are compacted."""


class Selectable(Protocol):
    """Tensors of a batch from which rows can be selected in any order and number."""

    def select(self, rows: Tensor, /) -> Self:
        """Return the tensors of these rows."""


MemoryT = TypeVar("MemoryT", bound=Selectable)
StateT = TypeVar("StateT", bound=Selectable)


class StepModel(Protocol[MemoryT, StateT]):
    """Model that can be searched: `Seq2Seq` (`nmt.model.seq2seq`) or `Ensemble`."""

    def encode(self, src: Tensor, src_lengths: Tensor) -> MemoryT:
        """Encode sources, [B, S] with `src_lengths` real tokens, [B]."""

    def start(self, memory: MemoryT, beam: int) -> StateT:
        """Return the state of B * beam rows before the first token.

        Row b * beam + k belongs to sentence b.
        """

    def step(self, tokens: Tensor, state: StateT, memory: MemoryT) -> tuple[Tensor, StateT, Tensor]:
        """Decode one token per row.

        Args:
            tokens: last token of each row, [R].
            state: decoder state of the rows.
            memory: encoder output of the sentences.

        Returns:
            Logits [R, V], the next state, and attention over the source [R, S].
        """


def padded_length(num_tokens: int) -> int:
    """Round a source length up to a multiple of 16; from 128 tokens on to a coarser one.

    Padding is at most a quarter of the length from 64 tokens on.
    """
    # An eighth of the next power of two from 128 on: few distinct widths, little padding.
    step = max(16, 1 << max(0, (num_tokens - 1).bit_length() - 3))
    return -(-num_tokens // step) * step


def pad_sources(sources: Sequence[Sequence[int]], device: torch.device) -> tuple[Tensor, Tensor]:
    """Return source ids, [B, S], and the number of real tokens of each source, [B]."""
    width = max(padded_length(len(source)) for source in sources)
    padded = [[*source, *[PAD] * (width - len(source))] for source in sources]
    lengths = [len(source) for source in sources]
    return torch.tensor(padded, device=device), torch.tensor(lengths, device=device)
