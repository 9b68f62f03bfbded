"""What must hold on a GPU: `pytest -m gpu` where there is one."""

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
from nmt.model.lstm import LSTM
from nmt.training.distributed import World
from nmt.training.loop import make_update
from nmt.training.state import Learner, TrainState

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU"),
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
    """Without dropout: a GPU draws other numbers than a CPU."""
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
    corpus = {"train": [text], "dev": text}
    return Experiment.model_validate({"name": "none", "corpus": corpus, "model": model})


def made_by(graph: Any) -> Iterator[str]:
    """Names of the operations that a tensor came from."""
    if graph is not None:
        yield graph.name()
        for before, _ in graph.next_functions:
            yield from made_by(before)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_a_layer_is_one_call_of_cudnn_in_the_numbers_asked_for(dtype: torch.dtype) -> None:
    torch.manual_seed(1)
    lstm = LSTM(128, 128)
    x = torch.randn(8, 12, 128)
    expected = lstm(x)
    lstm.to(GPU)
    with torch.autocast(GPU.type, dtype, enabled=dtype != torch.float32):
        out = lstm(x.to(GPU))
    assert out.dtype == dtype
    assert "CudnnRnnBackward0" in set(made_by(out.grad_fn))
    assert torch.allclose(out.float().cpu(), expected, atol=0.02)
    out.float().sum().backward()
    assert {parameter.grad.dtype for parameter in lstm.parameters()} == {torch.float32}


@pytest.mark.parametrize(("precision", "error"), [("fp32", 1e-3), ("bf16", 0.05), ("fp16", 0.01)])
def test_a_gradient_is_that_of_a_cpu(experiment: Experiment, precision: str, error: float) -> None:
    norms = []
    for device, numbers in ((torch.device("cpu"), "fp32"), (GPU, precision)):
        training = experiment.training.model_copy(update={"precision": numbers})
        changed = experiment.model_copy(update={"training": training})
        learner = Learner(changed, VOCAB, World(device=device))
        norms.append(make_update(learner, TrainState(), UPDATE, PARTS, NUM_TOKENS).gnorm)
    assert norms[1] == pytest.approx(norms[0], rel=error)


def test_a_search_finds_what_it_finds_on_a_cpu(experiment: Experiment) -> None:
    """In fp32; a few steps of training, so that one token is much likelier than the others."""
    learner = Learner(experiment, VOCAB, World())
    for number in range(100):
        update = Update(number, 0, UPDATE.micro_batches, NUM_TOKENS)
        make_update(learner, TrainState(), update, PARTS, NUM_TOKENS)
    model = copy.deepcopy(learner.model).eval()
    sources = [[5, 6, 7, 2], [9, 2], [3, 4, 5, 6, 7, 8, 2]]
    on_cpu = search(model, sources, experiment.decoding)
    on_gpu = search(model.to(GPU), sources, experiment.decoding, device=GPU)
    for ours, theirs in zip(on_gpu, on_cpu, strict=True):
        assert ours[0].tokens == theirs[0].tokens
        assert ours[0].score == pytest.approx(theirs[0].score, abs=1e-3)
