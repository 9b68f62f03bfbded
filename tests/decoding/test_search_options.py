"""Every option of the search against all targets there are, on models small enough to try them."""

import functools
import itertools
import re
from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny_models import TinyModel, log_probs_after
from torch import Tensor, nn

from nmt.config.decoding import DecodingConfig
from nmt.config.experiment import ModelConfig
from nmt.corpus.subword import BOS, EOS
from nmt.decoding import penalties
from nmt.decoding.beam_search import search
from nmt.decoding.constraints import Control
from nmt.decoding.ensemble import Ensemble
from nmt.decoding.spelling import Spelling
from nmt.model import seq2seq

WRITES = [b"", b"", b"", b" a", b"b", b" ab"]
"""What tokens 0 to 5 write."""
SPELLING = Spelling(WRITES)
Target = tuple[int, ...]


class TinyModule(nn.Module):
    """A TinyModel that an Ensemble takes."""

    def __init__(self, tiny: TinyModel) -> None:
        super().__init__()
        self.encode, self.start, self.step = tiny.encode, tiny.start, tiny.step


def every_target(limit: int, tokens: Sequence[int] = (3, 4, 5)) -> list[Target]:
    """All that end within the limit."""
    bodies = [body for size in range(limit) for body in itertools.product(tokens, repeat=size)]
    return [(*body, EOS) for body in bodies]


@functools.lru_cache(maxsize=200)
def mean_probs(models: tuple[TinyModel, ...], source: Target, prefix: Target) -> Tensor:
    probs = [log_probs_after(model, list(source), prefix).exp() for model in models]
    return torch.stack(probs).double().mean(dim=0)


def score_of(
    models: list[TinyModel], source: list[int], target: Target, config: DecodingConfig
) -> float:
    """As the formulas have it; several models: the mean of their probabilities."""
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
    looked = coverage[: len(source)].clamp(max=1).log().sum() if config.coverage_penalty else 0
    return total / divisor**config.length_penalty + config.coverage_penalty * float(looked)


def check_against_all(
    models: list[TinyModel],
    config: DecodingConfig,
    control: Control | None,
    is_allowed: Callable[[Target], bool],
    num_best: int = 4,
) -> None:
    """A beam that holds everything finds the best of all targets that are allowed."""
    source = [3, 4]
    limit = penalties.max_length(len(source), config)
    allowed = [target for target in every_target(limit) if is_allowed(target)]
    scores = {target: score_of(models, source, target, config) for target in allowed}
    ranked = sorted(allowed, key=scores.__getitem__, reverse=True)[:num_best]
    searched: Any = models[0] if len(models) == 1 else Ensemble(list(map(TinyModule, models)))
    (found,) = search(searched, [source], config, num_best=num_best, controls=[control])
    finished = [tuple(each.tokens) for each in found if each.is_finished]
    assert finished == ranked
    assert [each.score for each in found if each.is_finished] == pytest.approx(
        [scores[target] for target in ranked], abs=2e-5
    )


def full_beam(**options: Any) -> DecodingConfig:
    limits = {"max_length_ratio": 1.0, "max_length_extra": 2}
    return DecodingConfig(**{"beam": 130, **limits, **options})


seeds = st.integers(0, 10**6)


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


def textbook_groups(
    model: TinyModel, source: list[int], config: DecodingConfig, num_best: int
) -> list[tuple[Target, float]]:
    """Diverse beam search of one sentence, group by group, as the paper has it."""
    limit = penalties.max_length(len(source), config)
    size = config.beam // config.diverse_groups
    live: list[list[tuple[Target, float]]] = [[((), 0.0)] for _ in range(config.diverse_groups)]
    over: list[list[tuple[Target, float]]] = [[] for _ in live]
    for length in range(1, limit + 1):
        num_said = dict.fromkeys(range(6), 0)
        for group, hypotheses in enumerate(live):
            longer = []
            for tokens, total in hypotheses:
                log_probs = log_probs_after(model, source, tokens)
                for token in range(EOS, 6):
                    value = total + float(log_probs[token])
                    cost = config.diversity * num_said[token]
                    longer.append((value - cost, value, (*tokens, token)))
            longer.sort(key=lambda each: -each[0])
            kept = [(tokens, value) for _, value, tokens in longer[: size - len(over[group])]]
            for tokens, _ in kept:
                num_said[tokens[-1]] += 1
            penalty = ((5 + length) / 6) ** config.length_penalty
            is_last = length == limit
            over[group] += [(t, v / penalty) for t, v in kept if t[-1] == EOS or is_last]
            live[group] = [(t, v) for t, v in kept if t[-1] != EOS]
    found = {tokens: score for hypotheses in over for tokens, score in hypotheses}
    return sorted(found.items(), key=lambda pair: (pair[0][-1] != EOS, -pair[1]))[:num_best]


@settings(deadline=None, max_examples=40)
@given(
    seed=seeds,
    groups=st.integers(1, 3),
    size=st.integers(1, 3),
    diversity=st.sampled_from([0.0, 0.5, 3.0]),
    sharpness=st.sampled_from([0.5, 3.0]),
)
def test_diverse_groups_find_what_a_textbook_search_finds(
    seed: int, groups: int, size: int, diversity: float, sharpness: float
) -> None:
    config = DecodingConfig(
        beam=groups * size, diverse_groups=groups, diversity=diversity, max_length_ratio=1.0,
        max_length_extra=2,
    )  # fmt: skip
    model = TinyModel(seed, 6, sharpness=sharpness)
    sources = [[3], [3, 4, 5], [5, 4]]
    # All places are wanted: a group goes on as long as the textbook does, and so do its tokens.
    found = search(model, sources, config, num_best=config.beam)
    for source, hypotheses in zip(sources, found, strict=True):
        expected = textbook_groups(model, source, config, config.beam)
        assert [tuple(each.tokens) for each in hypotheses] == [tokens for tokens, _ in expected]
        assert [each.score for each in hypotheses] == pytest.approx(
            [score for _, score in expected], abs=1e-5
        )


def test_groups_that_must_differ_begin_with_other_tokens() -> None:
    config = DecodingConfig(beam=3, diverse_groups=3, diversity=100.0)
    (found,) = search(TinyModel(1, 30), [[7, 8, 9]], config, num_best=3)
    assert len({each.tokens[0] for each in found}) == 3


# --- samples ---


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


def facts(found: Any) -> tuple[Any, ...]:
    return found.tokens, found.score, found.token_log_probs, found.is_finished


def test_the_score_of_a_sample_is_that_of_the_model_as_it_is() -> None:
    model = TinyModel(6, 9)
    config = DecodingConfig(method="sample", temperature=3.0, top_k=4, max_length_extra=6)
    for each in search(model, [[3, 4]], config, num_best=5)[0]:
        if each.is_finished:
            target = tuple(each.tokens)
            assert each.score == pytest.approx(score_of([model], [3, 4], target, config), abs=1e-5)


# --- company ---


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
    models = [seq2seq.build(shape, 150).eval() for _ in range(2)]
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
