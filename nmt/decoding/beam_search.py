"""Beam search over token ids for a batch of sources; also greedy search and sampling.

Each step extends the live hypotheses of a sentence by every token and keeps the best K. A finished
hypothesis keeps its place in the beam, so that fewer stay alive and a beam of 1 is greedy search
(Bahdanau et al. 2015). K live hypotheses besides the finished ones took a quarter more rows on
Multi30k, for scores 0.1 % higher and no BLEU.

Hypotheses are ranked by log-probability over a length penalty plus a coverage penalty (Wu et al.
2016; `nmt.decoding.hypotheses`). A sentence is done when no live hypothesis can enter its n-best
list: log-probabilities only fall and a coverage penalty is at most 0, so the log-probability of a
live hypothesis over the penalty of the maximum length bounds its final score.

Diverse groups (Vijayakumar et al. 2018) are beams of their own that avoid each other's tokens.
Samples are hypotheses that are extended by a drawn token and never compete.

Translation is batch-invariant: all sources of a search have one padded length, and compaction does
not change it (`nmt.decoding.interface`).

Shapes: B slots for sentences, K beam (number of samples when sampling), G groups, R = B * K rows,
V vocabulary, S padded source length, L tokens so far.
"""

import math
from collections.abc import Sequence
from typing import Generic

import torch
from torch import Tensor

from nmt.config.decoding import DecodingConfig
from nmt.corpus.subword import BOS, EOS, PAD
from nmt.decoding import hypotheses, interface, sampling
from nmt.decoding.constraints import Constraints, allocate_beam, mask_forbidden
from nmt.decoding.hypotheses import Hypothesis, Prefixes
from nmt.decoding.interface import BATCH_MULTIPLE, MemoryT, StateT, StepModel, padded_length


@torch.inference_mode()
def search(
    model: StepModel[MemoryT, StateT], sources: Sequence[Sequence[int]], decoding: DecodingConfig,
    *, num_best: int = 1, with_attention: bool = False,
    constraints: Sequence[Constraints | None] | None = None, device: str | torch.device = "cpu",
) -> list[list[Hypothesis]]:  # fmt: skip
    """Find the best targets of a batch of sources.

    Args:
        model: in eval mode, on `device`.
        sources: token ids with EOS, none empty, all of the same `padded_length`.
        decoding: method, beam, penalties and limits; its batch size is not used.
        num_best: size of the n-best list of each source, at most the beam; the number of samples
            when sampling.
        with_attention: record the attention of each token.
        constraints: lexical constraints of each source; terms need a beam of one group.
        device: device of the model.

    Returns:
        The n-best list of each source, in order: finished hypotheses first, then by score, best
        first; samples in the order in which they are drawn. It is shorter than `num_best` where
        there are fewer targets: a tiny vocabulary, a short limit, or constraints that forbid all.
    """
    assert num_best >= 1
    assert decoding.method != "beam" or num_best <= decoding.beam
    assert {PAD, BOS} == set(range(EOS))  # the search forbids all ids below EOS
    assert len({padded_length(len(source)) for source in sources}) <= 1
    if not sources:
        return []
    constraints = constraints if any(constraints or ()) else None
    batch = _SearchBatch(
        model, sources, decoding, num_best, with_attention, constraints, torch.device(device)
    )
    while batch.is_searching:
        batch.step()
    return [_rank(finished, decoding, num_best) for finished in batch.finished]


def _rank(
    finished: list[tuple[int, Hypothesis]], decoding: DecodingConfig, num_best: int
) -> list[Hypothesis]:
    """Return the n-best list among the finished hypotheses of a sentence."""
    if decoding.method != "beam":
        # The place of a sample is its number.
        return [hypothesis for _, hypothesis in sorted(finished, key=lambda pair: pair[0])]
    ranked = sorted(
        (hypothesis for _, hypothesis in finished),
        key=lambda hypothesis: (not hypothesis.is_finished, -hypothesis.score),
    )
    if decoding.diverse_groups > 1:
        # Two groups can find the same target: keep one of them.
        distinct = {tuple(hypothesis.tokens): hypothesis for hypothesis in reversed(ranked)}
        ranked = list(distinct.values())[::-1]
    return ranked[:num_best]


class _SearchBatch(Generic[MemoryT, StateT]):
    """State of a search: sentences in slots, with K rows of hypotheses each."""

    def __init__(
        self, model: StepModel[MemoryT, StateT], sources: Sequence[Sequence[int]],
        decoding: DecodingConfig, num_best: int, with_attention: bool,
        constraints: Sequence[Constraints | None] | None, device: torch.device,
    ) -> None:  # fmt: skip
        self.model = model
        self.decoding = decoding
        self.constraints = constraints
        self.is_sampling = decoding.method != "beam"
        self.beam = num_best if self.is_sampling else decoding.beam
        self.num_groups = 1 if self.is_sampling else decoding.diverse_groups
        # Per group: the n best of all groups are among the n best of each.
        self.num_best = min(num_best, self.beam // self.num_groups)
        self.src_lengths = [len(source) for source in sources]
        self.finished: list[list[tuple[int, Hypothesis]]] = [[] for _ in sources]
        """Finished hypotheses of each sentence, with their places in the beam."""
        self.length = 0
        """Tokens of each prefix, L."""

        # Fillers are copies of the first source; their slots count as done from the start.
        num_fillers = -len(sources) % BATCH_MULTIPLE
        filled = [*sources, *[sources[0]] * num_fillers]
        self.sentence_of: list[int | None] = [*range(len(sources)), *[None] * num_fillers]
        """Index of the sentence in each slot; None once it is done."""
        src, src_lengths = interface.pad_sources(filled, device)
        # Compaction copies the memory, and a copy has another layout and so another rounding than
        # the encoder's output. Copying it at once gives every step the same layout.
        every = torch.arange(src.size(0), device=device)
        self.memory = model.encode(src, src_lengths).select(every)
        self.state = model.start(self.memory, self.beam)
        num_rows = src.size(0) * self.beam
        self.tokens = torch.full((num_rows,), BOS, device=device)  # last token of each row, [R]
        empty = torch.empty(num_rows, 0, device=device)
        self.prefixes = Prefixes(
            empty.long(),
            empty,
            empty.new_empty(num_rows, 0, src.size(1)) if with_attention else None,
            empty.new_zeros(num_rows, src.size(1)) if decoding.coverage_penalty > 0 else None,
        )
        self.log_probs_buffer: Tensor | None = None

        # Log-probability of each live hypothesis, -inf where there is none, [B, K]. Each group
        # starts with one empty hypothesis, sampling with one per sample.
        self.totals = torch.full((src.size(0), self.beam), -math.inf, device=device)
        stride = 1 if self.is_sampling else self.beam // self.num_groups
        self.totals[: len(sources), ::stride] = 0
        # Scores of the finished hypotheses, best first, -inf where there is none, [B, G, K / G].
        self.finished_scores = torch.full_like(self.totals, -math.inf).view(
            len(src), self.num_groups, -1
        )
        limits = [hypotheses.max_length(int(length), decoding) for length in src_lengths.tolist()]
        penalties = [self._length_penalty(limit) for limit in limits]
        self.limits = torch.tensor(limits, device=device)  # [B]
        self.limit_penalties = torch.tensor(penalties, device=device)  # [B]
        if self.is_sampling:
            sizes = self.beam, max(limits), decoding.seed
            uniforms = [sampling.uniform_numbers(source, *sizes) for source in filled]
            self.uniforms = torch.cat(uniforms).to(device)  # [R, maximum of limits]

    @property
    def is_searching(self) -> bool:
        """True if some sentence is not done."""
        return any(sentence is not None for sentence in self.sentence_of)

    def step(self) -> None:
        """Extend all live hypotheses by one token."""
        logits, state, attention = self.model.step(self.tokens, self.state, self.memory)
        log_probs = torch.log_softmax(logits, dim=-1, out=self._buffer_like(logits))
        self._mask_forbidden(log_probs)
        picks = self._select_continuations(log_probs).view(-1)
        rows, self.tokens = picks // logits.size(1), picks % logits.size(1)
        gains = log_probs.view(-1)[picks]
        self.totals = (self.totals.view(-1)[rows] + gains).view_as(self.totals)
        # Without competition each row continues itself, and nothing has to be reordered.
        keeps_rows = self.beam == 1 or self.is_sampling
        if not keeps_rows:
            self.prefixes = self.prefixes.select(rows)
            if self.prefixes.attention is not None or self.prefixes.coverage is not None:
                attention = attention.index_select(0, rows)
        self.prefixes = self.prefixes.append(self.tokens, gains, attention)
        self.length += 1
        self._retire_finished()
        kept = self._compact()
        if kept is not None:
            rows = rows.index_select(0, kept)
        self.state = state if keeps_rows and kept is None else state.select(rows)

    def _buffer_like(self, logits: Tensor) -> Tensor:
        """Return a buffer of the shape of the logits, the same memory in each step.

        Megabytes that are freed in each step go back to the system and return page by page, which
        took a third of the time of a step.
        """
        if self.log_probs_buffer is None:
            self.log_probs_buffer = torch.empty_like(logits)
        return self.log_probs_buffer[: logits.size(0)]

    def _mask_forbidden(self, log_probs: Tensor) -> None:
        """Set the log-probability of tokens that must not come next to -inf, [R, V]."""
        log_probs[:, :EOS] = -math.inf
        if self.length + 1 < self.decoding.min_length:
            is_early = (self.length + 1 < self.limits).repeat_interleave(self.beam)
            log_probs[:, EOS].masked_fill_(is_early, -math.inf)
        if self.constraints is not None:
            mask_forbidden(self._slot_constraints(), log_probs, self.totals, self.prefixes.tokens)

    def _select_continuations(self, log_probs: Tensor) -> Tensor:
        """Return the continuations of all hypotheses, row * V + token, [B, K]."""
        decoding = self.decoding
        if self.is_sampling:
            tokens = sampling.draw_tokens(log_probs, self.uniforms[:, self.length], decoding)
            rows = torch.arange(len(tokens), device=tokens.device)
            return (rows * log_probs.size(1) + tokens).view_as(self.totals)
        if self.num_groups > 1:
            num_free = (self.finished_scores == -math.inf).sum(dim=2)
            diversity = decoding.diversity
            return hypotheses.diverse_continuations(log_probs, self.totals, num_free, diversity)
        picks = hypotheses.best_continuations(log_probs, self.totals)
        if self.constraints is not None:
            slots, prefixes = self._slot_constraints(), self.prefixes.tokens
            picks = allocate_beam(slots, picks, log_probs, self.totals, prefixes, self.limits)
        return picks

    def _slot_constraints(self) -> list[Constraints | None]:
        assert self.constraints is not None
        return [None if each is None else self.constraints[each] for each in self.sentence_of]

    def _retire_finished(self) -> None:
        """Move finished hypotheses out of the live ones, and mark sentences that are done."""
        totals = self.totals.view_as(self.finished_scores)
        size = totals.size(2)
        if not self.is_sampling:
            # Finished hypotheses keep their places, so as many of the worst live ones are dropped.
            num_finished = (self.finished_scores != -math.inf).sum(dim=2, keepdim=True)
            num_worse = torch.arange(size - 1, -1, -1, device=totals.device)
            totals = totals.masked_fill(num_worse < num_finished, -math.inf)
        at_limit = self.limits <= self.length
        is_finished = (self.tokens.view_as(totals) == EOS) | at_limit[:, None, None]
        is_finished &= totals != -math.inf
        scores = self._scores(totals)
        new_scores = scores.masked_fill(~is_finished, -math.inf)
        finished_scores = torch.cat([self.finished_scores, new_scores], dim=2)
        self.finished_scores = finished_scores.topk(size, dim=2).values
        totals = totals.masked_fill(is_finished, -math.inf)
        # A sentence is done when the n-th best finished score is at least the bound on live ones.
        bounds = totals.amax(dim=2) / self.limit_penalties[:, None]
        worst_kept = self.finished_scores[:, :, self.num_best - 1]
        is_done = bounds == -math.inf if self.is_sampling else worst_kept >= bounds
        is_done = is_done.all(dim=1) | at_limit
        # The only point of a step at which Python waits for the device.
        has_finished, done = torch.stack([is_finished.flatten(1).any(dim=1), is_done]).tolist()
        if any(has_finished):
            self._collect(is_finished, scores)
        self.totals = totals.flatten(1).masked_fill(is_done[:, None], -math.inf)
        self.sentence_of = [
            None if slot_is_done else sentence
            for sentence, slot_is_done in zip(self.sentence_of, done, strict=True)
        ]

    def _length_penalty(self, length: int) -> float:
        alpha, norm = self.decoding.length_penalty, self.decoding.length_norm
        return hypotheses.length_penalty(length, alpha, norm)

    def _scores(self, totals: Tensor) -> Tensor:
        """Return the ranking scores of hypotheses of the current length, [B, G, K / G]."""
        scores = totals / self._length_penalty(self.length)
        if self.prefixes.coverage is None:
            return scores
        lengths = [1 if each is None else self.src_lengths[each] for each in self.sentence_of]
        src_lengths = torch.tensor(lengths, device=totals.device).repeat_interleave(self.beam)
        coverage, beta = self.prefixes.coverage, self.decoding.coverage_penalty
        penalty = hypotheses.coverage_penalty(coverage, src_lengths, beta)
        return scores + penalty.view_as(scores)

    def _collect(self, is_finished: Tensor, scores: Tensor) -> None:
        """Add the hypotheses of finished rows to their sentences; both arguments [B, G, K / G]."""
        rows = is_finished.view(-1).nonzero().squeeze(1)
        prefixes = self.prefixes.select(rows)
        columns = (rows, scores.view(-1)[rows], prefixes.tokens, prefixes.log_probs)
        for index, (row, score, tokens, log_probs) in enumerate(
            zip(*(column.tolist() for column in columns), strict=True)
        ):
            sentence = self.sentence_of[row // self.beam]
            if sentence is None:
                continue  # a filler, finished by NaN
            attention = None
            if prefixes.attention is not None:
                attention = prefixes.attention[index, :, : self.src_lengths[sentence]]
            hypothesis = Hypothesis(tokens, score, log_probs, tokens[-1] == EOS, attention)
            self.finished[sentence].append((row % self.beam, hypothesis))

    def _compact(self) -> Tensor | None:
        """Remove the slots of done sentences if there are enough; return the rows that stay."""
        live = [slot for slot, sentence in enumerate(self.sentence_of) if sentence is not None]
        num_fillers = -len(live) % BATCH_MULTIPLE
        num_slots = len(self.sentence_of)
        if not live or len(live) + num_fillers > num_slots * (1 - interface.COMPACT_SHARE):
            return None
        # Done sentences serve as fillers.
        done = [slot for slot, sentence in enumerate(self.sentence_of) if sentence is None]
        slots, device = live + done[:num_fillers], self.totals.device
        kept = torch.tensor(slots, device=device)
        rows = (kept[:, None] * self.beam + torch.arange(self.beam, device=device)).view(-1)
        self.sentence_of = [self.sentence_of[slot] for slot in slots]
        self.memory = self.memory.select(kept)
        self.totals = self.totals.index_select(0, kept)
        self.finished_scores = self.finished_scores.index_select(0, kept)
        self.limits = self.limits.index_select(0, kept)
        self.limit_penalties = self.limit_penalties.index_select(0, kept)
        self.tokens = self.tokens.index_select(0, rows)
        self.prefixes = self.prefixes.select(rows)
        if self.is_sampling:
            self.uniforms = self.uniforms.index_select(0, rows)
        return rows
