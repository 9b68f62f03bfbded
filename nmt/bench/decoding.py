"""Searching translations: greedy and with a beam, many sentences together or one by one.

The weights are fresh ones, so that the benchmark needs no trained model: hypotheses then end where
they are cut, at the length of their source, which is also how long real ones are.
"""

import dataclasses
from collections.abc import Iterator
from unittest.mock import patch

import torch

from nmt.bench.bench import Bench, rate, without_dropout
from nmt.bench.cases import Case
from nmt.bench.figures import Figure
from nmt.bench.timing import take_turns
from nmt.config.decoding import DecodingConfig
from nmt.corpus.subword import EOS
from nmt.decoding import beam_search
from nmt.decoding.beam_search import search
from nmt.decoding.interface import padded_length
from nmt.decoding.translator import plan_batches
from nmt.model.seq2seq import Seq2Seq

SENTENCES = 192
ALONE = 8
"""Sentences that are searched one by one: it is slow."""


def measure(bench: Bench) -> Iterator[Figure]:
    """Sentences and tokens a second, in fp32."""
    case = bench.small
    model, sources = fresh_model(case), sources_of(case, SENTENCES)
    widest = case.experiment.decoding.beam
    for name, beam in (("greedy", 1), (f"beam {widest}", widest)):
        how = cut_at_sources(case, beam)
        together = Search(model, sources, how, how.batch_sentences)
        alone = Search(model, sources[:ALONE], how, 1)
        plain = PlainSearch(model, sources, how, how.batch_sentences)
        works = {"together": together, "alone": alone, "plain": plain}
        timings = take_turns(works, bench.seconds)
        gain = (len(sources) / timings["together"].cpu_s) / (
            len(alone.sources) / timings["alone"].cpu_s
        )
        what = (
            f"{len(sources)} sentences, the {case.name} model, fp32, {how.batch_sentences} together"
        )
        ours = rate(
            f"decode/{name}/sentences",
            len(sources),
            timings["together"],
            "sentences/s",
            what,
            (gain, "the speed of one by one"),
        )
        yield ours
        yield dataclasses.replace(
            ours,
            name=f"decode/{name}/tokens",
            value=together.num_tokens / timings["together"].wall_s,
            unit="tgt tokens/s",
            counts="tokens of the best hypotheses",
            ratio=None,
            ratio_to="",
        )
        yield Figure(
            f"decode/{name}/sorted and compacted",
            timings["plain"].cpu_s / timings["together"].cpu_s,
            "times",
            "as fast as batches in the file's order, in which finished sentences stay",
        )


def fresh_model(case: Case) -> Seq2Seq:
    """A model that translates, the same one each time."""
    torch.manual_seed(1)
    return Seq2Seq(without_dropout(case.experiment.model), case.subword.num_pieces).eval()


def sources_of(case: Case, at_most: int) -> list[list[int]]:
    """The first sentences of a corpus."""
    pairs = case.shards.pairs(range(min(at_most, len(case.shards))))
    return [[*src.tolist(), EOS] for src, _ in pairs]


def cut_at_sources(case: Case, beam: int) -> DecodingConfig:
    """Searching hypotheses that are as long as their source."""
    limits = {"max_length_ratio": 1.0, "max_length_extra": 0, "beam": beam}
    return case.experiment.decoding.model_copy(update=limits)


def flops_of_search(model: Seq2Seq, sources: list[list[int]], beam: int) -> float:
    """Useful work of searching hypotheses as long as their source; model: in fp32."""
    flops = model.flops()
    lengths = [len(source) for source in sources]
    looks = sum(length * length for length in lengths)
    return (flops.per_src + beam * flops.per_tgt) * sum(lengths) + beam * flops.per_src_tgt * looks


class Search:
    """Searches sentences, so many together: what a timing repeats."""

    def __init__(
        self,
        model: Seq2Seq,
        sources: list[list[int]],
        decoding: DecodingConfig,
        batch_sentences: int,
        device: str | torch.device = "cpu",
    ) -> None:
        """Args: device: where the model is."""
        self.sources = sources
        self._model, self._decoding, self._batch = model, decoding, batch_sentences
        self._device = device
        self.num_tokens = 0

    def __call__(self) -> None:
        lengths = list(map(len, self.sources))
        self.num_tokens = 0
        for batch in plan_batches(lengths, self._batch):
            self.search([self.sources[n] for n in batch])

    def search(self, sources: list[list[int]]) -> None:
        """Translate one batch."""
        found = search(self._model, sources, self._decoding, device=self._device)
        self.num_tokens += sum(len(best[0].tokens) for best in found)


class PlainSearch(Search):
    """Batches as they come, padded to their longest sentence, and kept until all are done."""

    def __call__(self) -> None:
        for start in range(0, len(self.sources), self._batch):
            batch = self.sources[start : start + self._batch]
            longest = padded_length(max(map(len, batch)))
            with (
                patch.object(beam_search, "padded_length", lambda _, longest=longest: longest),
                patch.object(beam_search, "COMPACT_SHARE", 2.0),
            ):
                self.search(batch)
