"""Tests of GPU code paths: `pytest -m gpu` on a machine with one."""

import copy
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch

from nmt.batching.batch import make_batch
from nmt.batching.loader import MicroBatch
from nmt.batching.schedule import Update
from nmt.config.experiment import Experiment
from nmt.decoding.beam_search import search
from nmt.decoding.torch_engine import TorchEngine
from nmt.model.lstm import LSTM
from nmt.training.distributed import World
from nmt.training.loop import make_update
from nmt.training.state import Learner, TrainState

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU"),
]
GPU = torch.device("cuda")
BATCH = make_batch([([5, 6, 7], [8, 4]), ([9], [10, 11]), ([3, 4, 5, 6, 7, 8], [9])])
NUM_TOKENS = len(BATCH.tgt_out)
ROWS = np.arange(len(BATCH.src))
PARTS = [MicroBatch(0, BATCH, ROWS)]
UPDATE = Update(0, 0, (ROWS,), NUM_TOKENS)
VOCAB = 64


@pytest.fixture
def experiment() -> Experiment:
    """Without dropout: GPU and CPU draw different masks."""
    model = {
        "width": 128,
        "heads": 4,
        "encoder_layers": 2,
        "decoder_layers": 2,
        "ffn_width": 256,
        "dropout": 0.0,
        "embedding_dropout": 0.0,
        "word_dropout": 0.0,
    }
    text = {"name": "none", "src": "none", "tgt": "none"}
    corpus = {"src": "en", "tgt": "de", "train": [text], "dev": text}
    return Experiment.model_validate({"name": "none", "corpus": corpus, "model": model})


def operations_of(graph: Any) -> Iterator[str]:
    """Return the names of the operations that produced a tensor."""
    if graph is not None:
        yield graph.name()
        for before, _ in graph.next_functions:
            yield from operations_of(before)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_layer_is_one_cudnn_call_in_the_dtype_of_autocast(dtype: torch.dtype) -> None:
    torch.manual_seed(1)
    lstm = LSTM(128, 128)
    x = torch.randn(8, 12, 128)
    expected = lstm(x)
    lstm.to(GPU)
    with torch.autocast(GPU.type, dtype, enabled=dtype != torch.float32):
        out = lstm(x.to(GPU))
    assert out.dtype == dtype
    assert "CudnnRnnBackward0" in set(operations_of(out.grad_fn))
    assert torch.allclose(out.float().cpu(), expected, atol=0.02)
    out.float().sum().backward()
    assert {parameter.grad.dtype for parameter in lstm.parameters()} == {torch.float32}


@pytest.mark.parametrize(("precision", "error"), [("fp32", 1e-3), ("bf16", 0.05), ("fp16", 0.01)])
def test_gradient_norm_equals_that_on_cpu(
    experiment: Experiment, precision: str, error: float
) -> None:
    norms = []
    for device, dtype in ((torch.device("cpu"), "fp32"), (GPU, precision)):
        training = experiment.training.model_copy(update={"precision": dtype})
        changed = experiment.model_copy(update={"training": training})
        learner = Learner(changed, VOCAB, World(device=device))
        norms.append(make_update(learner, TrainState(), UPDATE, PARTS, NUM_TOKENS).gnorm)
    assert norms[1] == pytest.approx(norms[0], rel=error)


def test_search_finds_the_same_tokens_as_on_cpu(experiment: Experiment) -> None:
    """In fp32, after some updates, so that the best token is well ahead of the others."""
    learner = Learner(experiment, VOCAB, World())
    for number in range(100):
        update = Update(number, 0, UPDATE.micro_batches, NUM_TOKENS)
        make_update(learner, TrainState(), update, PARTS, NUM_TOKENS)
    model = copy.deepcopy(learner.model).eval()
    sources = [[5, 6, 7, 2], [9, 2], [3, 4, 5, 6, 7, 8, 2]]
    on_cpu = search(TorchEngine([model]), sources, experiment.decoding)
    on_gpu = search(TorchEngine([model], GPU), sources, experiment.decoding)
    for actual, expected in zip(on_gpu, on_cpu, strict=True):
        assert actual[0].tokens == expected[0].tokens
        assert actual[0].score == pytest.approx(expected[0].score, abs=1e-3)
