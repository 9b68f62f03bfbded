"""ONNX graphs of encoder and decoder step, recorded from the code of the model.

Layers with an ONNX operator or an int8 form of their own are recorded as such (`onnx_forms.py`). An
attention that uses other operations needs no code here.

Shapes: B sentences (`batch`), S source positions, R rows, P rows of the step before, D width,
L LSTM layers, V vocabulary.
"""

import math
from typing import Any, NamedTuple, cast

import numpy as np
import onnx
import torch
from onnx import TensorProto, helper
from torch import Tensor
from torch.nn import functional

from nmt.config.decoding import Precision
from nmt.model.attention import Attention, MultiHeadAttention
from nmt.model.decoder import DecoderState, Memory
from nmt.model.graph_recorder import MASK, Form, Recorder, Symbol, concat
from nmt.model.onnx_forms import FORMS, FORMS_INT8, embedding
from nmt.model.seq2seq import Seq2Seq

BLOCK = 64
"""Tokens of a block, of which the best is found first."""
_MIN_BLOCKS = 32
"""Minimum number of blocks of a vocabulary that is searched by block."""


class Port(NamedTuple):
    """Input or output of a graph."""

    kind: str
    name: str
    dtype: str
    shape: str
    """Sizes, separated by " x "."""


def ports_of(graph: onnx.ModelProto) -> list[Port]:
    """Return the inputs and outputs of a graph."""
    found = []
    for kind, values in (("input", graph.graph.input), ("output", graph.graph.output)):
        for value in values:
            tensor = value.type.tensor_type
            sizes = [dim.dim_param or str(dim.dim_value) for dim in tensor.shape.dim]
            dtype = helper.tensor_dtype_to_np_dtype(tensor.elem_type).name
            found.append(Port(kind, value.name, dtype, " x ".join(sizes)))
    return found


def encoder_graph(model: Seq2Seq, precision: Precision) -> onnx.ModelProto:
    """Record the encoder, attention keys and values included.

    Inputs: src [B, S] int64, src_lengths [B] int64. Outputs: keys.i and values.i of each attention
    layer, sentences first; mask [B, S], 0 or minus infinity at padding.
    """
    recorder = Recorder(FORMS_INT8 if precision == "int8" else FORMS)
    src = recorder.input("src", ["batch", "source"], TensorProto.INT64)
    lengths = recorder.input("src_lengths", ["batch"], TensorProto.INT64)
    encoded = model.encoder(model.src_embedding.lookup(cast(Any, src)), cast(Any, lengths))
    for depth, attention in enumerate(model.decoder.attentions):
        keys, values = attention.project(encoded)
        recorder.output(f"keys.{depth}", _stored_keys(attention, cast(Any, keys)))
        recorder.output(f"values.{depth}", cast(Any, values))
    size = recorder.emit("Squeeze", recorder.size_of("source"))
    zero, one = recorder.constant(0, np.int64), recorder.constant(1, np.int64)
    positions = recorder.emit("Range", zero, *size, one)[0]
    is_pad = lengths[:, None].emit(
        "LessOrEqual", positions, shape=["batch", "source"], dtype=TensorProto.BOOL
    )
    inf = recorder.constant(-math.inf)
    mask = is_pad.emit("Where", inf, recorder.constant(0.0), shape=["batch", "source"])
    recorder.output("mask", mask)
    return recorder.model("encoder")


def _stored_keys(attention: Attention, keys: Symbol) -> Symbol:
    """Convert keys from the layout of the model to that between the graphs, and vice versa.

    Products read transposed keys. Transposing them once per sentence instead of in each step saved
    a quarter of the time of an attention layer with 64 sentences.
    """
    return keys.transpose(2, 3) if isinstance(attention, MultiHeadAttention) else keys


def decoder_step_graph(
    model: Seq2Seq, precision: Precision, encoder: onnx.ModelProto, with_shortlist: bool = False
) -> onnx.ModelProto:
    """Record a step of the decoder, from tokens to the log-probabilities of the next ones.

    Inputs: tokens [R] int64; parents [R] int64, the rows of `states` that the tokens continue;
    states [P, 2 * L * D]; all outputs of the encoder; num_best [1] int64. Row r reads sentence
    r // (R / B). Outputs: log_probs [R, V]; best_ids and best_log_probs [R, k] of the num_best most
    likely tokens, best first; next_states [R, 2 * L * D]; attention [R, S] of the last attention
    layer. A large vocabulary is filled up to a multiple of BLOCK with impossible tokens. The first
    node alone reads `states`, so `next_states` may be written over them.

    With a shortlist the outputs of `shortlist_graph` are inputs too, log_probs are those of the C
    candidates of the sentence, [R, C], and best_ids are places in them.
    """
    forms = dict(FORMS_INT8 if precision == "int8" else FORMS)
    recorder = Recorder(forms)
    decoder = model.decoder
    tokens = recorder.input("tokens", ["rows"], TensorProto.INT64)
    parents = recorder.input("parents", ["rows"], TensorProto.INT64)
    size = decoder.state_size
    before = recorder.input("states", ["previous", size])
    memory = _declare_memory(recorder, model, encoder)
    output_form = _shortlist_form if with_shortlist else _output_form
    forms[functional.linear] = output_form(recorder, model, forms[functional.linear])
    pieces = before.emit("Gather", parents, shape=["rows", size], axis=0)
    parts = pieces.chunk(2 * decoder.num_lstms, dim=1)
    state = DecoderState(cast(Any, parts[::2]), cast(Any, parts[1::2]))
    logits, after, attention = cast(Any, model.step(cast(Any, tokens), state, memory))
    log_probs = logits.emit("LogSoftmax", axis=-1)
    recorder.output("log_probs", log_probs)
    best_ids, best_log_probs = _best(log_probs)
    recorder.output("best_ids", best_ids)
    recorder.output("best_log_probs", best_log_probs)
    joined = [part for pair in zip(after.hidden, after.cell, strict=True) for part in pair]
    recorder.output("next_states", concat(joined, 1))
    recorder.output("attention", attention)
    return recorder.model("decoder_step", vocab_size=model.vocab_size)


def _best(log_probs: Symbol) -> tuple[Symbol, Symbol]:
    """Record ids and values of the most likely tokens, best first; of equal ones the lower id.

    One pass finds the largest value of each block of tokens; the best tokens are in the best
    blocks. TopK over 6,000 tokens took six times as long.
    """
    recorder, num_tokens, shape = log_probs.recorder, log_probs.shape[1], ["rows", "best"]
    count = recorder.input("num_best", [1], TensorProto.INT64)

    def top(x: Symbol | str, largest: int = 1) -> tuple[str, str]:
        values, places = recorder.emit("TopK", x, count, outputs=2, largest=largest)
        return values, places

    if isinstance(num_tokens, str) or num_tokens < _MIN_BLOCKS * BLOCK:
        values, ids = top(log_probs)
        return Symbol(recorder, ids, shape, TensorProto.INT64), Symbol(recorder, values, shape)
    blocks = log_probs.view("rows", num_tokens // BLOCK, BLOCK)
    maxima = blocks.emit("ReduceMax", recorder.constant([2], np.int64), keepdims=0)
    # In ascending order, so that of equal tokens the lower id comes first.
    found, _ = top(top(maxima)[1], largest=0)
    [index] = recorder.emit("Unsqueeze", found, recorder.constant([2], np.int64))
    [tiles] = recorder.emit("GatherND", blocks, index, batch_dims=1)
    [flat] = recorder.emit("Reshape", tiles, recorder.constant([0, -1], np.int64))
    values, places = top(flat)
    size = recorder.constant(BLOCK, np.int64)
    [block] = recorder.emit("GatherElements", found, *recorder.emit("Div", places, size), axis=1)
    offset = recorder.emit("Mod", places, size)
    [ids] = recorder.emit("Add", *recorder.emit("Mul", block, size), *offset)
    return Symbol(recorder, ids, shape, TensorProto.INT64), Symbol(recorder, values, shape)


def shortlist_graph(model: Seq2Seq) -> onnx.ModelProto:
    """Record the selection of output weights.

    Inputs: candidates [B, C] int64, V where there is none. Outputs: output_weights
    [B, D, C]; is_absent [B, C] bool.
    """
    recorder = Recorder(FORMS)
    ids = recorder.input("candidates", ["batch", "candidates"], TensorProto.INT64)
    last = ids.constant(model.vocab_size - 1, np.int64)
    is_absent = ids.emit("Greater", last, dtype=TensorProto.BOOL)
    ids = ids.emit("Min", last, dtype=TensorProto.INT64)
    weights = embedding(ids, model.output_weight)
    recorder.output("output_weights", weights.transpose(1, 2))
    recorder.output("is_absent", is_absent)
    return recorder.model("shortlist")


def _output_form(_: Recorder, model: Seq2Seq, linear: Form) -> Form:
    """Return the form of linear layers, in which the output layer fills up the last block."""
    missing = -model.vocab_size % BLOCK
    if not missing or model.vocab_size < _MIN_BLOCKS * BLOCK:
        return linear
    output_weight = model.output_weight
    padded = functional.pad(output_weight.detach(), (0, 0, 0, missing))
    bias = torch.zeros(len(padded))
    bias[model.vocab_size :] = -math.inf

    def form(x: Symbol, weight: Tensor, no_bias: Tensor | None = None) -> Symbol:
        is_output = weight is output_weight
        result: Symbol = linear(x, padded, bias) if is_output else linear(x, weight, no_bias)
        return result

    return form


def _shortlist_form(recorder: Recorder, model: Seq2Seq, linear: Form) -> Form:
    """Return the form of linear layers, in which the output layer is that of candidates."""
    weights = recorder.input("output_weights", ["batch", model.decoder.width, "candidates"])
    is_absent = recorder.input("is_absent", ["batch", "candidates"], TensorProto.BOOL)

    def form(x: Symbol, weight: Tensor, bias: Tensor | None = None) -> Symbol:
        if weight is not model.output_weight:
            result: Symbol = linear(x, weight, bias)
            return result
        logits = x.view("batch", -1, model.decoder.width) @ weights
        return logits.masked_fill(is_absent[:, None], -math.inf).flatten(0, 1)

    return form


def _declare_memory(recorder: Recorder, model: Seq2Seq, encoder: onnx.ModelProto) -> Memory:
    """Declare the outputs of the encoder as inputs."""
    found: dict[str, Any] = {}
    for output in encoder.graph.output:
        of_tensor = output.type.tensor_type
        shape = [dim.dim_param or dim.dim_value for dim in of_tensor.shape.dim]
        found[output.name] = recorder.input(output.name, shape, of_tensor.elem_type)
    found["mask"].origin = MASK
    attentions = enumerate(model.decoder.attentions)
    keys = tuple(_stored_keys(each, found[f"keys.{depth}"]) for depth, each in attentions)
    values = tuple(found[f"values.{depth}"] for depth in range(len(keys)))
    return Memory(cast(Any, keys), values, cast(Any, None), found["mask"])
