import numpy as np

from nmt.corpus.reversal import Reversal
from nmt.corpus.subword_sampling import Pair

ROWS = np.arange(1000)
PAIRS: list[Pair] = [([row], [-row]) for row in ROWS.tolist()]
CORPORA = np.array([0] * 600 + [1] * 400)


def reversed_rows(reversal: Reversal, epoch: int = 0) -> set[int]:
    found = reversal.apply(PAIRS, ROWS, epoch)
    for pair, (src, tgt) in zip(found, PAIRS, strict=True):
        assert pair in ((src, tgt), (tgt, src))
    return {row for row in ROWS.tolist() if found[row] != PAIRS[row]}


def test_a_share_of_the_pairs_is_reversed() -> None:
    half = Reversal(0.5, CORPORA, [True, True], seed=1)
    assert 440 < len(reversed_rows(half)) < 560
    assert reversed_rows(half) != reversed_rows(half, epoch=1)
    # Row 0 is its own reversal here.
    assert reversed_rows(Reversal(1.0, CORPORA, [True, True], 1)) == set(range(1, 1000))


def test_pairs_of_other_corpora_stay() -> None:
    assert reversed_rows(Reversal(1.0, CORPORA, [False, True], 1)) == set(range(600, 1000))


def test_reversal_depends_on_epoch_and_row_only() -> None:
    """Pure schedule, world-size independence (nmt/README.md, Guarantees)."""
    half = Reversal(0.5, CORPORA, [True, True], seed=1)
    whole = half.apply(PAIRS, ROWS, 3)
    assert half.apply(PAIRS[500:510], ROWS[500:510], 3) == whole[500:510]
    assert half.apply([], ROWS[:0], 3) == []
