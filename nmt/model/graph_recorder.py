"""Recording of module code as an ONNX graph.

A `Symbol` stands for a tensor that is not computed. Modules that are called with symbols run their
own code, and each operation on a symbol adds a node to the graph of its `Recorder`. Dimensions are
numbers where they are fixed, and names where they differ from call to call.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple, Union

import numpy as np
import onnx
import torch
from onnx import TensorProto, helper, numpy_helper
from torch import Tensor

OPSET = 18
IR_VERSION = 9
"""Version of the file format that belongs to the opset."""
CONTRIB = "com.microsoft"
"""Domain of the operators that ONNX Runtime adds to the standard."""

PRODUCTS = {"rows": ("batch", "beam")}
"""Dimensions that are products of others."""

Size = int | str
Operand = Union["Symbol", Tensor, float]
Form = Callable[..., Any]
"""Function that records another one, with the same arguments."""


class Recorder:
    """Graph under construction."""

    def __init__(self, forms: Mapping[Any, Form]) -> None:
        """Create an empty graph.

        Args:
            forms: functions to call in place of functions of torch and of layers.
        """
        self.forms = forms
        self._nodes: list[onnx.NodeProto] = []
        self._inputs: list[onnx.ValueInfoProto] = []
        self._outputs: dict[str, Symbol] = {}
        self._constants: dict[tuple[Any, ...], onnx.TensorProto] = {}
        self._emitted: dict[tuple[Any, ...], list[str]] = {}

    def input(self, name: str, shape: Sequence[Size], dtype: int = TensorProto.FLOAT) -> "Symbol":
        """Declare an input of the graph."""
        self._inputs.append(helper.make_tensor_value_info(name, dtype, shape))
        return Symbol(self, name, shape, dtype)

    def output(self, name: str, symbol: "Symbol") -> None:
        """Declare an output of the graph."""
        if symbol.name in {each.name for each in self._outputs.values()}:
            copied = f"{symbol.name}.{name}"
            self._nodes.append(helper.make_node("Identity", [symbol.name], [copied]))
            symbol = Symbol(self, copied, symbol.shape, symbol.type)
        self._outputs[name] = symbol

    def constant(self, value: Any, dtype: Any = np.float32) -> str:
        """Return the name of a constant; equal constants are stored once."""
        array = np.asarray(value.detach() if isinstance(value, Tensor) else value, dtype=dtype)
        key = (array.dtype.str, array.shape, array.tobytes())
        if key not in self._constants:
            name = f"constant_{len(self._constants)}"
            self._constants[key] = numpy_helper.from_array(np.ascontiguousarray(array), name)
            self._constants[key].dims[:] = array.shape  # ascontiguousarray makes scalars vectors
        return str(self._constants[key].name)

    def size_of(self, name: str) -> str:
        """Return the name of a vector with the size of a dimension, which an input must have."""
        for each in self._inputs:
            names = [dim.dim_param for dim in each.type.tensor_type.shape.dim]
            if name in names:
                axis = names.index(name)
                return self.emit("Shape", each.name, start=axis, end=axis + 1)[0]
        raise AssertionError(f"no input has the dimension {name}")

    def emit(
        self, op: str, *inputs: "Symbol | str", outputs: int = 1, domain: str = "",
        **attributes: Any,
    ) -> list[str]:  # fmt: skip
        """Emit a node and return the names of its outputs; an equal node is emitted once."""
        names = [each.name if isinstance(each, Symbol) else each for each in inputs]
        key = (op, *names, outputs, repr(attributes))
        if key not in self._emitted:
            name = f"{op.lower()}_{len(self._nodes)}"
            found = [name] if outputs == 1 else [f"{name}.{n}" for n in range(outputs)]
            node = helper.make_node(op, names, found, name, domain=domain, **attributes)
            self._nodes.append(node)
            self._emitted[key] = found
        return self._emitted[key]

    def model(self, name: str, **facts: object) -> onnx.ModelProto:
        """Return the graph, restricted to the nodes and constants that its outputs need.

        Args:
            name: name of the graph.
            facts: stored as metadata.
        """
        needed, nodes = {symbol.name for symbol in self._outputs.values()}, list[Any]()
        for node in reversed(self._nodes):
            if needed & set(node.output):
                nodes.append(node)
                needed |= set(node.input)
        # Outputs get their names at the end, because equal nodes are shared until then.
        names = {symbol.name: output for output, symbol in self._outputs.items()}
        for node in nodes:
            node.input[:] = [names.get(each, each) for each in node.input]
            node.output[:] = [names.get(each, each) for each in node.output]
        outputs = [
            helper.make_tensor_value_info(output, symbol.type, symbol.shape)
            for output, symbol in self._outputs.items()
        ]
        constants = [each for each in self._constants.values() if each.name in needed]
        graph = helper.make_graph(nodes[::-1], name, self._inputs, outputs, constants)
        opsets = [helper.make_opsetid("", OPSET), helper.make_opsetid(CONTRIB, 1)]
        model = helper.make_model(graph, opset_imports=opsets, ir_version=IR_VERSION)
        helper.set_model_props(model, {key: str(value) for key, value in facts.items()})
        onnx.checker.check_model(model)
        return model


MASK = object()
"""Origin of a mask that is added: 0, or minus infinity where it is true."""


class Transposed(NamedTuple):
    """Origin of a value whose dimensions are exchanged; several exchanges are one node."""

    source: "Symbol"
    order: list[int]


class Symbol:
    """Value of a graph, with those methods of a tensor that modules use in evaluation mode."""

    dtype = torch.float32
    device = torch.device("cpu")

    def __init__(
        self, recorder: Recorder, name: str, shape: Sequence[Size], dtype: int = TensorProto.FLOAT,
        origin: Any = None,
    ) -> None:  # fmt: skip
        """Name a value; `origin` describes its computation for forms that depend on it."""
        self.recorder, self.name, self.shape = recorder, name, tuple(shape)
        self.type, self.origin = dtype, origin
        self.source = self
        """Value of another shape that this one is a view of; itself if it is no view."""

    @classmethod
    def __torch_function__(
        cls, function: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        """Record a function of torch, or a layer, that was called with symbols."""
        symbols = [each for each in _flatten((args, kwargs)) if isinstance(each, Symbol)]
        form = symbols[0].recorder.forms.get(function) or _FORMS.get(function)
        if form is None:
            name = getattr(function, "__name__", function)
            raise NotImplementedError(f"{name} cannot be exported: add a form of it to {__name__}")
        return form(*args, **(kwargs or {}))

    def emit(
        self, op: str, *others: "Symbol | str", shape: Sequence[Size] | None = None,
        dtype: int = TensorProto.FLOAT, domain: str = "", **attributes: Any,
    ) -> "Symbol":  # fmt: skip
        """Emit a node with one output whose first input is this value."""
        [name] = self.recorder.emit(op, self, *others, domain=domain, **attributes)
        return Symbol(self.recorder, name, self.shape if shape is None else shape, dtype)

    def constant(self, value: Any, dtype: Any = np.float32) -> str:
        """Return the name of a constant of the same graph."""
        return self.recorder.constant(value, dtype)

    # All floating-point values of a graph are fp32.
    def to(self, *_: object) -> "Symbol":
        """Return the value itself: graphs have one type."""
        return self

    def dim(self) -> int:
        """Return the number of dimensions."""
        return len(self.shape)

    def size(self, dim: int) -> Size:
        """Return a size, or the name of one that differs from call to call."""
        return self.shape[dim]

    def __add__(self, other: Operand) -> "Symbol":
        return self._binary("Add", other)

    def __sub__(self, other: Operand) -> "Symbol":
        return self._binary("Sub", other)

    def __mul__(self, other: Operand) -> "Symbol":
        return self if isinstance(other, int | float) and other == 1 else self._binary("Mul", other)

    def __truediv__(self, other: Operand) -> "Symbol":
        return self._binary("Div", other)

    __radd__, __rmul__ = __add__, __mul__

    def __matmul__(self, other: Operand) -> "Symbol":
        shape = _shape_of(other)
        batch = _broadcast(self.shape[:-2], shape[:-2])
        shape = (*batch, *self.shape[-2:-1], *shape[-1:] * (len(shape) > 1))
        return self.emit("MatMul", self._name(other), shape=shape)

    def __getitem__(self, index: Any) -> "Symbol":
        """Insert dimensions: only None and full slices are supported."""
        index = index if isinstance(index, tuple) else (index,)
        assert all(each in (None, slice(None)) for each in index)
        axes = [axis for axis, each in enumerate(index) if each is None]
        sizes = iter(self.shape)
        shape = [1 if each is None else next(sizes) for each in index] + list(sizes)
        result = self.emit("Unsqueeze", self.constant(axes, np.int64), shape=shape, dtype=self.type)
        if self.origin is MASK:
            result.origin = MASK
        return result

    def tanh(self) -> "Symbol":
        """Record the hyperbolic tangent."""
        return self.emit("Tanh")

    def sigmoid(self) -> "Symbol":
        """Record the logistic function."""
        return self.emit("Sigmoid")

    def relu(self) -> "Symbol":
        """Record the larger of a value and 0."""
        result = self.emit("Relu")
        result.origin = ("relu", self.origin)
        return result

    def softmax(self, dim: int) -> "Symbol":
        """Record a softmax over a dimension."""
        return self.emit("Softmax", axis=dim)

    def mean(self, dim: int) -> "Symbol":
        """Record the mean over a dimension."""
        shape = [*self.shape[:dim], *self.shape[dim + 1 :]]
        return self.emit("ReduceMean", self.constant([dim], np.int64), shape=shape, keepdims=0)

    def masked_fill(self, mask: "Symbol", value: float) -> "Symbol":
        """Record a constant where the mask is true."""
        if mask.origin is MASK:
            assert value == -math.inf
            return self + mask
        return mask.emit("Where", self.constant(value), self, shape=self.shape)

    def transpose(self, one: int, other: int) -> "Symbol":
        """Record the exchange of two dimensions."""
        order = list(range(self.dim()))
        order[one], order[other] = order[other], order[one]
        source = self
        if isinstance(self.origin, Transposed):
            source, order = self.origin.source, [self.origin.order[axis] for axis in order]
        if order == sorted(order):
            return source
        shape = [source.shape[axis] for axis in order]
        result = source.emit("Transpose", shape=shape, perm=order)
        result.origin = Transposed(source, order)
        return result

    def chunk(self, num: int, dim: int = 0) -> tuple["Symbol", ...]:
        """Record a split into parts of one size."""
        dim %= self.dim()
        size = self.shape[dim]
        assert isinstance(size, int)
        assert not size % num
        names = self.recorder.emit("Split", self, outputs=num, axis=dim, num_outputs=num)
        shape = [*self.shape[:dim], size // num, *self.shape[dim + 1 :]]
        return tuple(Symbol(self.recorder, name, shape) for name in names)

    def flatten(self, start: int, end: int = -1) -> "Symbol":
        """Record one dimension for several neighbours."""
        end %= self.dim()
        return self.view(*self.shape[:start], -1, *self.shape[end + 1 :])

    def view(self, *sizes: Size) -> "Symbol":
        """Record another shape of the same values; of several views in a row the last is a node."""
        source, shape = self.source, _infer(self.shape, sizes)
        if shape == source.shape:
            return source
        # Reshape copies the dimension at the same place for 0, and infers the one that is -1.
        target: list[Any] = [
            0 if source.shape[n : n + 1] == (size,) else size for n, size in enumerate(shape)
        ]
        named = [n for n, size in enumerate(target) if isinstance(size, str)]
        if named:
            target[named.pop()] = -1
        if named:
            parts = [
                self.recorder.size_of(size)
                if isinstance(size, str)
                else self.constant([size], np.int64)
                for size in target
            ]
            [new_sizes] = self.recorder.emit("Concat", *parts, axis=0)
        else:
            new_sizes = self.constant(target, np.int64)
        result = source.emit("Reshape", new_sizes, shape=shape)
        result.source = source
        return result

    def as_value(self) -> "Symbol":
        """Return the same value, no longer seen as a view of another."""
        if self.source is self:
            return self
        return Symbol(self.recorder, self.name, self.shape, self.type, self.origin)

    def _binary(self, op: str, other: Operand) -> "Symbol":
        return self.emit(op, self._name(other), shape=_broadcast(self.shape, _shape_of(other)))

    def _name(self, operand: Operand) -> str:
        return operand.name if isinstance(operand, Symbol) else self.constant(operand)

    # The last method: its name hides the type.
    def float(self) -> "Symbol":
        """Return the value itself, which is fp32."""
        return self


def concat(symbols: Sequence[Symbol], dim: int = 0) -> Symbol:
    """Record `torch.cat`."""
    first, dim = symbols[0], dim % symbols[0].dim()
    sizes = [symbol.shape[dim] for symbol in symbols]
    assert all(isinstance(size, int) for size in sizes)
    shape = [*first.shape[:dim], sum(map(int, sizes)), *first.shape[dim + 1 :]]
    return first.emit("Concat", *symbols[1:], shape=shape, dtype=first.type, axis=dim)


_FORMS: Mapping[Any, Form] = {torch.cat: concat}


def _shape_of(operand: Operand) -> tuple[Size, ...]:
    return tuple(operand.shape) if isinstance(operand, Symbol | Tensor) else ()


def _broadcast(one: tuple[Size, ...], other: tuple[Size, ...]) -> tuple[Size, ...]:
    longer, shorter = sorted((one, other), key=len, reverse=True)
    padded = (1,) * (len(longer) - len(shorter)) + shorter
    return tuple(b if a == 1 else a for a, b in zip(longer, padded, strict=True))


def _infer(shape: Sequence[Size], sizes: Sequence[Size]) -> tuple[Size, ...]:
    """Return the sizes of a view, with the one that is -1 computed."""
    if -1 not in sizes:
        return tuple(sizes)
    before, after = _factors(shape), _factors([size for size in sizes if size != -1])
    names = [name for name in before[1] if name not in after[1]]
    number = before[0] // after[0]
    missing: Size = number
    if names:
        assert number == 1, f"cannot view {shape} as {sizes}"
        product = [name for name, parts in PRODUCTS.items() if [*parts] == names]
        missing = product[0] if product else "*".join(names)
    return tuple(missing if size == -1 else size for size in sizes)


def _factors(sizes: Sequence[Size]) -> tuple[int, list[str]]:
    """Return the product of the fixed sizes, and the names of all others."""
    fixed = math.prod(size for size in sizes if isinstance(size, int))
    names = [size for size in sizes if isinstance(size, str)]
    return fixed, [part for name in names for part in PRODUCTS.get(name, (name,))]


def _flatten(value: Any) -> list[Any]:
    if isinstance(value, dict):
        value = list(value.values())
    if isinstance(value, list | tuple):
        return [item for each in value for item in _flatten(each)]
    return [value]
