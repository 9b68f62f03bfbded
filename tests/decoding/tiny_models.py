"""Models with few enough targets to try them all, shared by the tests of the search."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from nmt.config.decoding import DecodingConfig
from nmt.corpus.subword import BOS
from nmt.decoding import beam_search
from nmt.decoding.hypotheses import Hypothesis
from nmt.decoding.torch_engine import TorchEngine


@dataclass(frozen=True)
class Rows:
    """Memory and state of TinyModel: one vector per row, and its real source positions."""

    values: Tensor
    is_real: Tensor

    def select(self, rows: Tensor) -> "Rows":
        return Rows(self.values.index_select(0, rows), self.is_real.index_select(0, rows))


class TinyModel:
    """Random recurrent network of elementwise sums, so that no row can depend on another."""

    def __init__(self, seed: int, vocab_size: int, width: int = 4, sharpness: float = 3.0) -> None:
        generator = torch.Generator().manual_seed(seed)

        def draw(*shape: int) -> Tensor:
            return torch.randn(*shape, generator=generator)

        self.embeddings = draw(vocab_size, width)
        self.recurrent = draw(width, width)
        self.out = draw(width, vocab_size) * sharpness
        self.rows_seen: list[int] = []

    def encode(self, src: Tensor, src_lengths: Tensor) -> Rows:
        is_real = torch.arange(src.size(1)) < src_lengths[:, None]
        return Rows((self.embeddings[src] * is_real[..., None]).sum(dim=1), is_real)

    def start(self, memory: Rows, beam: int) -> Rows:
        rows = torch.arange(len(memory.values)).repeat_interleave(beam)
        return memory.select(rows)

    def step(self, tokens: Tensor, state: Rows, memory: Rows) -> tuple[Tensor, Rows, Tensor]:
        self.rows_seen.append(len(tokens))
        mixed = (state.values[:, :, None] * self.recurrent).sum(dim=1)
        values = (mixed + self.embeddings[tokens]).tanh()
        positions = torch.arange(state.is_real.size(1)) * 0.7
        energies = (values[:, :1] * 5 + positions).sin() * 3
        attention = energies.masked_fill(~state.is_real, -math.inf).softmax(dim=1)
        logits = (values[:, :, None] * self.out).sum(dim=1)
        return logits, Rows(values, state.is_real), attention


class FixedModel(TinyModel):
    """Returns fixed logits for each position, the last ones for all further positions."""

    def __init__(self, *logits: list[float]) -> None:
        super().__init__(0, len(logits[0]))
        self.logits = torch.tensor(logits, dtype=torch.float32)

    def step(self, tokens: Tensor, state: Rows, memory: Rows) -> tuple[Tensor, Rows, Tensor]:
        position = min(len(self.rows_seen), len(self.logits) - 1)
        self.rows_seen.append(len(tokens))
        attention = state.is_real / state.is_real.sum(dim=1, keepdim=True)
        return self.logits[position].repeat(len(tokens), 1), state, attention


def decoding(beam: int, alpha: float = 1.0, ratio: float = 1.0, extra: int = 2) -> DecodingConfig:
    return DecodingConfig(
        beam=beam, length_penalty=alpha, max_length_ratio=ratio, max_length_extra=extra
    )


def log_probs_after(model: TinyModel, source: list[int], prefix: tuple[int, ...]) -> Tensor:
    memory = model.encode(torch.tensor([source]), torch.tensor([len(source)]))
    state = model.start(memory, 1)
    logits = torch.empty(0)
    for token in (BOS, *prefix):
        logits, state, _ = model.step(torch.tensor([token]), state, memory)
    return logits[0].log_softmax(dim=-1)


def search(
    model: Any, sources: Sequence[Sequence[int]], config: DecodingConfig, **options: Any
) -> list[list[Hypothesis]]:
    """Search with one model, or with a list of them as an ensemble."""
    models = model if isinstance(model, list) else [model]
    return beam_search.search(TorchEngine(models), sources, config, **options)


def facts(found: Any) -> tuple[Any, ...]:
    return found.tokens, found.score, found.token_log_probs, found.is_finished
