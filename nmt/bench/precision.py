"""Searching translations in fp32, bf16 and int8: how much quicker, and how near to the peak.

Useful work is what `nmt.training.work` counts, of a forward pass: once for each source token, and
for each target token of each hypothesis of the beam. With fresh weights all hypotheses live until
they are cut, at the length of their source.
"""

from collections.abc import Iterator

import torch

from nmt.bench.bench import Bench, rate, without_dropout
from nmt.bench.cases import Case
from nmt.bench.decoding import Search
from nmt.bench.figures import Figure
from nmt.corpus.subword import EOS
from nmt.model.precision import PRECISIONS, Precision, cheapen
from nmt.model.seq2seq import Seq2Seq, build
from nmt.training.work import flops_per_token

SENTENCES = {1: 4, 64: 128}
"""Sentences together, and sentences in all."""


def measure(bench: Bench) -> Iterator[Figure]:
    """Sentences a second in each precision, of a narrow and of a wide model."""
    for case in (bench.small, bench.wide):
        model = _fresh(case)
        most = case.shards.pairs(range(min(max(SENTENCES.values()), len(case.shards))))
        sources = [[*src.tolist(), EOS] for src, _ in most]
        models = {
            name: model if name == "fp32" else cheapen(_fresh(case), name) for name in PRECISIONS
        }
        for together, num_sentences in SENTENCES.items():
            yield from _compare(bench, case, models, sources[:num_sentences], together)


def _compare(
    bench: Bench,
    case: Case,
    models: dict[Precision, Seq2Seq],
    sources: list[list[int]],
    together: int,
) -> Iterator[Figure]:
    decoding = case.experiment.decoding.model_copy(
        update={"max_length_ratio": 1.0, "max_length_extra": 0}
    )
    turns = bench.take_turns(
        {name: Search(model, sources, decoding, together) for name, model in models.items()}
    )
    per_src, per_tgt, per_look = flops_per_token(models["fp32"])
    lengths = [len(source) for source in sources]
    said = decoding.beam * sum(lengths)
    looks = decoding.beam * sum(length * length for length in lengths)
    flops = per_src * sum(lengths) + per_tgt * said + per_look * looks
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


def _fresh(case: Case) -> Seq2Seq:
    torch.manual_seed(1)
    return build(without_dropout(case.experiment.model), case.subword.num_pieces).eval()
