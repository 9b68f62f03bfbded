import math
from itertools import product
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny_models import FixedModel, TinyModel, decoding, facts, log_probs_after, search
from torch import Tensor

from nmt.config.decoding import DecodingConfig
from nmt.config.experiment import ModelConfig
from nmt.corpus.subword import BOS, EOS, PAD
from nmt.decoding import candidates, interface, torch_engine
from nmt.decoding.hypotheses import Hypothesis, max_length
from nmt.decoding.interface import Best, Draw, Given, Query, padded_length
from nmt.model import seq2seq


def textbook_search(
    model: TinyModel, source: list[int], config: DecodingConfig
) -> list[tuple[tuple[int, ...], float]]:
    """Beam search of one sentence without batch, early stop or blocks."""
    limit = max_length(len(source), config)
    live: list[tuple[tuple[int, ...], Tensor]] = [((), torch.tensor(0.0))]
    finished: list[tuple[tuple[int, ...], float]] = []
    for length in range(1, limit + 1):
        longer = []
        for tokens, total in live:
            log_probs = log_probs_after(model, source, tokens)
            every = range(EOS, len(log_probs))
            longer += [((*tokens, token), total + log_probs[token]) for token in every]
        longer.sort(key=lambda pair: -float(pair[1]))
        longer = longer[: config.beam - len(finished)]
        penalty = ((5 + length) / 6) ** config.length_penalty
        is_last = length == limit
        finished += [(t, float(p) / penalty) for t, p in longer if t[-1] == EOS or is_last]
        live = [pair for pair in longer if pair[0][-1] != EOS]
    return sorted(finished, key=lambda pair: (pair[0][-1] != EOS, -pair[1]))


def only(found: list[list[Hypothesis]]) -> Hypothesis:
    ((hypothesis,),) = found
    return hypothesis


@settings(deadline=None, max_examples=30)
@given(seed=st.integers(0, 10**6), length=st.integers(1, 6))
def test_a_beam_of_1_is_greedy_search(seed: int, length: int) -> None:
    model = TinyModel(seed, vocab_size=7)
    source = [3, 4, 5, 6, 3, 4][:length]
    expected: list[int] = []
    while len(expected) < length + 2 and EOS not in expected:
        log_probs = log_probs_after(model, source, tuple(expected))
        expected.append(EOS + int(log_probs[EOS:].argmax()))
    assert only(search(model, [source], decoding(beam=1))).tokens == expected


@settings(deadline=None, max_examples=25)
@given(seed=st.integers(0, 10**6), alpha=st.sampled_from([0.0, 0.6, 1.0, 2.0]))
def test_a_full_beam_finds_the_best_of_all_targets(seed: int, alpha: float) -> None:
    model = TinyModel(seed, vocab_size=5)
    limit, source = 4, [3, 4]
    targets = [(*body, EOS) for size in range(limit) for body in product((3, 4), repeat=size)]

    def score(target: tuple[int, ...]) -> float:
        total = sum(
            float(log_probs_after(model, source, target[:position])[token])
            for position, token in enumerate(target)
        )
        return total / ((5 + len(target)) / 6) ** alpha

    ranked = sorted(targets, key=score, reverse=True)
    (found,) = search(model, [source], decoding(beam=40, alpha=alpha), num_best=15)
    assert [tuple(hypothesis.tokens) for hypothesis in found] == ranked
    assert [hypothesis.score for hypothesis in found] == pytest.approx(list(map(score, ranked)))


@settings(deadline=None, max_examples=40)
@given(
    seed=st.integers(0, 10**6),
    beam=st.integers(1, 6),
    alpha=st.sampled_from([0.0, 0.6, 1.0, 2.0]),
    sharpness=st.sampled_from([0.3, 1.0, 3.0]),
    data=st.data(),
)
def test_search_equals_a_textbook_search(
    seed: int, beam: int, alpha: float, sharpness: float, data: st.DataObject
) -> None:
    model = TinyModel(seed, vocab_size=6, sharpness=sharpness)
    sources = [[3], [3, 4], [5, 5, 4], [4, 3, 4, 3, 5]]
    config = decoding(beam, alpha)
    num_best = data.draw(st.integers(1, beam))
    found = search(model, sources, config, num_best=num_best)
    for source, hypotheses in zip(sources, found, strict=True):
        expected = textbook_search(model, source, config)[:num_best]
        assert [tuple(hypothesis.tokens) for hypothesis in hypotheses] == [t for t, _ in expected]
        assert [hypothesis.score for hypothesis in hypotheses] == pytest.approx(
            [score for _, score in expected], abs=1e-5
        )


def test_the_n_best_list_is_sorted_and_distinct() -> None:
    found = search(TinyModel(1, 50), [[7, 8, 9]], decoding(beam=8, ratio=3), num_best=8)[0]
    assert len({tuple(hypothesis.tokens) for hypothesis in found}) == 8
    ranks = [(not hypothesis.is_finished, -hypothesis.score) for hypothesis in found]
    assert ranks == sorted(ranks)


def test_a_score_is_the_log_probability_over_the_penalty() -> None:
    for hypothesis in search(TinyModel(2, 9), [[3, 4]], decoding(beam=4, alpha=0.6), num_best=4)[0]:
        penalty = ((5 + len(hypothesis.tokens)) / 6) ** 0.6
        assert len(hypothesis.token_log_probs) == len(hypothesis.tokens)
        assert hypothesis.score == pytest.approx(sum(hypothesis.token_log_probs) / penalty)


@pytest.mark.parametrize("beam", [1, 3])
def test_each_sentence_has_its_own_maximum_length(beam: int) -> None:
    never_ends = FixedModel([0, 0, -50, 1, 0, 0, 0])
    config = decoding(beam, ratio=1.5, extra=2)
    found = search(never_ends, [[3], [3, 3, 3]], config)
    assert [len(hypotheses[0].tokens) for hypotheses in found] == [4, 7]
    assert not any(hypotheses[0].is_finished for hypotheses in found)


def test_truncated_targets_rank_after_finished_ones() -> None:
    rarely_ends = FixedModel([0, 0, -4, 1, 0])
    found = search(rarely_ends, [[3]], decoding(beam=40, alpha=0, extra=1), num_best=5)[0]
    assert [(hypothesis.tokens, hypothesis.is_finished) for hypothesis in found] == [
        ([EOS], True),
        ([3, EOS], True),
        ([4, EOS], True),
        ([3, 3], False),
        ([3, 4], False),
    ]


def test_padding_and_bos_are_never_generated() -> None:
    tempted = FixedModel([9, 9, 0, 1, 0.5])
    found = search(tempted, [[3, 4]], decoding(beam=5), num_best=5)[0]
    assert not {PAD, BOS} & {token for hypothesis in found for token in hypothesis.tokens}


def test_ties_are_broken_by_lower_token_ids() -> None:
    undecided = FixedModel([0.0] * 200)
    found = search(undecided, [[3]], decoding(beam=3, extra=1, alpha=0), num_best=3)[0]
    assert [hypothesis.tokens for hypothesis in found] == [[EOS], [3, EOS], [3, 3]]


@settings(deadline=None)
@given(
    beam=st.sampled_from([1, 2, 5, 40]),
    vocab=st.sampled_from([3, 5, 31, 32, 33, 64, 130, 200]),
    num_values=st.integers(1, 6),
    seed=st.integers(0, 10**6),
)
def test_best_tokens_equal_a_full_sort(beam: int, vocab: int, num_values: int, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    log_probs = -torch.randint(num_values, (4, vocab), generator=generator).float()
    log_probs[:, : vocab // 4] = -math.inf
    expected = log_probs.sort(dim=1, descending=True, stable=True).indices[:, :beam]
    best = log_probs.gather(1, expected)
    for find in (torch_engine.topk_tokens, torch_engine.best_tokens):
        values, ids = find(log_probs.clone(), beam)
        assert torch.equal(values, best)
        # Any impossible token may fill a row.
        assert torch.equal(ids[best > -math.inf], expected[best > -math.inf])


def choices() -> list[Best | Given | Draw]:
    numbers = np.random.default_rng(1).random(6)
    draws = [Draw(numbers, *options) for options in ((1.0, 0, 1.0), (0.7, 9, 1.0), (1.0, 0, 0.6))]
    return [Best(1), Best(5), Given(np.arange(6)), *draws]


@pytest.mark.parametrize("choice", choices(), ids=str)
def test_host_and_torch_choose_the_same_tokens(choice: Best | Given | Draw) -> None:
    model = FixedModel(*torch.randn(1, 150, generator=torch.Generator().manual_seed(4)).tolist())
    query = Query(choice, (np.array([0, 0, 4]), np.array([9, 77, 2])), np.array([1, 4]))
    engine = torch_engine.TorchEngine([model])
    state = engine.start(np.array([[3, 4]] * 6), np.array([2] * 6), 1)
    found, _ = engine.step(state, np.array([BOS] * 6), None, query)
    expected = candidates.choose(model.logits.repeat(6, 1).numpy(), query)
    assert found.ids.tolist() == expected.ids.tolist()
    np.testing.assert_allclose(found.log_probs, expected.log_probs, atol=1e-5)
    if not isinstance(choice, Given):
        assert expected.distributions is not None
        np.testing.assert_allclose(found.distributions, expected.distributions, atol=1e-5)


def test_a_longer_target_can_overtake_a_finished_one() -> None:
    never = -math.inf
    model = FixedModel(
        [never, never, math.log(0.6), math.log(0.4)], *[[never, never, never, 0]] * 4,
        [never, never, 0, never],
    )  # fmt: skip
    best = only(search(model, [[3]], decoding(beam=2, extra=5)))
    assert best.tokens == [3, 3, 3, 3, 3, EOS]
    assert best.score == pytest.approx(math.log(0.4) * 6 / 11)


def test_a_search_stops_when_nothing_can_improve() -> None:
    ends_at_once = FixedModel([0, 0, 9, 0, 0])
    search(ends_at_once, [[3] * 9] * 4, decoding(beam=2, ratio=10))
    assert len(ends_at_once.rows_seen) < 5


SOURCES = [[3 + (row * 7 + column) % 40 for column in range(1 + row % 13)] for row in range(23)]


@pytest.mark.parametrize("beam", [1, 5])
def test_finished_sentences_leave_the_batch(beam: int, monkeypatch: pytest.MonkeyPatch) -> None:
    config = decoding(beam, ratio=2)
    model = TinyModel(3, vocab_size=43)
    found = search(model, SOURCES, config, num_best=beam)
    assert model.rows_seen[0] == 24 * beam
    assert model.rows_seen[-1] == 4 * beam
    monkeypatch.setattr(interface, "COMPACT_SHARE", 2.0)
    model.rows_seen.clear()
    assert all_facts(found) == all_facts(search(model, SOURCES, config, num_best=beam))
    assert set(model.rows_seen) == {24 * beam}


def all_facts(found: list[list[Hypothesis]]) -> list[list[tuple[Any, ...]]]:
    return [list(map(facts, hypotheses)) for hypotheses in found]


def test_attention_is_recorded_only_on_request() -> None:
    assert only(search(TinyModel(4, 8), [[3, 4]], decoding(beam=3))).attention is None
    model = small_model()
    plain = search(model, [[5, 6, 2], [7, 2]], decoding(beam=3), num_best=3)
    found = search(model, [[5, 6, 2], [7, 2]], decoding(beam=3), num_best=3, with_attention=True)
    assert all_facts(found) == all_facts(plain)
    for length, hypotheses in zip([3, 2], found, strict=True):
        for hypothesis in hypotheses:
            assert hypothesis.attention is not None
            assert hypothesis.attention.shape == (len(hypothesis.tokens), length)
            assert hypothesis.attention.sum(axis=1).tolist() == pytest.approx(
                [1.0] * len(hypothesis.tokens)
            )


def test_attention_follows_its_hypothesis_through_the_beam() -> None:
    model = small_model()
    source = [5, 6, 9, 7, 2]
    for hypothesis in search(model, [source], decoding(beam=4), num_best=4, with_attention=True)[0]:
        memory = model.encode(torch.tensor([source]), torch.tensor([5]))
        state = model.start(memory, 1)
        expected = []
        for token in [BOS, *hypothesis.tokens[:-1]]:
            with torch.inference_mode():
                _, state, attention = model.step(torch.tensor([token]), state, memory)
            expected.append(attention[0, :5])
        assert hypothesis.attention is not None
        torch.testing.assert_close(torch.tensor(hypothesis.attention), torch.stack(expected))


def small_model(
    preset: str = "residual", width: int = 32, vocab_size: int = 150
) -> seq2seq.Seq2Seq:
    torch.manual_seed(5)
    shape = {"attention": "additive"} if preset == "gnmt" else {}
    layers = {"encoder_layers": 2, "decoder_layers": 2}
    config = ModelConfig.model_validate({"preset": preset, "width": width, **layers, **shape})
    return seq2seq.Seq2Seq(config, vocab_size).eval()


@pytest.mark.parametrize(("preset", "width"), [("residual", 128), ("residual", 36), ("gnmt", 32)])
@pytest.mark.parametrize("beam", [1, 5])
@pytest.mark.parametrize(
    ("lengths", "ratio"),
    [([*range(1, 17)] * 4, 0.5), ([*range(289, 321, 4)], 0.02)],
    ids=["short", "long"],
)
def test_a_result_is_independent_of_the_batch(
    preset: str, width: int, beam: int, lengths: list[int], ratio: float
) -> None:
    """Batch-invariant translation (nmt/README.md, Guarantees)."""
    model = small_model(preset, width)
    generator = torch.Generator().manual_seed(6)
    sources = [
        [*torch.randint(3, 150, (length - 1,), generator=generator).tolist(), EOS]
        for length in lengths
    ]
    config = decoding(beam, ratio=ratio, extra=6)
    together = search(model, sources, config, num_best=beam)
    shuffled = torch.randperm(len(sources), generator=generator).tolist()
    for size in (1, 7, 64):
        for start in range(0, len(sources), max(size, 5)):
            rows = shuffled[start : start + size]
            found = search(model, [sources[row] for row in rows], config, num_best=beam)
            assert all_facts(found) == all_facts([together[row] for row in rows])


def test_padding_is_at_most_a_quarter_from_64_tokens_on() -> None:
    assert [padded_length(n) for n in (1, 16, 17, 64, 65, 128, 129, 256, 257, 1025)] == [
        16, 16, 32, 64, 80, 128, 160, 256, 320, 1280,
    ]  # fmt: skip
    for length in range(64, 3000):
        assert length <= padded_length(length) <= 1.25 * length
        assert padded_length(padded_length(length)) == padded_length(length)


@pytest.mark.parametrize("beam", [1, 3])
def test_a_model_that_returns_nan_terminates(beam: int) -> None:
    found = search(FixedModel([math.nan] * 70), [[3, 4]], decoding(beam), num_best=beam)[0]
    assert found
    assert all(math.isnan(hypothesis.score) for hypothesis in found)


def test_no_sources_give_no_results() -> None:
    assert search(TinyModel(0, 5), [], decoding(beam=2)) == []
