"""Pairs to padded tensors.

Shapes: B pairs, S longest source, T longest target, N real target tokens.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from nmt.corpus.subword import BOS, EOS, PAD

TokenIds = Sequence[int] | npt.NDArray[Any]
"""Ids of one side of a pair, without BOS and EOS."""


class Batch(NamedTuple):
    """One micro-batch, padded."""

    src: Tensor
    """Source ids, EOS last, [B, S]."""
    src_lengths: Tensor
    """Real tokens of each source, EOS counted, [B]."""
    tgt_in: Tensor
    """Target ids shifted right, BOS first, [B, T]."""
    real: Tensor
    """Which of the B * T target positions are not padding, as flat indices, [N]."""
    tgt_out: Tensor
    """What is to be said at these positions, EOS last in each pair, [N]."""

    @property
    def tgt_lengths(self) -> Tensor:
        """Real target tokens of each pair, EOS included, [B]."""
        rows = self.real // self.tgt_in.size(1)
        return rows.bincount(minlength=len(self.src))

    @property
    def num_padded(self) -> int:
        """Positions of both sides, padding counted."""
        return self.src.numel() + self.tgt_in.numel()

    def twice(self) -> "Batch":
        """The pairs, and below them the same once more; what is to be said stands once, [N]."""
        src, src_lengths, tgt_in = (torch.cat([x, x]) for x in self[:3])
        real = torch.cat([self.real, self.real + self.tgt_in.numel()])
        return Batch(src, src_lengths, tgt_in, real, self.tgt_out)

    def halves(self) -> tuple["Batch", "Batch"]:
        """The first and the second half of the pairs, padded as they were; two pairs at least."""
        half = len(self.src) // 2
        assert half
        cut = half * self.tgt_in.size(1)
        num_real = int((self.real < cut).sum())
        first, second = slice(None, half), slice(half, None)
        real, tgt_out = self.real, self.tgt_out
        return (
            Batch(self.src[first], self.src_lengths[first], self.tgt_in[first],
                  real[:num_real], tgt_out[:num_real]),
            Batch(self.src[second], self.src_lengths[second], self.tgt_in[second],
                  real[num_real:] - cut, tgt_out[num_real:]),
        )  # fmt: skip

    def to(self, device: torch.device) -> "Batch":
        """The same on a device; a GPU copy does not wait where the batch is pinned."""
        return Batch(*(tensor.to(device, non_blocking=True) for tensor in self))

    def pin(self) -> "Batch":
        """The same in page-locked memory."""
        return Batch(*(tensor.pin_memory() for tensor in self))


def make_batch(pairs: Sequence[tuple[TokenIds, TokenIds]]) -> Batch:
    """Pad pairs to the longest of each side.

    No pairs make a batch of one padded pair without real target tokens: its loss and gradients are
    exactly 0, so that a worker with nothing to do in an update still takes part in it.
    """
    if not pairs:
        one = torch.full((1, 1), EOS)
        none = torch.zeros(0, dtype=torch.int64)
        return Batch(one, torch.ones(1, dtype=torch.int64), torch.full((1, 1), BOS), none, none)
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
    is_real = np.arange(tgt.shape[1] - 1)[None] < tgt_lengths[:, None]
    real = np.flatnonzero(is_real)
    return Batch(
        torch.from_numpy(src),
        torch.from_numpy(src_lengths),
        torch.from_numpy(tgt[:, :-1].copy()),
        torch.from_numpy(real),
        torch.from_numpy(tgt[:, 1:].reshape(-1)[real]),
    )
