import dataclasses

import numpy as np
import pytest

from nmt.config.experiment import Experiment
from nmt.planning.probe import Probe, line_through, spread_about
from nmt.planning.scaling import Hosts, Links, ScalingRow, rows_of

INSTANT = Links(1e12, 1e12, 0)
PROBE = Probe(fixed_s=0.01, position_s=0.001, spread_s=0.0, step_s=0.0, saved_bytes=0,
              position_flops=0, share=1)  # fmt: skip
SIZES = (np.array([[100.0, 100.0, 100.0, 100.0]]), 200.0)
ALONE = Hosts(workers_per_node=1, cpus_per_worker=1, cores_per_node=1, has_gpus=False)


def experiment_of(micro_batches: int) -> Experiment:
    text = {"name": "a", "src": "a.en", "tgt": "a.de"}
    batching = {"micro_batches": micro_batches}
    return Experiment.model_validate(
        {"name": "x", "corpus": {"train": [text], "dev": text}, "batching": batching}
    )


def rows(probe: Probe = PROBE, links: Links = INSTANT, hosts: Hosts = ALONE,
         sizes: tuple[np.ndarray, float] = SIZES) -> list[ScalingRow]:  # fmt: skip
    return list(rows_of(experiment_of(4), 4_000_000, sizes, probe, links, hosts))


def test_workers_share_the_micro_batches_of_an_update() -> None:
    assert [row.workers for row in rows()] == [1, 2, 4]
    assert [row.update_s for row in rows()] == pytest.approx([0.44, 0.22, 0.11])
    assert [row.tgt_tokens_per_s for row in rows()] == pytest.approx([200 / 0.44, 200 / 0.22,
                                                                      200 / 0.11])  # fmt: skip
    assert {row.limit for row in rows()} == {"forward and backward"}


def test_all_wait_for_the_slowest() -> None:
    uneven = (np.array([[100.0, 200.0, 100.0, 200.0]]), 200.0)
    two = rows(sizes=uneven)[1]
    assert (two.compute_s, two.waiting_s) == pytest.approx((0.32, 0.1))
    assert two.limit == "waiting for the slowest worker"


def test_all_wait_for_the_one_with_bad_luck() -> None:
    """Of two that differ by 1 s as normal numbers do, the slower one takes 1/sqrt(pi) s more."""
    many = (np.full((20_000, 2), 100.0), 200.0)
    lucky = dataclasses.replace(PROBE, spread_s=1.0, fixed_s=9.9)
    two = rows(probe=lucky, sizes=many)[1]
    assert (two.compute_s, two.waiting_s) == pytest.approx((10.0, 0.564), abs=0.02)


def test_a_slow_link_limits() -> None:
    slow = Links(between_gbit=0.1, inside_gbit=1, latency_us=0)
    one, two, _ = rows(links=slow)
    assert one.all_reduce_s == 0
    assert two.all_reduce_s == pytest.approx(0.32)  # 4 MB over 0.1 Gbit/s
    assert two.limit == "the all-reduce"
    assert two.efficiency == pytest.approx(0.44 / 2 / (0.22 + 0.32))


def test_on_gpus_the_sum_hides_behind_backward() -> None:
    slow = Links(between_gbit=1, inside_gbit=1, latency_us=0)
    hosts = dataclasses.replace(ALONE, cores_per_node=0, has_gpus=True)
    assert rows(links=slow)[1].all_reduce_s == pytest.approx(0.032)
    assert rows(links=slow, hosts=hosts)[1].all_reduce_s == 0


def test_a_step_that_each_worker_makes_limits_many() -> None:
    slow_step = dataclasses.replace(PROBE, step_s=0.1)
    assert [row.limit for row in rows(probe=slow_step)] == [
        "the optimizer step, which each worker makes"
    ] * 3
    assert rows(probe=slow_step)[2].efficiency == pytest.approx(0.54 / 4 / 0.21)


def test_workers_that_share_cores_are_slower() -> None:
    crowded = Hosts(workers_per_node=4, cpus_per_worker=1, cores_per_node=2, has_gpus=False)
    [row] = rows(hosts=crowded)
    assert (row.workers, row.update_s) == (4, pytest.approx(0.22))


def test_a_line_through_points_has_a_fixed_part_and_a_slope() -> None:
    assert line_through([(100, 1.1), (200, 2.1), (300, 3.1)]) == pytest.approx((0.1, 0.01))
    assert line_through([(100, 1.0), (100, 1.0)]) == pytest.approx((0.0, 0.01))
    assert line_through([(100, 2.0), (200, 1.0)]) == pytest.approx((0.0, 0.01))


def test_one_point_that_is_far_off_does_not_count_as_spread() -> None:
    points = [(100, 1.1), (200, 2.2), (300, 2.9), (400, 4.1), (500, 9.0)]
    assert spread_about(points, 0.0, 0.01) == pytest.approx(0.148, abs=0.001)
