"""Useful work: the multiplications and additions that an update cannot do without.

Two for each weight of a matrix and each real token that passes it, three times over: forward, and
the gradients by inputs and by weights. Padding, softmax, gates and the optimizer are not counted.
"""

from nmt.batching.batch import Batch
from nmt.model.decoder import GnmtDecoder
from nmt.model.seq2seq import Seq2Seq

_OF_SOURCE = ("to_key", "to_value", "from_memory")
"""Matrices of the decoder that source positions pass."""


def flops_of(model: Seq2Seq, batch: Batch) -> float:
    """Floating-point operations of forward and backward over the real tokens of a batch."""
    return flops_over(batch, *flops_per_token(model))


def flops_over(batch: Batch, per_src: float, per_tgt: float, per_look: float) -> float:
    """The same of a model whose forward pass has these, as `flops_per_token` counts them."""
    tgt_lengths = (batch.real // batch.tgt_in.size(1)).bincount(minlength=len(batch.src))
    num_src, num_tgt = int(batch.src_lengths.sum()), len(batch.tgt_out)
    num_looks = int((batch.src_lengths * tgt_lengths).sum())
    return 3 * (per_src * num_src + per_tgt * num_tgt + per_look * num_looks)


def flops_per_token(model: Seq2Seq) -> tuple[float, float, float]:
    """Of a forward pass: for each source token, target token, and pair of both in attention."""
    per_src, per_tgt = 0, model.output_weight.numel()
    for name, parameter in model.named_parameters():
        if parameter.dim() < 2 or name.startswith(("src_embedding", "tgt_embedding", "output")):
            continue
        if name.startswith("encoder") or any(part in name for part in _OF_SOURCE):
            per_src += parameter.numel()
        else:
            per_tgt += parameter.numel()
    width = model.config.width
    if isinstance(model.decoder, GnmtDecoder):
        per_look = width + model.encoder.out_width
    else:
        per_look = 2 * width * model.config.decoder_layers
    return 2.0 * per_src, 2.0 * per_tgt, 2.0 * per_look
