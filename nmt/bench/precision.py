"""Searching translations in fp32, bf16 and int8: how much quicker, and how near to the peak.

Useful work is what `nmt.model.flops` counts, of a forward pass: once for each source token, and
for each target token of each hypothesis of the beam. With fresh weights all hypotheses live until
they are cut, at the length of their source.
"""

from collections.abc import Iterator

from nmt.bench.bench import Bench, rate
from nmt.bench.cases import Case
from nmt.bench.decoding import (
    Search,
    cut_at_sources,
    flops_of_search,
    fresh_model,
    sources_of,
)
from nmt.bench.figures import Figure
from nmt.model.quantise import PRECISIONS, Precision, quantise_model
from nmt.model.seq2seq import Seq2Seq

SENTENCES = {1: 4, 64: 128}
"""Sentences together, and sentences in all."""


def measure(bench: Bench) -> Iterator[Figure]:
    """Sentences a second in each precision, of a narrow and of a wide model."""
    for case in (bench.small, bench.wide):
        sources = sources_of(case, max(SENTENCES.values()))
        models = {name: quantise_model(fresh_model(case), name) for name in PRECISIONS}
        for together, num_sentences in SENTENCES.items():
            yield from _compare(bench, case, models, sources[:num_sentences], together)


def _compare(
    bench: Bench,
    case: Case,
    models: dict[Precision, Seq2Seq],
    sources: list[list[int]],
    together: int,
) -> Iterator[Figure]:
    decoding = cut_at_sources(case, case.experiment.decoding.beam)
    turns = bench.take_turns(
        {name: Search(model, sources, decoding, together) for name, model in models.items()}
    )
    flops = flops_of_search(models["fp32"], sources, decoding.beam)
    share, of_what = turns.of_peak(flops, "fp32", "fp32")
    for name in models:
        what = f"{len(sources)} sentences, the {case.name} model, beam {decoding.beam}, {together} "
        what += f"together, {flops / turns[name].cpu_s / 1e9:.1f} useful GFLOP/s"
        gain = (turns["fp32"].cpu_s / turns[name].cpu_s, "the speed of fp32")
        ratio = (share, of_what) if name == "fp32" else gain
        yield rate(
            f"precision/{case.name}/{together}/{name}",
            len(sources),
            turns[name],
            "sentences/s",
            what,
            ratio,
        )
