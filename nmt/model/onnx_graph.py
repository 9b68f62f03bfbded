"""ONNX graphs of encoder and decoder step, recorded from the code of the model.

Layers with an ONNX operator or an int8 form of their own are recorded as such (`_FORMS`). An
attention that uses other operations needs no code here.

int8 sums are whole numbers, so a row gets the same result whatever the other rows are. A weight
matrix has a scale per output. The inputs of a product have one of these scales:

- Outputs of a layer norm have unit variance: one constant scale. Gain and bias of the norm become
  part of the weights. Hidden LSTM states are at most 1. A hidden unit of a feed-forward layer is
  scaled by the standard deviation that such inputs give it.
- Other inputs have a scale per row, set by their largest value.

Shapes: B sentences (`batch`), S source positions, R rows, P rows of the step before, D width,
L LSTM layers, V vocabulary.
"""

import math
from dataclasses import dataclass
from typing import Any, NamedTuple, cast

import numpy as np
import numpy.typing as npt
import onnx
import torch
from onnx import TensorProto, helper
from torch import Tensor
from torch.nn import functional

from nmt.config.decoding import Precision
from nmt.model.attention import Attention, MultiHeadAttention
from nmt.model.decoder import DecoderState, Memory
from nmt.model.graph_recorder import CONTRIB, MASK, Form, Recorder, Symbol, concat
from nmt.model.lstm import LSTM, BiLSTM, reversal_of
from nmt.model.quantise import MIN_WEIGHTS
from nmt.model.seq2seq import Seq2Seq

NORM_RANGE = 5.0
"""Largest output of a layer norm in int8, in standard deviations; larger values are clipped."""
BLOCK = 64
"""Tokens of a block, of which the best is found first."""
_MIN_BLOCKS = 32
"""Least blocks of a vocabulary that is searched by block."""
_MAX = 127
_ZERO = 128
"""Zero point of signed inputs: the fast products take unsigned ones."""
_WEIGHT_MAX = 63
"""Largest int8 weight: CPUs without VNNI add pairs of products in 16 bits, 2 * 255 * 63 < 2^15."""
_TINY = float(np.finfo(np.float32).tiny)

FloatArray = npt.NDArray[np.float32]


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
    recorder = Recorder(_FORMS_INT8 if precision == "int8" else _FORMS)
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
    """Return keys as they pass from the encoder to the decoder, and back.

    Products read transposed keys. To transpose them once per sentence took a quarter of the time of
    an attention layer off each step of 64 sentences.
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
    forms = dict(_FORMS_INT8 if precision == "int8" else _FORMS)
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
    recorder = Recorder(_FORMS)
    ids = recorder.input("candidates", ["batch", "candidates"], TensorProto.INT64)
    last = ids.constant(model.vocab_size - 1, np.int64)
    is_absent = ids.emit("Greater", last, dtype=TensorProto.BOOL)
    ids = ids.emit("Min", last, dtype=TensorProto.INT64)
    weights = _embedding(ids, model.output_weight)
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


# Forms of layers: the arguments are those of the function that is recorded.


def _embedding(tokens: Symbol, weight: Tensor, *_: object, **__: object) -> Symbol:
    name, shape = tokens.constant(weight), [*tokens.shape, weight.size(1)]
    [found] = tokens.recorder.emit("Gather", name, tokens, axis=0)
    return Symbol(tokens.recorder, found, shape)


@dataclass(frozen=True)
class _Normed:
    """Origin of the output of a layer norm."""

    plain: Symbol
    """Output without gain and bias."""
    gain: FloatArray
    bias: FloatArray


@dataclass(frozen=True)
class _Product:
    """Origin of the output of a linear layer on the output of a layer norm."""

    input: Symbol
    weight: Tensor
    bias: Tensor | None
    is_relu: bool = False


def _layer_norm(
    x: Symbol, shape: Any, weight: Tensor, bias: Tensor, eps: float = 1e-5
) -> Symbol:  # fmt: skip
    ones = x.constant(np.ones(len(weight)))
    plain = x.emit("LayerNormalization", ones, epsilon=eps)
    gain, shift = x.constant(weight), x.constant(bias)
    result = x.emit("LayerNormalization", gain, shift, epsilon=eps)
    result.origin = _Normed(plain, _array(weight), _array(bias))
    return result


def _linear(x: Symbol, weight: Tensor, bias: Tensor | None = None) -> Symbol:
    """Record fp32: rows are multiplied with the transposed weight."""
    if x.source is not x:
        return _on_rows(_linear, x, weight, bias)
    matrix, shape = x.constant(weight.t().contiguous()), [*x.shape[:-1], weight.size(0)]
    if x.dim() == 2:
        return x.emit("Gemm", matrix, *([x.constant(bias)] * (bias is not None)), shape=shape)
    product = x.emit("MatMul", matrix, shape=shape)
    return product if bias is None else product + bias


def _on_rows(form: Form, x: Symbol, weight: Tensor, bias: Tensor | None) -> Symbol:
    """Record a linear layer on a view as a view of the layer on rows, which saves nodes."""
    rows: Symbol = form(x.flatten(0, x.dim() - 2).as_value(), weight, bias)
    return rows.view(*x.shape[:-1], weight.size(0))


def _lstm_step(
    layer: LSTM, x: Symbol, state: tuple[Symbol, Symbol]
) -> tuple[Symbol, Symbol]:  # fmt: skip
    weight = torch.cat([layer.weight_ih, layer.weight_hh], dim=1)
    gates = _linear(concat([x, state[0]], 1), _sigmoids_first(weight), _sigmoids_first(layer.bias))
    return _cell(gates, state[1])


def _sigmoids_first(weight: Tensor) -> Tensor:
    """Reorder gates from i, f, g, o to i, f, o, g: one sigmoid serves the first three."""
    i, f, g, o = weight.chunk(4)
    return torch.cat([i, f, o, g])


def _cell(gates: Symbol, c: Symbol) -> tuple[Symbol, Symbol]:
    """Record `nmt.model.lstm.cell` of gates in the order i, f, o, g."""
    recorder, width = gates.recorder, int(gates.shape[1]) // 4
    sizes = recorder.constant([3 * width, width], np.int64)
    first, last = recorder.emit("Split", gates, sizes, outputs=2, axis=1)
    i, f, o = Symbol(recorder, first, [gates.shape[0], 3 * width]).sigmoid().chunk(3, dim=1)
    g = Symbol(recorder, last, [gates.shape[0], width]).tanh()
    c = f * c + i * g
    return o * c.tanh(), c


def _lstm(layer: LSTM, x: Symbol, start: object = None) -> Symbol:
    assert start is None
    return _whole_lstm(x, [layer], "forward", None)


def _bilstm(layer: BiLSTM, x: Symbol, lengths: Symbol) -> Symbol:
    # `reversal_of` of symbols is the lengths: the operator reverses rows itself.
    return _whole_lstm(x, [layer.forwards, layer.backwards], "bidirectional", lengths)


def _whole_lstm(
    x: Symbol, layers: list[LSTM], direction: str, lengths: Symbol | None
) -> Symbol:  # fmt: skip
    """Record LSTM layers over whole sequences, [B, S, I] to [B, S, len(layers) * H]."""
    hidden = layers[0].hidden_size

    def stack(name: str) -> str:
        # ONNX orders the gates i, o, f, g.
        i_f_g_o = [getattr(layer, name).detach().chunk(4) for layer in layers]
        return x.constant(torch.stack([torch.cat([i, o, f, g]) for i, f, g, o in i_f_g_o]))

    zeros = torch.zeros(len(layers), 4 * hidden)
    biases = [
        torch.cat([i, o, f, g]) for i, f, g, o in (layer.bias.detach().chunk(4) for layer in layers)
    ]
    bias = x.constant(torch.cat([torch.stack(biases), zeros], dim=1))
    inputs = [stack("weight_ih"), stack("weight_hh"), bias]
    if lengths is not None:
        [narrow] = x.recorder.emit("Cast", lengths, to=TensorProto.INT32)
        inputs.append(narrow)
    batch, source, _ = x.shape
    out = x.transpose(0, 1).emit(
        "LSTM", *inputs, shape=[source, len(layers), batch, hidden],
        hidden_size=hidden, direction=direction,
    )  # fmt: skip
    moved = out.emit("Transpose", shape=[batch, source, len(layers), hidden], perm=[2, 0, 1, 3])
    return moved.flatten(2)


# int8 forms.


def _linear_int8(x: Symbol, weight: Tensor, bias: Tensor | None = None) -> Symbol:
    if weight.numel() < MIN_WEIGHTS:
        return _linear(x, weight, bias)
    if x.source is not x:
        return _on_rows(_linear_int8, x, weight, bias)
    matrix, shift = _array(weight), None if bias is None else _array(bias)
    match x.origin:
        case _Normed():
            result = _normed_product(x.origin, matrix, shift)
            result.origin = _Product(x, weight, bias)
            return result
        case ("relu", _Product() as product):
            return _hidden_product(product, matrix, shift)
    return _row_product(x, matrix, shift)


def _lstm_step_int8(
    layer: LSTM, x: Symbol, state: tuple[Symbol, Symbol]
) -> tuple[Symbol, Symbol]:  # fmt: skip
    weight = torch.cat([layer.weight_ih, layer.weight_hh], dim=1)
    if weight.numel() < MIN_WEIGHTS:
        return _lstm_step(layer, x, state)
    matrix, bias = _array(_sigmoids_first(weight)), _array(_sigmoids_first(layer.bias))
    if not isinstance(x.origin, _Normed):
        return _cell(_row_product(concat([x, state[0]], 1), matrix, bias), state[1])
    width = int(x.shape[1])
    matrix, bias = _absorb_norm(x.origin, matrix, bias, slice(0, width))
    matrix[:, :width] *= NORM_RANGE
    inputs = _quantise(x.origin.plain, NORM_RANGE / _MAX), _quantise(state[0], 1 / _MAX)
    return _cell(_product(concat(inputs, 1), matrix, bias, 1 / _MAX), state[1])


def _absorb_norm(
    normed: _Normed, matrix: FloatArray, bias: FloatArray | None, columns: slice = slice(None)
) -> tuple[FloatArray, FloatArray]:
    """Return weight and bias that include gain and bias of the layer norm before them."""
    result = matrix.copy()
    result[:, columns] *= normed.gain
    shift = matrix[:, columns] @ normed.bias
    return result, shift if bias is None else bias + shift


def _normed_product(
    normed: _Normed, matrix: FloatArray, bias: FloatArray | None, divisor: FloatArray | None = None
) -> Symbol:
    """Record a product with the output of a layer norm; outputs are divided by `divisor`."""
    matrix, shift = _absorb_norm(normed, matrix, bias)
    scale = NORM_RANGE / _MAX
    return _product(_quantise(normed.plain, scale), matrix, shift, scale, divisor=divisor)


def _hidden_product(product: _Product, matrix: FloatArray, bias: FloatArray | None) -> Symbol:
    """Record a product with the hidden layer of a feed-forward layer."""
    normed = cast(_Normed, product.input.origin)
    first, shift = _array(product.weight), None if product.bias is None else _array(product.bias)
    absorbed, mean = _absorb_norm(normed, first, shift)
    spread = NORM_RANGE * np.linalg.norm(absorbed, axis=1)
    largest = np.maximum(mean + spread, np.maximum(spread, _TINY)).astype(np.float32)
    hidden = _normed_product(normed, first, shift, divisor=largest)
    # Negative values become 0: the quantisation is the ReLU.
    quantised = _quantise(hidden, 1 / 255, zero=0)
    return _product(quantised, matrix * largest, bias, 1 / 255, zero=0)


def _row_product(x: Symbol, matrix: FloatArray, bias: FloatArray | None) -> Symbol:
    """Record a product with inputs of one scale per row."""
    shape = [*x.shape[:-1], 1]
    largest = x.emit("Abs").emit("ReduceMax", x.constant([-1], np.int64), shape=shape)
    largest = largest.emit("Max", x.constant(_TINY))
    result = _product(_quantise(x / largest, 1 / _MAX), matrix, None, 1 / _MAX) * largest
    return result if bias is None else result + torch.from_numpy(bias)


def _quantise(x: Symbol, scale: float, zero: int = _ZERO) -> Symbol:
    point = x.constant(zero, np.uint8)
    return x.emit("QuantizeLinear", x.constant(scale), point, dtype=TensorProto.UINT8)


def _product(
    x: Symbol, matrix: FloatArray, bias: FloatArray | None, scale: float, zero: int = _ZERO,
    divisor: FloatArray | None = None,
) -> Symbol:  # fmt: skip
    """Record the product of quantised rows with a matrix, [O, I], to fp32."""
    scales = np.maximum(np.abs(matrix).max(axis=1), _TINY) / _WEIGHT_MAX
    whole = np.round(matrix / scales[:, None])
    if divisor is not None:
        scales = scales / divisor
        bias = None if bias is None else bias / divisor
    inputs = [
        x.constant(whole.T, np.int8),
        x.constant(scale),
        x.constant(scales),
        x.constant(zero, np.uint8),
    ]
    inputs += [] if bias is None else ["", x.constant(bias)]
    shape = [*x.shape[:-1], len(matrix)]
    return x.emit("MatMulIntegerToFloat", *inputs, shape=shape, domain=CONTRIB)


def _array(tensor: Tensor) -> FloatArray:
    array: FloatArray = tensor.detach().float().cpu().numpy()
    return array


_FORMS: dict[Any, Form] = {
    functional.embedding: _embedding,
    functional.layer_norm: _layer_norm,
    functional.linear: _linear,
    LSTM.step: _lstm_step,
    LSTM.forward: _lstm,
    BiLSTM.forward: _bilstm,
    reversal_of: lambda lengths, num_positions: lengths,
}
_FORMS_INT8 = _FORMS | {functional.linear: _linear_int8, LSTM.step: _lstm_step_int8}
