"""Encoder-decoder model: embeddings, encoder, decoder and output layer.

Training calls `forward`, which returns inputs of the output layer: the loss applies that layer in
chunks, so that [tokens, vocabulary] is never in memory as a whole. Search calls `encode`, `start`
and `step`.

Shapes: B sentences, S source positions, T target positions, R = B * beam hypotheses, N real target
tokens, D width, V vocabulary.
"""

import math

import torch
from torch import Tensor, nn

from nmt.config.experiment import ModelConfig
from nmt.model.decoder import DecoderState, Memory, make_decoder
from nmt.model.encoder import make_encoder
from nmt.model.flops import Flops, matmul_flops
from nmt.model.host_memory import check_memory, memory_limits
from nmt.model.layers import Embedding


class Seq2Seq(nn.Module):
    """Model of a config, with weights drawn from torch's global generator."""

    def __init__(self, config: ModelConfig, vocab_size: int) -> None:
        super().__init__()
        self.config = config
        self.vocab_size = vocab_size
        # The order of construction is that of the random draws: it decides the initial weights.
        self.encoder = make_encoder(config)
        self.decoder = make_decoder(config, self.encoder.out_width)
        self.src_embedding = Embedding(config, vocab_size)
        self.tgt_embedding = Embedding(config, vocab_size)
        # No bias: the norm before it has one, and the loss makes fewer passes over [N, V].
        self.output_layer = nn.Linear(config.width, vocab_size, bias=False)
        self._init_weights()
        if config.tie_embeddings:
            self.tgt_embedding.weight = self.src_embedding.weight
            if config.preset == "residual":
                self.output_layer.weight = self.src_embedding.weight

    def _init_weights(self) -> None:
        if self.config.preset == "gnmt":
            # As published: uniform but for length and bias of the attention's score vector.
            for name, parameter in self.named_parameters():
                if not name.endswith(("attention.scale", "attention.bias")):
                    nn.init.uniform_(parameter, -0.1, 0.1)
            return
        # Embeddings are scaled by sqrt(D): embedded tokens and initial logits have unit variance.
        for weight in (
            self.src_embedding.weight,
            self.tgt_embedding.weight,
            self.output_layer.weight,
        ):
            nn.init.normal_(weight, std=1 / math.sqrt(self.config.width))

    @property
    def output_weight(self) -> Tensor:
        """Weight of the output layer, [V, D]: logits are hidden @ output_weight.T."""
        weight: Tensor = self.output_layer.weight
        return weight

    def set_dropout(self, config: ModelConfig) -> None:
        """Take the dropout rates of `config`, which must not differ in other settings."""
        self.config = config
        for module in (self.encoder, self.decoder, self.src_embedding, self.tgt_embedding):
            module.set_dropout(config)

    def flops(self) -> Flops:
        """Return the floating-point operations of a forward pass, output layer included."""
        output = Flops(per_tgt=matmul_flops(self.output_weight))
        return self.encoder.flops() + self.decoder.flops() + output

    def forward(
        self, src: Tensor, src_lengths: Tensor, tgt_in: Tensor, real: Tensor,
        src_kept: Tensor | None = None, tgt_kept: Tensor | None = None,
    ) -> Tensor:  # fmt: skip
        """Run with teacher forcing: each target position reads the reference tokens before it.

        Args:
            src: source ids, [B, S]; values at padding are ignored.
            src_lengths: real tokens of each source, 1 to S, [B].
            tgt_in: target ids shifted right, BOS first, [B, T]. With k targets per source [k B, T]:
                the first ones of all sources, then the second ones, and so on.
            real: flat indices of the target positions that are not padding, [N].
            src_kept: source embeddings that Cutoff keeps (`Embedding.forward`); None: all.
            tgt_kept: as src_kept, of the target inputs.

        Returns:
            Inputs of the output layer at the real target positions, [N, D].
        """
        memory = self.encode(src, src_lengths, src_kept)
        if len(tgt_in) > len(src):
            memory = memory.select(torch.arange(len(tgt_in), device=src.device) % len(src))
        hidden: Tensor = self.decoder(self.tgt_embedding(tgt_in, tgt_kept), memory)
        # Padding is removed before the output layer, the largest product at small widths.
        return hidden.reshape(-1, hidden.size(-1)).index_select(0, real)

    def encode(self, src: Tensor, src_lengths: Tensor, kept: Tensor | None = None) -> Memory:
        """Encode sources; arguments as of `forward`."""
        encoded = self.encoder(self.src_embedding(src, kept), src_lengths)
        projected = [attention.project(encoded) for attention in self.decoder.attentions]
        keys, values = zip(*projected, strict=True)
        is_pad = torch.arange(src.size(1), device=src.device) >= src_lengths[:, None]
        return Memory(keys, values, src_lengths, is_pad)

    def start(self, memory: Memory, beam: int) -> DecoderState:
        """Return the state of R = B * beam hypotheses before their first token.

        Row b * beam + k is hypothesis k of sentence b.
        """
        num_rows = memory.src_lengths.size(0) * beam
        decoder = self.decoder
        device = memory.src_lengths.device
        return DecoderState.zeros(decoder.num_lstms, num_rows, decoder.width, device)

    def step(
        self, tokens: Tensor, state: DecoderState, memory: Memory
    ) -> tuple[Tensor, DecoderState, Tensor]:
        """Extend every hypothesis by one token, without dropout.

        Args:
            tokens: last token of each hypothesis, BOS at first, [R].
            state: state before these tokens.
            memory: from `encode`, of B sentences; R is a multiple of B.

        Returns:
            Logits of the next token, [R, V], fp32; the state after `tokens`; attention weights
            of the last attention layer, [R, S].
        """
        hidden, state, weights = self.decoder.step(self.tgt_embedding.lookup(tokens), state, memory)
        return self.output_layer(hidden).float(), state, weights


def num_parameters(model: nn.Module, *, trained_only: bool = False) -> int:
    """Return the number of values of all parameters; tied weights count once.

    Args:
        trained_only: leave out frozen parameters.
    """
    parameters = model.parameters()
    return sum(each.numel() for each in parameters if each.requires_grad or not trained_only)


def max_parameters(config: ModelConfig, vocab_size: int) -> int:
    """Return an upper bound of `num_parameters` for a config, without building the model."""
    layer = 32 * config.width**2 + 4 * config.width * (config.ffn_width + 8)
    return 3 * vocab_size * config.width + (config.encoder_layers + config.decoder_layers) * layer


def check_model_memory(config: ModelConfig, vocab_size: int, copies: int = 1) -> None:
    """Raise ConfigError if `copies` of the weights in fp32 exceed the memory of this host."""
    # The exact count imports torch's meta functions, which takes seconds: few models need it.
    if 4 * copies * max_parameters(config, vocab_size) <= min(memory_limits()):
        return
    with torch.device("meta"):
        count = num_parameters(Seq2Seq(config, vocab_size))
    where = f"{config.encoder_layers} + {config.decoder_layers} layers and {count:,} parameters"
    check_memory("model.width", f"{config.width:,} with {where}", 4 * count * copies)
