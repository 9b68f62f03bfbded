"""Sampling from the distribution of the model, and selection by minimum Bayes risk."""

import hashlib
import tracemalloc
from collections import Counter
from typing import Any

import numpy as np
import pytest
import torch
from exhaustive import score_of, seeds
from hypothesis import example, given, settings
from hypothesis import strategies as st
from sacrebleu.metrics.bleu import BLEU
from sacrebleu.metrics.chrf import CHRF
from tiny_models import TinyModel, facts, log_probs_after, search

from nmt.config.decoding import DecodingConfig
from nmt.corpus.subword import EOS
from nmt.decoding.minimum_risk import (
    _count_matches,
    expected_similarity,
    pairwise_bleu,
    pairwise_chrf,
    rank_by_expected_chrf,
)
from nmt.decoding.sampling import uniform_numbers


def draw_samples(model: TinyModel, num_samples: int, **options: Any) -> list[list[int]]:
    config = DecodingConfig(**{"method": "sample", "max_length_extra": 6, **options})
    (found,) = search(model, [[3, 4, 5]], config, num_best=num_samples)
    return [each.tokens for each in found]


def test_sample_frequencies_match_the_probabilities() -> None:
    model = TinyModel(3, 6, sharpness=0.7)
    firsts = [tokens[0] for tokens in draw_samples(model, 4000)]
    log_probs = log_probs_after(model, [3, 4, 5], ())
    probs = log_probs[EOS:].softmax(dim=0)
    shares = [firsts.count(token) / 4000 for token in range(EOS, 6)]
    assert shares == pytest.approx(probs.tolist(), abs=0.03)


@settings(deadline=None, max_examples=25)
@given(seed=seeds)
def test_sampling_from_one_token_is_greedy(seed: int) -> None:
    model = TinyModel(seed, 9)
    greedy = search(model, [[3, 4, 5]], DecodingConfig(beam=1, max_length_extra=6))[0][0].tokens
    assert draw_samples(model, 2, top_k=1) == [greedy] * 2
    assert draw_samples(model, 2, top_p=1e-6) == [greedy] * 2
    assert draw_samples(model, 2, temperature=1e-4) == [greedy] * 2
    assert draw_samples(model, 2, temperature=1e-40) == [greedy] * 2


@settings(deadline=None, max_examples=25)
@given(seed=seeds, top_k=st.integers(1, 4), top_p=st.sampled_from([0.3, 0.6, 0.9]))
def test_top_k_and_top_p_restrict_the_samples(seed: int, top_k: int, top_p: float) -> None:
    model = TinyModel(seed, 9, sharpness=1.0)
    log_probs = log_probs_after(model, [3, 4, 5], ())
    log_probs[:EOS] = -torch.inf
    probs, ids = log_probs.softmax(dim=0).sort(descending=True)
    nucleus = 1 + int((probs.cumsum(dim=0) < top_p).sum())
    firsts = {tokens[0] for tokens in draw_samples(model, 60, top_p=top_p)}
    assert firsts <= set(ids[:nucleus].tolist())
    firsts = {tokens[0] for tokens in draw_samples(model, 60, top_k=top_k)}
    assert firsts <= set(ids[:top_k].tolist())


def test_samples_depend_on_seed_source_and_number_only() -> None:
    """Batch-invariant translation (nmt/README.md, Guarantees)."""
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


def test_samples_are_those_of_the_generator_of_torch() -> None:
    digest = hashlib.blake2b(b"7 1 3 4", digest_size=7).digest()
    generator = torch.Generator().manual_seed(int.from_bytes(digest, "big"))
    expected = torch.rand(40, generator=generator, dtype=torch.float64)
    assert uniform_numbers([3, 4], 2, 40, seed=7)[1].tolist() == expected.tolist()


def test_the_score_of_a_sample_ignores_the_temperature() -> None:
    model = TinyModel(6, 9)
    config = DecodingConfig(method="sample", temperature=3.0, top_k=4, max_length_extra=6)
    for each in search(model, [[3, 4]], config, num_best=5)[0]:
        if each.is_finished:
            target = tuple(each.tokens)
            assert each.score == pytest.approx(score_of([model], [3, 4], target, config), abs=1e-5)


texts = st.text(alphabet="ab c\u00e4\u3000", max_size=12)


@settings(deadline=None)
@given(sentences=st.lists(texts, min_size=1, max_size=5))
@example(sentences=["", "a", "ab", "Ein Mann reitet.", "Ein Hund rennt am Strand."])
def test_pairwise_chrf_equals_sacrebleu(sentences: list[str]) -> None:
    scores = pairwise_chrf(sentences)
    for row, hyp in enumerate(sentences):
        for column, ref in enumerate(sentences):
            expected = CHRF().sentence_score(hyp, [ref]).score
            assert scores[row, column] == pytest.approx(expected, abs=1e-9)


@settings(deadline=None, max_examples=40)
@given(sentences=st.lists(texts, max_size=6), order=st.integers(1, 3))
@example(sentences=["a" * 300, "a" * 299, "b"], order=1)
@example(sentences=["", "ab"], order=2)
def test_common_ngrams_are_those_of_both_counters(sentences: list[str], order: int) -> None:
    def ngrams(text: str) -> Counter[str]:
        return Counter(text[at : at + order] for at in range(len(text) - order + 1))

    totals, matches = _count_matches(sentences, order)
    counters = list(map(ngrams, sentences))
    assert totals.tolist() == [counter.total() for counter in counters]
    assert matches.tolist() == [[(one & two).total() for two in counters] for one in counters]


def test_memory_of_ngrams_in_one_sentence_is_linear() -> None:
    # 200 sentences of 1,000 words that no other has: a dense matrix had 40,000,000 numbers.
    sentences = [tuple(f"{n} {word}" for word in range(1000)) for n in range(200)]
    tracemalloc.start()
    _, matches = _count_matches(sentences, 1)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert matches.trace() == matches.sum() == 200_000
    assert peak < 100 * 2**20


def test_minimum_bayes_risk_prefers_the_sample_most_like_all() -> None:
    samples = ["ein Hund rennt", "eine Katze", "ein Hund läuft", "ein Hund rennt"]
    ranked = rank_by_expected_chrf(samples)
    assert [index for index, _ in ranked] == [0, 2, 1]
    assert ranked[0][1] == pytest.approx(
        sum(CHRF().sentence_score(samples[0], [other]).score for other in samples) / 4
    )


@settings(deadline=None)
@given(sentences=st.lists(st.lists(st.sampled_from("abcd"), max_size=8), min_size=1, max_size=5))
@example(sentences=[[], ["a"], ["a", "b"], list("abcda"), list("abcd")])
def test_pairwise_bleu_equals_sacrebleu(sentences: list[list[str]]) -> None:
    metric = BLEU(tokenize="none", smooth_method="add-k", smooth_value=1)
    scores = pairwise_bleu(sentences)
    for row, hyp in enumerate(sentences):
        for column, ref in enumerate(sentences):
            # Without a token in common sacreBLEU returns 0.
            expected = metric.sentence_score(" ".join(hyp), [" ".join(ref)]).score
            assert scores[row, column] == pytest.approx(expected, abs=1e-9)


def test_scale_of_scores_decides_between_similarity_and_score() -> None:
    texts = ["eine Katze", "ein Hund rennt", "ein Hund rennt dort"]
    tokens = [text.split() for text in texts]

    def expected(similarity: Any, scale: float) -> list[float]:
        return expected_similarity(similarity, texts, tokens, [-0.1, -0.5, -0.7], scale)

    for similarity in ("bleu", "chrf"):
        assert np.argmax(expected(similarity, 0)) > 0
        assert np.argmax(expected(similarity, 100)) == 0
        assert max(expected(similarity, 1000)) == pytest.approx(100)
