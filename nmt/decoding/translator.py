"""The translator: text in, text out, line for line and in order (P6).

Lines are read a window at a time, so that a file of any size streams. Inside a window they are
sorted by length and searched in batches whose sources have one padded length: that keeps padding
small and, as `stepping` explains, what a line becomes independent of the lines around it (P7).
Lines longer than those of training are cut at sentence ends, and their parts joined again.
"""

import math
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from itertools import groupby
from typing import Any, TypeVar

import numpy as np
import torch

from nmt.config.experiment import Experiment
from nmt.corpus.subword import Subword
from nmt.corpus.text import normalise
from nmt.decoding.alignments import links
from nmt.decoding.beam_search import search
from nmt.decoding.ensemble import Ensemble
from nmt.decoding.hypotheses import Hypothesis
from nmt.decoding.interface import SENTENCES, padded_length
from nmt.decoding.mbr import pairwise_chrf
from nmt.decoding.preprocess import Part, PartMaker
from nmt.decoding.requests import Request
from nmt.decoding.translation import Candidate, Translation, join, nothing
from nmt.errors import ConfigError
from nmt.model.seq2seq import Seq2Seq

WINDOW_BATCHES = 32
"""Batches' worth of lines that are read before the first of them comes out."""
WINDOW_CHARS = 1 << 24
"""Characters after which a window is closed, however few its lines."""
BATCH_TOKENS = 8192
"""Most source tokens in a batch, padding counted: long lines come in smaller batches."""

ItemT = TypeVar("ItemT")

_LINE_ENDS = re.compile(r"[\r\n]+")


class Translator:
    """A model with all it needs to turn text into text."""

    def __init__(
        self,
        model: Seq2Seq | Ensemble,
        subword: Subword,
        config: Experiment,
        device: str | torch.device = "cpu",
    ) -> None:
        """Put the parts together.

        Args:
            model: is moved to the device.
            subword: the vocabulary it was trained with.
            config: its `corpus.cleaning` mends the lines, its `decoding` says how to search.
            device: where to compute.
        """
        self.model: Any = model.to(device)  # of either kind a StepModel
        self.subword = subword
        self.cleaning = config.corpus.cleaning
        self.decoding = config.decoding
        self.parts = PartMaker(subword, config)
        self.device = device

    def translate(
        self,
        lines: Iterable[str | Request],
        *,
        num_best: int = 1,
        with_attention: bool = False,
        progress: Callable[[int], object] | None = None,
        window_lines: int | None = None,
    ) -> Iterator[Translation]:
        """Translate lines, one translation each, in order.

        Args:
            lines: without line ends, or with what else is asked for each; read a window at a time.
                The model never sees a blank one.
            num_best: candidates wanted of each line; fewer come where the search finds fewer.
            with_attention: keep where each piece looked.
            progress: is told after each batch how many lines are translated; most of them come out
                only later, for the lines of a window come together.
            window_lines: most lines of a window; 1: each line is answered before the next is read.

        Raises:
            ConfigError: num_best is more than the search can find.
            DataError: later, when a line is reached that asks for what cannot be.
        """
        self.check(num_best)
        self.model.eval()  # dropout would go unnoticed
        most = window_lines or WINDOW_BATCHES * self.decoding.batch_sentences
        tell = progress or (lambda num_lines: None)
        asked = (_request(line, number) for number, line in enumerate(lines, start=1))
        return self._stream(windows(asked, most, num_chars_of), num_best, with_attention, tell)

    def check(self, num_best: int, requests: Iterable[Request] = ()) -> None:
        """Raise ConfigError or DataError for what `translate` would refuse, before it is begun."""
        if self.decoding.method != "sample":
            key = "beam" if self.decoding.method == "beam" else "samples"
            most = getattr(self.decoding, key)
            if num_best > most:
                rule = f"1 to decoding.{key} ({most}) can be had; set decoding.{key} higher"
                raise ConfigError("the number of candidates for each line", num_best, rule)
        for request in requests:
            if request.constraints or request.avoid or request.target_prefix:
                list(self.parts.make([request]))

    def _stream(
        self,
        windows_of_lines: Iterable[list[Request]],
        num_best: int,
        with_attention: bool,
        progress: Callable[[int], object],
    ) -> Iterator[Translation]:
        num_done = 0
        for window in windows_of_lines:
            parts = list(self.parts.make(window))
            of_lines: list[list[int]] = [[] for _ in window]
            for index, part in enumerate(parts):
                of_lines[part.line].append(index)
            num_left = list(map(len, of_lines))
            num_done += num_left.count(0)
            found: dict[int, Translation] = {}
            lengths = [len(part.source) for part in parts]
            every = range(len(parts))
            for batch in plan_batches(every, lengths, self.decoding.batch_sentences):
                of_batch = self._search([parts[n] for n in batch], num_best, with_attention)
                found |= zip(batch, of_batch, strict=True)
                for index in batch:
                    num_left[parts[index].line] -= 1
                    num_done += num_left[parts[index].line] == 0
                progress(num_done)
            for request, indices in zip(window, of_lines, strict=True):
                if indices:
                    yield join([found[n] for n in indices])
                else:
                    blank = replace(nothing(), text=self.parts.untranslated(request))
                    yield Translation([], [blank], [])

    def _search(
        self, parts: Sequence[Part], num_best: int, with_attention: bool
    ) -> Iterator[Translation]:
        is_mbr = self.decoding.method == "mbr"
        with_attention = with_attention or any(part.masked.tags for part in parts)
        found = search(
            self.model,
            [part.source for part in parts],
            self.decoding,
            num_best=self.decoding.samples if is_mbr else num_best,
            with_attention=with_attention,
            controls=[part.control for part in parts],
            device=self.device,
        )
        for part, hypotheses in zip(parts, found, strict=True):
            candidates = [self._candidate(part, hypothesis) for hypothesis in hypotheses]
            if is_mbr:
                candidates = by_expected_chrf(candidates)[:num_best]
            yield Translation(
                self.subword.pieces(part.source),
                candidates or [nothing(-math.inf)],
                self.parts.spelling.words(part.source),
                num_protected=part.masked.num_parts,
            )

    def _candidate(self, part: Part, hypothesis: Hypothesis) -> Candidate:
        # The bytes of any character can be said, a line feed too: mended like a line of training
        # text, and whatever the cleaning rules are, one line stays one line.
        text = normalise(self.subword.decode(hypothesis.tokens), self.cleaning)
        words = self.parts.spelling.words(hypothesis.tokens)
        found = []
        if part.masked.tags and hypothesis.attention is not None:
            found = links(hypothesis.attention, words, self.parts.spelling.words(part.source))
        text, num_lost = part.masked.restored(_LINE_ENDS.sub(" ", text), found)
        control = part.control
        asked = control.terms[: part.num_terms] if control else ()
        return Candidate(
            text,
            hypothesis.score,
            self.subword.pieces(hypothesis.tokens),
            hypothesis.token_log_probs,
            hypothesis.is_finished,
            hypothesis.attention,
            words,
            len(set(asked) & set(control.unsaid(hypothesis.tokens))) if control else 0,
            num_lost,
        )


def by_expected_chrf(candidates: Sequence[Candidate]) -> list[Candidate]:
    """Samples by minimum Bayes risk (Kumar & Byrne 2004): the most like all samples first.

    Each text once, its first sample, with its mean chrF2 against all samples as its score.
    """
    texts = [candidate.text for candidate in candidates]
    first_of = {text: number for number, text in reversed(list(enumerate(texts)))}
    distinct = list(dict.fromkeys(texts))
    weights = np.array([texts.count(text) for text in distinct]) / max(1, len(texts))
    expected = (pairwise_chrf(distinct) * weights).sum(axis=1).tolist()
    scored = [
        replace(candidates[first_of[text]], score=score)
        for text, score in zip(distinct, expected, strict=True)
    ]
    return sorted(scored, key=lambda candidate: -candidate.score)


def plan_batches(
    indices: Iterable[int], lengths: Sequence[int], max_sentences: int
) -> Iterator[list[int]]:
    """Share sentences out to batches of one padded length, the longest first.

    Args:
        indices: the sentences.
        lengths: tokens of the sentence at each index.
        max_sentences: most sentences in a batch; fewer where they would have over BATCH_TOKENS.
    """

    def width(index: int) -> int:
        return padded_length(lengths[index])

    in_order = sorted(indices, key=lambda index: (-lengths[index], index))
    for positions, alike in groupby(in_order, key=width):
        group = list(alike)
        limit = min(max_sentences, max(1, BATCH_TOKENS // positions))
        # Even shares, without fillers where that is possible, instead of full batches and a rest.
        share = -(-len(group) // -(-len(group) // limit))
        size = min(limit, -(-share // SENTENCES) * SENTENCES)
        for start in range(0, len(group), size):
            yield group[start : start + size]


def windows(
    items: Iterable[ItemT], max_items: int, num_chars: Callable[[ItemT], int]
) -> Iterator[list[ItemT]]:
    """Parts of a stream: of max_items each, or of fewer that have WINDOW_CHARS characters."""
    window: list[ItemT] = []
    total = 0
    for item in items:
        window.append(item)
        total += num_chars(item)
        if len(window) == max_items or total >= WINDOW_CHARS:
            yield window
            window, total = [], 0
    if window:
        yield window


def _request(line: str | Request, number: int) -> Request:
    request = Request(line) if isinstance(line, str) else line
    return request if request.where else replace(request, where=f"line {number}")


def num_chars_of(request: Request) -> int:
    """Characters of its line."""
    return len(request.text)
