"""Export to ONNX and the engine that runs it; results of every model equal those of torch."""

import copy
import math
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import chain
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pytest
import torch

from nmt.config.decoding import DecodingConfig
from nmt.config.experiment import ModelConfig
from nmt.corpus.subword import BOS, EOS
from nmt.decoding import onnx_engine
from nmt.decoding.beam_search import search
from nmt.decoding.candidates import MAX_ROUNDS, choose
from nmt.decoding.interface import Best, Draw, Given, Query, pad_sources
from nmt.decoding.onnx_engine import OnnxEngine
from nmt.decoding.onnx_export import compare_with_torch, write_graphs, write_shortlist
from nmt.decoding.scoring import log_probs
from nmt.decoding.torch_engine import TorchEngine
from nmt.errors import CheckpointError, ConfigError
from nmt.model import onnx_forms
from nmt.model.graph_recorder import Recorder
from nmt.model.seq2seq import Seq2Seq

VOCAB = 96
SOURCES = [[5, 6, 7, 8, 9, 2], [9, 30, 2], [40, 2], [50, 51, 52, 53, 2], [60, 61, 62, 2]]


def model_of(seed: int = 1, vocab: int = VOCAB, **settings: Any) -> Seq2Seq:
    torch.manual_seed(seed)
    shape = {"width": 16, "heads": 2, "ffn_width": 24, "encoder_layers": 2, "decoder_layers": 2}
    model = Seq2Seq(ModelConfig.model_validate(shape | settings), vocab)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            # Gain, bias and gates away from their initial values, as after training.
            if parameter.dim() == 1:
                parameter += 0.3 * torch.randn_like(parameter)
            elif "output_layer" in name or "embedding" in name:
                parameter *= 2
    return model.eval()


def export(model: Seq2Seq, folder: Path, precision: Any = "fp32") -> Path:
    folder.mkdir()
    write_graphs(model, folder, precision)
    return folder


def kinds() -> list[dict[str, Any]]:
    """Return every preset with every attention that it allows, and a model without its parts."""
    fields = ModelConfig.model_fields
    found = []
    for preset in get_args(fields["preset"].annotation):
        for attention in get_args(fields["attention"].annotation):
            kind = {"preset": preset, "attention": attention, "decoder_layers": 3}
            try:
                ModelConfig.model_validate(kind)
            except ConfigError:
                continue
            found.append(kind)
    return [*found, {"ffn_width": 0, "tie_embeddings": False, "decoder_layers": 1}]


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory) -> OnnxEngine:
    return OnnxEngine([export(model_of(), tmp_path_factory.mktemp("onnx") / "fp32")], 1)


@pytest.mark.parametrize("precision", ["fp32", "int8"])
@pytest.mark.parametrize("kind", kinds(), ids=str)
def test_graphs_equal_the_model(
    kind: dict[str, Any], precision: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(onnx_forms, "MIN_WEIGHTS", 64)
    model = model_of(**kind)
    largest, mean = compare_with_torch(model, export(model, tmp_path / "a", precision), precision)
    assert largest < 2e-5 if precision == "fp32" else 1e-4 < mean < 0.05


@pytest.mark.parametrize("precision", ["fp32", "int8"])
@pytest.mark.parametrize("output", ["log-probability", "attention"])
def test_graphs_with_another_output_are_refused(
    output: str, precision: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Actionable errors (nmt/README.md, Guarantees)."""
    model = model_of()
    folder, step = export(model, tmp_path / "a", precision), model.step

    def other(*arguments: Any) -> Any:
        logits, state, attention = step(*arguments)
        if output == "attention":
            return logits, state, attention.flip(1)
        return logits.flip(1), state, attention

    monkeypatch.setattr(model, "step", other)
    start = f"the {precision} graphs differ from the model by .* in {output}, expected "
    with pytest.raises(CheckpointError, match=start):
        compare_with_torch(model, folder, precision)


# The larger vocabulary is searched by block, and fills no last block.
@pytest.mark.parametrize("vocab", [VOCAB, 2050])
def test_candidates_equal_those_of_torch(vocab: int, tmp_path: Path) -> None:
    model = model_of(vocab=vocab)
    engines: Sequence[Any] = (
        OnnxEngine([export(model, tmp_path / "a")], 1), TorchEngine([model]),
    )  # fmt: skip
    forbidden = (np.array([0, 0, 5]), np.array([EOS, 7, 8]))
    queries = [
        Query(Best(1)), Query(Best(5), with_attention=True), Query(Best(200)),
        Query(Best(3), forbidden, np.array([1, 4])), Query(Given(np.arange(10) + 3)),
        Query(Draw(np.linspace(0, 0.99, 10), 0.7, 5, 0.9)),
    ]  # fmt: skip
    states = [each.start(*pad_sources(SOURCES), 2) for each in engines]
    tokens, parents = np.full(10, BOS), None
    for query in queries:
        results = []
        for number, each in enumerate(engines):
            result, states[number] = each.step(states[number], tokens, parents, query)
            results.append(result)
        one, other = results
        assert np.array_equal(one.ids, other.ids)
        for name in ("log_probs", "attention", "distributions"):
            mine, its = getattr(one, name), getattr(other, name)
            assert (mine is None) == (its is None)
            if mine is not None:
                np.testing.assert_allclose(mine, its, atol=1e-5)
        tokens, parents = one.ids[:, 0], np.arange(10) ^ 1


def test_best_tokens_of_blocks_are_in_order(tmp_path: Path) -> None:
    """The lower id of equal tokens comes first, also across blocks."""
    model = model_of(vocab=4096)
    with torch.no_grad():
        # Few distinct rows, so that many tokens are equally likely, special ones included.
        weight = model.output_weight
        weight.copy_(weight[torch.arange(4096) % 5])
    engine = OnnxEngine([export(model, tmp_path / "a")], 1)
    src, size = pad_sources(SOURCES), 9
    for forbidden in (None, (np.zeros(0, np.int64), np.zeros(0, np.int64))):
        query, tokens = Query(Best(size), forbidden), np.full(5, BOS)
        result, _ = engine.step(engine.start(*src, 1), tokens, None, query)
        assert [len(set(ids % 5)) for ids in result.ids] == [1] * 5
        assert all(ids.tolist() == [*range(ids[0], 5 * size + ids[0], 5)] for ids in result.ids)
        assert all(EOS <= ids[0] < EOS + 5 for ids in result.ids)


@pytest.mark.parametrize("precision", ["fp32", "int8"])
def test_results_do_not_depend_on_the_batch(
    precision: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Batch-invariant translation (nmt/README.md, Guarantees)."""
    monkeypatch.setattr(onnx_forms, "MIN_WEIGHTS", 64)
    engine = OnnxEngine([export(model_of(), tmp_path / "a", precision)], 1)
    random = np.random.default_rng(1)
    lengths = random.integers(1, 16, 64)
    sources = [[*random.integers(3, VOCAB, length).tolist(), EOS] for length in lengths]

    def facts(batch: Sequence[int], beam: int) -> list[Any]:
        settings = DecodingConfig(beam=beam, max_length_ratio=1.0, max_length_extra=3)
        found = search(engine, [sources[n] for n in batch], settings, num_best=beam)
        return [
            [(each.tokens, each.score, each.token_log_probs) for each in best] for best in found
        ]

    for beam in (1, 4):
        alone = [facts([n], beam)[0] for n in range(64)]
        assert facts(range(64), beam) == alone
        assert facts(range(7), beam) == alone[:7]
        shuffled = random.permutation(64)[:33].tolist()
        assert facts(shuffled, beam) == [alone[n] for n in shuffled]


def test_ensemble_equals_that_of_torch(tmp_path: Path) -> None:
    models = [model_of(1), model_of(2)]
    onnx = OnnxEngine([export(each, tmp_path / f"{n}") for n, each in enumerate(models)], 1)
    found, expected = (
        search(each, SOURCES, DecodingConfig(beam=3), num_best=2, with_attention=True)
        for each in (onnx, TorchEngine(models))
    )
    for one, other in zip(chain(*found), chain(*expected), strict=True):
        assert one.tokens == other.tokens
        assert math.isclose(one.score, other.score, abs_tol=1e-5)
        np.testing.assert_allclose(one.attention, other.attention, atol=1e-5)


def test_searches_on_one_engine_do_not_share_arrays(engine: OnnxEngine) -> None:
    padded = pad_sources(SOURCES)
    tokens, query = np.full(5, BOS), Query(Best(2), with_attention=True)
    first, state = engine.step(engine.start(*padded, 1), tokens, None, query)
    kept = copy.deepcopy(first)
    other = engine.start(*(each[::-1].copy() for each in padded), 1)
    for _ in range(3):
        _, other = engine.step(other, tokens, None, query)
    again, _ = engine.step(engine.start(*padded, 1), tokens, None, query)
    for one, two in zip(first[:3], kept[:3], strict=True):
        assert np.array_equal(one, two)
    assert np.array_equal(again.log_probs, first.log_probs)
    second, _ = engine.step(state, first.ids[:, 0], None, query)
    assert not np.array_equal(second.log_probs, first.log_probs)


@pytest.mark.parametrize("settings", [{"method": "sample"}, {"min_length": 3}, {"beam": 30}])
def test_threads_can_search_at_the_same_time(
    settings: dict[str, Any], engine: OnnxEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    def slow_choose(*arguments: Any) -> Any:
        time.sleep(0.002)  # other threads run their steps between the graph and the choice
        return choose(*arguments)

    decoding = DecodingConfig(max_length=6, **settings)
    batches = [SOURCES[n:] + SOURCES[:n] for n in range(3)]

    def find(batch: list[list[int]]) -> list[Any]:
        found = search(engine, batch, decoding)
        return [(each.tokens, each.score) for [each] in found]

    expected = list(map(find, batches))
    monkeypatch.setattr(onnx_engine, "choose", slow_choose)
    with ThreadPoolExecutor(len(batches)) as threads:
        assert list(threads.map(find, batches)) == expected


def test_copy_for_another_process_has_no_session(engine: OnnxEngine) -> None:
    engine.start(*pad_sources(SOURCES), 1)
    other = copy.copy(engine)
    other.__dict__.update(engine.__getstate__())
    assert other.__dict__["_models"] == []
    settings = DecodingConfig(beam=2)
    found, expected = (search(each, SOURCES, settings) for each in (other, engine))
    assert [best[0].tokens for best in found] == [best[0].tokens for best in expected]


def test_operation_without_form_is_named() -> None:
    class Unknown(torch.nn.Module):
        def forward(self, x: Any) -> Any:
            return torch.fft.fft(x)

    recorder = Recorder({})
    with pytest.raises(NotImplementedError, match="fft_fft cannot be exported: add a form of it"):
        Unknown()(recorder.input("x", ["rows", 4]))


def export_with_shortlist(folder: Path, table: Any) -> OnnxEngine:
    model = model_of()
    write_graphs(model, folder, "fp32")
    write_shortlist(model, folder, "fp32", table)
    return OnnxEngine([folder], 1, with_shortlist=True)


def test_shortlist_of_all_tokens_changes_nothing(tmp_path: Path) -> None:
    table = np.broadcast_to(np.arange(VOCAB), (VOCAB, VOCAB)).astype(np.int32)
    engine, full = export_with_shortlist(tmp_path, table), OnnxEngine([tmp_path], 1)
    settings = DecodingConfig(beam=3, min_length=4)
    found, expected = (search(each, SOURCES, settings, num_best=2) for each in (engine, full))
    for one, other in zip(chain(*found), chain(*expected), strict=True):
        assert one.tokens == other.tokens
        np.testing.assert_allclose(one.token_log_probs, other.token_log_probs, atol=1e-5)


def test_shortlist_restricts_each_sentence_alone(tmp_path: Path) -> None:
    """Batch-invariant translation (nmt/README.md, Guarantees)."""
    table = np.full((VOCAB, 3), EOS, np.int32)
    table[:, 0] = np.arange(VOCAB)
    table[:, 1] = (np.arange(VOCAB) * 7) % VOCAB
    engine = export_with_shortlist(tmp_path, table)
    for beam in (1, 3):
        settings = DecodingConfig(beam=beam)
        together = search(engine, SOURCES, settings)
        for source, [best] in zip(SOURCES, together, strict=True):
            assert set(best.tokens) <= {EOS, *source, *(token * 7 % VOCAB for token in source)}
            [[alone]] = search(engine, [source], settings)
            assert (alone.tokens, alone.token_log_probs) == (best.tokens, best.token_log_probs)


def test_beam_may_exceed_the_candidates_of_a_shortlist(tmp_path: Path) -> None:
    """Batch-invariant translation (nmt/README.md, Guarantees)."""
    table = np.full((VOCAB, 3), EOS, np.int32)
    table[:, 0] = np.arange(VOCAB)
    engine = export_with_shortlist(tmp_path, table)
    # Chosen in the graph, on the host, and with tokens forbidden.
    for settings in (
        DecodingConfig(beam=20, max_length=3),
        DecodingConfig(beam=MAX_ROUNDS + 1, max_length=3),
        DecodingConfig(beam=20, min_length=3, max_length=3),
    ):
        together = search(engine, SOURCES, settings, num_best=20)
        for source, found in zip(SOURCES, together, strict=True):
            assert all(set(each.tokens) <= {EOS, *source} for each in found)
            [alone] = search(engine, [source], settings, num_best=20)
            assert [each.tokens for each in alone] == [each.tokens for each in found]


def test_given_tokens_cannot_be_scored_with_a_shortlist(tmp_path: Path) -> None:
    """Actionable errors (nmt/README.md, Guarantees)."""
    engine = export_with_shortlist(tmp_path, np.full((VOCAB, 3), EOS, np.int32))
    with pytest.raises(ConfigError) as error:
        log_probs(engine, SOURCES[:1], [[EOS]])
    assert str(error.value) == (
        "shortlist is requested, but scores need the whole vocabulary: load the model without a "
        "shortlist"
    )


def error_of(engine: OnnxEngine) -> str:
    with pytest.raises(CheckpointError) as error:
        engine.check()
    return str(error.value)


def test_graphs_that_cannot_be_run_are_one_error(tmp_path: Path) -> None:
    """Actionable errors (nmt/README.md, Guarantees)."""
    folder = export(model_of(), tmp_path / "a")
    OnnxEngine([folder], 1).check()
    # A valid graph with other inputs.
    encoder = (folder / "encoder.onnx").read_bytes()
    (folder / "encoder.onnx").write_bytes((folder / "decoder_step.onnx").read_bytes())
    start = f"{folder}: its graphs cannot be run ("
    assert error_of(OnnxEngine([folder], 1)).startswith(start)
    (folder / "encoder.onnx").write_bytes(encoder[:-100])
    message = error_of(OnnxEngine([folder], 1))
    assert message.startswith(f"{start}[ONNXRuntimeError]")
    assert message.endswith("); remove it; if it is an export, export the model again")
    assert "\n" not in message


def test_weights_that_are_nan_are_refused(tmp_path: Path) -> None:
    """Actionable errors (nmt/README.md, Guarantees)."""
    model = model_of()
    with torch.no_grad():
        model.decoder.norm.bias[0] = math.nan
    assert error_of(OnnxEngine([export(model, tmp_path / "a")], 1)) == (
        f"{tmp_path / 'a'}: its graphs cannot be run (probabilities that are NaN or 0); remove it; "
        "if it is an export, export the model again"
    )
