"""Scoring: the probability that a model assigns to given translations.

Scoring runs the steps of the search with the tokens given. A text gets the log-probability that the
search gave it, memory does not grow with the length of a line, and scores are batch-invariant
(`nmt.decoding.interface`). The probability is that of one token sequence: the one into which the
vocabulary encodes the text. A search may find the same text as another sequence.
"""

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from nmt.corpus.subword import BOS, EOS, PAD
from nmt.corpus.text import normalise
from nmt.decoding import interface
from nmt.decoding.hypotheses import length_penalty
from nmt.decoding.interface import Engine, Given, Query, StateT, padded_length
from nmt.decoding.translator import WINDOW_BATCHES, Translator, plan_batches, read_windows


@dataclass(frozen=True)
class LineScore:
    """Score of one translation."""

    tokens: list[str]
    """Subword tokens of the translation, `</s>` last; empty for a blank source."""
    token_log_probs: list[float]
    """Natural log-probability of each token."""
    is_possible: bool
    """False if a blank source has a translation: blank lines always become blank lines."""

    @property
    def log_prob(self) -> float:
        """Natural log-probability, EOS included; 0 for blank to blank, -inf if impossible."""
        return math.fsum(self.token_log_probs) if self.is_possible else -math.inf

    def penalised(self, alpha: float) -> float:
        """Return the log-probability over the GNMT length penalty."""
        return self.log_prob / length_penalty(len(self.tokens), alpha)


@dataclass
class ScoreTotals:
    """Sums over a corpus; pairs with a blank source are counted and otherwise excluded."""

    num_pairs: int = 0
    num_blank: int = 0
    """Pairs with a blank source."""
    num_impossible: int = 0
    """Pairs with a blank source and a translation."""
    num_tokens: int = 0
    """Target tokens, an EOS per pair included."""
    num_words: int = 0
    """Target words, separated by spaces."""
    log_prob: float = 0.0
    """Sum of log-probabilities."""

    def add(self, tgt: str, score: LineScore) -> None:
        """Count one pair."""
        self.num_pairs += 1
        if score.token_log_probs:
            self.num_tokens += len(score.token_log_probs)
            self.num_words += len(tgt.split())
            self.log_prob += score.log_prob
        else:
            self.num_blank += 1
            self.num_impossible += not score.is_possible


def score_pairs(
    translator: Translator,
    pairs: Iterable[tuple[str, str]],
    progress: Callable[[int], object] = lambda num_pairs: None,
) -> Iterator[LineScore]:
    """Score translations, one per source, in order.

    Args:
        translator: model, vocabulary and batch size; no other search setting is used.
        pairs: source and translation, normalised like training text; read a window at a time.
        progress: called after each batch with the number of pairs scored.
    """
    max_sentences = translator.decoding.batch_sentences
    num_done = 0
    for window in read_windows(pairs, WINDOW_BATCHES * max_sentences, _num_chars):
        sources, targets = map(list, zip(*window, strict=True))
        sources = _encode(translator, sources, translator.preprocessor.marks_case)
        targets = _encode(translator, targets)
        rows = [n for n, source in enumerate(sources) if len(source) > 1]  # not blank
        # Blank sources get their score without the model: only a blank target is possible.
        scores = [LineScore([], [], len(target) == 1) for target in targets]
        num_done += len(window) - len(rows)
        # Batches have one source width; within a width, targets of similar length go together.
        rows.sort(key=lambda n: -len(targets[n]))
        widths = [padded_length(len(sources[n])) for n in rows]
        for places in plan_batches(widths, max_sentences, translator.engine.batch_tokens):
            batch = [rows[place] for place in places]
            batch_log_probs = log_probs(
                translator.engine, [sources[n] for n in batch], [targets[n] for n in batch]
            )
            for n, of_tokens in zip(batch, batch_log_probs, strict=True):
                scores[n] = LineScore(translator.subword.pieces(targets[n]), of_tokens, True)
            num_done += len(batch)
            progress(num_done)
        yield from scores


def log_probs(
    engine: Engine[StateT], sources: Sequence[Sequence[int]], targets: Sequence[Sequence[int]]
) -> list[list[float]]:
    """Return the natural log-probability of each token of each target.

    Args:
        engine: runs the model.
        sources: token ids with EOS, none empty, all of the same `padded_length`.
        targets: token ids with EOS, one per source, none empty; fastest if similar in length.
    """
    assert len({padded_length(len(source)) for source in sources}) == 1
    longest_first = sorted(range(len(targets)), key=lambda n: (-len(targets[n]), n))
    lengths = [len(targets[n]) for n in longest_first]
    tgt = np.full((len(targets), lengths[0] + 1), PAD)
    for row, n in zip(tgt, longest_first, strict=True):
        row[: len(targets[n]) + 1] = [BOS, *targets[n]]
    state = engine.start(*interface.pad_sources([sources[n] for n in longest_first]), 1)
    result = np.zeros((len(targets), lengths[0]), np.float32)
    num_live = len(lengths)
    for position in range(lengths[0]):
        # Targets are sorted by length, so finished ones are the last rows.
        while lengths[num_live - 1] <= position:
            num_live -= 1
        if num_live <= (1 - interface.COMPACT_SHARE) * len(tgt):
            state, tgt = engine.select(state, np.arange(num_live)), tgt[:num_live]
        query = Query(Given(tgt[:, position + 1]))
        found, state = engine.step(state, tgt[:, position], None, query)
        result[: len(tgt), position] = found.log_probs[:, 0]
    # Back to the order of the arguments, without padding.
    in_order = sorted(zip(longest_first, lengths, result.tolist(), strict=True))
    return [of_tokens[:length] for _, length, of_tokens in in_order]


def _encode(
    translator: Translator, lines: Sequence[str], marks_case: bool = False
) -> list[list[int]]:
    """Return token ids with EOS; only EOS for a blank line."""
    texts = [normalise(line, translator.cleaning) for line in lines]
    texts = [text if text.strip() else "" for text in texts]
    return [[*ids, EOS] for ids in translator.subword.encode_sources(texts, marks_case)]


def _num_chars(pair: tuple[str, str]) -> int:
    return len(pair[0]) + len(pair[1])
