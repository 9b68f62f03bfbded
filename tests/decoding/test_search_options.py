"""Options of the search against exhaustive search, on models with few targets."""

import re
from typing import Any, Literal

import numpy as np
import pytest
import torch
from exhaustive import Target, check_against_all, full_beam, seeds
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny_models import TinyModel, facts, log_probs_after, search

from nmt.config.decoding import DecodingConfig
from nmt.config.experiment import ModelConfig
from nmt.corpus.subword import EOS
from nmt.decoding.constraints import Constraints, TokenText
from nmt.decoding.hypotheses import length_penalty, max_length
from nmt.model import seq2seq

TEXTS = [b"", b"", b"", b" a", b"b", b" ab"]
"""Text of tokens 0 to 5."""
TOKEN_TEXT = TokenText(TEXTS)


@settings(deadline=None, max_examples=25)
@given(
    seed=seeds,
    alpha=st.sampled_from([0.0, 0.7, 1.0]),
    norm=st.sampled_from(["gnmt", "average"]),
    beta=st.sampled_from([0.0, 0.3, 2.0]),
)
def test_penalties_rank_all_targets_by_their_formulas(
    seed: int, alpha: float, norm: str, beta: float
) -> None:
    config = full_beam(length_penalty=alpha, length_norm=norm, coverage_penalty=beta)
    check_against_all([TinyModel(seed, 6)], config, None, lambda target: True)


@settings(deadline=None, max_examples=25)
@given(seed=seeds, least=st.integers(0, 6), most=st.integers(0, 5))
def test_length_limits_leave_the_best_targets_within_them(seed: int, least: int, most: int) -> None:
    if 0 < most < least:
        least = most
    config = full_beam(min_length=least, max_length=most)
    limit = min(4, most or 4)
    check_against_all(
        [TinyModel(seed, 6)], config, None,
        lambda target: min(least, limit) <= len(target) <= limit,
    )  # fmt: skip


@settings(deadline=None, max_examples=25)
@given(seed=seeds, num_models=st.integers(2, 3), alpha=st.sampled_from([0.0, 1.0]))
def test_an_ensemble_averages_probabilities(seed: int, num_models: int, alpha: float) -> None:
    models = [TinyModel(seed + number, 6) for number in range(num_models)]
    check_against_all(models, full_beam(length_penalty=alpha), None, lambda target: True)


@settings(deadline=None, max_examples=25)
@given(seed=seeds, prefix=st.lists(st.sampled_from([3, 4, 5]), max_size=3))
def test_a_prefix_leaves_the_best_targets_that_begin_with_it(seed: int, prefix: list[int]) -> None:
    constraints = Constraints(TOKEN_TEXT, prefix=tuple(prefix))
    check_against_all(
        [TinyModel(seed, 6)], full_beam(), constraints,
        lambda target: target[: len(prefix)] == tuple(prefix),
    )  # fmt: skip


TERMS: list[Target] = [(3,), (5,), (3, 4), (5, 4), (3, 3), (5, 3)]


def contains(target: Target, term: Target) -> bool:
    """Return True if the text of the term appears as whole words."""
    text, phrase = (b"".join(TEXTS[token] for token in tokens) for tokens in (target, term))
    return re.search(re.escape(phrase) + rb"(?!\w)", text) is not None


@settings(deadline=None, max_examples=40)
@given(
    seed=seeds,
    terms=st.lists(st.sampled_from(TERMS), min_size=1, max_size=2, unique=True),
    prefix=st.lists(st.sampled_from([3, 5]), max_size=1),
)
def test_terms_leave_the_best_targets_that_contain_them(
    seed: int, terms: list[Target], prefix: list[int]
) -> None:
    constraints = Constraints(TOKEN_TEXT, tuple(prefix), tuple(terms))
    check_against_all(
        [TinyModel(seed, 6)], full_beam(), constraints,
        lambda target: target[: len(prefix)] == tuple(prefix)
        and all(contains(target, term) for term in terms),
    )  # fmt: skip


def stands_in(phrase: bytes, target: Target) -> bool:
    """Return True if the text up to some token ends with the words."""
    pattern = re.compile(rb"(?<!\w)" + re.escape(phrase) + rb"\Z")
    texts = [b"".join(TEXTS[token] for token in target[:end]) for end in range(len(target))]
    return any(pattern.search(text) for text in texts)


@settings(deadline=None, max_examples=40)
@given(
    seed=seeds,
    avoid=st.lists(st.sampled_from([b"a", b"ab", b"a a", b"ab a", b"abb"]), max_size=2),
    terms=st.lists(st.sampled_from(TERMS), max_size=1),
)
def test_avoided_words_leave_the_best_targets_without_them(
    seed: int, avoid: list[bytes], terms: list[Target]
) -> None:
    constraints = Constraints(TOKEN_TEXT, terms=tuple(terms), avoid=tuple(avoid))
    check_against_all(
        [TinyModel(seed, 6)], full_beam(), constraints,
        lambda target: all(contains(target, term) for term in terms)
        and not any(stands_in(phrase, target) for phrase in avoid),
    )  # fmt: skip


def test_words_are_avoided_however_they_are_tokenised() -> None:
    token_text = TokenText([b"", b"", b"", b" the", b" t", b"he", b"e"])
    assert token_text.completing_tokens(b"the", b" a") == [3]
    assert token_text.completing_tokens(b"the", b" t") == [3, 5]
    assert token_text.completing_tokens(b"the", b" th") == [3, 6]
    assert token_text.completing_tokens(b"the", " „t".encode()) == [3, 5]
    assert token_text.completing_tokens(b"the", " ät".encode()) == [3]
    assert token_text.completing_tokens(b"he", b" t") == []
    assert token_text.completing_tokens(b"he", b" (") == [5]


@settings(deadline=None, max_examples=40)
@given(
    seed=seeds,
    beam=st.integers(1, 6),
    terms=st.lists(st.sampled_from(TERMS), min_size=1, max_size=3, unique=True),
)
def test_a_narrow_beam_meets_its_terms_too(seed: int, beam: int, terms: list[Target]) -> None:
    config = DecodingConfig(beam=beam, max_length_ratio=1.0, max_length_extra=6)
    constraints = Constraints(TOKEN_TEXT, terms=tuple(terms))
    ((best,),) = search(TinyModel(seed, 6), [[3, 4]], config, constraints=[constraints])
    assert best.is_finished
    assert all(contains(tuple(best.tokens), term) for term in terms)


OPTIONS: dict[str, dict[str, Any]] = {
    "coverage": {"coverage_penalty": 0.4, "length_norm": "average"},
    "min_length": {"min_length": 6},
    "max_length": {"max_length": 5},
    "groups": {"beam": 6, "diverse_groups": 3},
    "sample": {"method": "sample", "temperature": 1.3},
    "top_k": {"method": "sample", "top_k": 5},
    "top_p": {"method": "sample", "top_p": 0.8},
    "constraints": {},
    "ensemble": {},
}


@pytest.mark.parametrize("name", OPTIONS)
def test_a_result_is_independent_of_the_batch(name: str) -> None:
    """Batch-invariant translation (nmt/README.md, Guarantees)."""
    torch.manual_seed(5)
    shape = ModelConfig(width=36, encoder_layers=1, decoder_layers=2)
    models = [seq2seq.Seq2Seq(shape, 150).eval() for _ in range(2)]
    model: Any = models if name == "ensemble" else models[0]
    token_text = TokenText([b""] * 3 + [b" %d" % token for token in range(147)])
    generator = torch.Generator().manual_seed(6)
    sources = [
        [*torch.randint(3, 150, (length - 1,), generator=generator).tolist(), EOS]
        for length in [*range(1, 17)] * 2
    ]
    constraints: list[Constraints | None] = [
        [
            None,
            Constraints(token_text, prefix=(9, 8)),
            Constraints(token_text, terms=((4, 5), (6,))),
            Constraints(token_text, avoid=(b"7", b"8 9")),
        ][number % 4]
        for number in range(len(sources))
    ]
    if name != "constraints":
        constraints = [None] * len(sources)
    config = DecodingConfig(**{"beam": 5, "max_length_ratio": 0.6, **OPTIONS[name]})
    together = search(model, sources, config, num_best=4, constraints=constraints)
    shuffled = torch.randperm(len(sources), generator=generator).tolist()
    for size in (1, 7, 32):
        for start in range(0, len(sources), max(size, 5)):
            rows = shuffled[start : start + size]
            found = search(
                model, [sources[row] for row in rows], config, num_best=4,
                constraints=[constraints[row] for row in rows],
            )  # fmt: skip
            for row, hypotheses in zip(rows, found, strict=True):
                assert list(map(facts, hypotheses)) == list(map(facts, together[row]))


def textbook_groups(
    model: TinyModel, source: list[int], config: DecodingConfig, num_best: int
) -> list[tuple[Target, float]]:
    """Diverse beam search of one sentence as in the paper (Vijayakumar et al. 2018)."""
    limit = max_length(len(source), config)
    size = config.beam // config.diverse_groups
    live: list[list[tuple[Target, float]]] = [[((), 0.0)] for _ in range(config.diverse_groups)]
    finished: list[list[tuple[Target, float]]] = [[] for _ in live]
    for length in range(1, limit + 1):
        counts = dict.fromkeys(range(6), 0)
        for group, hypotheses in enumerate(live):
            longer = []
            for tokens, total in hypotheses:
                log_probs = log_probs_after(model, source, tokens)
                for token in range(EOS, 6):
                    value = total + float(log_probs[token])
                    cost = config.diversity * counts[token]
                    longer.append((value - cost, value, (*tokens, token)))
            longer.sort(key=lambda each: -each[0])
            kept = [(tokens, value) for _, value, tokens in longer[: size - len(finished[group])]]
            for tokens, _ in kept:
                counts[tokens[-1]] += 1
            penalty = ((5 + length) / 6) ** config.length_penalty
            is_last = length == limit
            finished[group] += [(t, v / penalty) for t, v in kept if t[-1] == EOS or is_last]
            live[group] = [(t, v) for t, v in kept if t[-1] != EOS]
    found = {tokens: score for hypotheses in finished for tokens, score in hypotheses}
    return sorted(found.items(), key=lambda pair: (pair[0][-1] != EOS, -pair[1]))[:num_best]


@settings(deadline=None, max_examples=40)
@given(
    seed=seeds,
    groups=st.integers(1, 3),
    size=st.integers(1, 3),
    diversity=st.sampled_from([0.0, 0.5, 3.0]),
    sharpness=st.sampled_from([0.5, 3.0]),
)
def test_diverse_groups_equal_a_textbook_search(
    seed: int, groups: int, size: int, diversity: float, sharpness: float
) -> None:
    config = DecodingConfig(
        beam=groups * size, diverse_groups=groups, diversity=diversity, max_length_ratio=1.0,
        max_length_extra=2,
    )  # fmt: skip
    model = TinyModel(seed, 6, sharpness=sharpness)
    sources = [[3], [3, 4, 5], [5, 4]]
    # With all places requested, a group continues as long as in the textbook search.
    found = search(model, sources, config, num_best=config.beam)
    for source, hypotheses in zip(sources, found, strict=True):
        expected = textbook_groups(model, source, config, config.beam)
        assert [tuple(each.tokens) for each in hypotheses] == [tokens for tokens, _ in expected]
        assert [each.score for each in hypotheses] == pytest.approx(
            [score for _, score in expected], abs=1e-5
        )


def test_a_high_diversity_separates_the_groups() -> None:
    config = DecodingConfig(beam=3, diverse_groups=3, diversity=100.0)
    (found,) = search(TinyModel(1, 30), [[7, 8, 9]], config, num_best=3)
    assert len({each.tokens[0] for each in found}) == 3


@pytest.mark.parametrize("norm", ["gnmt", "average"])
def test_scores_of_very_long_hypotheses_are_finite(norm: Literal["gnmt", "average"]) -> None:
    with np.errstate(all="raise"):
        divisors = [np.float32(length_penalty(10**n, 10.0, norm)) for n in range(7)]
    assert np.isfinite(divisors).all()
    assert divisors == sorted(divisors)
