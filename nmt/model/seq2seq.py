"""The whole model: token ids in, what the next token could be out.

Training calls `forward` (teacher forced) and gets what the output layer reads; the loss applies
that layer in chunks, so that [tokens, vocabulary] never stands in memory whole. Decoding calls
`encode`, `start` and `step`.
Shapes: B sentences, S source positions, T target positions, R = B * beam hypotheses, N real target
tokens, D width, V vocabulary.
"""

import math

import torch
from torch import Tensor, nn

from nmt.config.experiment import ModelConfig
from nmt.model.attention import AdditiveAttention, MultiHeadAttention
from nmt.model.decoder import DecoderBlock, DecoderState, GnmtDecoder, Memory, make_decoder
from nmt.model.encoder import EncoderBlock, GnmtEncoder, make_encoder
from nmt.model.layers import drop, drop_words
from nmt.model.lstm import LSTM
from nmt.model.mkl import set_strict_mode

set_strict_mode()


class Seq2Seq(nn.Module):
    """Encoder, decoder, embeddings and output layer; `build` makes one from a config."""

    def __init__(self, config: ModelConfig, vocab_size: int) -> None:
        super().__init__()
        self.config = config
        self.vocab_size = vocab_size
        self.encoder = make_encoder(config)
        self.decoder = make_decoder(config, self.encoder.out_width)
        self.src_embedding = nn.Embedding(vocab_size, config.width)
        self.tgt_embedding = nn.Embedding(vocab_size, config.width)
        # No bias: the norm before it has one, and a loss without it makes fewer passes over [N, V].
        self.output_layer = nn.Linear(config.width, vocab_size, bias=False)
        # In the residual stream embedded tokens have unit variance, and so at first have logits.
        self.embedding_scale = math.sqrt(config.width) if config.preset == "residual" else 1.0
        self._init_weights()
        if config.tie_embeddings:
            self.tgt_embedding.weight = self.src_embedding.weight
            if config.preset == "residual":
                self.output_layer.weight = self.src_embedding.weight

    def _init_weights(self) -> None:
        if self.config.preset == "gnmt":
            # As published: all but length and bias of the attention's score vector.
            for name, parameter in self.named_parameters():
                if not name.endswith(("attention.scale", "attention.bias")):
                    nn.init.uniform_(parameter, -0.1, 0.1)
            return
        for weight in (
            self.src_embedding.weight,
            self.tgt_embedding.weight,
            self.output_layer.weight,
        ):
            nn.init.normal_(weight, std=1 / math.sqrt(self.config.width))

    @property
    def output_weight(self) -> Tensor:
        """The output layer, [V, D]: logits are hidden @ it.T, in chunks if the loss likes."""
        weight: Tensor = self.output_layer.weight
        return weight

    def forward(self, src: Tensor, src_lengths: Tensor, tgt_in: Tensor, real: Tensor) -> Tensor:
        """Teacher forced: every target token from the true ones before it.

        Args:
            src: source ids, [B, S]; what stands in padding is never read.
            src_lengths: real tokens of each source, [B], each 1 to S.
            tgt_in: target ids shifted right, [B, T]: BOS first.
            real: which of the B * T target positions are not padding, as flat indices, [N].

        Returns:
            What the output layer reads at the real target positions, [N, D].
        """
        memory = self._remember(src, src_lengths)
        hidden: Tensor = self.decoder(self._embed(self.tgt_embedding, tgt_in), memory)
        return hidden.reshape(-1, hidden.size(-1)).index_select(0, real)

    def set_dropouts(self, config: ModelConfig) -> None:
        """Drop what `config` says from now on; all else in it is as the model was built."""
        self.config = config
        for module in self.modules():
            match module:
                case LSTM():
                    module.weight_dropout = config.weight_dropout
                case MultiHeadAttention() | AdditiveAttention():
                    module.dropout = config.attention_dropout
                case EncoderBlock() | DecoderBlock() | GnmtEncoder() | GnmtDecoder():
                    module.dropout = config.dropout

    def encode(self, src: Tensor, src_lengths: Tensor) -> Memory:
        """Read B sources, [B, S] with `src_lengths` real tokens each, once for a whole search."""
        return self._remember(src, src_lengths)

    def start(self, memory: Memory, beam: int) -> DecoderState:
        """The state of R = B * beam hypotheses before their first token.

        Row b * beam + k is the k-th of sentence b.
        """
        num_rows = memory.src_lengths.size(0) * beam
        decoder = self.decoder
        device = memory.src_lengths.device
        return DecoderState.zeros(decoder.num_lstms, num_rows, decoder.width, device)

    def step(
        self, tokens: Tensor, state: DecoderState, memory: Memory
    ) -> tuple[Tensor, DecoderState, Tensor]:
        """One token further in every hypothesis; equal to `forward` at that position.

        Args:
            tokens: the token before, [R]; BOS at first.
            state: the state before it.
            memory: of B sentences; R is a multiple of B.

        Returns:
            Logits of the next token, [R, V], fp32; the state after `tokens`; the last attention,
            [R, S].
        """
        x = self.tgt_embedding(tokens) * self.embedding_scale
        hidden, state, weights = self.decoder.step(x, state, memory)
        return self.output_layer(hidden).float(), state, weights

    def _remember(self, src: Tensor, src_lengths: Tensor) -> Memory:
        encoded = self.encoder(self._embed(self.src_embedding, src), src_lengths)
        keys, values = zip(*self.decoder.remember(encoded), strict=True)
        is_pad = torch.arange(src.size(1), device=src.device) >= src_lengths[:, None]
        return Memory(keys, values, src_lengths, is_pad)

    def _embed(self, embedding: nn.Embedding, tokens: Tensor) -> Tensor:
        config = self.config
        x = embedding(tokens) * self.embedding_scale
        x = drop_words(x, config.word_dropout, self.training)
        return drop(x, config.embedding_dropout, self.training, config.locked_dropout)


def build(config: ModelConfig, vocab_size: int) -> Seq2Seq:
    """A model with fresh weights from torch's global generator."""
    return Seq2Seq(config, vocab_size)


def num_parameters(model: nn.Module) -> int:
    """Trained numbers, tied ones counted once."""
    return sum(parameter.numel() for parameter in model.parameters())
