"""Translation speed: greedy and beam search, batched and one by one, in each precision.

Models have random weights, so no trained model is needed. Hypotheses then reach the length limit,
which is the length of the source, as is that of typical translations.
"""

from collections.abc import Iterator

import torch

from nmt.bench.figures import Figure
from nmt.bench.timing import Work, rate_figure, take_turns
from nmt.bench.workloads import Bench, Workload
from nmt.config.decoding import DecodingConfig
from nmt.decoding.beam_search import search
from nmt.decoding.torch_engine import TorchEngine
from nmt.decoding.translator import plan_batches
from nmt.model.quantise import PRECISIONS, quantise_model
from nmt.model.seq2seq import Seq2Seq

SENTENCES = 192
SINGLE_SENTENCES = 8
"""Sentences that are searched one by one."""
PRECISION_SENTENCES = {1: 4, 64: 128}
"""Sentences in all by batch size, for the comparison of precisions."""


def measure_search(bench: Bench) -> Iterator[Figure]:
    """Greedy and beam search in fp32."""
    workload = bench.small
    model, sources = workload.untrained_model(), workload.first_sources(SENTENCES)
    widest = workload.experiment.decoding.beam
    for name, beam in (("greedy", 1), (f"beam {widest}", widest)):
        decoding = limit_to_source_length(workload, beam)
        batched = Search(model, sources, decoding, decoding.batch_sentences)
        single = Search(model, sources[:SINGLE_SENTENCES], decoding, 1)
        timings = take_turns({"batched": batched, "single": single}, bench.seconds)
        timing = timings["batched"]
        gain = timings["single"].cpu_s / SINGLE_SENTENCES / (timing.cpu_s / len(sources))
        counts = f"{len(sources)} sentences, the {workload.name} model, fp32, "
        counts += f"batches of {decoding.batch_sentences}"
        ratio, unit = (gain, "the speed of one by one"), "sentences/s"
        yield rate_figure(f"decode/{name}/sentences", len(sources), timing, unit, counts, ratio)
        counts, unit = "tokens of the best hypotheses", "tgt tokens/s"
        yield rate_figure(f"decode/{name}/tokens", batched.num_tokens, timing, unit, counts)


def measure_precision(bench: Bench) -> Iterator[Figure]:
    """Beam search in fp32, bf16 and int8, by model and batch size."""
    for workload in (bench.small, bench.wide):
        sources = workload.first_sources(max(PRECISION_SENTENCES.values()))
        models = {name: quantise_model(workload.untrained_model(), name) for name in PRECISIONS}
        decoding = limit_to_source_length(workload, workload.experiment.decoding.beam)
        for batch_size, num_sentences in PRECISION_SENTENCES.items():
            some = sources[:num_sentences]
            works: dict[str, Work] = {
                name: Search(models[name], some, decoding, batch_size) for name in PRECISIONS
            }
            turns = bench.take_turns(works)
            flops = search_flops(models["fp32"], some, decoding.beam)
            for name in PRECISIONS:
                cpu_s = turns[name].cpu_s
                counts = f"{len(some)} sentences, the {workload.name} model, "
                counts += f"beam {decoding.beam}, batches of {batch_size}, "
                counts += f"{flops / cpu_s / 1e9:.1f} useful GFLOP/s"
                ratio = turns["fp32"].cpu_s / cpu_s, "the speed of fp32"
                if name == "fp32":
                    ratio = turns.of_peak(flops, name, name)
                figure, unit = f"precision/{workload.name}/{batch_size}/{name}", "sentences/s"
                yield rate_figure(figure, len(some), turns[name], unit, counts, ratio)


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
    """Search for sentences in sorted batches; each call repeats it."""

    def __init__(
        self,
        model: Seq2Seq,
        sources: list[list[int]],
        decoding: DecodingConfig,
        batch_sentences: int,
        device: str | torch.device = "cpu",
    ) -> None:
        self.sources = sources
        self._engine = TorchEngine([model], device)
        self._decoding, self._batch = decoding, batch_sentences
        self.num_tokens = 0
        """Tokens of the best hypotheses of the last call."""

    def __call__(self) -> None:
        self.num_tokens = 0
        for batch in plan_batches([len(source) for source in self.sources], self._batch):
            sources = [self.sources[n] for n in batch]
            hypotheses = search(self._engine, sources, self._decoding)
            self.num_tokens += sum(len(best[0].tokens) for best in hypotheses)
