import numpy as np
import torch

from nmt.batching.batch import make_batch
from nmt.corpus.subword import BOS, EOS, PAD


def test_pairs_are_padded_to_the_longest_side() -> None:
    batch = make_batch([([5, 6, 7], [8]), ([9], [10, 11])])
    assert batch.src.tolist() == [[5, 6, 7, EOS], [9, EOS, PAD, PAD]]
    assert batch.src_lengths.tolist() == [4, 2]
    assert batch.tgt_in.tolist() == [[BOS, 8, EOS], [BOS, 10, 11]]
    assert batch.real.tolist() == [0, 1, 3, 4, 5]
    assert batch.tgt_out.tolist() == [8, EOS, 10, 11, EOS]


def test_all_tensors_are_int64() -> None:
    batch = make_batch([(np.array([5], np.uint16), np.array([6], np.uint16))])
    assert {tensor.dtype for tensor in batch} == {torch.int64}


def test_empty_side_is_only_eos() -> None:
    batch = make_batch([([], [5])])
    assert batch.src.tolist() == [[EOS]]
    assert batch.src_lengths.tolist() == [1]


def test_batch_of_no_pairs_has_no_target_tokens() -> None:
    """World-size independence (nmt/README.md, Guarantees): ranks without pairs take part."""
    batch = make_batch([])
    assert batch.src.tolist() == [[EOS]]
    assert batch.tgt_in.tolist() == [[BOS]]
    assert batch.real.tolist() == []
    assert batch.tgt_out.tolist() == []


def test_num_padded_counts_both_sides() -> None:
    assert make_batch([([5, 6, 7], [8]), ([9], [10, 11])]).num_padded == 8 + 6


def test_all_tensors_move_to_the_device() -> None:
    batch = make_batch([([5], [6])])
    moved = batch.to(torch.device("cpu"))
    assert all(torch.equal(one, other) for one, other in zip(moved, batch, strict=True))


def test_read_only_rows_are_not_changed() -> None:
    src = np.array([5, 6], np.uint16)
    src.setflags(write=False)
    assert make_batch([(src, src)]).src.tolist() == [[5, 6, EOS]]


def test_repeat_keeps_the_expected_output() -> None:
    batch = make_batch([([5, 6], [7]), ([8], [9, 10])])
    repeated = batch.repeat()
    assert repeated.src.tolist() == batch.src.tolist() * 2
    assert repeated.src_lengths.tolist() == [3, 2, 3, 2]
    assert repeated.tgt_in.tolist() == batch.tgt_in.tolist() * 2
    assert repeated.tgt_out is batch.tgt_out
    inputs = repeated.tgt_in.flatten()[repeated.real]
    assert inputs.tolist() == batch.tgt_in.flatten()[batch.real].tolist() * 2


def test_split_cuts_into_consecutive_pairs() -> None:
    """World-size independence (nmt/README.md, Guarantees)."""
    pairs = [([5, 6, 7], [8]), ([9], [10, 11, 12]), ([4], [3, 4])]
    first, second = make_batch(pairs).split(2)
    assert first.src.tolist() == [[5, 6, 7, EOS]]
    assert first.tgt_in.tolist() == [[BOS, 8, EOS, PAD]]
    assert (first.real.tolist(), first.tgt_out.tolist()) == ([0, 1], [8, EOS])
    assert second.src_lengths.tolist() == [2, 2]
    assert second.tgt_in.tolist() == [[BOS, 10, 11, 12], [BOS, 3, 4, EOS]]
    assert second.real.tolist() == [0, 1, 2, 3, 4, 5, 6]
    assert second.tgt_out.tolist() == [10, 11, 12, EOS, 3, 4, EOS]
    assert make_batch(pairs).split(1)[0].src.tolist() == make_batch(pairs).src.tolist()
    assert [len(part.src) for part in make_batch(pairs).split(4)] == [1, 1, 1]
    assert len(make_batch([]).split(2)) == 1
