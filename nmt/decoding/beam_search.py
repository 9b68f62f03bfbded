"""Beam search over token ids for a batch of sources; also greedy search and sampling.

Each step extends the live hypotheses of a sentence by every token and keeps the best K. A finished
hypothesis keeps its place in the beam, so that fewer stay alive and a beam of 1 is greedy search
(Bahdanau et al. 2015). K live hypotheses besides the finished ones took a quarter more rows on
Multi30k, for scores 0.1 % higher and the same BLEU.

Hypotheses are ranked by log-probability over a length penalty plus a coverage penalty (Wu et al.
2016; `nmt.decoding.hypotheses`). A sentence is done when no live hypothesis can enter its n-best
list: log-probabilities only fall and a coverage penalty is at most 0, so the log-probability of a
live hypothesis over the penalty of the maximum length bounds its final score.

Diverse groups (Vijayakumar et al. 2018) are beams of their own that avoid each other's tokens.
Samples are hypotheses that are extended by a drawn token and never compete.

The search runs on host arrays. The engine returns the best tokens of each row; back-pointers to
the step before take the place of prefixes, and only the hypotheses that are returned are traced.

Translation is batch-invariant: all sources of a search have one padded length, and compaction does
not change it (`nmt.decoding.interface`).

Shapes: B slots for sentences, K beam (number of samples when sampling), G groups, R = B * K rows,
S padded source length.
"""

from collections.abc import Sequence
from typing import Generic, NamedTuple

import numpy as np
import numpy.typing as npt

from nmt.config.decoding import DecodingConfig
from nmt.corpus.subword import BOS, EOS, PAD
from nmt.decoding import hypotheses, interface, sampling
from nmt.decoding.constraints import ConstrainedStep, Constraints
from nmt.decoding.hypotheses import Hypothesis
from nmt.decoding.interface import (
    Best,
    Draw,
    Engine,
    FloatArray,
    IntArray,
    Query,
    StateT,
    StepResult,
    padded_length,
)

MIN_TEMPERATURE = 1e-30
"""Lower temperatures count as this one, which is greedy: log-probabilities over them overflow."""


def search(
    engine: Engine[StateT], sources: Sequence[Sequence[int]], decoding: DecodingConfig,
    *, num_best: int = 1, with_attention: bool = False,
    constraints: Sequence[Constraints | None] | None = None,
) -> list[list[Hypothesis]]:  # fmt: skip
    """Find the best targets of a batch of sources.

    Args:
        engine: runs the model.
        sources: token ids with EOS, none empty, all of the same `padded_length`.
        decoding: method, beam, penalties and limits; its batch size is not used.
        num_best: size of the n-best list of each source, at most the beam; the number of samples
            when sampling.
        with_attention: record the attention of each token.
        constraints: lexical constraints of each source; terms need a beam of one group.

    Returns:
        The n-best list of each source, in order: finished hypotheses first, then by score, best
        first; samples in the order in which they are drawn. It is shorter than `num_best` where
        there are fewer targets: a tiny vocabulary, a short limit, or constraints that forbid all.
    """
    assert num_best >= 1
    assert decoding.method != "beam" or num_best <= decoding.beam
    assert {PAD, BOS} == set(range(EOS))  # engines exclude all ids below EOS
    assert len({padded_length(len(source)) for source in sources}) <= 1
    if not sources:
        return []
    constraints = constraints if any(constraints or ()) else None
    batch = _SearchBatch(engine, sources, decoding, num_best, with_attention, constraints)
    while batch.is_searching:
        batch.step()
    return [batch.best(sentence, num_best) for sentence in range(len(sources))]


class _Step(NamedTuple):
    """Step of a search: how each hypothesis continues one of the step before (a back-pointer)."""

    places: IntArray | None
    """Place in the beam of the hypothesis that is continued, [B, K]; None: the same place."""
    tokens: IntArray
    """Token of each hypothesis, [B, K]."""
    log_probs: FloatArray
    """Log-probability of the token, [B, K]."""
    attention: FloatArray | None
    """Attention of the rows that are continued, [R, S]; None unless requested."""
    slots: dict[int, int]
    """Slot of each sentence."""


class _End(NamedTuple):
    """End of a finished hypothesis, from which it is traced back."""

    place: int
    length: int
    """Number of tokens."""
    score: float
    is_finished: bool


class _SearchBatch(Generic[StateT]):
    """State of a search: sentences in slots, with K rows of hypotheses each."""

    def __init__(
        self, engine: Engine[StateT], sources: Sequence[Sequence[int]], decoding: DecodingConfig,
        num_best: int, with_attention: bool, constraints: Sequence[Constraints | None] | None,
    ) -> None:  # fmt: skip
        self.engine = engine
        self.decoding = decoding
        self.with_attention = with_attention
        self.constraints = constraints
        self.is_sampling = decoding.method != "beam"
        self.beam = num_best if self.is_sampling else decoding.beam
        self.num_groups = 1 if self.is_sampling else decoding.diverse_groups
        # Per group: the n best of all groups are among the n best of each.
        self.num_best = min(num_best, self.beam // self.num_groups)
        self.ends: list[list[_End]] = [[] for _ in sources]
        """Finished hypotheses of each sentence."""
        self.history: list[_Step] = []
        num_rows = len(sources) * self.beam
        self.sentences = np.arange(len(sources))
        """Index of the sentence in each slot, [B]."""
        self.slots = {sentence: sentence for sentence in range(len(sources))}
        self.is_done = np.zeros(len(sources), bool)  # [B]
        self.num_done = 0
        self.first_rows = np.arange(0, num_rows, self.beam)[:, None]  # of each slot, [B, 1]
        src, self.src_lengths = interface.pad_sources(sources)
        self.state = engine.start(src, self.src_lengths, self.beam)
        self.tokens = np.full(num_rows, BOS)  # last token of each row, [R]
        self.parents: IntArray | None = None  # row of the engine's state that it continues, [R]
        self.prefixes: list[list[int]] = [[] for _ in range(num_rows)] if constraints else []
        """Tokens of each row, which only constraints need."""
        self.coverage: FloatArray | None = None
        if decoding.coverage_penalty > 0:
            self.coverage = np.zeros((num_rows, src.shape[1]), np.float32)
        self.needs_attention = with_attention or self.coverage is not None

        # Log-probability of each live hypothesis, -inf where there is none, [B, K]. Each group
        # starts with one empty hypothesis, sampling with one per sample.
        self.totals = np.full((len(sources), self.beam), -np.inf, np.float32)
        size = self.beam // self.num_groups
        self.totals[:, :: 1 if self.is_sampling else size] = 0
        # Scores of the finished hypotheses, best first, -inf where there is none, [B, G, K / G].
        self.finished_scores = np.full((len(sources), self.num_groups, size), -np.inf, np.float32)
        self.num_finished = np.zeros((len(sources), self.num_groups, 1), np.int64)
        self.has_finished = False
        limits = [hypotheses.max_length(length, decoding) for length in self.src_lengths.tolist()]
        penalties = [[self._length_penalty(limit)] for limit in limits]
        self.limits = np.array(limits)  # [B]
        self.first_limit = min(limits)
        self.limit_penalties = np.array(penalties, np.float32)  # [B, 1]
        if self.is_sampling:
            sizes = self.beam, max(limits), decoding.seed
            uniforms = [sampling.uniform_numbers(source, *sizes) for source in sources]
            self.uniforms = np.concatenate(uniforms)  # [R, maximum of limits]

    @property
    def is_searching(self) -> bool:
        """True if some sentence is not done."""
        return self.num_done < len(self.is_done)

    def step(self) -> None:
        """Extend all live hypotheses by one token."""
        constrained = None
        if self.constraints is not None:
            slot_constraints = [self.constraints[each] for each in self.sentences.tolist()]
            constrained = ConstrainedStep(slot_constraints, self.totals, self.prefixes, self.limits)
        query = self._query(constrained)
        result, self.state = self.engine.step(self.state, self.tokens, self.parents, query)
        places, tokens, gains = self._continue(result, query, constrained)
        attention, rows, totals = result.attention, None, self.totals
        if places is not None:
            rows = places + self.first_rows
            totals, rows = totals.take(rows), rows.ravel()
        if self.coverage is not None and attention is not None:
            self.coverage = self.coverage + attention
            self.coverage = self.coverage if rows is None else self.coverage[rows]
        if self.prefixes:
            parents = range(len(self.prefixes)) if rows is None else rows.tolist()
            pairs = zip(parents, tokens.ravel().tolist(), strict=True)
            self.prefixes = [[*self.prefixes[row], token] for row, token in pairs]
        kept = attention if self.with_attention else None
        self.history.append(_Step(places, tokens, gains, kept, self.slots))
        self.tokens, self.parents = tokens.ravel(), rows
        self._retire_finished(totals + gains, tokens)
        self._compact()

    def _query(self, constrained: ConstrainedStep | None) -> Query:
        """Return what the next step of the engine has to return."""
        decoding, length = self.decoding, len(self.history)
        is_early = length + 1 < decoding.min_length
        if not (is_early or self.is_sampling or constrained):
            return Query(Best(self.beam), with_attention=self.needs_attention)
        rows, ids, full_rows = np.zeros((3, 0), np.int64)
        if is_early:
            rows = (length + 1 < self.limits).repeat(self.beam).nonzero()[0]
            ids = np.full(len(rows), EOS)
        if constrained is not None:
            further = constrained.forbidden
            rows, ids = np.concatenate([rows, further[0]]), np.concatenate([ids, further[1]])
            full_rows = np.array(constrained.full_rows, np.int64)
        choice: Best | Draw = Best(self.beam)
        if self.is_sampling:
            numbers, temperature = self.uniforms[:, length], decoding.temperature
            choice = Draw(
                numbers, max(temperature, MIN_TEMPERATURE), decoding.top_k, decoding.top_p
            )
        return Query(
            choice, (rows, ids) if len(rows) else None, full_rows if len(full_rows) else None,
            self.needs_attention,
        )  # fmt: skip

    def _continue(
        self, result: StepResult, query: Query, constrained: ConstrainedStep | None
    ) -> tuple[IntArray | None, IntArray, FloatArray]:
        """Choose the continuations: places that they extend, tokens and log-probabilities, [B, K].

        Places are None if each row continues itself.
        """
        shape, (ids, log_probs) = self.totals.shape, result[:2]
        distributions = result.distributions
        if constrained is not None and distributions is not None:
            constrained.force_prefixes(ids, log_probs, distributions)
        # Without competition nothing has to be reordered.
        if self.is_sampling or (self.beam == 1 and (constrained is None or distributions is None)):
            return None, ids.reshape(shape), log_probs.reshape(shape)
        ids, log_probs = ids.reshape(*shape, -1), log_probs.reshape(*shape, -1)
        if self.num_groups > 1:
            num_free = (self.finished_scores == -np.inf).sum(axis=2)
            picks = hypotheses.diverse_continuations(
                ids, log_probs, self.totals, num_free, self.decoding.diversity
            )
        else:
            picks = hypotheses.best_continuations(log_probs, self.totals)
        num_candidates = ids.shape[2]
        places = picks // num_candidates
        picks += self.first_rows * num_candidates
        tokens, gains = ids.take(picks), log_probs.take(picks)
        if constrained is not None and distributions is not None:
            constrained.allocate_beam(places, tokens, gains, distributions, query.forbidden)
        return places, tokens, gains

    def _retire_finished(self, flat_totals: FloatArray, flat_tokens: IntArray) -> None:
        """Move finished hypotheses out of the live ones, and mark sentences that are done."""
        self.totals = flat_totals
        is_finished, length = flat_tokens == EOS, len(self.history)
        at_limit = self.limits <= length if length >= self.first_limit else None
        if at_limit is not None:
            is_finished |= at_limit[:, None]
        # The usual step, in few operations: nothing is finished, so no sentence can be done.
        has_new = is_finished.any()
        if not (has_new or self.has_finished or self.constraints):
            return
        totals = flat_totals.reshape(self.finished_scores.shape)
        if self.has_finished and not self.is_sampling:
            # Finished hypotheses keep their places, so as many of the worst live ones are dropped.
            num_worse = np.arange(totals.shape[2] - 1, -1, -1)
            totals[num_worse < self.num_finished] = -np.inf
        is_finished &= flat_totals != -np.inf
        if has_new and is_finished.any():
            self._collect(is_finished, totals, flat_tokens)
            self.has_finished = True
        # A sentence is done when the n-th best finished score is at least the bound on live ones.
        bounds = totals.max(axis=2) / self.limit_penalties
        worst_kept = self.finished_scores[:, :, self.num_best - 1]
        is_done = bounds == -np.inf if self.is_sampling else worst_kept >= bounds
        self.is_done |= is_done.all(axis=1)
        if at_limit is not None:
            self.is_done |= at_limit
        flat_totals[self.is_done] = -np.inf
        self.num_done = int(np.count_nonzero(self.is_done))

    def _length_penalty(self, length: int) -> float:
        alpha, norm = self.decoding.length_penalty, self.decoding.length_norm
        return hypotheses.length_penalty(length, alpha, norm)

    def _scores(self, totals: FloatArray) -> FloatArray:
        """Return the ranking scores of hypotheses of the current length, [B, G, K / G]."""
        scores = totals / np.float32(self._length_penalty(len(self.history)))
        if self.coverage is None:
            return scores
        src_lengths = self.src_lengths[self.sentences].repeat(self.beam)
        beta = self.decoding.coverage_penalty
        penalty = hypotheses.coverage_penalty(self.coverage, src_lengths, beta)
        return scores + penalty.reshape(scores.shape)

    def _collect(
        self, is_finished: npt.NDArray[np.bool_], totals: FloatArray, tokens: IntArray
    ) -> None:
        """Record the ends of finished hypotheses; `is_finished` and `tokens` are [B, K]."""
        scores, size = self._scores(totals), totals.shape[2]
        in_groups = is_finished.reshape(totals.shape)
        every = [self.finished_scores, np.where(in_groups, scores, np.float32(-np.inf))]
        self.finished_scores = -np.sort(-np.concatenate(every, axis=2), axis=2)[:, :, :size]
        self.num_finished += in_groups.sum(axis=2, keepdims=True)
        totals[in_groups] = -np.inf
        scores = scores.reshape(tokens.shape)
        for slot, place in np.argwhere(is_finished).tolist():
            score, ends_with_eos = scores.item(slot, place), tokens.item(slot, place) == EOS
            end = _End(place, len(self.history), score, ends_with_eos)
            self.ends[self.sentences.item(slot)].append(end)

    def _compact(self) -> None:
        """Remove the slots of done sentences if they are enough, but not the last ones."""
        too_few = self.num_done < interface.COMPACT_SHARE * len(self.is_done)
        if too_few or not self.num_done or not self.is_searching:
            return
        kept = (~self.is_done).nonzero()[0]
        rows = (kept[:, None] * self.beam + np.arange(self.beam)).ravel()
        if self.parents is not None:
            places = self.parents.reshape(-1, self.beam)[kept] - kept[:, None] * self.beam
            self.parents = (places + self.first_rows[: len(kept)]).ravel()
        self.state = self.engine.select(self.state, kept)
        self.first_rows, self.num_done = self.first_rows[: len(kept)], 0
        self.sentences, self.is_done = self.sentences[kept], self.is_done[kept]
        self.slots = {sentence: slot for slot, sentence in enumerate(self.sentences.tolist())}
        self.totals, self.limits = self.totals[kept], self.limits[kept]
        self.finished_scores = self.finished_scores[kept]
        self.num_finished = self.num_finished[kept]
        self.limit_penalties = self.limit_penalties[kept]
        self.tokens = self.tokens[rows]
        if self.coverage is not None:
            self.coverage = self.coverage[rows]
        if self.prefixes:
            self.prefixes = [self.prefixes[row] for row in rows.tolist()]
        if self.is_sampling:
            self.uniforms = self.uniforms[rows]

    def best(self, sentence: int, num_best: int) -> list[Hypothesis]:
        """Return the n-best list of a sentence: see `search`."""
        ends = self.ends[sentence]
        if self.is_sampling:
            # The place of a sample is its number.
            ends = sorted(ends, key=lambda end: end.place)
        else:
            ends = sorted(ends, key=lambda end: (not end.is_finished, -end.score))
        if self.num_groups == 1:
            return [self._trace(sentence, end) for end in ends[:num_best]]
        # Two groups can find the same target: keep the better one.
        distinct: dict[tuple[int, ...], Hypothesis] = {}
        for end in ends:
            hypothesis = self._trace(sentence, end)
            distinct.setdefault(tuple(hypothesis.tokens), hypothesis)
        return list(distinct.values())[:num_best]

    def _trace(self, sentence: int, end: _End) -> Hypothesis:
        """Return a finished hypothesis, from its last token to its first."""
        tokens, log_probs, attention = list[int](), list[float](), list[FloatArray]()
        place = end.place
        for step in reversed(self.history[: end.length]):
            slot = step.slots[sentence]
            tokens.append(step.tokens.item(slot, place))
            log_probs.append(step.log_probs.item(slot, place))
            if step.places is not None:
                place = step.places.item(slot, place)
            if step.attention is not None:
                row = step.attention[slot * self.beam + place]
                attention.append(row[: self.src_lengths[sentence]])
        matrix = np.stack(attention[::-1]) if attention else None
        return Hypothesis(tokens[::-1], end.score, log_probs[::-1], end.is_finished, matrix)
