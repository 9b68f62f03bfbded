"""Training of unigram vocabularies."""

import math
from collections import Counter
from itertools import pairwise, product

import numpy as np
import pytest

from nmt.corpus import unigram
from nmt.corpus.unigram import train_unigram

WORDS = Counter(
    {" low": 50, " lower": 20, " lowest": 10, " new": 40, " newer": 15, " newest": 12, " wide": 9}
)


def test_frequent_word_parts_become_pieces() -> None:
    pieces = dict(train_unigram(WORDS, 14))
    assert set(pieces) - set("".join(WORDS)) == {" low", " new", " newest"}


def test_a_complete_word_becomes_a_piece() -> None:
    pieces = dict(train_unigram(Counter({" and": 100, " dog": 5, " cat": 5}), 12))
    assert " and" in pieces


def test_every_character_is_a_piece_in_a_small_vocabulary() -> None:
    pieces = dict(train_unigram(WORDS, len(set("".join(WORDS)))))
    assert set(pieces) == set("".join(WORDS))


def test_pieces_are_sorted_by_probability() -> None:
    pieces = train_unigram(WORDS, 20)
    scores = [score for _, score in pieces]
    assert scores == sorted(scores, reverse=True)
    assert sum(map(math.exp, scores)) < 1


def test_the_order_of_words_has_no_effect() -> None:
    assert train_unigram(Counter(dict(reversed(WORDS.items()))), 18) == train_unigram(WORDS, 18)


def test_long_words_are_cut_and_rare_words_ignored(monkeypatch: pytest.MonkeyPatch) -> None:
    """The characters of rare words are pieces all the same."""
    monkeypatch.setattr(unigram, "MAX_CHARS", 60)
    words = Counter({" " + "ab" * 25: 9, " xyz": 5, " rare rare": 1, " rare word": 1})
    pieces = dict(train_unigram(words, 30))
    assert max(map(len, pieces)) <= unigram.MAX_PIECE
    assert {*"abxyz rewod"} <= set(pieces)
    assert not any("r" in piece for piece in pieces if len(piece) > 1)


@pytest.mark.parametrize(("low", "high"), [("ab", "yz"), ("あい", "天地"), ("กข", "가나")])
def test_words_of_equal_counts_are_an_even_sample(
    low: str, high: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Clauses of a language without spaces occur once each."""
    clauses = Counter(f"{start}{number:04}" for start in (low, high) for number in range(500))
    monkeypatch.setattr(unigram, "MAX_CHARS", 3000)
    parts = [part for part, _ in unigram._frequent_parts(clauses)]
    shares = [sum(part.startswith(start) for part in parts) / 500 for start in (low, high)]
    assert shares == pytest.approx([0.5, 0.5], abs=0.1)
    pieces = dict(train_unigram(clauses, 30))
    assert all(any(piece.startswith(start) for piece in pieces) for start in (low, high))


def test_no_words_give_no_pieces() -> None:
    assert train_unigram(Counter(), 10) == []


def test_expected_counts_match_all_segmentations() -> None:
    """Forward-backward sums, against a list of all segmentations."""
    corpus = unigram._Corpus([("aaba", 3), ("ab", 2)])
    pieces = unigram._seed(corpus, 50)
    names = [
        corpus.text[first : first + size]
        for first, size in zip(pieces.places, pieces.sizes, strict=True)
    ]
    probs = dict(zip(names, np.exp(pieces.log_probs), strict=True))
    expected: Counter[str] = Counter()
    for word, count in (("aaba", 3), ("ab", 2)):
        paths = []
        for cuts in product([False, True], repeat=len(word) - 1):
            bounds = [0, *(place for place, cut in enumerate(cuts, 1) if cut), len(word)]
            parts = [word[i:j] for i, j in pairwise(bounds)]
            if all(part in probs for part in parts):
                paths.append((math.prod(probs[part] for part in parts), parts))
        total = sum(prob for prob, _ in paths)
        for prob, parts in paths:
            for part in parts:
                expected[part] += count * prob / total
    counts = dict(zip(names, unigram._expected_counts(corpus, pieces), strict=True))
    assert counts == pytest.approx({name: expected[name] for name in names})


def test_the_loss_of_a_piece_is_the_cost_of_its_substitute() -> None:
    corpus = unigram._Corpus([("ab", 10), ("a", 5), ("b", 5)])
    pieces = unigram._seed(corpus, 3)
    counts = np.array([5.0, 5.0, 10.0])  # a, b, ab
    losses = unigram._losses(pieces, counts)
    # Without "ab" its 10 count for a and for b: 15 each of 30.
    assert losses.tolist() == pytest.approx(
        [math.inf, math.inf, 10 * (math.log(10 / 20) - 2 * math.log(15 / 30))]
    )


def test_digamma_is_the_derivative_of_log_gamma() -> None:
    x = np.array([0.5, 1.0, 3.25, 100.0])
    h = 1e-5
    expected = [(math.lgamma(v + h) - math.lgamma(v - h)) / (2 * h) for v in x]
    assert unigram._digamma(x) == pytest.approx(expected, abs=1e-8)
