"""Translation speed by engine and precision, beside CTranslate2 where it is installed.

Models have random weights, so no trained model is needed. The sources of a batch are cut to one
length, and hypotheses reach the length limit, which is the length of the source: all systems decode
the same number of tokens.
"""

import statistics
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np
import torch

from nmt.bench.ctranslate2_peer import ctranslate2_search
from nmt.bench.figures import Figure
from nmt.bench.timing import Ratio, Timing, rate_figure, take_turns, time_figure
from nmt.bench.workloads import Bench, Workload
from nmt.config.decoding import DecodingConfig
from nmt.corpus.shortlist import FREQUENT
from nmt.corpus.subword import EOS, PAD
from nmt.decoding.beam_search import search
from nmt.decoding.interface import Query, StepResult
from nmt.decoding.onnx_engine import OnnxEngine
from nmt.decoding.onnx_export import write_graphs, write_shortlist
from nmt.decoding.torch_engine import TorchEngine
from nmt.decoding.translator import plan_batches
from nmt.model.seq2seq import Seq2Seq

SENTENCES = {1: 8, 64: 128}
"""Sentences of a comparison by batch size."""
LATENCY_TOKENS = 16
"""Source tokens of a sentence of 12 words, EOS included."""
LATENCY_ROUNDS = 40
PEER = "ctranslate2 int8"
SHORTLIST_TRANSLATIONS = 10
"""Tokens that a source token adds to a shortlist."""

SearchBatch = Callable[[Sequence[Sequence[int]], int], object]
"""Searches a batch of sources of one length with a beam."""


def measure_search(bench: Bench) -> Iterator[Figure]:
    """Search speed and latency by engine, precision, beam and batch size."""
    for workload in (bench.small, bench.wide):
        model = workload.untrained_model()
        engines = make_engines(bench, workload, model)
        systems: dict[str, SearchBatch] = {
            name: partial(search_batch, engine, workload) for name, engine in engines.items()
        }
        shortlist = make_shortlist_engine(bench, workload, model)
        systems["onnx int8 shortlist"] = partial(search_batch, shortlist, workload)
        for precision in ("fp32", "int8"):
            if peer := ctranslate2_search(model, precision, bench.scratch):
                systems[f"ctranslate2 {precision}"] = peer
        for beam in (1, workload.experiment.decoding.beam):
            for batch_size in SENTENCES:
                yield from _measure_speed(bench, workload, systems, beam, batch_size)
        yield from _measure_latency(workload, systems)
        yield from _measure_floor(workload, engines["onnx int8"])


def make_engines(bench: Bench, workload: Workload, model: Seq2Seq) -> dict[str, Any]:
    """Return the engines of a model by name and precision."""
    engines: dict[str, Any] = {"torch fp32": TorchEngine([model])}
    for precision in ("fp32", "int8"):
        folder = bench.scratch / f"{workload.name}-{precision}"
        if not folder.exists():
            folder.mkdir()
            write_graphs(model, folder, "fp32" if precision == "fp32" else "int8")
        engines[f"onnx {precision}"] = OnnxEngine([folder], torch.get_num_threads())
    return engines


def make_shortlist_engine(bench: Bench, workload: Workload, model: Seq2Seq) -> OnnxEngine:
    """Return the int8 engine with a random shortlist, as long as a learnt one of Multi30k."""
    folder = bench.scratch / f"{workload.name}-int8"
    random = np.random.default_rng(1)
    table = random.integers(EOS + 1, model.vocab_size, (model.vocab_size, FREQUENT))
    # Tokens share translations: learnt shortlists had 264 candidates on average.
    table[PAD + 1 :, SHORTLIST_TRANSLATIONS:] = EOS
    write_shortlist(model, folder, "int8", table.astype(np.int32))
    return OnnxEngine([folder], torch.get_num_threads(), with_shortlist=True)


def search_batch(
    engine: Any, workload: Workload, sources: Sequence[Sequence[int]], beam: int
) -> object:
    """Search a batch with the settings of a workload, as many steps as a source has tokens."""
    return search(engine, sources, limit_to_source_length(workload, beam))


def _measure_speed(
    bench: Bench, workload: Workload, systems: Mapping[str, SearchBatch], beam: int, size: int
) -> Iterator[Figure]:
    batches = equal_batches(workload.first_sources(SENTENCES[size]), size)
    num_sentences = sum(map(len, batches))

    def run(system: SearchBatch) -> None:
        for batch in batches:
            system(batch, beam)

    works = {name: partial(run, system) for name, system in systems.items()}
    timings = take_turns(works, bench.seconds)
    reference = PEER if PEER in timings else "torch fp32"
    name = "greedy" if beam == 1 else f"beam {beam}"
    counts = f"{num_sentences} sentences, the {workload.name} model, {name}, batches of {size}"
    for system, timing in timings.items():
        ratio: Ratio | None = None
        if system != reference:
            ratio = timings[reference].cpu_s / timing.cpu_s, f"the speed of {reference}"
        figure = f"decode/{workload.name}/{name}/{size}/{system}"
        yield rate_figure(figure, num_sentences, timing, "sentences/s", counts, ratio)


def _measure_latency(workload: Workload, systems: Mapping[str, SearchBatch]) -> Iterator[Figure]:
    """Measure one sentence of 12 words at a time."""
    beam = workload.experiment.decoding.beam
    source = (workload.first_sources(1)[0] * LATENCY_TOKENS)[:LATENCY_TOKENS]
    works = {name: partial(system, [source], beam) for name, system in systems.items()}
    timings = take_turns(works, 0, LATENCY_ROUNDS)
    counts = f"one sentence of {LATENCY_TOKENS} tokens, the {workload.name} model, beam {beam}"
    for system, timing in timings.items():
        name = f"latency/{workload.name}/{system}"
        yield time_figure(f"{name}/median", timing, counts)
        p95 = statistics.quantiles(timing.walls_s, n=20)[-1]
        slow = Timing((p95,), (timing.cpu_s,))
        yield time_figure(f"{name}/p95", slow, f"{counts}, {len(timing.walls_s)} rounds")


def _measure_floor(workload: Workload, engine: OnnxEngine) -> Iterator[Figure]:
    """Measure the time per step of the graph alone and of the search alone."""
    beam = workload.experiment.decoding.beam
    for size in SENTENCES:
        [batch] = equal_batches(workload.first_sources(size), size)
        recorded = Recording(engine)
        search_batch(recorded, workload, batch, beam)
        num_steps = len(recorded.results)
        replay = partial(search_batch, Replay(recorded.results), workload, batch, beam)
        timings = take_turns({"graph": recorded.rerun, "host": replay}, 0, LATENCY_ROUNDS // 4)
        counts = f"CPU time, {num_steps} steps of {size} x {beam} rows, the {workload.name} model"
        for name, timing in timings.items():
            # CPU time: other processes do not affect it, and steps never wait.
            times = tuple(time / num_steps for time in timing.cpus_s)
            per_step = Timing(times, times)
            yield time_figure(f"floor/{workload.name}/{size}/{name}", per_step, f"{counts}, int8")


class Recording:
    """Engine that keeps the arguments and results of the steps of another."""

    def __init__(self, engine: Any) -> None:
        self.engine = engine
        self.results: list[StepResult] = []
        self.calls: list[tuple[Any, ...]] = []

    def start(self, *sources: Any) -> Any:
        """Start a search."""
        self.sources = sources
        return self.engine.start(*sources)

    def step(self, state: Any, tokens: Any, parents: Any, query: Query) -> tuple[StepResult, Any]:
        """Run a step and keep it."""
        result, state = self.engine.step(state, tokens, parents, query)
        self.results.append(result)
        self.calls.append((tokens.copy(), parents, query))
        return result, state

    def select(self, state: Any, sentences: Any) -> Any:
        """Select sentences."""
        return self.engine.select(state, sentences)

    def rerun(self) -> None:
        """Run the steps again, without a search."""
        state = self.engine.start(*self.sources)
        num_rows = len(self.calls[0][0])
        for tokens, parents, query in self.calls:
            if len(tokens) == num_rows:
                _, state = self.engine.step(state, tokens, parents, query)


class Replay:
    """Engine that returns recorded results: a search with it takes the time of the host alone."""

    def __init__(self, results: Sequence[StepResult]) -> None:
        self._results = results

    def start(self, *_: Any) -> int:
        """Return the number of the first step."""
        return 0

    def step(self, state: int, *_: Any) -> tuple[StepResult, int]:
        """Return the next result."""
        return self._results[state], state + 1

    def select(self, state: int, _: Any) -> int:
        """Keep the number of the step."""
        return state


def equal_batches(sources: Sequence[list[int]], size: int) -> list[list[list[int]]]:
    """Divide sources, sorted by length, into batches whose sources are cut to the shortest."""
    ordered = sorted(sources, key=len)
    batches = [ordered[start : start + size] for start in range(0, len(ordered), size)]
    return [[source[-len(batch[0]) :] for source in batch] for batch in batches]


def limit_to_source_length(workload: Workload, beam: int) -> DecodingConfig:
    """Return search settings under which random hypotheses are as long as their source."""
    limits = {"max_length_ratio": 1.0, "max_length_extra": 0, "beam": beam}
    return workload.experiment.decoding.model_copy(update=limits)


def search_flops(model: Seq2Seq, sources: list[list[int]], beam: int) -> float:
    """Return the operations of a search in which all hypotheses are as long as their source."""
    flops = model.flops()
    lengths = [len(source) for source in sources]
    num_pairs = sum(length * length for length in lengths)
    per_token = flops.per_src + beam * flops.per_tgt
    return float(per_token * sum(lengths) + beam * flops.per_src_tgt * num_pairs)


class Search:
    """Search over sentences in batches sorted by length; each call runs it again."""

    def __init__(
        self,
        model: Seq2Seq,
        sources: list[list[int]],
        decoding: DecodingConfig,
        batch_sentences: int,
        device: str | torch.device = "cpu",
    ) -> None:
        self.sources = sources
        self._engine, self._decoding = TorchEngine([model], device), decoding
        self._batch = batch_sentences
        self.num_tokens = 0
        """Tokens of the best hypotheses of the last call."""

    def __call__(self) -> None:
        self.num_tokens = 0
        lengths = [len(source) for source in self.sources]
        for batch in plan_batches(lengths, self._batch, self._engine.batch_tokens):
            sources = [self.sources[n] for n in batch]
            hypotheses = search(self._engine, sources, self._decoding)
            self.num_tokens += sum(len(best[0].tokens) for best in hypotheses)
