"""Steps as CUDA graphs, on a CPU: a recording repeats its work into the same tensors."""

import math
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any
from weakref import ref

import numpy as np
import pytest
import torch
from torch import Tensor

from nmt.config.decoding import DecodingConfig
from nmt.config.experiment import ModelConfig
from nmt.corpus.subword import BOS
from nmt.decoding import step_graphs
from nmt.decoding.beam_search import search
from nmt.decoding.interface import Best, Query, pad_sources
from nmt.decoding.step_graphs import Step, StepGraphs
from nmt.decoding.torch_engine import TorchEngine
from nmt.model.seq2seq import Seq2Seq

VOCAB = 40
SOURCES = [[5, 6, 7, 2], [9, 2], [3, 4, 5, 6, 7, 8, 2], [11, 12, 2], [13, 2]]


def tensors_in(value: Any) -> list[Tensor]:
    if isinstance(value, Tensor):
        return [value]
    return [tensor for each in value for tensor in tensors_in(each)]


def record(work: Callable[[], Any]) -> tuple[Any, Callable[[], None]]:
    outputs = work()

    def replay() -> None:
        for fixed, tensor in zip(tensors_in(outputs), tensors_in(work()), strict=True):
            fixed.copy_(tensor)

    return outputs, replay


def make_engine(preset: str, num_models: int = 1) -> TorchEngine:
    models = []
    for seed in range(num_models):
        torch.manual_seed(seed)
        sizes = {"width": 16, "encoder_layers": 2, "decoder_layers": 2, "heads": 2}
        attention = "additive" if preset == "gnmt" else "multi_head"
        config = ModelConfig(preset=preset, attention=attention, ffn_width=16, **sizes)  # type: ignore[arg-type]
        models.append(Seq2Seq(config, VOCAB))
    return TorchEngine(models)


def find(engine: TorchEngine, decoding: DecodingConfig) -> list[list[Any]]:
    """Return tokens, scores and attention of all hypotheses."""
    found = search(engine, SOURCES, decoding, with_attention=True)
    parts = ("tokens", "score", "token_log_probs")
    return [
        [(*(getattr(each, name) for name in parts), each.attention.tolist()) for each in hypotheses]
        for hypotheses in found
    ]


class CopiedGraphs(StepGraphs):
    """Copies the attention, as the transfer from a GPU does."""

    def __call__(self, *arguments: Any) -> Step:
        logits, states, attention = super().__call__(*arguments)
        return logits, states, attention.clone()


def recorded(engine: TorchEngine, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Make an engine on the CPU use graphs; the list has the number of rows of each recording."""
    rows: list[int] = []

    def count(work: Callable[[], Any]) -> tuple[Any, Callable[[], None]]:
        outputs, replay = record(work)
        rows.append(len(outputs[0]))
        return outputs, replay

    monkeypatch.setattr(step_graphs, "record", count)
    engine._graphs = CopiedGraphs(engine._run)
    return rows


@pytest.mark.parametrize("preset", ["residual", "gnmt"])
@pytest.mark.parametrize(
    "settings", [{"beam": 4}, {"beam": 1}, {"method": "sample"}, {"beam": 4, "diverse_groups": 2}]
)
def test_graphs_change_no_result(
    monkeypatch: pytest.MonkeyPatch, preset: str, settings: dict[str, Any]
) -> None:
    monkeypatch.setattr(step_graphs, "EAGER_STEPS", 2)
    decoding = DecodingConfig(max_length_ratio=1, max_length_extra=9, **settings)
    engine = make_engine(preset)
    expected = find(engine, decoding)
    rows = recorded(engine, monkeypatch)
    for _ in range(2):
        assert find(engine, decoding) == expected
    # Sentences leave the batch: each number of rows is recorded once, with its fillers.
    assert len(rows) == len(set(rows)) >= 1


def test_graphs_of_an_ensemble_change_no_result(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(step_graphs, "EAGER_STEPS", 0)
    decoding = DecodingConfig(beam=3)
    engine = make_engine("residual", num_models=2)
    expected = find(engine, decoding)
    recorded(engine, monkeypatch)
    assert find(engine, decoding) == expected


def test_a_state_stays_valid_after_other_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two searches may take turns on one engine."""
    monkeypatch.setattr(step_graphs, "EAGER_STEPS", 0)
    engine = make_engine("residual")
    recorded(engine, monkeypatch)
    graphs = engine._graphs
    assert graphs is not None
    [model] = engine.models
    with torch.inference_mode():
        memories = [
            model.encode(torch.tensor([src]), torch.tensor([3])) for src in ([5, 6, 2], [7, 8, 2])
        ]
        states = [(model.start(memory, 2),) for memory in memories]
        tokens = torch.tensor([4, 5])
        expected = [
            model.step(tokens, *state, memory)
            for state, memory in zip(states, memories, strict=True)
        ]
        _, first, _ = graphs(tokens, None, states[0], (memories[0],))
        graphs(tokens, None, states[1], (memories[1],))
        assert torch.equal(first[0].hidden[1], expected[0][1].hidden[1])
        logits, _, _ = graphs(tokens, torch.tensor([1, 1]), first, (memories[0],))
        after = model.step(tokens, expected[0][1].select(torch.tensor([1, 1])), memories[0])[0]
        assert torch.equal(logits, after)


def test_threads_take_turns_on_the_memory_of_a_graph(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(step_graphs, "EAGER_STEPS", 0)
    engine, decoding = make_engine("residual"), DecodingConfig(beam=2, max_length=8)
    batches = [[[n, n + 1, n + 2, 2]] for n in (5, 15, 25)]

    def slow_record(work: Callable[[], Any]) -> tuple[Any, Callable[[], None]]:
        outputs, replay = record(work)

        def slow_replay() -> None:
            time.sleep(0.002)  # other threads copy their inputs meanwhile
            replay()

        return outputs, slow_replay

    def find_one(batch: list[list[int]]) -> tuple[list[int], float]:
        [[best]] = search(engine, batch, decoding)
        return best.tokens, best.score

    expected = list(map(find_one, batches))
    recorded(engine, monkeypatch)
    monkeypatch.setattr(step_graphs, "record", slow_record)
    with ThreadPoolExecutor(len(batches)) as threads:
        assert list(threads.map(find_one, batches)) == expected


def test_shapes_are_recorded_after_some_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    engine = make_engine("residual")
    rows = recorded(engine, monkeypatch)
    search(engine, SOURCES[:1], DecodingConfig(beam=2, max_length=step_graphs.EAGER_STEPS))
    assert rows == []
    search(engine, SOURCES[:1], DecodingConfig(beam=2, max_length=step_graphs.EAGER_STEPS))
    assert rows == [8]


def test_the_number_of_graphs_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(step_graphs, "EAGER_STEPS", 0)
    monkeypatch.setattr(step_graphs, "MAX_GRAPHS", 2)
    engine = make_engine("residual")
    rows = recorded(engine, monkeypatch)

    def take_steps(beam: int, number: int) -> None:
        decoding = DecodingConfig(beam=beam, min_length=number, max_length=number)
        search(engine, SOURCES[:1], decoding)

    for beam in (1, 2, 3):
        take_steps(beam, 2)
    assert rows == [4, 8]
    # A shape that is twice as frequent replaces the rarest one.
    take_steps(2, 1)
    take_steps(3, 2)
    assert rows == [4, 8, 12]
    assert engine._graphs is not None
    assert [shape[0] for shape in engine._graphs._graphs] == [8, 12]


@pytest.mark.parametrize("num_shapes", [3, 4])
def test_shapes_that_take_turns_are_rarely_recorded(
    num_shapes: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(step_graphs, "EAGER_STEPS", 2)
    monkeypatch.setattr(step_graphs, "MAX_GRAPHS", 2)
    engine = make_engine("residual")
    rows = recorded(engine, monkeypatch)
    for _ in range(20):
        for beam in range(1, num_shapes + 1):
            decoding = DecodingConfig(beam=beam, min_length=3, max_length=3)
            search(engine, SOURCES[:1], decoding)
    assert rows == [4, 8]


@pytest.mark.parametrize("num_models", [1, 2])
def test_graphs_keep_no_memory_of_a_batch(num_models: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(step_graphs, "EAGER_STEPS", 0)
    engine = make_engine("residual", num_models)
    rows = recorded(engine, monkeypatch)
    state = engine.start(*pad_sources(SOURCES), 2)
    tokens, kept = np.full(10, BOS), [ref(memory) for memory in state.memories]
    for _ in range(2):
        _, state = engine.step(state, tokens, None, Query(Best(1)))
    assert rows
    del state
    assert [memory() for memory in kept] == [None] * num_models


def test_the_search_goes_on_where_graphs_are_not_supported(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(work: Callable[[], Any]) -> Any:
        raise RuntimeError("operation not permitted when stream is capturing")

    engine = make_engine("residual")
    decoding = DecodingConfig(beam=2, max_length=20)
    expected = find(engine, decoding)
    recorded(engine, monkeypatch)
    monkeypatch.setattr(step_graphs, "record", fail)
    assert find(engine, decoding) == expected
    assert caplog.messages == [
        "decoding without CUDA graphs: operation not permitted when stream is capturing"
    ]


@pytest.mark.parametrize(
    ("number", "expected"),
    [(1, 4), (4, 4), (5, 8), (9, 12), (17, 24), (33, 48), (65, 96), (512, 512)],
)
def test_sentences_are_rounded_up_to_few_sizes_on_a_gpu(number: int, expected: int) -> None:
    engine = TorchEngine([])
    engine.device = torch.device("cuda")
    kept = engine._with_fillers(torch.arange(number).numpy())
    assert kept.tolist() == [*range(number), *[0] * (expected - number)]
    sizes = {len(engine._with_fillers(torch.arange(n).numpy())) for n in range(1, 513)}
    assert len(sizes) <= 2 * math.log2(512)
