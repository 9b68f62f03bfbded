"""Attention: where in the source each target position looks.

Two kinds with one interface: keys and values are made once for a source (`remember`), then read for
all target positions at once (`forward`, teacher forced) or for one of each hypothesis (`step`).
Neither feeds a recurrence, so the decoder's LSTM layers stay whole-sequence calls.
Shapes: B sentences, S source positions, T target positions, R = B * beam hypotheses, D width,
M width of the encoder outputs, N heads, A = D / N.
"""

import math

import torch
from torch import Tensor, nn

from nmt.model.layers import drop


class MultiHeadAttention(nn.Module):
    """Scaled dot products in several heads (Vaswani et al. 2017, section 3.2).

    The projections have no bias: a key's bias moves all scores of a position alike, so its gradient
    is rounding noise, which Adam would scale up to full steps.
    """

    def __init__(self, width: int, memory_width: int, heads: int, dropout: float) -> None:
        super().__init__()
        self.heads = heads
        self.dropout = dropout
        self.to_query = nn.Linear(width, width, bias=False)
        self.to_key = nn.Linear(memory_width, width, bias=False)
        self.to_value = nn.Linear(memory_width, width, bias=False)
        self.to_out = nn.Linear(width, width, bias=False)
        for linear in (self.to_query, self.to_key, self.to_value, self.to_out):
            nn.init.xavier_uniform_(linear.weight)

    def remember(self, memory: Tensor) -> tuple[Tensor, Tensor]:
        """Keys and values, each [B, N, S, A], of encoder outputs [B, S, M]."""
        return self._split(self.to_key(memory)), self._split(self.to_value(memory))

    def forward(self, query: Tensor, keys: Tensor, values: Tensor, is_pad: Tensor) -> Tensor:
        """Read the source for every target position: query [B, T, D], is_pad [B, S]; [B, T, D]."""
        weights = self._weights(self._split(self.to_query(query)), keys, is_pad)
        read = drop(weights, self.dropout, self.training).to(values.dtype) @ values
        out: Tensor = self.to_out(read.transpose(1, 2).flatten(2))
        return out

    def step(
        self, query: Tensor, keys: Tensor, values: Tensor, is_pad: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Read for one position of each hypothesis: query [R, D] to [R, D].

        Also gives the mean weights of the heads, [R, S].
        """
        of_sentences = self.to_query(query).view(keys.size(0), -1, query.size(-1))
        weights = self._weights(self._split(of_sentences), keys, is_pad)  # [B, N, beam, S]
        read = (weights.to(values.dtype) @ values).transpose(1, 2).reshape(query.size(0), -1)
        return self.to_out(read), weights.mean(dim=1).view(query.size(0), -1)

    def _weights(self, query: Tensor, keys: Tensor, is_pad: Tensor) -> Tensor:
        """Softmax over the source of [B, N, T, A] queries, [B, N, T, S], fp32; 0 on padding."""
        # Written out: on a CPU the fused call's bf16 backward takes ten times as long.
        scores = (query @ keys.transpose(2, 3)).float() / math.sqrt(keys.size(-1))
        return scores.masked_fill(is_pad[:, None, None], -math.inf).softmax(dim=-1)

    def _split(self, x: Tensor) -> Tensor:
        """Width into heads: [B, T, D] to [B, N, T, A]."""
        return x.view(x.size(0), x.size(1), self.heads, -1).transpose(1, 2)


class AdditiveAttention(nn.Module):
    """Additive scores (Bahdanau et al. 2015, appendix A.1.2), normalised as in GNMT v2.

    The score vector is kept as direction times length, `scale * v / |v|`, plus a bias before the
    tanh (Salimans & Kingma 2016; Wu et al. 2016 in NVIDIA's published form).
    """

    def __init__(self, width: int, memory_width: int, dropout: float) -> None:
        super().__init__()
        self.dropout = dropout
        self.from_query = nn.Linear(width, width, bias=False)
        self.from_memory = nn.Linear(memory_width, width, bias=False)
        self.bias = nn.Parameter(torch.zeros(width))
        self.direction = nn.Parameter(torch.empty(width))
        self.scale = nn.Parameter(torch.tensor(1 / math.sqrt(width)))
        nn.init.xavier_uniform_(self.from_query.weight)
        nn.init.xavier_uniform_(self.from_memory.weight)
        nn.init.uniform_(self.direction, -0.1, 0.1)

    def remember(self, memory: Tensor) -> tuple[Tensor, Tensor]:
        """Keys, projected once, [B, S, D], and values, which are the encoder outputs, [B, S, M]."""
        return self.from_memory(memory) + self.bias, memory

    def forward(self, query: Tensor, keys: Tensor, values: Tensor, is_pad: Tensor) -> Tensor:
        """Read the source for every target position: query [B, T, D], is_pad [B, S]; [B, T, M]."""
        weights = drop(self._weights(query, keys, is_pad), self.dropout, self.training)
        return weights.to(values.dtype) @ values

    def step(
        self, query: Tensor, keys: Tensor, values: Tensor, is_pad: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Read for one position of each hypothesis: query [R, D] to [R, M].

        Also gives the weights, [R, S].
        """
        weights = self._weights(query.view(keys.size(0), -1, query.size(-1)), keys, is_pad)
        read = weights.to(values.dtype) @ values
        return read.flatten(0, 1), weights.flatten(0, 1)

    def _weights(self, query: Tensor, keys: Tensor, is_pad: Tensor) -> Tensor:
        """Softmax over the source, [B, T, S], fp32; 0 on padding."""
        joint = (self.from_query(query)[:, :, None] + keys[:, None]).tanh()  # [B, T, S, D]
        to_score = self.direction * (self.scale / self.direction.norm())
        scores: Tensor = joint @ to_score.to(joint.dtype)
        return scores.float().masked_fill(is_pad[:, None], -math.inf).softmax(dim=-1)
