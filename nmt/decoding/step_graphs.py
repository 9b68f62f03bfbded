"""CUDA graphs of decoder steps.

A step is 165 to 181 operations of a few microseconds each: launching them one by one takes longer
than running them. A graph launches them at once. It is recorded for one shape (rows, sentences,
source width) and works on fixed memory: inputs are copied there and states are copied out, so that
a state stays valid after later steps.

Shapes: R rows, B sentences, S padded source length, V vocabulary, D width, N hidden and cell
states of all layers of a model.
"""

import logging
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any
from weakref import ref

import torch
from torch import Tensor

from nmt.model.decoder import DecoderState, Memory

log = logging.getLogger(__name__)

Step = tuple[Tensor, Sequence[DecoderState], Tensor]
"""Logits, [R, V]; the next state of each model; attention, [R, S]."""
Run = Callable[[Tensor, Sequence[DecoderState], Sequence[Memory]], Step]
"""Step of one or several models: last tokens, [R]; their states; their memories."""

EAGER_STEPS = 8
"""Steps of a shape before it is recorded: recording takes as long as tens of steps, and kernels
must have run once before."""
MAX_GRAPHS = 64
"""Recorded shapes; another one takes the place of the rarest if it is twice as frequent."""


class StepGraphs:
    """Runs steps as graphs, one per shape; without graphs where recording one fails."""

    def __init__(self, run: Run) -> None:
        self._run = run
        self._graphs: dict[Any, StepGraph] = {}
        self._num_steps: Counter[Any] = Counter()
        self._is_supported = True

    def __call__(
        self, tokens: Tensor, rows: Tensor | None, states: Sequence[DecoderState],
        memories: Sequence[Memory],
    ) -> Step:  # fmt: skip
        """Select rows of the states, and run one step.

        Args:
            tokens: last token of each row, [R].
            rows: row of the states that each row continues, [R]; None: each itself.
            states: state of each model.
            memories: memory of each model.

        Returns:
            Result of the step; logits and attention are valid until the next call.
        """
        shape = (len(tokens), *(tuple(memory.is_pad.shape) for memory in memories))
        self._num_steps[shape] += 1
        graph = self._graphs.get(shape)
        is_frequent = self._num_steps[shape] > EAGER_STEPS
        if graph is None and self._is_supported and is_frequent and self._make_room(shape):
            graph = self._record(shape, tokens, states, memories)
        if graph is None:
            if rows is not None:
                states = [state.select(rows) for state in states]
            return self._run(tokens, states, memories)
        return graph.replay(tokens, rows, states, memories)

    def _make_room(self, shape: Any) -> bool:
        """Return True if a shape may be recorded; drop the graph of the shape that it replaces."""
        if len(self._graphs) < MAX_GRAPHS:
            return True
        # Without the factor, shapes that take turns would be recorded again and again.
        rarest = min(self._graphs, key=self._num_steps.__getitem__)
        if self._num_steps[shape] < 2 * self._num_steps[rarest]:
            return False
        del self._graphs[rarest]
        return True

    def _record(
        self, shape: Any, tokens: Tensor, states: Sequence[DecoderState],
        memories: Sequence[Memory],
    ) -> "StepGraph | None":  # fmt: skip
        try:
            graph = StepGraph(self._run, tokens, states, memories)
        except RuntimeError as error:
            # For example an operation that a graph cannot have: the eager step is correct too.
            log.warning("decoding without CUDA graphs: %s", error)
            self._is_supported = False
            return None
        self._graphs[shape] = graph
        return graph


class StepGraph:
    """Recorded step of one shape, with its memory."""

    def __init__(
        self, run: Run, tokens: Tensor, states: Sequence[DecoderState], memories: Sequence[Memory]
    ) -> None:
        self._tokens, self._rows = tokens.clone(), torch.zeros_like(tokens)
        self._every = torch.arange(len(tokens), device=tokens.device)
        self._inputs = [_stack(state) for state in states]
        every = torch.arange(len(memories[0].is_pad), device=tokens.device)
        self._memories = [memory.select(every) for memory in memories]
        self._current = list(map(ref, memories))
        """Memories that `_memories` has copies of: weak, since a batch may end."""

        def work() -> tuple[Tensor, list[Tensor], Tensor]:
            selected = [_unstack(each.index_select(1, self._rows)) for each in self._inputs]
            logits, after, attention = run(self._tokens, selected, self._memories)
            return logits, [_stack(state) for state in after], attention

        self._outputs, self._replay = record(work)

    def replay(
        self, tokens: Tensor, rows: Tensor | None, states: Sequence[DecoderState],
        memories: Sequence[Memory],
    ) -> Step:  # fmt: skip
        """Copy the arguments of `StepGraphs` to the memory of the graph, and run it."""
        self._tokens.copy_(tokens)
        self._rows.copy_(self._every if rows is None else rows)
        for fixed, state in zip(self._inputs, states, strict=True):
            torch.stack([*state.hidden, *state.cell], out=fixed)
        # The memory changes when a batch starts and when sentences leave it.
        if any(new is not old() for new, old in zip(memories, self._current, strict=True)):
            for fixed_memory, memory in zip(self._memories, memories, strict=True):
                for fixed, tensor in zip(_tensors(fixed_memory), _tensors(memory), strict=True):
                    fixed.copy_(tensor)
            self._current = list(map(ref, memories))
        self._replay()
        logits, after, attention = self._outputs
        return logits, [_unstack(each.clone()) for each in after], attention


def record(work: Callable[[], Any]) -> tuple[Any, Callable[[], None]]:
    """Record the kernels of a function in a CUDA graph.

    Returns:
        The tensors that the function returned, and a function that computes them again from the
        present contents of the tensors that it reads.
    """
    graph = torch.cuda.CUDAGraph()
    # Other threads may allocate memory meanwhile.
    with torch.cuda.graph(graph, capture_error_mode="thread_local"):
        outputs = work()
    return outputs, graph.replay


def _stack(state: DecoderState) -> Tensor:
    """Return all tensors of a state as one, [N, R, D]: one copy instead of N."""
    return torch.stack([*state.hidden, *state.cell])


def _unstack(stacked: Tensor) -> DecoderState:
    tensors = stacked.unbind()
    return DecoderState(tensors[: len(tensors) // 2], tensors[len(tensors) // 2 :])


def _tensors(memory: Memory) -> list[Tensor]:
    return [*memory.keys, *memory.values, memory.src_lengths, memory.is_pad]
