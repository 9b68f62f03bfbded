"""Every option of the search against all targets there are, on models small enough to try them."""

import re
from typing import Any

import pytest
import torch
from all_targets import Target, check_against_all, full_beam, seeds
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny_models import TinyModel, facts

from nmt.config.decoding import DecodingConfig
from nmt.config.experiment import ModelConfig
from nmt.corpus.subword import EOS
from nmt.decoding.beam_search import search
from nmt.decoding.constraints import Control
from nmt.decoding.ensemble import Ensemble
from nmt.decoding.token_text import Spelling
from nmt.model import seq2seq

WRITES = [b"", b"", b"", b" a", b"b", b" ab"]
"""What tokens 0 to 5 write."""
SPELLING = Spelling(WRITES)


@settings(deadline=None, max_examples=25)
@given(
    seed=seeds,
    alpha=st.sampled_from([0.0, 0.7, 1.0]),
    norm=st.sampled_from(["gnmt", "average"]),
    beta=st.sampled_from([0.0, 0.3, 2.0]),
)
def test_penalties_rank_all_targets_as_their_formulas_do(
    seed: int, alpha: float, norm: str, beta: float
) -> None:
    config = full_beam(length_penalty=alpha, length_norm=norm, coverage_penalty=beta)
    check_against_all([TinyModel(seed, 6)], config, None, lambda target: True)


@settings(deadline=None, max_examples=25)
@given(seed=seeds, least=st.integers(0, 6), most=st.integers(0, 5))
def test_limits_of_length_leave_the_best_of_the_targets_within_them(
    seed: int, least: int, most: int
) -> None:
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
def test_an_ensemble_finds_the_best_of_the_mean_of_probabilities(
    seed: int, num_models: int, alpha: float
) -> None:
    models = [TinyModel(seed + number, 6) for number in range(num_models)]
    check_against_all(models, full_beam(length_penalty=alpha), None, lambda target: True)


@settings(deadline=None, max_examples=25)
@given(seed=seeds, prefix=st.lists(st.sampled_from([3, 4, 5]), max_size=3))
def test_a_prefix_leaves_the_best_of_the_targets_that_begin_with_it(
    seed: int, prefix: list[int]
) -> None:
    control = Control(SPELLING, prefix=tuple(prefix))
    check_against_all(
        [TinyModel(seed, 6)], full_beam(), control,
        lambda target: target[: len(prefix)] == tuple(prefix),
    )  # fmt: skip


TERMS: list[Target] = [(3,), (5,), (3, 4), (5, 4), (3, 3), (5, 3)]


def says(target: Target, term: Target) -> bool:
    """Token by token; what follows must not go on with the word: of ours only b does."""
    ends = range(len(term), len(target))
    return any(target[end - len(term) : end] == term and target[end] != 4 for end in ends)


@settings(deadline=None, max_examples=40)
@given(
    seed=seeds,
    terms=st.lists(st.sampled_from(TERMS), min_size=1, max_size=2, unique=True),
    prefix=st.lists(st.sampled_from([3, 5]), max_size=1),
)
def test_terms_leave_the_best_of_the_targets_that_say_them(
    seed: int, terms: list[Target], prefix: list[int]
) -> None:
    control = Control(SPELLING, tuple(prefix), tuple(terms))
    check_against_all(
        [TinyModel(seed, 6)], full_beam(), control,
        lambda target: target[: len(prefix)] == tuple(prefix)
        and all(says(target, term) for term in terms),
    )  # fmt: skip


def stands_in(phrase: bytes, target: Target) -> bool:
    """Some first tokens of the target end with the words."""
    pattern = re.compile(rb"(?<!\w)" + re.escape(phrase) + rb"\Z")
    texts = [b"".join(WRITES[token] for token in target[:end]) for end in range(len(target))]
    return any(pattern.search(text) for text in texts)


@settings(deadline=None, max_examples=40)
@given(
    seed=seeds,
    avoid=st.lists(st.sampled_from([b"a", b"ab", b"a a", b"ab a", b"abb"]), max_size=2),
    terms=st.lists(st.sampled_from(TERMS), max_size=1),
)
def test_words_to_avoid_leave_the_best_of_the_targets_without_them(
    seed: int, avoid: list[bytes], terms: list[Target]
) -> None:
    control = Control(SPELLING, terms=tuple(terms), avoid=tuple(avoid))
    check_against_all(
        [TinyModel(seed, 6)], full_beam(), control,
        lambda target: all(says(target, term) for term in terms)
        and not any(stands_in(phrase, target) for phrase in avoid),
    )  # fmt: skip


def test_words_are_avoided_however_they_are_cut() -> None:
    spelling = Spelling([b"", b"", b"", b" the", b" t", b"he", b"e"])
    assert spelling.completing(b"the", b" a") == [3]
    assert spelling.completing(b"the", b" t") == [3, 5]
    assert spelling.completing(b"the", b" th") == [3, 6]
    assert spelling.completing(b"the", " „t".encode()) == [3, 5]
    assert spelling.completing(b"the", " ät".encode()) == [3]
    assert spelling.completing(b"he", b" t") == []
    assert spelling.completing(b"he", b" (") == [5]


@settings(deadline=None, max_examples=40)
@given(
    seed=seeds,
    beam=st.integers(1, 6),
    terms=st.lists(st.sampled_from(TERMS), min_size=1, max_size=3, unique=True),
)
def test_a_narrow_beam_says_its_terms_too(seed: int, beam: int, terms: list[Target]) -> None:
    config = DecodingConfig(beam=beam, max_length_ratio=1.0, max_length_extra=6)
    control = Control(SPELLING, terms=tuple(terms))
    ((best,),) = search(TinyModel(seed, 6), [[3, 4]], config, controls=[control])
    assert best.is_finished
    assert all(says(tuple(best.tokens), term) for term in terms)


OPTIONS: dict[str, dict[str, Any]] = {
    "coverage": {"coverage_penalty": 0.4, "length_norm": "average"},
    "min_length": {"min_length": 6},
    "max_length": {"max_length": 5},
    "groups": {"beam": 6, "diverse_groups": 3},
    "sample": {"method": "sample", "temperature": 1.3},
    "top_k": {"method": "sample", "top_k": 5},
    "top_p": {"method": "sample", "top_p": 0.8},
    "controls": {},
    "ensemble": {},
}


@pytest.mark.parametrize("name", OPTIONS)
def test_a_sentence_gets_the_same_in_any_company(name: str) -> None:
    """P7."""
    torch.manual_seed(5)
    shape = ModelConfig(width=36, encoder_layers=1, decoder_layers=2)
    models = [seq2seq.Seq2Seq(shape, 150).eval() for _ in range(2)]
    model: Any = Ensemble(models).eval() if name == "ensemble" else models[0]
    spelling = Spelling([b""] * 3 + [b" %d" % token for token in range(147)])
    generator = torch.Generator().manual_seed(6)
    sources = [
        [*torch.randint(3, 150, (length - 1,), generator=generator).tolist(), EOS]
        for length in [*range(1, 17)] * 2
    ]
    controls: list[Control | None] = [
        [None, Control(spelling, prefix=(9, 8)), Control(spelling, terms=((4, 5), (6,))),
         Control(spelling, avoid=(b"7", b"8 9"))][number % 4]
        for number in range(len(sources))
    ]  # fmt: skip
    if name != "controls":
        controls = [None] * len(sources)
    config = DecodingConfig(**{"beam": 5, "max_length_ratio": 0.6, **OPTIONS[name]})
    together = search(model, sources, config, num_best=4, controls=controls)
    shuffled = torch.randperm(len(sources), generator=generator).tolist()
    for size in (1, 7, 32):
        for start in range(0, len(sources), max(size, 5)):
            rows = shuffled[start : start + size]
            found = search(
                model, [sources[row] for row in rows], config, num_best=4,
                controls=[controls[row] for row in rows],
            )  # fmt: skip
            for row, hypotheses in zip(rows, found, strict=True):
                assert list(map(facts, hypotheses)) == list(map(facts, together[row]))
