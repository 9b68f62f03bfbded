"""Padded tensors of a micro-batch.

Shapes: B pairs, S longest source, T longest target, N real target tokens.
"""

import itertools
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from nmt.corpus.subword import BOS, EOS, PAD

TokenIds = Sequence[int] | npt.NDArray[Any]
"""Token ids of one side of a pair, without BOS and EOS."""


class Batch(NamedTuple):
    """Padded micro-batch."""

    src: Tensor
    """Source ids, EOS last, padded with PAD, [B, S]."""
    src_lengths: Tensor
    """Source tokens without padding, EOS included, [B]."""
    tgt_in: Tensor
    """Decoder input: target ids after BOS, padded with PAD, [B, T]."""
    real: Tensor
    """Flat indices into B * T of the target positions that are not padding, ascending, [N]."""
    tgt_out: Tensor
    """Expected output at these positions, EOS last in each pair, [N]."""

    @property
    def tgt_lengths(self) -> Tensor:
        """Target tokens without padding, EOS included, [B]."""
        return (self.real // self.tgt_in.size(1)).bincount(minlength=len(self.src))

    @property
    def num_padded(self) -> int:
        """Positions of both sides, padding included."""
        return self.src.numel() + self.tgt_in.numel()

    def repeat(self) -> "Batch":
        """Return all pairs twice, one copy of the batch after the other, for R-Drop and Cutoff.

        `tgt_out` is not repeated: it remains [N], while `real` has 2 N indices.
        """
        src, src_lengths, tgt_in = (torch.cat([x, x]) for x in self[:3])
        real = torch.cat([self.real, self.real + self.tgt_in.numel()])
        return Batch(src, src_lengths, tgt_in, real, self.tgt_out)

    def split(self, num_parts: int) -> list["Batch"]:
        """Split into at most `num_parts` batches of consecutive pairs, with the same padding.

        A part has at least one pair; sizes differ by at most one pair.
        """
        num_pairs, width = self.tgt_in.shape
        if (num_parts := min(num_parts, num_pairs)) < 2:
            return [self]
        parts = []
        bounds = [num_pairs * part // num_parts for part in range(num_parts + 1)]
        for start, stop in itertools.pairwise(bounds):
            pairs = slice(start, stop)
            # `real` is sorted: the target tokens of these pairs are consecutive.
            limits = torch.tensor([start * width, stop * width])
            first, last = torch.searchsorted(self.real, limits).tolist()
            real, tgt_out = self.real[first:last] - start * width, self.tgt_out[first:last]
            src, src_lengths, tgt_in = (tensor[pairs] for tensor in self[:3])
            parts.append(Batch(src, src_lengths, tgt_in, real, tgt_out))
        return parts

    def to(self, device: torch.device) -> "Batch":
        """Copy to a device; asynchronous from page-locked memory to a GPU."""
        return Batch(*(tensor.to(device, non_blocking=True) for tensor in self))

    def pin(self) -> "Batch":
        """Copy to page-locked memory."""
        return Batch(*(tensor.pin_memory() for tensor in self))


def make_batch(pairs: Sequence[tuple[TokenIds, TokenIds]]) -> Batch:
    """Pad pairs to the longest source and the longest target.

    Args:
        pairs: source and target ids. An empty sequence gives a batch of one pair without target
            tokens, whose loss and gradients are exactly 0: a rank without pairs in an update still
            takes part in its collectives.

    Returns:
        Batch of int64 tensors on the CPU.
    """
    if not pairs:
        eos, bos = torch.full((1, 1), EOS), torch.full((1, 1), BOS)
        empty = torch.zeros(0, dtype=torch.int64)
        return Batch(eos, torch.ones(1, dtype=torch.int64), bos, empty, empty)
    src_lengths = np.array([len(src) + 1 for src, _ in pairs])
    tgt_lengths = np.array([len(tgt) + 1 for _, tgt in pairs])
    src = np.full((len(pairs), src_lengths.max()), PAD, dtype=np.int64)
    tgt = np.full((len(pairs), tgt_lengths.max() + 1), PAD, dtype=np.int64)
    tgt[:, 0] = BOS
    for row, (src_ids, tgt_ids) in enumerate(pairs):
        src[row, : len(src_ids)] = src_ids
        src[row, len(src_ids)] = EOS
        tgt[row, 1 : len(tgt_ids) + 1] = tgt_ids
        tgt[row, len(tgt_ids) + 1] = EOS
    # Input: without the last column of tgt; output: without the first, which is BOS.
    real = np.flatnonzero(np.arange(tgt.shape[1] - 1)[None] < tgt_lengths[:, None])
    return Batch(
        torch.from_numpy(src),
        torch.from_numpy(src_lengths),
        torch.from_numpy(tgt[:, :-1].copy()),
        torch.from_numpy(real),
        torch.from_numpy(tgt[:, 1:].reshape(-1)[real]),
    )
