"""Exhaustive search: all targets of a tiny model, scored by the formulas of the papers."""

import functools
import itertools
from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch
from hypothesis import strategies as st
from tiny_models import TinyModel, log_probs_after, search
from torch import Tensor

from nmt.config.decoding import DecodingConfig
from nmt.corpus.subword import BOS, EOS
from nmt.decoding.constraints import Constraints
from nmt.decoding.hypotheses import max_length

Target = tuple[int, ...]
seeds = st.integers(0, 10**6)


def all_targets(limit: int, tokens: Sequence[int] = (3, 4, 5)) -> list[Target]:
    """Return all targets that end within the limit."""
    bodies = [body for size in range(limit) for body in itertools.product(tokens, repeat=size)]
    return [(*body, EOS) for body in bodies]


@functools.lru_cache(maxsize=200)
def mean_probs(models: tuple[TinyModel, ...], source: Target, prefix: Target) -> Tensor:
    probs = [log_probs_after(model, list(source), prefix).exp() for model in models]
    return torch.stack(probs).double().mean(dim=0)


def score_of(
    models: list[TinyModel], source: list[int], target: Target, config: DecodingConfig
) -> float:
    """Return the score by the formulas; of several models with the mean of their probabilities."""
    coverage = torch.zeros(16, dtype=torch.float64)
    total = sum(
        float(mean_probs(tuple(models), tuple(source), target[:position])[token].log())
        for position, token in enumerate(target)
    )
    if config.coverage_penalty:
        (model,) = models
        memory = model.encode(torch.tensor([source]), torch.tensor([len(source)]))
        memory = memory.select(torch.tensor([0]))
        state = model.start(memory, 1)
        for token in (BOS, *target[:-1]):
            _, state, attention = model.step(torch.tensor([token]), state, memory)
            coverage[: len(source)] += attention[0, : len(source)].double()
    divisor: float = len(target) if config.length_norm == "average" else (5 + len(target)) / 6
    covered = coverage[: len(source)].clamp(max=1).log().sum() if config.coverage_penalty else 0
    return total / divisor**config.length_penalty + config.coverage_penalty * float(covered)


def check_against_all(
    models: list[TinyModel],
    config: DecodingConfig,
    constraints: Constraints | None,
    is_allowed: Callable[[Target], bool],
    num_best: int = 4,
) -> None:
    """Assert that a beam without pruning finds the best of all allowed targets."""
    source = [3, 4]
    limit = max_length(len(source), config)
    allowed = [target for target in all_targets(limit) if is_allowed(target)]
    scores = {target: score_of(models, source, target, config) for target in allowed}
    ranked = sorted(allowed, key=scores.__getitem__, reverse=True)[:num_best]
    (found,) = search(models, [source], config, num_best=num_best, constraints=[constraints])
    finished = [tuple(each.tokens) for each in found if each.is_finished]
    assert finished == ranked
    assert [each.score for each in found if each.is_finished] == pytest.approx(
        [scores[target] for target in ranked], abs=2e-5
    )


def full_beam(**options: Any) -> DecodingConfig:
    limits = {"max_length_ratio": 1.0, "max_length_extra": 2}
    return DecodingConfig(**{"beam": 130, **limits, **options})
