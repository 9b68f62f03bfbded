"""Diverse beam search (Vijayakumar et al. 2018) against a textbook one."""

import pytest
from all_targets import Target, seeds
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny_models import TinyModel, log_probs_after

from nmt.config.decoding import DecodingConfig
from nmt.corpus.subword import EOS
from nmt.decoding.beam_search import search
from nmt.decoding.hypotheses import max_length


def textbook_groups(
    model: TinyModel, source: list[int], config: DecodingConfig, num_best: int
) -> list[tuple[Target, float]]:
    """Diverse beam search of one sentence, group by group, as the paper has it."""
    limit = max_length(len(source), config)
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
