"""Forms of layers in ONNX graphs, in fp32 and int8.

A form records the operations of a layer in place of its PyTorch code; its arguments are those of
the function that is recorded.

int8 sums are whole numbers, so a row gets the same result whatever the other rows are. A weight
matrix has a scale per output. The inputs of a product have one of these scales:

- Outputs of a layer norm have unit variance: one constant scale. Gain and bias of the norm become
  part of the weights. Hidden LSTM states are at most 1. A hidden unit of a feed-forward layer is
  scaled by the standard deviation that such inputs give it.
- Other inputs have a scale per row, set by their largest value.

Shapes: B sentences, S source positions, I inputs, H hidden size, O outputs.
"""

from dataclasses import dataclass
from typing import Any, cast

import numpy as np
import numpy.typing as npt
import torch
from onnx import TensorProto
from torch import Tensor
from torch.nn import functional

from nmt.model.graph_recorder import CONTRIB, Form, Symbol, concat
from nmt.model.lstm import LSTM, BiLSTM, reversal_of
from nmt.model.quantise import MIN_WEIGHTS

NORM_RANGE = 5.0
"""Largest output of a layer norm in int8, in standard deviations; larger values are clipped."""
_MAX = 127
_ZERO = 128
"""Zero point of signed inputs: the fast products take unsigned ones."""
_WEIGHT_MAX = 63
"""Largest int8 weight: CPUs without VNNI add pairs of products in 16 bits, 2 * 255 * 63 < 2^15."""
_TINY = float(np.finfo(np.float32).tiny)

FloatArray = npt.NDArray[np.float32]


def embedding(tokens: Symbol, weight: Tensor, *_: object, **__: object) -> Symbol:
    """Record the rows of a weight matrix that tokens select."""
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


FORMS: dict[Any, Form] = {
    functional.embedding: embedding,
    functional.layer_norm: _layer_norm,
    functional.linear: _linear,
    LSTM.step: _lstm_step,
    LSTM.forward: _lstm,
    BiLSTM.forward: _bilstm,
    reversal_of: lambda lengths, num_positions: lengths,
}
FORMS_INT8 = FORMS | {functional.linear: _linear_int8, LSTM.step: _lstm_step_int8}
