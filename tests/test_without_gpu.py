"""CUDA code paths on a fake GPU (`fake_cuda`), and training without Ray.

They find tensors on the wrong device or of the wrong dtype, and points at which Python waits for a
GPU, on a machine that has none.
"""

import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from fake_cuda import GPU, FakeGpu, fake_gpu
from torch import Tensor

from nmt.batching.batch import Batch, make_batch
from nmt.batching.loader import MicroBatch
from nmt.batching.schedule import Update
from nmt.checkpoint.async_writer import AsyncCheckpointWriter
from nmt.checkpoint.format import CheckpointState
from nmt.config.decoding import DecodingConfig, Precision
from nmt.config.experiment import Experiment
from nmt.config.files import load_experiment
from nmt.corpus.prepared import open_prepared, read_dev
from nmt.decoding import step_graphs
from nmt.decoding.beam_search import search
from nmt.decoding.constraints import Constraints, TokenText
from nmt.decoding.engines import choose_engine
from nmt.decoding.loading import make_translator, open_model
from nmt.decoding.scoring import log_probs
from nmt.decoding.torch_engine import TorchEngine
from nmt.model.quantise import quantise_model
from nmt.model.seq2seq import Seq2Seq
from nmt.training import loop, memory, state
from nmt.training.data import TrainingData
from nmt.training.distributed import World
from nmt.training.loop import make_update, train
from nmt.training.meter import Meter
from nmt.training.precision import DTYPES
from nmt.training.state import Learner, TrainState
from nmt.training.validation import _sum_nll

LAYERS = {"width": 128, "encoder_layers": 2, "decoder_layers": 2}
pytestmark = pytest.mark.filterwarnings("ignore:Accessing the data pointer of FakeTensor")
GNMT = {**LAYERS, "preset": "gnmt", "attention": "additive"}
RESIDUAL = {**LAYERS, "heads": 4, "weight_dropout": 0.1, "locked_dropout": True}
SPANS = {"cutoff": 0.1, "cutoff_kind": "span"}
ROWS = np.arange(2)
NUM_TOKENS = 10
READ = "_local_scalar_dense"
"""Operation of `float`, `int`, `bool` and `item`."""


@pytest.fixture(autouse=True)
def built_on_the_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """Build models on the fake GPU: a module cannot be moved there."""

    def build(*arguments: Any) -> Seq2Seq:
        with GPU:
            return Seq2Seq(*arguments)

    monkeypatch.setattr(state, "Seq2Seq", build)
    monkeypatch.setattr(Batch, "pin", lambda batch: batch)


@pytest.fixture
def gpu() -> Iterator[FakeGpu]:
    with fake_gpu() as fake:
        yield fake


def make_experiment(model: dict[str, Any], **training: Any) -> Experiment:
    text = {"name": "none", "src": "none", "tgt": "none"}
    corpus = {"src": "en", "tgt": "de", "train": [text], "dev": text}
    tree = {"name": "none", "corpus": corpus, "model": model}
    return Experiment.model_validate(tree | {"training": training})


def make_learner(model: dict[str, Any], **training: Any) -> Learner:
    return Learner(make_experiment(model, **training), 1000, World(device=GPU))


def make_part(index: int) -> MicroBatch:
    return MicroBatch(index, make_batch([([5, 6, 7], [8, 4]), ([9], [10, 11])]), ROWS)


def run_update(learner: Learner, number: int = 0) -> None:
    update = Update(number, 0, (ROWS, ROWS), NUM_TOKENS)
    make_update(learner, TrainState(), update, [make_part(0), make_part(1)], NUM_TOKENS)


# Training.


@pytest.mark.parametrize("precision", ["fp32", "bf16", "fp16"])
@pytest.mark.parametrize(
    ("model", "training"),
    [(GNMT, {}), (RESIDUAL, {}), (RESIDUAL, {"rdrop": 1.0}), (RESIDUAL, SPANS)],
)
def test_an_update_waits_for_the_gpu_once(
    gpu: FakeGpu, model: dict[str, Any], training: dict[str, Any], precision: str
) -> None:
    """For the norm of its gradient."""
    learner = make_learner(model, precision=precision, **training)
    gpu.waits.clear()
    run_update(learner)
    assert gpu.waits == {READ: 1}
    for parameter, moments in learner.optimizer.state.items():
        assert {each.dtype for each in moments.values()} == {torch.float32}
        assert {each.device for each in (parameter, *moments.values())} == {GPU}


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_additive_attention_stays_in_the_dtype_of_autocast(gpu: FakeGpu, precision: str) -> None:
    """Its tanh over [B, T, S, D] is the largest tensor outside the LSTM layers."""
    learner = make_learner(GNMT, precision=precision)
    gpu.dtypes.clear()
    run_update(learner)
    assert gpu.dtypes["tanh"] == {DTYPES[precision]}


def test_moments_and_gradients_are_in_the_memory_trial(
    gpu: FakeGpu, monkeypatch: pytest.MonkeyPatch
) -> None:
    events: list[Any] = []
    learner = make_learner(RESIDUAL)
    num_parameters = len(list(learner.model.parameters()))
    real = memory.compute_loss

    def compute_loss(*arguments: Any) -> Any:
        events.append(gpu.operations["empty_like"])
        return real(*arguments)

    monkeypatch.setattr(memory, "compute_loss", compute_loss)
    monkeypatch.setattr(torch.cuda, "empty_cache", lambda: events.append("emptied"))
    schedule = type("Largest", (), {"largest": (2, 4)})()
    for _ in range(2):
        gpu.operations.clear()
        memory.find_split(learner, learner.experiment, schedule, World(device=GPU), 0, 1)
        run_update(learner)
    # The second time the moments exist.
    assert events == [2 * num_parameters, "emptied", 0, "emptied"]


@pytest.fixture
def data(here: Path) -> TrainingData:
    """Corpus of the tiny experiment."""
    return TrainingData(*open_prepared(load_experiment("tiny.yaml")), read_dev("prepared/tiny"))


def test_nccl_is_used_before_the_memory_trial(
    data: TrainingData, gpu: FakeGpu, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """NCCL allocates outside torch, whose cache is full after the trial."""
    events: list[str] = []

    def find_split(*_: object) -> int:
        events.append("trial")
        raise InterruptedError

    monkeypatch.setattr(loop, "find_split", find_split)
    monkeypatch.setattr(World, "all_gather", lambda world, value: [value] * world.size)
    for name in ("broadcast", "all_reduce"):
        record = lambda tensor, name=name, **_: events.append(name)  # noqa: E731
        monkeypatch.setattr(torch.distributed, name, record)
    world = World(size=2, rank=1, device=GPU, gradient_dtype=torch.bfloat16)
    with pytest.raises(InterruptedError):
        train(load_experiment("tiny.yaml"), data, world, tmp_path / "new")
    assert list(dict.fromkeys(events)) == ["broadcast", "all_reduce", "trial"]


class NoWriter(AsyncCheckpointWriter):
    """Copies the state of each checkpoint, and writes nothing."""

    def write(self, state: CheckpointState, *what: Any, **named: Any) -> None: ...


def test_a_run_waits_at_updates_and_log_lines_only(
    data: TrainingData, gpu: FakeGpu, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With subword dropout, whose numbers of tokens are counted on the host."""
    monkeypatch.setattr(loop, "AsyncCheckpointWriter", NoWriter)
    monkeypatch.setattr(loop._Run, "validate", lambda run, is_due: None)
    start: Counter[str] = Counter()

    def should_stop(done: int) -> bool:
        if done == 1:
            start.update(gpu.waits)
        return False

    settings = ["training.updates=8", "training.log_every=4", "training.checkpoint_every=8"]
    experiment = load_experiment("tiny.yaml", [*settings, "training.subword_dropout=0.2"])
    train(experiment, data, World(device=GPU), tmp_path / "new", should_stop=should_stop)
    # The gradient norms of seven updates and the losses of two log lines.
    assert gpu.waits - start == {READ: 7, "tolist": 2}


def test_log_lines_wait_once(gpu: FakeGpu) -> None:
    learner = make_learner(RESIDUAL)
    meter = Meter()
    for number in range(3):
        update = Update(number, 0, (ROWS,), 5)
        meter.add(make_update(learner, TrainState(), update, [make_part(0)], 5))
    gpu.waits.clear()
    assert meter.totals(World(device=GPU)).nll == 3.0
    assert gpu.waits == {"tolist": 1}


def test_the_dev_loss_waits_once(data: TrainingData, gpu: FakeGpu) -> None:
    experiment = make_experiment(RESIDUAL)
    with GPU:
        model = Seq2Seq(experiment.model, data.subword.num_pieces).eval()
    pairs = [("a dog runs", "ein Hund rennt")] * 130
    total, _ = _sum_nll(model, data.subword, experiment, pairs, GPU)
    assert total == 3.0
    assert gpu.waits == {"tolist": 1}


def test_checkpoint_copies_wait_at_no_tensor(gpu: FakeGpu, monkeypatch: pytest.MonkeyPatch) -> None:
    """They are ordered by an event, which the writer thread waits for."""
    from nmt.checkpoint import async_writer

    class Event:
        def __init__(self, device: str) -> None:
            self.is_recorded = False

        def record(self) -> None:
            self.is_recorded = True

    def empty_like(tensor: Tensor, device: str, pin_memory: bool) -> Tensor:
        return tensor.new_empty(tensor.shape, device=device)

    learner = make_learner(RESIDUAL)
    run_update(learner)
    monkeypatch.setattr(torch, "Event", Event)
    monkeypatch.setattr(async_writer.torch, "empty_like", empty_like)
    gpu.waits.clear()
    copied, event = async_writer._copy_state(learner.state(1, {}))
    assert not gpu.waits
    assert event.is_recorded
    assert {tensor.device.type for tensor in copied.weights.values()} == {"cpu"}


# Search and scoring.


def make_engine(*models: dict[str, Any], precision: Precision = "fp32") -> TorchEngine:
    with GPU:
        built = [Seq2Seq(make_experiment(model).model, 1000) for model in models]
    return TorchEngine([quantise_model(model, precision) for model in built], GPU)


def make_sources(number: int = 5) -> list[list[int]]:
    return [[5] * (1 + n % 3) + [2] for n in range(number)]


TERM = Constraints(TokenText([b""] * 5 + [b" a"] * 995), terms=((5, 6),), avoid=(b"b",))


@pytest.mark.parametrize(
    ("models", "precision", "settings", "constraints"),
    [
        ([GNMT], "fp32", {"beam": 5}, None),
        ([GNMT], "bf16", {"beam": 1}, None),
        ([RESIDUAL], "bf16", {"beam": 4, "diverse_groups": 2}, None),
        ([RESIDUAL], "fp32", {"method": "sample", "top_k": 5}, None),
        ([RESIDUAL, GNMT], "fp32", {"beam": 2, "coverage_penalty": 0.2}, None),
        ([RESIDUAL], "fp32", {"beam": 3}, [TERM, None, TERM, None, None]),
    ],
    ids=["beam", "greedy", "groups", "sample", "ensemble and coverage", "constraints"],
)
def test_a_search_step_waits_for_the_gpu_once(
    gpu: FakeGpu, models: list[dict[str, Any]], precision: Precision, settings: dict[str, Any],
    constraints: list[Constraints | None] | None,
) -> None:  # fmt: skip
    engine = make_engine(*models, precision=precision)
    # No hypothesis ends before the limit: the fake GPU answers with token 0.
    decoding = DecodingConfig(max_length=6, **settings)
    gpu.waits.clear()
    search(engine, make_sources(), decoding, with_attention=True, constraints=constraints)
    assert gpu.waits == {"copy": 6}


def test_scoring_waits_once_per_position(gpu: FakeGpu) -> None:
    targets = [[4, 4, 2], [4, 2], [4, 4, 4, 2], [4, 2], [2]]
    engine = make_engine(RESIDUAL)
    gpu.waits.clear()
    log_probs(engine, make_sources(), targets)
    assert gpu.waits == {"copy": 4}


@pytest.mark.parametrize(
    ("cudnn", "options", "expected"),
    [
        (91300, {}, ("bf16", 512)),
        (91002, {}, ("fp32", 512)),
        (91300, {"precision": "fp32", "batch_sentences": 8}, ("fp32", 8)),
    ],
)
def test_translation_on_a_gpu_is_bf16_in_large_batches(
    here: Path, monkeypatch: pytest.MonkeyPatch, cudnn: int, options: dict[str, Any],
    expected: tuple[Precision, int],
) -> None:  # fmt: skip
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation: True)
    monkeypatch.setattr(torch.backends.cudnn, "version", lambda: cudnn)
    model = open_model(Path("runs/tiny"))
    engine, place, precisions = choose_engine([model], "auto", "cuda", options.get("precision"))
    translator = make_translator(model, device="cuda", **options)
    assert (engine, place) == ("torch", "cuda")
    assert (precisions[0], translator.decoding.batch_sentences) == expected


def test_a_recorded_step_launches_few_operations(
    gpu: FakeGpu, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(step_graphs, "record", lambda work: (work(), lambda: None))
    monkeypatch.setattr(step_graphs, "EAGER_STEPS", 3)
    engine, decoding = make_engine(GNMT), DecodingConfig(beam=5, max_length=8)
    counts = []
    real = engine.step

    def step(*arguments: Any) -> Any:
        gpu.operations.clear()
        result = real(*arguments)
        counts.append(gpu.operations.total())
        return result

    monkeypatch.setattr(engine, "step", step)
    search(engine, make_sources(1), decoding)
    assert len(counts) == 8
    # The fourth step records the graph; its memory is copied once.
    assert (counts[2], max(counts[4:])) == (67, 29)


# Training without Ray.

WITHOUT_RAY = """
import sys
sys.modules["ray"] = None  # as if it were not installed
from pathlib import Path
from nmt.config.files import load_experiment
from nmt.corpus.prepared import open_prepared, read_dev
from nmt.training.data import TrainingData
from nmt.training.distributed import World
from nmt.training.loop import train
experiment = load_experiment("tiny.yaml", ["training.updates=6", "training.validate_every=6"])
data = TrainingData(*open_prepared(experiment), read_dev("prepared/tiny"))
reason, state = train(experiment, data, World(), Path("without-ray"))
assert (reason, state.update, state.num_validations) == ("finished", 6, 1)
"""


def test_training_needs_no_ray(here: Path) -> None:
    subprocess.run([sys.executable, "-c", WITHOUT_RAY], check=True, cwd=here)
