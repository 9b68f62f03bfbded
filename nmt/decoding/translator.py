"""Translator: text in, text out, one line per line and in order.

Lines are read a window at a time, so that a file of any size streams. Within a window they are
sorted by length and searched in batches whose sources have one padded length, which keeps padding
small and translation batch-invariant (`nmt.decoding.interface`). Lines longer than the maximum
source length are split at sentence ends, and their translations joined. Sentences that are still
longer are cut, because the time of attention grows with the square of the length. Words that exceed
the limit by themselves, such as encoded data, are copied.
"""

import math
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from itertools import groupby
from numbers import Integral
from typing import Any, TypeVar

import numpy as np

from nmt.config.decoding import MAX_SAMPLES
from nmt.config.experiment import Experiment
from nmt.corpus.subword import Subword
from nmt.corpus.text import normalise
from nmt.decoding.beam_search import search
from nmt.decoding.constraints import contains_phrase
from nmt.decoding.hypotheses import Hypothesis
from nmt.decoding.interface import BATCH_MULTIPLE, Engine, padded_length
from nmt.decoding.minimum_risk import expected_similarity, rank_by_expected_chrf
from nmt.decoding.preprocess import Preprocessor, Segment, join_lines
from nmt.decoding.requests import Request
from nmt.decoding.translation import (
    Candidate,
    Translation,
    WordAttention,
    replace_invalid,
    split_words,
    word_indices,
)
from nmt.errors import ConfigError, DataError, NmtError

WINDOW_BATCHES = 32
"""Batches of lines in a window, which is read before its first translation is returned."""
WINDOW_CHARS = 1 << 24
"""Characters after which a window is closed, however few its lines."""

ItemT = TypeVar("ItemT")


class Translator:
    """Trained model with everything it needs to translate text.

    Example:
        >>> translator = Translator(TorchEngine([model]), subword, experiment)
        >>> translator.translate(["A dog runs."])
        ['Ein Hund rennt.']
        >>> [detailed] = translator.translate_detailed(["A dog runs."], n_best=5)
        >>> detailed.score, detailed.alignment, detailed.n_best[1].text
        (-0.52, [(0, 0), (1, 1), (2, 2)], 'Ein Hund läuft.')
    """

    def __init__(
        self, engine: Engine[Any] | Callable[[], Engine[Any]], subword: Subword, config: Experiment
    ) -> None:
        """Create a translator.

        Args:
            engine: runs the model, or an ensemble of models; or a function that builds it at the
                first use, so that input can be checked before.
            subword: vocabulary of the model.
            config: `corpus.cleaning` normalises the lines, `decoding` configures the search.
        """
        self._engine = engine
        self.subword = subword
        self.tgt_language = config.corpus.tgt
        self.cleaning = config.corpus.cleaning
        self.decoding = config.decoding
        self.preprocessor = Preprocessor(subword, config)

    @property
    def engine(self) -> Engine[Any]:
        """Engine that runs the model."""
        return self.build_engine()

    def build_engine(self) -> Engine[Any]:
        """Build the engine, if that is not done.

        Raises:
            CheckpointError: a file of the model is corrupt.
        """
        engine = self._engine
        # Another thread may have built it meanwhile.
        if callable(engine):
            engine = self._engine = engine()
        return engine

    def translate(
        self, lines: Iterable[str | Request], progress: Callable[[int], object] | None = None
    ) -> list[str]:
        """Translate lines to text.

        Args:
            lines: lines without line ends, or requests with constraints.
            progress: as in `stream`.

        Returns:
            One translation per line, in order; "" for a blank line.

        Raises:
            ConfigError, DataError: as in `stream`.
        """
        translations = self.stream(_checked(lines, may_wait=False), progress=progress)
        return [translation.text for translation in translations]

    def translate_detailed(
        self, lines: Iterable[str | Request], n_best: int = 1
    ) -> list[Translation]:
        """Translate lines to n-best lists with scores, tokens and word alignment.

        Args:
            lines: as in `translate`.
            n_best: maximum number of candidates per line.

        Returns:
            One `Translation` per line, in order.

        Raises:
            ConfigError, DataError: as in `stream`.
        """
        checked = _checked(lines, may_wait=False)
        return list(self.stream(checked, num_best=n_best, with_attention=True))

    def stream(
        self, lines: Iterable[str | Request | None], *, num_best: int = 1,
        with_attention: bool = False,
        progress: Callable[[int], object] | None = None,
    ) -> Iterator[Translation]:  # fmt: skip
        """Translate lines lazily, a window at a time.

        Args:
            lines: lines without line ends, or requests with constraints. Blank lines do not reach
                the model. None ends a window early: no further line is available yet.
            num_best: maximum number of candidates per line; the search may find fewer.
            with_attention: record attention, which alignments need.
            progress: called after each batch with the number of lines translated. The lines of a
                window are returned together, so most of these come out later.

        Returns:
            Iterator over one translation per line, in order.

        Raises:
            ConfigError: `num_best` is not possible with these decoding settings.
            DataError: while iterating, at a line whose constraints cannot be met; all lines before
                it are returned first.
        """
        self.check(num_best)
        windows = self.windows(self._requests(_checked(lines, may_wait=True)))
        return self._stream(windows, num_best, with_attention, progress or (lambda num_lines: None))

    def windows(self, requests: Iterable[Request | None]) -> Iterator[list[Request]]:
        """Divide requests into the windows that `stream` reads at once."""
        max_lines = WINDOW_BATCHES * self.decoding.batch_sentences
        return read_windows(requests, max_lines, lambda request: len(request.text))

    def check(self, num_best: int, requests: Iterable[Request] = ()) -> None:
        """Raise the ConfigError or DataError that `stream` would raise, without translating."""
        rule, limit = f"it must be 1 to {MAX_SAMPLES:,}", MAX_SAMPLES
        method = self.decoding.method
        if method != "sample":
            name = "beam" if method == "beam" else "samples"
            limit = getattr(self.decoding, name)
            rule = f"it must be 1 to decoding.{name} ({limit}): increase decoding.{name}"
        key = "the number of candidates per line"
        if not isinstance(num_best, Integral):
            raise ConfigError(key, repr(num_best), "it must be an integer")
        if not 1 <= num_best <= limit:
            raise ConfigError(key, num_best, rule)
        for request in requests:
            if request.constraints or request.avoid or request.target_prefix:
                list(self.preprocessor.segments([request]))

    def _requests(self, lines: Iterable[str | Request | None]) -> Iterator[Request | None]:
        """Yield a checked request for each line."""
        number = 0
        for line in lines:
            if line is None:
                yield None
                continue
            number += 1
            where = f"line {number}"
            request = Request(line, where=where) if isinstance(line, str) else line
            request = request if request.where else replace(request, where=where)
            self.check(1, [request])
            yield request

    def _stream(
        self, windows: Iterable[list[Request]], num_best: int, with_attention: bool,
        progress: Callable[[int], object],
    ) -> Iterator[Translation]:  # fmt: skip
        """Translate window by window; the arguments are those of `stream`, checked."""
        num_done = 0
        for window in windows:
            segments = list(self.preprocessor.segments(window))
            translations = {
                index: self._copy(segment, with_attention)
                for index, segment in enumerate(segments) if segment.is_copied
            }  # fmt: skip
            searched = [index for index in range(len(segments)) if index not in translations]
            num_left = Counter(segments[index].line for index in searched)
            lengths = [len(segments[index].source) for index in searched]
            limits = self.decoding.batch_sentences, self.engine.batch_tokens
            for places in plan_batches(lengths, *limits):
                indices = [searched[place] for place in places]
                batch = [segments[index] for index in indices]
                found = self._search(batch, num_best, with_attention)
                translations |= zip(indices, found, strict=True)
                # A line is done when none of its segments is left.
                num_left -= Counter(segment.line for segment in batch)
                progress(num_done + len(window) - len(num_left))
            num_done += len(window)
            by_line: list[list[int]] = [[] for _ in window]
            for index, segment in enumerate(segments):
                by_line[segment.line].append(index)
            for request, parts in zip(window, by_line, strict=True):
                if not parts:
                    yield self._blank(request, with_attention)
                    continue
                gaps = [segments[index].gap for index in parts]
                yield Translation.join([translations[index] for index in parts], gaps)

    def _search(
        self, segments: Sequence[Segment], num_best: int, with_attention: bool
    ) -> Iterator[Translation]:
        """Search a batch of segments."""
        decoding = self.decoding
        num_candidates = num_best
        if decoding.method == "mbr":
            num_candidates = decoding.samples
        elif decoding.rerank != "none":
            num_candidates = decoding.beam
        found = search(
            self.engine,
            [segment.source for segment in segments],
            decoding,
            num_best=num_candidates,
            # The attention places the tags.
            with_attention=with_attention or any(segment.masked.tags for segment in segments),
            constraints=[segment.constraints for segment in segments],
        )
        for segment, hypotheses in zip(segments, found, strict=True):
            candidates = [self._candidate(segment, each, with_attention) for each in hypotheses]
            # Constraints can forbid every target.
            if not candidates:
                num_src = len(segment.source), segment.num_words
                candidates = [self._without_tokens("", -math.inf, num_src, with_attention)]
            elif decoding.method == "mbr":
                ranked = rank_by_expected_chrf([candidate.text for candidate in candidates])
                candidates = [replace(candidates[n], score=score) for n, score in ranked[:num_best]]
            elif decoding.rerank != "none":
                candidates = self._rerank(candidates)[:num_best]
            yield Translation(
                self.subword.pieces(segment.source),
                candidates,
                num_protected=segment.masked.num_protected,
            )

    def _rerank(self, candidates: list[Candidate]) -> list[Candidate]:
        """Order the candidates of a beam by `decoding.rerank`, which becomes their score."""
        similarity, scale = self.decoding.rerank, self.decoding.rerank_scale
        assert similarity != "none"
        texts = [each.text for each in candidates]
        tokens = [each.tokens for each in candidates]
        scores = [each.score for each in candidates]
        expected = expected_similarity(similarity, texts, tokens, scores, scale)
        candidates = [
            replace(each, score=score) for each, score in zip(candidates, expected, strict=True)
        ]
        # Truncated texts and lost terms come last, however similar.
        return sorted(
            candidates,
            key=lambda each: (
                not each.is_finished, each.num_missing_terms + each.num_lost, -each.score
            ),
        )  # fmt: skip

    def _copy(self, segment: Segment, with_attention: bool) -> Translation:
        """Return the text of a segment that is not searched as its translation."""
        masked, constraints, num_src = segment.masked, segment.constraints, segment.num_words
        text, _ = masked.restore(masked.text)
        if constraints is not None:
            prefix = self.subword.decode(constraints.prefix).strip()
            end = " " if constraints.has_space_after_prefix else ""
            text = text if f"{text} ".startswith(prefix + end) else f"{prefix} {text}"
            if any(contains_phrase(text, phrase.decode()) for phrase in constraints.avoid):
                candidate = self._without_tokens("", -math.inf, (0, num_src), with_attention)
                return Translation([], [candidate])
        candidate = self._without_tokens(text, 0.0, (0, num_src), with_attention)
        if with_attention and not masked.num_protected:
            # The words of a prefix, before the copied ones, have no source.
            num_added = len(split_words(text)) - len(segment.src_words)
            rows = [np.zeros(1)] * num_added + [np.ones(1)] * len(segment.src_words)
            words = WordAttention(rows, [0] * num_added + [*segment.src_words], num_src)
            candidate = replace(candidate, words=words)
        is_word = not masked.num_protected
        return Translation(
            [], [candidate], num_protected=masked.num_protected, num_copied=int(is_word)
        )

    def _candidate(
        self, segment: Segment, hypothesis: Hypothesis, with_attention: bool
    ) -> Candidate:
        """Return the candidate of a hypothesis: its text, restored and normalised."""
        # A model can write the bytes of any character, a line feed too. The text is normalised like
        # training text, and remains one line whatever the cleaning rules are.
        text = join_lines(normalise(self.subword.decode(hypothesis.tokens), self.cleaning))
        masked, words, links = segment.masked, None, list[tuple[int, int]]()
        if hypothesis.attention is not None and (with_attention or masked.tags):
            written = replace_invalid(self._bytes(hypothesis.tokens))
            tgt_words = word_indices(written, split_words(text))
            if masked.tags:
                read = split_words(masked.text)
                src_words = word_indices(self._bytes(segment.source), read)
                read_attention = hypothesis.attention, tgt_words, src_words, len(read)
                links = WordAttention.between(*read_attention).alignment()
            # Word positions of a masked line are not those of the text that is returned.
            elif not masked.num_protected:
                given = hypothesis.attention, tgt_words, list(segment.src_words), segment.num_words
                words = WordAttention.between(*given)
        text, num_lost = masked.restore(text, links)
        missing: set[tuple[int, ...]] = set()
        if segment.constraints is not None:
            requested = segment.constraints.terms[: segment.num_terms]
            missing = {*requested} & {*segment.constraints.missing_terms(hypothesis.tokens)}
        attention = None
        if with_attention and hypothesis.attention is not None:
            attention = (hypothesis.attention,)
        tokens = self.subword.pieces(hypothesis.tokens)
        scores = hypothesis.score, tokens, hypothesis.token_log_probs, hypothesis.is_finished
        return Candidate(text, *scores, attention, words, len(missing), num_lost)

    def _blank(self, request: Request, with_attention: bool) -> Translation:
        """Return the translation of a line without text; tags and spans stay as they are."""
        text, num_protected = self.preprocessor.untranslated(request)
        candidate = self._without_tokens(text, 0.0, (0, 0), with_attention)
        return Translation([], [candidate], num_protected=num_protected)

    def _without_tokens(
        self, text: str, score: float, num_src: tuple[int, int], with_attention: bool
    ) -> Candidate:
        """Return the candidate of a blank line, or of a source without possible translation.

        `num_src` is the number of tokens and of words of the source.
        """
        if not with_attention:
            return Candidate(text, score, [], [])
        num_tokens, num_words = num_src
        attention, words = np.zeros((0, num_tokens), np.float32), WordAttention([], [], num_words)
        return Candidate(text, score, [], [], attentions=(attention,), words=words)

    def _bytes(self, tokens: Sequence[int]) -> list[bytes]:
        return [self.subword.token_bytes[token] for token in tokens]


def _checked(
    lines: Iterable[str | Request | None], *, may_wait: bool
) -> Iterator[str | Request | None]:
    """Yield lines; DataError for anything else.

    Args:
        lines: lines, requests, and None where no further line is available yet.
        may_wait: allow None, for which `stream` has no output.
    """
    # A string is an iterable of its characters.
    if isinstance(lines, str) or not isinstance(lines, Iterable):
        kind = "a string" if isinstance(lines, str) else type(lines).__name__
        raise DataError(f"lines is {kind}, but it must be a list of lines")
    for number, line in enumerate(lines, start=1):
        if not (isinstance(line, str | Request) or (line is None and may_wait)):
            problem = f"line {number} is {type(line).__name__}, but it must be a string"
            raise DataError(f'{problem}: use "" for a line without text')
        yield line


def plan_batches(
    lengths: Sequence[int], max_sentences: int, max_tokens: int
) -> Iterator[list[int]]:
    """Divide sentences into batches of one padded length, the longest first.

    Args:
        lengths: number of tokens of each sentence.
        max_sentences: maximum sentences of a batch.
        max_tokens: maximum tokens of a batch, padding included.

    Yields:
        Indices of the sentences of a batch.
    """
    # The index breaks ties, so that batches do not depend on the sorting algorithm.
    in_order = sorted(range(len(lengths)), key=lambda index: (-lengths[index], index))
    for positions, indices in groupby(in_order, key=lambda index: padded_length(lengths[index])):
        group = list(indices)
        limit = min(max_sentences, max(1, max_tokens // positions))
        # Batches of equal size, without fillers if possible, instead of full ones and a remainder.
        share = -(-len(group) // -(-len(group) // limit))
        size = min(limit, -(-share // BATCH_MULTIPLE) * BATCH_MULTIPLE)
        for start in range(0, len(group), size):
            yield group[start : start + size]


def read_windows(
    items: Iterable[ItemT | None], max_items: int, num_chars: Callable[[ItemT], int]
) -> Iterator[list[ItemT]]:
    """Divide a stream into windows of `max_items` items, or fewer if they have WINDOW_CHARS.

    None ends a window early. The items before an invalid one are returned before its NmtError.
    """
    window: list[ItemT] = []
    total = 0
    try:
        for item in items:
            # Two limits: many short lines fill batches, few long lines fill memory.
            if item is not None:
                window.append(item)
                total += num_chars(item)
            is_full = len(window) == max_items or total >= WINDOW_CHARS
            if window and (item is None or is_full):
                yield window
                window, total = [], 0
    except NmtError:
        if window:
            yield window
        raise
    if window:
        yield window
