"""Engine that runs models in PyTorch, on any device.

Two rules make translation batch-invariant on CPUs (MKL needs more care: `nmt.model.mkl`):

- Matrix products treat the last one to three rows differently, so models get a multiple of
  `BATCH_MULTIPLE` sentences. Fillers are copies of the first sentence, behind the others.
- A copy of the encoder's output has another layout and so another rounding. It is copied at once,
  so that it has the same layout before and after a selection of sentences.

On a GPU a step is a CUDA graph where possible (`nmt.decoding.step_graphs`), the number of sentences
is rounded up to one of a few, and Python waits once per step: for all results in one copy.

Shapes: B sentences, R rows, k candidates, V vocabulary, S padded source length.
"""

import threading
from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from typing import Any, Protocol, Self

import numpy as np
import torch
from torch import Tensor, nn

from nmt.corpus.subword import EOS
from nmt.decoding import candidates, interface
from nmt.decoding.interface import (
    BATCH_MULTIPLE,
    Best,
    Draw,
    Given,
    IntArray,
    Query,
    StepResult,
)
from nmt.decoding.step_graphs import Step, StepGraphs

GPU_BATCH_TOKENS = 65_536
"""Source tokens of a batch on a GPU, padding included."""
BLOCK = 32
"""Tokens represented by their best one in the first round of `topk_tokens`."""
_GRAPH_LOCK = threading.Lock()
"""Held during a step with CUDA graphs, whose memory the threads of a process share."""


class StepModel(Protocol):
    """Model that a `TorchEngine` runs, such as `nmt.model.seq2seq.Seq2Seq`.

    Memory and state have a method `select` that returns the tensors of some sentences or rows.
    """

    def encode(self, src: Tensor, src_lengths: Tensor) -> Any:
        """Return the memory of sources, [B, S] with `src_lengths` real tokens, [B]."""

    def start(self, memory: Any, beam: int) -> Any:
        """Return the state of B * beam rows before the first token."""

    def step(self, tokens: Tensor, state: Any, memory: Any) -> tuple[Tensor, Any, Tensor]:
        """Return logits [R, V], the next state, and attention [R, S], after tokens, [R]."""


@dataclass(frozen=True)
class TorchState:
    """State of the rows in each model of an ensemble, fillers included."""

    memories: tuple[Any, ...]
    states: tuple[Any, ...]
    num_rows: int
    """Rows without fillers."""
    num_fillers: int
    """Rows of fillers behind them."""
    beam: int
    buffer: Tensor
    """Memory for log-probabilities, [R, V], reused by each step: allocating megabytes in each step
    costs page faults, which took a third of its time."""


class TorchEngine:
    """Runs a model or an ensemble: the mean of probabilities, with the mean of attention."""

    def __init__(self, models: Sequence[StepModel], device: str | torch.device = "cpu") -> None:
        """Move the models to the device and set them to evaluation mode."""
        self.models = list(models)
        self.to(device)

    def to(self, device: str | torch.device) -> Self:
        """Move the models to a device."""
        self.device = torch.device(device)
        for model in self.models:
            if isinstance(model, nn.Module):
                model.to(device)
        has_graphs = self.device.type == "cuda"
        self._graphs = StepGraphs(self._run) if has_graphs else None
        return self

    @property
    def batch_tokens(self) -> int:
        """Source tokens of a batch, padding included; see `nmt.decoding.interface.Engine`."""
        return GPU_BATCH_TOKENS if self.device.type == "cuda" else interface.BATCH_TOKENS

    @torch.inference_mode()
    def start(self, src: IntArray, src_lengths: IntArray, beam: int) -> TorchState:
        """Encode sources; see `nmt.decoding.interface.Engine`."""
        for model in self.models:
            # Active dropout would go unnoticed.
            if isinstance(model, nn.Module) and model.training:
                model.eval()
        kept = self._with_fillers(np.arange(len(src)))
        padded, lengths = self._tensor(src[kept]), self._tensor(src_lengths[kept])
        every = torch.arange(len(kept), device=self.device)
        memories = tuple(model.encode(padded, lengths).select(every) for model in self.models)
        pairs = zip(self.models, memories, strict=True)
        states = tuple(model.start(memory, beam) for model, memory in pairs)
        num_rows, num_fillers = len(src) * beam, (len(kept) - len(src)) * beam
        return TorchState(memories, states, num_rows, num_fillers, beam, torch.empty(0))

    @torch.inference_mode()
    def step(
        self, state: TorchState, tokens: IntArray, parents: IntArray | None, query: Query
    ) -> tuple[StepResult, TorchState]:
        """Decode one token per row; see `nmt.decoding.interface.Engine`."""
        with nullcontext() if self._graphs is None else _GRAPH_LOCK:
            return self._step(state, tokens, parents, query)

    def _step(
        self, state: TorchState, tokens: IntArray, parents: IntArray | None, query: Query
    ) -> tuple[StepResult, TorchState]:
        num_rows, num_fillers = state.num_rows, state.num_fillers
        states, rows = state.states, None
        if parents is not None:
            # Fillers continue themselves.
            own = np.arange(num_rows, num_rows + num_fillers)
            rows = self._tensor(np.concatenate([parents, own]) if num_fillers else parents)
        if num_fillers:
            tokens = np.concatenate([tokens, np.broadcast_to(tokens[:1], num_fillers)])
        step: Step
        if self._graphs is not None:
            step = self._graphs(self._tensor(tokens), rows, states, state.memories)
        else:
            states = states if rows is None else tuple(each.select(rows) for each in states)
            step = self._run(self._tensor(tokens), states, state.memories)
        logits, after, attention = step
        state = replace(state, states=tuple(after))
        if state.buffer.shape[:1] < logits.shape[:1]:
            state = replace(state, buffer=torch.empty_like(logits))
        log_probs = torch.log_softmax(logits, dim=-1, out=state.buffer[: len(logits)])
        wanted = attention[:num_rows] if query.with_attention else None
        return StepResult(*_to_host(*self._choose(log_probs[:num_rows], wanted, query))), state

    @torch.inference_mode()
    def select(self, state: TorchState, sentences: IntArray) -> TorchState:
        """Return the state of some sentences; see `nmt.decoding.interface.Engine`."""
        kept = self._with_fillers(sentences)
        rows = (kept[:, None] * state.beam + np.arange(state.beam)).ravel()
        slots, row_tensor = self._tensor(kept), self._tensor(rows)
        return replace(
            state,
            memories=tuple(memory.select(slots) for memory in state.memories),
            states=tuple(each.select(row_tensor) for each in state.states),
            num_rows=len(sentences) * state.beam,
            num_fillers=(len(kept) - len(sentences)) * state.beam,
        )

    def _run(self, tokens: Tensor, states: Sequence[Any], memories: Sequence[Any]) -> Step:
        """Run one step of each model, which all see the same tokens.

        Returns:
            Log of the summed probabilities [R, V], not normalised; the next states; the mean
            attention [R, S].
        """
        if len(self.models) == 1:
            logits, state, attention = self.models[0].step(tokens, states[0], memories[0])
            return logits, (state,), attention
        each = zip(self.models, states, memories, strict=True)
        steps = [model.step(tokens, state, memory) for model, state, memory in each]
        # Summed model by model: the order of a reduction over a stacked tensor could depend on the
        # batch size.
        total, attention = steps[0][0].log_softmax(dim=-1), steps[0][2]
        for logits, _, other_attention in steps[1:]:
            total = torch.logaddexp(total, logits.log_softmax(dim=-1))
            attention = attention + other_attention
        return total, tuple(state for _, state, _ in steps), attention / len(steps)

    def _choose(
        self, log_probs: Tensor, attention: Tensor | None, query: Query
    ) -> tuple[Tensor, Tensor, Tensor | None, Tensor | None]:
        """Return the tensors of a result; overwrites log-probabilities, [R, V]."""
        distributions = None
        if query.full_rows is not None:
            distributions = log_probs[self._tensor(query.full_rows)]
        if isinstance(query.choice, Given):
            ids = self._tensor(query.choice.tokens)[:, None]
            return ids, log_probs.gather(1, ids), attention, distributions
        log_probs[:, :EOS] = -torch.inf
        if query.forbidden is not None:
            rows, tokens = query.forbidden
            log_probs[self._tensor(rows), self._tensor(tokens)] = -torch.inf
        if isinstance(query.choice, Best):
            values, ids = best_tokens(log_probs, query.choice.size)
        else:
            ids = draw_tokens(log_probs, self._tensor(query.choice.numbers), query.choice)
            values = log_probs.gather(1, ids)
        return ids, values, attention, distributions

    def _tensor(self, array: Any) -> Tensor:
        # Asynchronous: the driver has copied the array when the call returns.
        return torch.from_numpy(array).to(self.device, non_blocking=True)

    def _with_fillers(self, sentences: IntArray) -> IntArray:
        """Return sentences and copies of the first one, padded to an efficient batch size."""
        number = len(sentences)
        step = BATCH_MULTIPLE
        if self.device.type == "cuda":
            # Two sizes per power of two: few graphs, and at most a third of the rows is filler.
            step = max(step, 1 << max(0, (number - 1).bit_length() - 2))
        return np.concatenate([sentences, sentences[:1].repeat(-number % step)])


def best_tokens(log_probs: Tensor, size: int) -> tuple[Tensor, Tensor]:
    """Return values and ids of the most likely tokens of each row, [R, k] each, best first.

    Of equal tokens the lower id comes first.

    Args:
        log_probs: log-probability of each next token, contiguous, [R, V]; overwritten on a CPU.
        size: number of tokens, at most V are returned.
    """
    if log_probs.device.type == "cpu":
        # Several times as fast as topk.
        values, ids = candidates.best_tokens(log_probs.numpy(), size)
        return torch.from_numpy(values), torch.from_numpy(ids)
    return topk_tokens(log_probs, size)


def topk_tokens(log_probs: Tensor, size: int) -> tuple[Tensor, Tensor]:
    """Return the same as `best_tokens` with operations that are fast on GPUs."""
    num_rows, vocab = log_probs.shape
    num_blocks, device = vocab // BLOCK, log_probs.device
    cut = num_blocks * BLOCK
    if size >= num_blocks:
        ids = _stable_topk(log_probs, torch.arange(vocab, device=device), min(size, vocab))
        return log_probs.gather(1, ids), ids
    # Two rounds, because topk over V costs as much as a large share of the output layer: first the
    # k best blocks by their best token, then the k best tokens of these blocks and of the
    # incomplete last block.
    maxima = log_probs[:, :cut].view(num_rows, num_blocks, BLOCK).amax(dim=2)
    best = _stable_topk(maxima, torch.arange(num_blocks, device=device), size)
    ids = (best[:, :, None] * BLOCK + torch.arange(BLOCK, device=device)).flatten(1)
    rest = torch.arange(cut, vocab, device=device).expand(num_rows, -1)
    ids = torch.cat([ids, rest], dim=1)
    values = log_probs.gather(1, ids)
    places = _stable_topk(values, ids, size)
    return values.gather(1, places), ids.gather(1, places)


def draw_tokens(log_probs: Tensor, numbers: Tensor, draw: Draw) -> Tensor:
    """Draw a token for each row by inverting the cumulative distribution.

    Args:
        log_probs: log-probability of each next token, [R, V]; -inf for forbidden tokens.
        numbers: those of `draw`, on the device.
        draw: temperature, top_k and top_p.

    Returns:
        The token at which the cumulative probability exceeds the number, [R, 1].
    """
    ids = None
    values = log_probs / draw.temperature
    # Sorting is only needed where a rank or a nucleus decides.
    if draw.top_k or draw.top_p < 1:
        values, ids = values.sort(dim=1, descending=True, stable=True)
        values = values[:, : draw.top_k or None]
    sums = values.softmax(dim=1).double().cumsum(dim=1)  # [R, V]
    # The nucleus is the first token, and each further one while the sum before it is below top_p.
    last = (sums[:, :-1] < draw.top_p).sum(dim=1, keepdim=True)
    thresholds = numbers[:, None] * sums.gather(1, last)
    # Rounding can leave a threshold above all sums: clamp, and never leave the nucleus.
    picks = torch.searchsorted(sums, thresholds, right=True).clamp(max=values.size(1) - 1)
    picks = torch.minimum(picks, last)
    return picks if ids is None else ids.gather(1, picks)


def _stable_topk(values: Tensor, ids: Tensor, k: int) -> Tensor:
    """Return positions of the k largest values of each row, best first, ties by lower id."""
    # topk leaves the order of ties open. The bits of a float, inverted if it is negative, are an
    # integer of the same order; with the id in the low 32 bits all keys are distinct.
    bits = values.view(torch.int32)
    keys = ((bits ^ ((bits >> 31) & 0x7FFFFFFF)).long() << 32) - ids
    return keys.topk(k, dim=1).indices


def _to_host(*tensors: Tensor | None) -> Iterator[Any]:
    """Yield the arrays of tensors, None for None; from a GPU in one copy, which waits once."""
    wanted = [tensor for tensor in tensors if tensor is not None]
    if not wanted[0].is_cuda:
        yield from (None if tensor is None else tensor.numpy() for tensor in tensors)
        return
    joined = torch.cat([tensor.contiguous().view(torch.uint8).view(-1) for tensor in wanted])
    data, start = joined.cpu().numpy(), 0
    for tensor in tensors:
        if tensor is None:
            yield None
            continue
        stop = start + tensor.numel() * tensor.element_size()
        dtype = np.int64 if tensor.dtype == torch.int64 else np.float32
        yield data[start:stop].view(dtype).reshape(tuple(tensor.shape))
        start = stop
