"""Beam search: the best targets a model has for a batch of sources; ids in, ids out.

A sentence has K places. Each step continues its live hypotheses by every token and keeps the best;
one that ends keeps its place, so fewer stay alive and a beam of 1 is greedy search (Bahdanau et al.
2015). To keep K alive besides those took a quarter more rows on Multi30k, for scores 0.1 % higher
and no BLEU. A score is a log-probability over a length penalty (`penalties`). A sentence is done
when no live hypothesis can enter its n best any more: log-probabilities only fall and a coverage
penalty is never above 0, so what a live one has, over the penalty of the longest target allowed,
bounds its score. Diverse groups are beams of their own that see each other's tokens; samples are
places that see nothing but themselves.

What a sentence gets does not depend on its company (P7; `stepping` tells how): all sources of a
search have one padded length, and no compaction changes it.

Shapes: B slots for sentences, K places of a sentence in G groups, R = B * K rows, V vocabulary, S
padded source length, L tokens so far.
"""

import math
from collections.abc import Sequence
from typing import Generic

import torch
from torch import Tensor

from nmt.config.decoding import DecodingConfig
from nmt.corpus.subword import BOS, EOS, PAD
from nmt.decoding import sampling
from nmt.decoding.constraints import Control, allocate, rule_out
from nmt.decoding.hypotheses import (
    History,
    Hypothesis,
    best_continuations,
    coverage_penalty,
    diverse_continuations,
    length_penalty,
    max_length,
)
from nmt.decoding.interface import (
    COMPACT_SHARE,
    SENTENCES,
    MemoryT,
    StateT,
    StepModel,
    pad_sources,
    padded_length,
)

_NOBODY = -1


@torch.inference_mode()
def search(
    model: StepModel[MemoryT, StateT],
    sources: Sequence[Sequence[int]],
    decoding: DecodingConfig,
    *,
    num_best: int = 1,
    with_attention: bool = False,
    controls: Sequence[Control | None] | None = None,
    device: str | torch.device = "cpu",
) -> list[list[Hypothesis]]:
    """Search targets for one batch of sources.

    Args:
        model: in eval mode, on `device`.
        sources: token ids with EOS, none empty, all of the same `padded_length`.
        decoding: method, beam, penalties and limits; its batch size is not read.
        num_best: hypotheses wanted of each source; with a beam at most that many.
        with_attention: keep where each token looked.
        controls: what each target must and must not say; terms only with a beam of one group.
        device: where the model is.

    Returns:
        For each source, in order, its num_best hypotheses: finished ones first, then by score,
        best first; samples in the order in which they are drawn. Fewer where there are not so many:
        a tiny vocabulary, a short limit, none at all where a control allows nothing.
    """
    is_beam = decoding.method == "beam"
    assert num_best >= 1
    assert not is_beam or num_best <= decoding.beam
    assert {PAD, BOS} == set(range(EOS))  # `advance` rules out all ids below EOS
    assert len({padded_length(len(source)) for source in sources}) <= 1
    if not sources:
        return []
    if not any(controls or ()):
        controls = None
    search = _Batch(
        model, sources, decoding, num_best, with_attention, controls, torch.device(device)
    )
    while search.is_searching:
        search.advance()
    if not is_beam:
        return [[found for _, found in sorted(each, key=_number)] for each in search.found]
    ranked = [sorted((found for _, found in each), key=_rank) for each in search.found]
    if decoding.diverse_groups > 1:
        ranked = list(map(_distinct, ranked))
    return [hypotheses[:num_best] for hypotheses in ranked]


def _number(found: tuple[int, Hypothesis]) -> int:
    return found[0]


def _rank(hypothesis: Hypothesis) -> tuple[bool, float]:
    return not hypothesis.is_finished, -hypothesis.score


def _distinct(hypotheses: list[Hypothesis]) -> list[Hypothesis]:
    """Two groups can come to the same target, along the same tokens: one of them."""
    return list({tuple(each.tokens): each for each in reversed(hypotheses)}.values())[::-1]


class _Batch(Generic[MemoryT, StateT]):
    """The sentences under search, each in a slot; a slot without one only fills the batch up."""

    def __init__(
        self,
        model: StepModel[MemoryT, StateT],
        sources: Sequence[Sequence[int]],
        decoding: DecodingConfig,
        num_best: int,
        with_attention: bool,
        controls: Sequence[Control | None] | None,
        device: torch.device,
    ) -> None:
        self.model = model
        self.decoding = decoding
        self.is_sampling = decoding.method != "beam"
        self.places = num_best if self.is_sampling else decoding.beam
        self.num_groups = 1 if self.is_sampling else decoding.diverse_groups
        # Of each group, the n best or all of them: then the n best of all groups are among them.
        self.num_best = min(num_best, self.places // self.num_groups)
        self.controls = controls
        self.src_lengths = [len(source) for source in sources]
        self.found: list[list[tuple[int, Hypothesis]]] = [[] for _ in sources]  # with their places
        self.length = 0
        num_fillers = -len(sources) % SENTENCES
        self.sentence_of = [*range(len(sources)), *[_NOBODY] * num_fillers]

        src, src_lengths = pad_sources([*sources, *[sources[0]] * num_fillers], device)
        # What compaction copies lies otherwise in memory, and so is rounded otherwise, than what
        # the encoder made: copied at once, it is the same for every step.
        every = torch.arange(src.size(0), device=device)
        self.memory = model.encode(src, src_lengths).select(every)
        self.state = model.start(self.memory, self.places)
        num_rows = src.size(0) * self.places
        self.tokens = torch.full((num_rows,), BOS, device=device)
        self.history = History.nothing(
            num_rows, src.size(1), device, with_attention, decoding.coverage_penalty > 0
        )

        self.room: Tensor | None = None
        # Log-probability of each live hypothesis, [B, K], and the score of each that is over, best
        # first, [B, G, K / G]; -inf where there is none. At first a group has the empty one alone,
        # and each sample is one.
        self.totals = torch.full((src.size(0), self.places), -math.inf, device=device)
        alone = 1 if self.is_sampling else self.places // self.num_groups
        self.totals[: len(sources), ::alone] = 0
        self.scores_over = torch.full_like(self.totals, -math.inf).view(
            len(src), self.num_groups, -1
        )
        limits = [max_length(int(length), decoding) for length in src_lengths.tolist()]
        penalties = [self._length_penalty(limit) for limit in limits]
        self.limits = torch.tensor(limits, device=device)  # [B]
        self.last_penalties = torch.tensor(penalties, device=device)  # [B]
        if self.is_sampling:
            numbers = [
                sampling.luck(source, self.places, max(limits), decoding.seed)
                for source in [*sources, *[sources[0]] * num_fillers]
            ]
            self.luck = torch.cat(numbers).to(device)  # [R, most tokens]

    @property
    def is_searching(self) -> bool:
        """Some sentence is not done."""
        return any(sentence != _NOBODY for sentence in self.sentence_of)

    def advance(self) -> None:
        """One token further in every live hypothesis."""
        logits, state, attention = self.model.step(self.tokens, self.state, self.memory)
        log_probs = torch.log_softmax(logits, dim=-1, out=self._room_for(logits))
        self._rule_out(log_probs)
        picks = self._choose(log_probs).view(-1)
        rows, self.tokens = picks // logits.size(1), picks % logits.size(1)
        gains = log_probs.view(-1)[picks]
        self.totals = (self.totals.view(-1)[rows] + gains).view_as(self.totals)
        stays = self.places == 1 or self.is_sampling
        if not stays:
            self.history = self.history.select(rows)
            if self.history.needs_attention:
                attention = attention.index_select(0, rows)
        self.history = self.history.extend(self.tokens, gains, attention)
        self.length += 1
        self._settle()
        slots = self._worth_keeping()
        if slots is not None:
            rows = rows.index_select(0, self._keep(slots))
        self.state = state if stays and slots is None else state.select(rows)

    def _room_for(self, logits: Tensor) -> Tensor:
        """Memory of the same shape, the same at each step.

        Megabytes that are freed at each step go back to the system and come again page by page:
        that took a third of the time of a step.
        """
        if self.room is None:
            self.room = torch.empty_like(logits)
        return self.room[: logits.size(0)]

    def _rule_out(self, log_probs: Tensor) -> None:
        """Make impossible what must not come next."""
        log_probs[:, :EOS] = -math.inf
        if self.length + 1 < self.decoding.min_length:
            is_early = (self.length + 1 < self.limits).repeat_interleave(self.places)
            log_probs[:, EOS].masked_fill_(is_early, -math.inf)
        if self.controls is not None:
            rule_out(self._controls_of_slots(), log_probs, self.totals, self.history.tokens)

    def _choose(self, log_probs: Tensor) -> Tensor:
        """Continuations for all places, row * V + token, [B, K]."""
        decoding = self.decoding
        if self.is_sampling:
            tokens = sampling.draw(log_probs, self.luck[:, self.length], decoding)
            rows = torch.arange(len(tokens), device=tokens.device)
            return (rows * log_probs.size(1) + tokens).view_as(self.totals)
        if self.num_groups > 1:
            num_free = (self.scores_over == -math.inf).sum(dim=2)
            return diverse_continuations(log_probs, self.totals, num_free, decoding.diversity)
        picks = best_continuations(log_probs, self.totals)
        if self.controls is not None:
            controls, said = self._controls_of_slots(), self.history.tokens
            picks = allocate(controls, picks, log_probs, self.totals, said, self.limits)
        return picks

    def _controls_of_slots(self) -> list[Control | None]:
        assert self.controls is not None
        return [None if each == _NOBODY else self.controls[each] for each in self.sentence_of]

    def _settle(self) -> None:
        """Collect the hypotheses that are over, and let go of the sentences that are done."""
        totals = self.totals.view_as(self.scores_over)
        size = totals.size(2)
        if not self.is_sampling:
            # Those that ended before keep their places, so as many of the worst have to go.
            num_over = (self.scores_over != -math.inf).sum(dim=2, keepdim=True)
            num_worse = torch.arange(size - 1, -1, -1, device=totals.device)
            totals = totals.masked_fill(num_worse < num_over, -math.inf)
        at_limit = self.limits <= self.length
        is_over = (self.tokens.view_as(totals) == EOS) | at_limit[:, None, None]
        is_over &= totals != -math.inf
        scores = self._scores(totals)
        scores_over = torch.cat([self.scores_over, scores.masked_fill(~is_over, -math.inf)], dim=2)
        self.scores_over = scores_over.topk(size, dim=2).values
        totals = totals.masked_fill(is_over, -math.inf)
        bounds = totals.amax(dim=2) / self.last_penalties[:, None]
        worst_kept = self.scores_over[:, :, self.num_best - 1]
        is_done = bounds == -math.inf if self.is_sampling else worst_kept >= bounds
        is_done = is_done.all(dim=1) | at_limit
        # The one place in a step where Python waits for the device.
        has_over, done = torch.stack([is_over.flatten(1).any(dim=1), is_done]).tolist()
        if any(has_over):
            self._collect(is_over, scores)
        self.totals = totals.flatten(1).masked_fill(is_done[:, None], -math.inf)
        for slot, slot_is_done in enumerate(done):
            if slot_is_done:
                self.sentence_of[slot] = _NOBODY

    def _length_penalty(self, length: int) -> float:
        return length_penalty(length, self.decoding.length_penalty, self.decoding.length_norm)

    def _scores(self, totals: Tensor) -> Tensor:
        """What log-probabilities of this length are ranked by, [B, G, K / G]."""
        scores = totals / self._length_penalty(self.length)
        if self.history.coverage is None:
            return scores
        lengths = [1 if each == _NOBODY else self.src_lengths[each] for each in self.sentence_of]
        src_lengths = torch.tensor(lengths, device=totals.device).repeat_interleave(self.places)
        beta = self.decoding.coverage_penalty
        return scores + coverage_penalty(self.history.coverage, src_lengths, beta).view_as(scores)

    def _collect(self, is_over: Tensor, scores: Tensor) -> None:
        """Hypotheses of the rows that are over, [B, G, K / G]."""
        rows = is_over.view(-1).nonzero().squeeze(1)
        picked = self.history.select(rows)
        for index, (row, score, tokens, log_probs) in enumerate(
            zip(
                rows.tolist(),
                scores.view(-1)[rows].tolist(),
                picked.tokens.tolist(),
                picked.log_probs.tolist(),
                strict=True,
            )
        ):
            sentence = self.sentence_of[row // self.places]
            attention = None
            if picked.attention is not None:
                attention = picked.attention[index, :, : self.src_lengths[sentence]]
            is_finished = tokens[-1] == EOS
            found = Hypothesis(tokens, score, log_probs, is_finished, attention)
            self.found[sentence].append((row % self.places, found))

    def _worth_keeping(self) -> list[int] | None:
        """The slots to move together, fillers included; None while too few sentences are done."""
        live = [slot for slot, sentence in enumerate(self.sentence_of) if sentence != _NOBODY]
        num_fillers = -len(live) % SENTENCES
        num_slots = len(self.sentence_of)
        if not live or len(live) + num_fillers > num_slots * (1 - COMPACT_SHARE):
            return None
        done = [slot for slot, sentence in enumerate(self.sentence_of) if sentence == _NOBODY]
        return live + done[:num_fillers]

    def _keep(self, slots: list[int]) -> Tensor:
        """Make these slots the batch; their rows."""
        device = self.totals.device
        kept = torch.tensor(slots, device=device)
        rows = (kept[:, None] * self.places + torch.arange(self.places, device=device)).view(-1)
        self.sentence_of = [self.sentence_of[slot] for slot in slots]
        self.memory = self.memory.select(kept)
        self.totals = self.totals.index_select(0, kept)
        self.scores_over = self.scores_over.index_select(0, kept)
        self.limits = self.limits.index_select(0, kept)
        self.last_penalties = self.last_penalties.index_select(0, kept)
        self.tokens = self.tokens.index_select(0, rows)
        self.history = self.history.select(rows)
        if self.is_sampling:
            self.luck = self.luck.index_select(0, rows)
        return rows
