"""Samples: as frequent as they are probable, and the same in any company."""

from typing import Any

import pytest
import torch
from all_targets import score_of, seeds
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny_models import TinyModel, facts, log_probs_after

from nmt.config.decoding import DecodingConfig
from nmt.corpus.subword import EOS
from nmt.decoding.beam_search import search


def sampled(model: TinyModel, num_samples: int, **options: Any) -> list[list[int]]:
    config = DecodingConfig(**{"method": "sample", "max_length_extra": 6, **options})
    (found,) = search(model, [[3, 4, 5]], config, num_best=num_samples)
    return [each.tokens for each in found]


def test_samples_are_as_frequent_as_they_are_probable() -> None:
    model = TinyModel(3, 6, sharpness=0.7)
    firsts = [tokens[0] for tokens in sampled(model, 4000)]
    log_probs = log_probs_after(model, [3, 4, 5], ())
    probs = log_probs[EOS:].softmax(dim=0)
    shares = [firsts.count(token) / 4000 for token in range(EOS, 6)]
    assert shares == pytest.approx(probs.tolist(), abs=0.03)


@settings(deadline=None, max_examples=25)
@given(seed=seeds)
def test_samples_of_the_likeliest_token_alone_are_greedy(seed: int) -> None:
    model = TinyModel(seed, 9)
    greedy = search(model, [[3, 4, 5]], DecodingConfig(beam=1, max_length_extra=6))[0][0].tokens
    assert sampled(model, 2, top_k=1) == [greedy] * 2
    assert sampled(model, 2, top_p=1e-6) == [greedy] * 2
    assert sampled(model, 2, temperature=1e-4) == [greedy] * 2


@settings(deadline=None, max_examples=25)
@given(seed=seeds, top_k=st.integers(1, 4), top_p=st.sampled_from([0.3, 0.6, 0.9]))
def test_only_the_likeliest_tokens_are_drawn(seed: int, top_k: int, top_p: float) -> None:
    model = TinyModel(seed, 9, sharpness=1.0)
    log_probs = log_probs_after(model, [3, 4, 5], ())
    log_probs[:EOS] = -torch.inf
    probs, ids = log_probs.softmax(dim=0).sort(descending=True)
    nucleus = 1 + int((probs.cumsum(dim=0) < top_p).sum())
    firsts = {tokens[0] for tokens in sampled(model, 60, top_p=top_p)}
    assert firsts <= set(ids[:nucleus].tolist())
    firsts = {tokens[0] for tokens in sampled(model, 60, top_k=top_k)}
    assert firsts <= set(ids[:top_k].tolist())


def test_what_is_drawn_depends_on_seed_and_source_and_number_alone() -> None:
    """P7."""
    model = TinyModel(5, 40, sharpness=0.5)
    config = DecodingConfig(method="sample", max_length_extra=9)
    sources = [[3 + (row * 7 + column) % 30 for column in range(1 + row % 9)] for row in range(11)]
    together = search(model, sources, config, num_best=3)
    for source, found in zip(sources, together, strict=True):
        ((alone,),) = search(model, [source], config, num_best=1)
        assert facts(alone) == facts(found[0])
        (five,) = search(model, [source, sources[4]], config, num_best=5)[:1]
        assert list(map(facts, five[:3])) == list(map(facts, found))
    other = search(model, sources, config.model_copy(update={"seed": 2}), num_best=3)
    assert [f.tokens for each in other for f in each] != [
        f.tokens for each in together for f in each
    ]


def test_the_score_of_a_sample_is_that_of_the_model_as_it_is() -> None:
    model = TinyModel(6, 9)
    config = DecodingConfig(method="sample", temperature=3.0, top_k=4, max_length_extra=6)
    for each in search(model, [[3, 4]], config, num_best=5)[0]:
        if each.is_finished:
            target = tuple(each.tokens)
            assert each.score == pytest.approx(score_of([model], [3, 4], target, config), abs=1e-5)
