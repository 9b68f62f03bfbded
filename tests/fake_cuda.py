"""A fake GPU: tensors with device cuda, dtypes and shapes but without numbers, on any machine.

`fake_gpu` counts operations, bytes moved, and the points at which Python would wait for a GPU:
reading a value (`item`, `tolist`, `bool`), copies between host and GPU that are not asynchronous,
and shapes that depend on values (`nonzero`). LSTM layers check what cuDNN needs.
"""

import ctypes
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode, unset_fake_temporarily
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map

GPU = torch.device("cuda:0")
CUDA, META = 1, 14
"""Values of c10::DeviceType."""

Answer = Callable[[Tensor], Any]
"""Returns the value of a fake tensor that Python reads."""


def ones(tensor: Tensor) -> Any:
    """Answer with 1 for every value."""
    return np.ones(tuple(tensor.shape), bool if tensor.dtype == torch.bool else float).tolist()


def make_cuda_known() -> None:
    """Give a torch for CPUs a device guard for CUDA: that of the device "meta", which does nothing.

    Without one it refuses every tensor with device cuda.
    """
    if not torch.backends.cuda.is_built():
        c10 = ctypes.CDLL(str(Path(torch.__file__).parent / "lib" / "libc10.so"))
        name = "_ZN3c104impl26device_guard_impl_registryE"
        guards = (ctypes.c_void_p * (META + 1)).in_dll(c10, name)
        guards[CUDA] = guards[CUDA] or guards[META]


class FakeGpu(TorchDispatchMode):
    """Counts of what runs on the fake GPU."""

    def __init__(self, answer: Answer) -> None:
        super().__init__()
        self.answer = answer
        self.operations: Counter[str] = Counter()
        """Operations by name; views do not count."""
        self.waits: Counter[str] = Counter()
        """Points at which Python waits for the GPU, by operation."""
        self.num_bytes = 0
        """Bytes read and written by operations outside LSTM layers."""
        self.dtypes: dict[str, set[torch.dtype]] = {}
        """Dtypes of the results of each operation."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        name = func.overloadpacket.__name__
        tensors = [each for each in tree_leaves((args, kwargs)) if isinstance(each, Tensor)]
        device = kwargs.get("device")
        is_to_gpu = device is not None and torch.device(device).type == "cuda"
        if not is_to_gpu and not any(isinstance(each, FakeTensor) for each in tensors):
            # The host: real numbers.
            with unset_fake_temporarily():
                return func(*args, **kwargs)
        if name in ("_local_scalar_dense", "item"):
            return self.read(name, args[0])
        if name == "nonzero":
            self.waits[name] += 1
            return args[0].new_empty(4, args[0].dim(), dtype=torch.int64)
        is_copy = name in ("_to_copy", "to", "copy_")
        if is_copy and self.is_blocking(name, args, kwargs):
            self.waits["copy"] += 1
        if not all(isinstance(each, FakeTensor) for each in tensors):
            args, kwargs = tree_map((lambda each: self.adopt(each, is_copy)), (args, kwargs))
        result = func(*args, **kwargs)
        outputs = [each for each in tree_leaves(result) if isinstance(each, Tensor)]
        if not func.is_view and any(each.is_cuda for each in outputs):
            self.operations[name] += 1
            inputs = [each for each in tensors if each.is_cuda]
            self.num_bytes += sum(each.numel() * each.itemsize for each in (*inputs, *outputs))
            self.dtypes.setdefault(name, set()).update(each.dtype for each in outputs)
        return result

    @staticmethod
    def adopt(value: Any, is_copy: bool) -> Any:
        """Return a host tensor as a fake one where a GPU takes it: copied, or as a scalar."""
        if type(value) is Tensor and (is_copy or value.dim() == 0):
            return torch.empty_strided(value.size(), value.stride(), dtype=value.dtype)
        return value

    @staticmethod
    def is_blocking(name: str, args: Any, kwargs: Any) -> bool:
        """Return True for a copy between host and GPU that waits for the GPU."""
        source, target = args[0].device, kwargs.get("device") or args[0].device
        is_async = bool(kwargs.get("non_blocking"))
        if name == "copy_":
            source, target = args[1].device, args[0].device
            is_async = is_async or bool(args[2:3] and args[2])
        return torch.device(source).type != torch.device(target).type and not is_async

    def read(self, name: str, tensor: Tensor) -> Any:
        """Count a read, and return its value; a copy on the host was waited for before."""
        self.waits[name] += tensor.is_cuda
        return self.answer(tensor)


class FakeLSTM(torch.autograd.Function):
    """Hidden states of an LSTM layer."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, *weights: Tensor) -> Tensor:
        return x.new_empty(x.size(0), x.size(1), weights[1].size(1))


def fake_backward(loss: Tensor) -> None:
    """Give the leaves of the graph gradients: autograd's own backward needs a real GPU."""
    nodes, seen = [loss.grad_fn], set()
    while nodes:
        node = nodes.pop()
        if node is None or node in seen:
            continue
        seen.add(node)
        nodes += [before for before, _ in node.next_functions]
        leaf = getattr(node, "variable", None)
        if leaf is not None and leaf.grad is None:
            leaf.grad = torch.empty_like(leaf)


def fake_lstm(x: Tensor, start: Any, weights: Any, *_: Any) -> Any:
    """Check what cuDNN requires: one device, one dtype, weights in one chunk without gaps."""
    assert len({(each.device, each.dtype) for each in (x, *start, *weights)}) == 1
    assert all(each.is_contiguous() for each in (*start, *weights))
    offset = weights[0].storage_offset()
    for weight in weights:
        assert weight.untyped_storage()._cdata == weights[0].untyped_storage()._cdata
        assert weight.storage_offset() == offset, "cuDNN would copy the weights in each call"
        offset += weight.numel()
    return FakeLSTM.apply(x, *weights), *start


@contextmanager
def fake_gpu(answer: Answer = ones) -> Iterator[FakeGpu]:
    """Run the code inside with a fake GPU; `answer` gives the values that it reads."""
    make_cuda_known()
    with pytest.MonkeyPatch.context() as patch, FakeTensorMode():
        gpu = FakeGpu(answer)
        patch.setattr(FakeTensorMode, "__deepcopy__", lambda mode, memo: mode, raising=False)
        patch.setattr(FakeTensor, "tolist", lambda tensor: gpu.read("tolist", tensor))
        patch.setattr(FakeTensor, "numpy", lambda tensor: np.zeros(tuple(tensor.shape), np.uint8))
        patch.setattr(Tensor, "backward", fake_backward)
        patch.setattr(torch._VF, "lstm", fake_lstm)
        patch.setattr(torch.cuda.amp.common, "amp_definitely_not_available", lambda: False)
        patch.setattr(torch.cuda, "is_bf16_supported", lambda *_, **__: True)
        patch.setattr(torch.cuda, "get_device_name", lambda device: "fake")
        patch.setattr(torch.cuda, "empty_cache", lambda: None)
        patch.setattr(torch.cuda, "manual_seed_all", lambda seed: None)
        patch.setattr(nn.Module, "to", lambda module, device: module)  # built there
        with gpu:
            yield gpu
