import numpy as np
import numpy.typing as npt

from nmt.corpus.subword import NUM_RESERVED
from nmt.corpus.subword_sampling import Pair
from nmt.corpus.switchout import SwitchOut

NUM_PIECES = 1000
ROWS = np.arange(2000)


def same_pairs(source: list[int]) -> list[Pair]:
    return [(source, [900] * 9)] * len(ROWS)


def sources(pairs: list[Pair]) -> npt.NDArray[np.int64]:
    return np.array([src for src, _ in pairs])


def test_switchout_depends_on_epoch_and_row_only() -> None:
    """Pure schedule, world-size independence (nmt/README.md, Guarantees)."""
    switch, pairs = SwitchOut(2.0, NUM_PIECES, seed=1), same_pairs([500] * 20)
    whole = switch.apply(pairs, ROWS, 3)
    part = switch.apply(pairs[7:9], ROWS[7:9][::-1], 3)
    for ours, theirs in zip(part, whole[7:9][::-1], strict=True):
        for one, other in zip(ours, theirs, strict=True):
            assert np.array_equal(one, other)
    assert not np.array_equal(sources(whole), sources(switch.apply(pairs, ROWS, 4)))
    assert pairs == same_pairs([500] * 20)


def test_the_number_of_tokens_follows_the_temperature() -> None:
    for temperature, mean in ((0.5, 0.157), (1.0, 0.582), (1e9, 10.0)):
        pairs = SwitchOut(temperature, NUM_PIECES, 1).apply(same_pairs([500] * 20), ROWS, 0)
        counts = (sources(pairs) != 500).sum(axis=1)
        assert abs(counts.mean() - mean) < 0.1 * mean + 0.03


def test_new_tokens_are_any_other_learnt_pieces() -> None:
    pairs = SwitchOut(1e9, NUM_PIECES, 1).apply(same_pairs([500] * 20), ROWS, 0)
    tokens = sources(pairs)
    new = set(tokens[tokens != 500].tolist())
    assert new == set(range(NUM_RESERVED, NUM_PIECES)) - {500}


def test_reserved_pieces_stay() -> None:
    source = [NUM_RESERVED - 1, 500, 5]
    for src, _ in SwitchOut(1e9, NUM_PIECES, 1).apply(same_pairs(source), ROWS, 0):
        assert (src[0], src[2]) == (source[0], source[2])


def test_empty_sides_stay_empty() -> None:
    switch = SwitchOut(1.0, NUM_PIECES, 1)
    [(src, tgt)] = switch.apply([([], [7])], ROWS[:1], 0)
    assert (len(src), list(tgt)) == (0, [7])
    assert switch.apply([], ROWS[:0], 0) == []
