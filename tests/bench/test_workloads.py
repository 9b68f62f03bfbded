from pathlib import Path

import pytest

from nmt.bench.workloads import (
    MULTI30K,
    WMT16,
    Bench,
    LengthDistribution,
    Updates,
    Workload,
    write_random_corpus,
)
from nmt.corpus.shards import Shards
from nmt.model.flops import Flops
from nmt.model.seq2seq import Seq2Seq


def test_precision_of_a_workload_is_resolved(tmp_path: Path) -> None:
    """configs/multi30k_en_de.yaml has `auto`."""
    assert Bench(tmp_path, 0.0, {}).small.precision in ("fp32", "bf16")


def test_workload_survives_json(tiny_workload: Workload) -> None:
    copy = Workload.from_json(tiny_workload.to_json())
    assert (copy.name, copy.experiment, copy.lengths) == (
        tiny_workload.name,
        tiny_workload.experiment,
        "synthetic",
    )
    assert copy.first_sources(3) == tiny_workload.first_sources(3)


@pytest.mark.parametrize("lengths", [MULTI30K, WMT16])
def test_random_pairs_have_the_lengths_of_real_ones(
    lengths: LengthDistribution, tiny_workload: Workload, tmp_path: Path
) -> None:
    longer = tiny_workload.with_settings("batching", max_length=256, max_tokens=1024)
    write_random_corpus(tmp_path / "made", lengths, 6000, longer.experiment, num_pairs=4000)
    shards = Shards.open(tmp_path / "made")
    assert shards.src_lengths.mean() + 1 == pytest.approx(lengths.mean, rel=0.03)
    assert shards.tgt_lengths.mean() + 1 == pytest.approx(lengths.mean * lengths.factor, rel=0.03)


def test_flops_equal_a_count_by_hand(tiny_workload: Workload) -> None:
    """Width 16, 1 + 1 layers, feed-forward 16, 300 pieces."""
    encoder = 2 * (4 * 8) * (16 + 8) + 2 * 16 * 16
    keys_values = 2 * 16 * 16
    decoder = 4 * 16 * (16 + 16) + 2 * 16 * 16 + 2 * 16 * 16 + 300 * 16
    flops = Seq2Seq(tiny_workload.experiment.model, 300).flops()
    assert flops == Flops(2 * (encoder + keys_values), 2 * decoder, 2 * 2 * 16)
    updates = Updates(tiny_workload, "fp32", 1)
    num_src = sum(int(batch.src_lengths.sum()) for batch in updates.batches)
    num_tgt = sum(len(batch.tgt_out) for batch in updates.batches)
    least = 3 * (2 * (encoder + keys_values) * num_src + 2 * decoder * num_tgt)
    assert least < updates.flops < 1.5 * least
