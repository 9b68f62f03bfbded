"""Beam search: the best targets a model has for a batch of sources; ids in, ids out.

A sentence has K places. Each step continues its live hypotheses by every token and keeps the best;
one that ends keeps its place, so fewer stay alive and a beam of 1 is greedy search (Bahdanau et al.
2015). To keep K alive besides those took a quarter more rows on Multi30k, for scores 0.1 % higher
and no BLEU. A score is a log-probability over the length penalty of Wu et al. 2016, equation 14. A
sentence is done when no live hypothesis can enter its n best any more: log-probabilities only fall,
so what a live one has, over the penalty of the longest target allowed, bounds its score.

What a sentence gets does not depend on its company (P7; fp32, CPU). Nothing here mixes sentences;
what is left are kernels whose rounding depends on a shape. Matrix products treat the last one to
three rows in another way, so the model always sees a multiple of SENTENCES. Sums over the source
are cut into blocks by its padded length, so that is a function of the sentence alone
(`padded_length`): all sources of a search share it, and no compaction changes it.

Shapes: B slots for sentences, K beam, R = B * K rows, V vocabulary, S padded source length, L
tokens so far.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Generic, NamedTuple, Protocol, Self, TypeVar

import torch
from torch import Tensor

from nmt.config.experiment import DecodingConfig
from nmt.corpus.subword import BOS, EOS, PAD

SENTENCES = 4
"""Sentences in a batch are filled up to a multiple of this."""
COMPACT_SHARE = 0.1
"""Share of a batch that must be done before the others are moved together."""
BLOCK = 64
"""Tokens whose best one stands for all of them in the first round of `best_continuations`."""
_NOBODY = -1


class Selectable(Protocol):
    """A model's tensors of a batch, of which some rows can be taken, in any order and number."""

    def select(self, rows: Tensor, /) -> Self:
        """The same of these rows."""


MemoryT = TypeVar("MemoryT", bound=Selectable)
StateT = TypeVar("StateT", bound=Selectable)


class StepModel(Protocol[MemoryT, StateT]):
    """What can be searched: `nmt.model.seq2seq.Seq2Seq`, or several of them as one."""

    def encode(self, src: Tensor, src_lengths: Tensor) -> MemoryT:
        """Read sources, [B, S] with [B] real tokens."""

    def start(self, memory: MemoryT, beam: int) -> StateT:
        """The state of B * beam rows before the first token; row b * beam + k is of sentence b."""

    def step(self, tokens: Tensor, state: StateT, memory: MemoryT) -> tuple[Tensor, StateT, Tensor]:
        """From the last tokens, [R], to logits [R, V], the next state, attention [R, S]."""


@dataclass(frozen=True, eq=False)
class Hypothesis:
    """One target sequence and what the model thinks of it; natural logarithms."""

    tokens: list[int]
    """Without BOS; with EOS where it is finished."""
    score: float
    """Log-probability over the length penalty: what the search ranks by."""
    token_log_probs: list[float]
    """Of each of `tokens`."""
    is_finished: bool
    """It ends with EOS; otherwise it was cut at the longest length allowed."""
    attention: Tensor | None
    """Where each of `tokens` looked, [tokens, source tokens], if that was asked for."""

    @property
    def log_prob(self) -> float:
        """Of the whole sequence, EOS counted."""
        return math.fsum(self.token_log_probs)


def padded_length(num_tokens: int) -> int:
    """Positions that a source takes: the next multiple of 16, coarser from 128 tokens on."""
    step = max(16, 1 << max(0, (num_tokens - 1).bit_length() - 3))
    return -(-num_tokens // step) * step


def pad_sources(sources: Sequence[Sequence[int]], device: torch.device) -> tuple[Tensor, Tensor]:
    """Source ids, [B, S], and how many are real, [B]."""
    width = max(padded_length(len(source)) for source in sources)
    padded = [[*source, *[PAD] * (width - len(source))] for source in sources]
    lengths = [len(source) for source in sources]
    return torch.tensor(padded, device=device), torch.tensor(lengths, device=device)


def max_length(num_src_tokens: int, decoding: DecodingConfig) -> int:
    """Most tokens of a target, EOS counted."""
    return math.ceil(num_src_tokens * decoding.max_length_ratio) + decoding.max_length_extra


def length_penalty(length: int, alpha: float) -> float:
    """What a log-probability of `length` tokens, EOS counted, is divided by."""
    return float(((5 + length) / 6) ** alpha)


@torch.inference_mode()
def search(
    model: StepModel[MemoryT, StateT],
    sources: Sequence[Sequence[int]],
    decoding: DecodingConfig,
    *,
    num_best: int = 1,
    with_attention: bool = False,
    device: str | torch.device = "cpu",
) -> list[list[Hypothesis]]:
    """Search targets for one batch of sources.

    Args:
        model: in eval mode, on `device`.
        sources: token ids with EOS, none empty, all of the same `padded_length`.
        decoding: beam, length penalty and limits; its batch size is not read.
        num_best: hypotheses wanted of each source, at most the beam.
        with_attention: keep where each token looked.
        device: where the model is.

    Returns:
        For each source, in order, its num_best hypotheses: finished ones first, then by score,
        best first. Fewer where there are not so many: a tiny vocabulary, a short limit.
    """
    assert 1 <= num_best <= decoding.beam
    assert {PAD, BOS} == set(range(EOS))  # `advance` rules out all ids below EOS
    assert len({padded_length(len(source)) for source in sources}) <= 1
    if not sources:
        return []
    batch = _Batch(model, sources, decoding, num_best, with_attention, torch.device(device))
    while batch.is_searching:
        batch.advance()
    return [sorted(found, key=_rank)[:num_best] for found in batch.found]


def best_continuations(log_probs: Tensor, totals: Tensor) -> Tensor:
    """The K best continuations of each sentence; of equal ones the lower row, then token, first.

    In two rounds, because `topk` over all of [B, K * V] costs a third of the output layer: the K
    best blocks of BLOCK tokens by their best token, then the K best tokens inside those blocks and
    behind the last whole block.

    Args:
        log_probs: of each next token, contiguous, [R, V].
        totals: of each hypothesis, [B, K].

    Returns:
        row * V + token of each, [B, K], best first.
    """
    (num_sentences, beam), (num_rows, vocab) = totals.shape, log_probs.shape
    num_blocks, device = vocab // BLOCK, totals.device
    cut = num_blocks * BLOCK
    firsts = torch.arange(0, num_rows * vocab, vocab, device=device).view_as(totals)
    ids = (firsts[:, :, None] + torch.arange(cut, vocab, device=device)).flatten(1)
    values = (log_probs[:, cut:] + totals.view(-1, 1)).view(num_sentences, -1)
    if num_blocks > 0:
        maxima = log_probs[:, :cut].view(num_rows, num_blocks, BLOCK).amax(dim=2)
        maxima = (maxima + totals.view(-1, 1)).view(num_sentences, -1)
        best = _top(maxima, torch.arange(maxima.size(1), device=device), beam)
        rows = best // num_blocks
        starts = firsts.gather(1, rows) + best % num_blocks * BLOCK
        inside_ids = starts[:, :, None] + torch.arange(BLOCK, device=device)
        # The windows overlap, one for each id: a view, of which K a sentence are copied.
        inside = log_probs.view(-1).unfold(0, BLOCK, 1)[starts] + totals.gather(1, rows)[:, :, None]
        ids = torch.cat([inside_ids.flatten(1), ids], dim=1)
        values = torch.cat([inside.flatten(1), values], dim=1)
    return ids.gather(1, _top(values, ids, beam))


def _rank(hypothesis: Hypothesis) -> tuple[bool, float]:
    return not hypothesis.is_finished, -hypothesis.score


def _top(values: Tensor, ids: Tensor, k: int) -> Tensor:
    """Positions of the k largest in each row, best first; of equal ones the lower id first."""
    # topk leaves the order of equal values open. The bits of a float, turned over where it is
    # negative, are an integer of the same order; with the id below them no two keys are equal.
    bits = values.view(torch.int32)
    keys = ((bits ^ ((bits >> 31) & 0x7FFFFFFF)).long() << 32) - ids
    return keys.topk(k, dim=1).indices


class _History(NamedTuple):
    """What each row has said so far."""

    tokens: Tensor
    """[R, L]"""
    log_probs: Tensor
    """Of each token, [R, L]."""
    attention: Tensor | None
    """Where each token looked, [R, L, S], where that is wanted."""

    def select(self, rows: Tensor) -> "_History":
        attention = None if self.attention is None else self.attention.index_select(0, rows)
        return _History(
            self.tokens.index_select(0, rows), self.log_probs.index_select(0, rows), attention
        )

    def extend(self, tokens: Tensor, log_probs: Tensor, attention: Tensor) -> "_History":
        longer = None
        if self.attention is not None:
            longer = torch.cat([self.attention, attention[:, None]], dim=1)
        return _History(
            torch.cat([self.tokens, tokens[:, None]], dim=1),
            torch.cat([self.log_probs, log_probs[:, None]], dim=1),
            longer,
        )


class _Batch(Generic[MemoryT, StateT]):
    """The sentences under search, each in a slot; a slot without one only fills the batch up."""

    def __init__(
        self,
        model: StepModel[MemoryT, StateT],
        sources: Sequence[Sequence[int]],
        decoding: DecodingConfig,
        num_best: int,
        with_attention: bool,
        device: torch.device,
    ) -> None:
        self.model = model
        self.beam = decoding.beam
        self.num_best = num_best
        self.alpha = decoding.length_penalty
        self.src_lengths = [len(source) for source in sources]
        self.found: list[list[Hypothesis]] = [[] for _ in sources]
        self.length = 0
        num_fillers = -len(sources) % SENTENCES
        self.sentence_of = [*range(len(sources)), *[_NOBODY] * num_fillers]

        src, src_lengths = pad_sources([*sources, *[sources[0]] * num_fillers], device)
        # What compaction copies lies otherwise in memory, and so is rounded otherwise, than what
        # the encoder made: copied at once, it is the same for every step.
        every = torch.arange(src.size(0), device=device)
        self.memory = model.encode(src, src_lengths).select(every)
        self.state = model.start(self.memory, self.beam)
        num_rows = src.size(0) * self.beam
        self.tokens = torch.full((num_rows,), BOS, device=device)
        nothing = torch.empty(num_rows, 0, device=device)
        attention = nothing.new_empty(num_rows, 0, src.size(1)) if with_attention else None
        self.history = _History(nothing.long(), nothing, attention)

        self.room: Tensor | None = None
        # Log-probability of each live hypothesis, [B, K], and the score of each that is over, best
        # first, [B, K]; -inf where there is none. At first there is the empty one alone.
        self.totals = torch.full((src.size(0), self.beam), -math.inf, device=device)
        self.totals[: len(sources), 0] = 0
        self.scores_over = torch.full_like(self.totals, -math.inf)
        limits = [max_length(int(length), decoding) for length in src_lengths.tolist()]
        penalties = [length_penalty(limit, self.alpha) for limit in limits]
        self.limits = torch.tensor(limits, device=device)  # [B]
        self.last_penalties = torch.tensor(penalties, device=device)  # [B]

    @property
    def is_searching(self) -> bool:
        """Some sentence is not done."""
        return any(sentence != _NOBODY for sentence in self.sentence_of)

    def advance(self) -> None:
        """One token further in every live hypothesis."""
        logits, state, attention = self.model.step(self.tokens, self.state, self.memory)
        log_probs = torch.log_softmax(logits, dim=-1, out=self._room_for(logits))
        log_probs[:, :EOS] = -math.inf
        picks = best_continuations(log_probs, self.totals).view(-1)
        rows, self.tokens = picks // logits.size(1), picks % logits.size(1)
        gains = log_probs.view(-1)[picks]
        self.totals = (self.totals.view(-1)[rows] + gains).view_as(self.totals)
        if self.beam > 1:
            self.history = self.history.select(rows)
        if self.beam > 1 and self.history.attention is not None:
            attention = attention.index_select(0, rows)
        self.history = self.history.extend(self.tokens, gains, attention)
        self.length += 1
        self._settle()
        slots = self._worth_keeping()
        if slots is not None:
            rows = rows.index_select(0, self._keep(slots))
        is_same = self.beam == 1 and slots is None
        self.state = state if is_same else state.select(rows)

    def _room_for(self, logits: Tensor) -> Tensor:
        """Memory of the same shape, the same at each step.

        Megabytes that are freed at each step go back to the system and come again page by page:
        that took a third of the time of a step.
        """
        if self.room is None:
            self.room = torch.empty_like(logits)
        return self.room[: logits.size(0)]

    def _settle(self) -> None:
        """Collect the hypotheses that are over, and let go of the sentences that are done."""
        # Those that ended before keep their places, so as many of the worst have to go.
        num_over = (self.scores_over != -math.inf).sum(dim=1, keepdim=True)
        num_worse = torch.arange(self.beam - 1, -1, -1, device=self.totals.device)
        totals = self.totals.masked_fill(num_worse < num_over, -math.inf)
        at_limit = self.limits <= self.length
        is_over = (self.tokens.view_as(totals) == EOS) | at_limit[:, None]
        is_over &= totals != -math.inf
        scores = totals / length_penalty(self.length, self.alpha)
        scores_over = torch.cat([self.scores_over, scores.masked_fill(~is_over, -math.inf)], dim=1)
        self.scores_over = scores_over.topk(self.beam, dim=1).values
        totals = totals.masked_fill(is_over, -math.inf)
        bounds = totals.amax(dim=1) / self.last_penalties
        is_done = (self.scores_over[:, self.num_best - 1] >= bounds) | at_limit
        # The one place in a step where Python waits for the device.
        has_over, done = torch.stack([is_over.any(dim=1), is_done]).tolist()
        if any(has_over):
            self._collect(is_over, scores)
        self.totals = totals.masked_fill(is_done[:, None], -math.inf)
        for slot, slot_is_done in enumerate(done):
            if slot_is_done:
                self.sentence_of[slot] = _NOBODY

    def _collect(self, is_over: Tensor, scores: Tensor) -> None:
        """Hypotheses of the rows that are over, [B, K]."""
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
            sentence = self.sentence_of[row // self.beam]
            attention = None
            if picked.attention is not None:
                attention = picked.attention[index, :, : self.src_lengths[sentence]]
            is_finished = tokens[-1] == EOS
            self.found[sentence].append(
                Hypothesis(tokens, score, log_probs, is_finished, attention)
            )

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
        rows = (kept[:, None] * self.beam + torch.arange(self.beam, device=device)).view(-1)
        self.sentence_of = [self.sentence_of[slot] for slot in slots]
        self.memory = self.memory.select(kept)
        self.totals = self.totals.index_select(0, kept)
        self.scores_over = self.scores_over.index_select(0, kept)
        self.limits = self.limits.index_select(0, kept)
        self.last_penalties = self.last_penalties.index_select(0, kept)
        self.tokens = self.tokens.index_select(0, rows)
        self.history = self.history.select(rows)
        return rows
