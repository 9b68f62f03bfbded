"""The translator: text in, text out, line for line and in order (P6).

Lines are read a window at a time, so that a file of any size streams. Inside a window they are
sorted by length and searched in batches whose sources have one padded length: that keeps padding
small and, as `beam_search` explains, what a line becomes independent of the lines around it (P7).
"""

import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import TypeVar

import torch
from torch import Tensor

from nmt.config.experiment import Experiment
from nmt.corpus.subword import EOS, Subword
from nmt.corpus.text import normalise
from nmt.decoding.beam_search import SENTENCES, padded_length, search
from nmt.decoding.hypothesis import Hypothesis
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


@dataclass(frozen=True, eq=False)
class Candidate:
    """One translation of a line."""

    text: str
    """Without a line end."""
    score: float
    """Log-probability, natural, over the length penalty."""
    pieces: list[str]
    """The subwords as the model said them; </s> last where it came to an end."""
    token_scores: list[float]
    """Log-probability of each piece, natural."""
    is_finished: bool
    """The model ended it; otherwise it was cut at the longest length allowed."""
    attention: Tensor | None
    """How much each piece looked at each source piece, [pieces, source pieces], if asked for."""


@dataclass(frozen=True, eq=False)
class Translation:
    """What became of one line."""

    src_pieces: list[str]
    """The line as the model read it, </s> last; nothing for a blank line."""
    n_best: list[Candidate]
    """Best first, at least one."""

    @property
    def best(self) -> Candidate:
        """The first of the n best."""
        return self.n_best[0]

    @property
    def text(self) -> str:
        """Of the best candidate; empty for a blank line."""
        return self.best.text

    @property
    def score(self) -> float:
        """Of the best candidate; 0 for a blank line."""
        return self.best.score


class Translator:
    """A model with all it needs to turn text into text."""

    def __init__(
        self,
        model: Seq2Seq,
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
        self.model = model.to(device)
        self.subword = subword
        self.cleaning = config.corpus.cleaning
        self.decoding = config.decoding
        self.device = device

    def translate(
        self,
        lines: Iterable[str],
        *,
        num_best: int = 1,
        with_attention: bool = False,
        progress: Callable[[int], object] | None = None,
        window_lines: int | None = None,
    ) -> Iterator[Translation]:
        """Translate lines, one translation each, in order.

        Args:
            lines: without line ends; read a window at a time. The model never sees a blank one.
            num_best: candidates wanted of each line; fewer come where the search finds fewer.
            with_attention: keep where each piece looked.
            progress: is told after each batch how many lines are translated; most of them come out
                only later, for the lines of a window come together.
            window_lines: most lines of a window; 1: each line is answered before the next is read.

        Raises:
            ConfigError: num_best is more than the beam can hold.
        """
        if not 1 <= num_best <= self.decoding.beam:
            rule = f"1 to decoding.beam ({self.decoding.beam}) can be had; set decoding.beam higher"
            raise ConfigError("the number of candidates for each line", num_best, rule)
        self.model.eval()  # dropout would go unnoticed
        most = window_lines or WINDOW_BATCHES * self.decoding.batch_sentences
        tell = progress or (lambda num_lines: None)
        return self._stream(windows(lines, most, len), num_best, with_attention, tell)

    def _stream(
        self,
        windows_of_lines: Iterable[list[str]],
        num_best: int,
        with_attention: bool,
        progress: Callable[[int], object],
    ) -> Iterator[Translation]:
        num_done = 0
        max_sentences = self.decoding.batch_sentences
        for window in windows_of_lines:
            texts = [normalise(line, self.cleaning) for line in window]
            sources = [[*ids, EOS] for ids in self.subword.encode_batch(texts)]
            spoken = [index for index, text in enumerate(texts) if text.strip()]
            translations = [_nothing() for _ in window]
            num_done += len(window) - len(spoken)
            for batch in plan_batches(spoken, list(map(len, sources)), max_sentences):
                found = search(
                    self.model,
                    [sources[index] for index in batch],
                    self.decoding,
                    num_best=num_best,
                    with_attention=with_attention,
                    device=self.device,
                )
                for index, hypotheses in zip(batch, found, strict=True):
                    translations[index] = self._translation(sources[index], hypotheses)
                num_done += len(batch)
                progress(num_done)
            yield from translations

    def _translation(self, source: Sequence[int], hypotheses: list[Hypothesis]) -> Translation:
        candidates = [self._candidate(hypothesis) for hypothesis in hypotheses]
        return Translation(self.subword.pieces(source), candidates)

    def _candidate(self, hypothesis: Hypothesis) -> Candidate:
        # The bytes of any character can be said, a line feed too: mended like a line of training
        # text, and whatever the cleaning rules are, one line stays one line.
        text = normalise(self.subword.decode(hypothesis.tokens), self.cleaning)
        return Candidate(
            _LINE_ENDS.sub(" ", text),
            hypothesis.score,
            self.subword.pieces(hypothesis.tokens),
            hypothesis.token_log_probs,
            hypothesis.is_finished,
            hypothesis.attention,
        )


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


def _nothing() -> Translation:
    """What a blank line becomes."""
    return Translation([], [Candidate("", 0.0, [], [], True, None)])
