"""Attention over the encoder outputs.

Keys and values are projected once per source (`project`). They are read for all target positions in
one call (`forward`, teacher forcing) or for one position of each hypothesis (`step`, search). No
kind feeds a recurrence, so LSTM layers of the decoder remain whole-sequence calls.

A new kind is a name in `ModelConfig.attention`, a subclass of `Attention`, and a case of
`make_attention`.

Shapes: B sentences, S source positions, T target positions, R = B * beam hypotheses, D width,
M width of the encoder outputs, N heads, A = D / N head size, C context width.
"""

import math
from abc import ABC, abstractmethod

import torch
from torch import Tensor, nn

from nmt.config.experiment import ModelConfig
from nmt.model.flops import Flops, matmul_flops
from nmt.model.layers import drop
from nmt.model.matmul import Linear, matmul


class Attention(nn.Module, ABC):
    """Base class: softmax over the source, dropout of attention weights, stepping.

    Subclasses define projections and scores. They may override `combine`.
    """

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.dropout = config.attention_dropout

    @abstractmethod
    def project(self, encoded: Tensor) -> tuple[Tensor, Tensor]:
        """Return keys and values, sentences first, of encoder outputs, [B, S, M]."""

    @abstractmethod
    def score(self, query: Tensor, keys: Tensor) -> Tensor:
        """Return unnormalised weights, [B, T, S] or [B, N, T, S], of a query, [B, T, D]."""

    @abstractmethod
    def flops(self) -> Flops:
        """Return the floating-point operations of a forward pass, `project` included."""

    def combine(self, weights: Tensor, values: Tensor) -> Tensor:
        """Return the context vectors, [B, T, C], of normalised weights."""
        return matmul(weights, values)

    def set_dropout(self, config: ModelConfig) -> None:
        """Take the dropout rates of `config`."""
        self.dropout = config.attention_dropout

    def forward(self, query: Tensor, keys: Tensor, values: Tensor, is_pad: Tensor) -> Tensor:
        """Attend to the source from every target position.

        Args:
            query: decoder outputs, [B, T, D].
            keys: from `project`.
            values: from `project`.
            is_pad: True at padding, [B, S]; padding gets weight 0.

        Returns:
            Context vectors, [B, T, C].
        """
        weights = drop(self.weights(query, keys, is_pad), self.dropout, self.training)
        return self.combine(weights, values)

    def step(
        self, query: Tensor, keys: Tensor, values: Tensor, is_pad: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Attend to the source from one position of each hypothesis.

        Args:
            query: decoder outputs, [R, D]; row b * beam + k is hypothesis k of sentence b.
            keys: from `project`.
            values: from `project`.
            is_pad: True at padding, [B, S].

        Returns:
            Context vectors, [R, C], and attention weights averaged over heads, [R, S].
        """
        # The hypotheses of a sentence take the place of target positions: keys are not copied.
        weights = self.weights(query.view(keys.size(0), -1, query.size(-1)), keys, is_pad)
        context = self.combine(weights, values)
        mean = weights.mean(dim=1) if weights.dim() == 4 else weights
        return context.flatten(0, 1), mean.flatten(0, 1)

    def weights(self, query: Tensor, keys: Tensor, is_pad: Tensor) -> Tensor:
        """Return normalised weights, fp32, [B, T, S] or [B, N, T, S]; arguments as of `forward`."""
        # fp32 softmax: in bf16 the weights of long sources do not sum to 1.
        scores = self.score(query, keys).float()
        is_pad = is_pad[:, None, None] if scores.dim() == 4 else is_pad[:, None]
        return scores.masked_fill(is_pad, -math.inf).softmax(dim=-1)


class MultiHeadAttention(Attention):
    """Scaled dot-product attention with several heads (Vaswani et al. 2017, section 3.2).

    Projections have no bias: a key bias shifts all scores of a query alike, so its gradient is
    rounding noise, which Adam would scale up to full steps.
    """

    def __init__(self, config: ModelConfig, memory_width: int) -> None:
        super().__init__(config)
        width = config.width
        self.heads = config.heads
        self.to_query = Linear(width, width, bias=False)
        self.to_key = Linear(memory_width, width, bias=False)
        self.to_value = Linear(memory_width, width, bias=False)
        self.to_out = Linear(width, width, bias=False)
        for linear in (self.to_query, self.to_key, self.to_value, self.to_out):
            nn.init.xavier_uniform_(linear.weight)

    def project(self, encoded: Tensor) -> tuple[Tensor, Tensor]:
        """Return keys and values, each [B, N, S, A], of encoder outputs, [B, S, M]."""
        return self._split(self.to_key(encoded)), self._split(self.to_value(encoded))

    def score(self, query: Tensor, keys: Tensor) -> Tensor:
        """Return scaled dot products, [B, N, T, S]."""
        # Not scaled_dot_product_attention: its bf16 backward takes ten times as long on CPU.
        products = matmul(self._split(self.to_query(query)), keys.transpose(2, 3))
        return products.float() / math.sqrt(keys.size(-1))

    def combine(self, weights: Tensor, values: Tensor) -> Tensor:
        """Return the projected context vectors of all heads, [B, T, D]."""
        out: Tensor = self.to_out(matmul(weights, values).transpose(1, 2).flatten(2))
        return out

    def flops(self) -> Flops:
        """Return the floating-point operations of a forward pass, `project` included."""
        return Flops(
            per_src=matmul_flops(self.to_key.weight, self.to_value.weight),
            per_tgt=matmul_flops(self.to_query.weight, self.to_out.weight),
            per_src_tgt=2 * 2 * self.to_query.weight.size(0),  # scores and contexts
        )

    def _split(self, x: Tensor) -> Tensor:
        """Split the width into heads: [B, T, D] to [B, N, T, A]."""
        return x.view(x.size(0), x.size(1), self.heads, -1).transpose(1, 2)


class AdditiveAttention(Attention):
    """Additive attention (Bahdanau et al. 2015, appendix A.1.2), normalised as in GNMT v2.

    The score vector is stored as direction and length, `scale * v / |v|`, and a bias is added
    before the tanh (Salimans & Kingma 2016; NVIDIA DeepLearningExamples, GNMT v2).
    """

    def __init__(self, config: ModelConfig, memory_width: int) -> None:
        super().__init__(config)
        width = config.width
        self.from_query = Linear(width, width, bias=False)
        self.from_memory = Linear(memory_width, width, bias=False)
        self.bias = nn.Parameter(torch.zeros(width))
        self.direction = nn.Parameter(torch.empty(width))
        self.scale = nn.Parameter(torch.tensor(1 / math.sqrt(width)))
        nn.init.xavier_uniform_(self.from_query.weight)
        nn.init.xavier_uniform_(self.from_memory.weight)
        nn.init.uniform_(self.direction, -0.1, 0.1)

    def project(self, encoded: Tensor) -> tuple[Tensor, Tensor]:
        """Return projected keys, [B, S, D], and the encoder outputs as values, [B, S, M]."""
        keys = self.from_memory(encoded)
        # Cast: under autocast an fp32 bias would make keys, and [B, T, S, D] of `score`, fp32.
        return keys + self.bias.to(keys.dtype), encoded

    def score(self, query: Tensor, keys: Tensor) -> Tensor:
        """Return additive scores, [B, T, S]."""
        joint = (self.from_query(query)[:, :, None] + keys[:, None]).tanh()  # [B, T, S, D]
        vector = self.direction * (self.scale / self.direction.norm())
        scores: Tensor = joint @ vector.to(joint.dtype)
        return scores

    def flops(self) -> Flops:
        """Return the floating-point operations of a forward pass, `project` included."""
        width, memory_width = self.from_memory.weight.shape
        return Flops(
            per_src=matmul_flops(self.from_memory.weight),
            per_tgt=matmul_flops(self.from_query.weight),
            per_src_tgt=2 * (width + memory_width),  # scores and contexts
        )


def make_attention(config: ModelConfig, memory_width: int) -> Attention:
    """Build the attention of `config.attention` over encoder outputs of `memory_width`."""
    match config.attention:
        case "multi_head":
            return MultiHeadAttention(config, memory_width)
        case "additive":
            return AdditiveAttention(config, memory_width)
