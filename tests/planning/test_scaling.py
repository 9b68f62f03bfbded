import dataclasses

import numpy as np
import pytest

from nmt.config.experiment import Experiment
from nmt.planning.probe import Probe
from nmt.planning.scaling import Hosts, Links, ScalingRow, predict_scaling

INSTANT = Links(1e12, 1e12, 0)
PROBE = Probe(fixed_s=0.01, position_s=0.001, spread_s=0.0, step_s=0.0, fixed_bytes=0,
              position_bytes=0, position_flops=0, share=1)  # fmt: skip
SIZES = (np.array([[100.0, 100.0, 100.0, 100.0]]), 200.0)
ALONE = Hosts(workers_per_node=1, cpus_per_worker=1, cores_per_node=1, has_gpus=False)


def experiment_of(micro_batches: int) -> Experiment:
    text = {"name": "a", "src": "a.en", "tgt": "a.de"}
    batching = {"micro_batches": micro_batches}
    return Experiment.model_validate(
        {
            "name": "x",
            "corpus": {"src": "en", "tgt": "de", "train": [text], "dev": text},
            "batching": batching,
        }
    )


def rows(probe: Probe = PROBE, links: Links = INSTANT, hosts: Hosts = ALONE,
         sizes: tuple[np.ndarray, float] = SIZES) -> list[ScalingRow]:  # fmt: skip
    return list(predict_scaling(experiment_of(4), 4_000_000, sizes, probe, links, hosts))


def test_workers_share_the_micro_batches() -> None:
    assert [row.workers for row in rows()] == [1, 2, 4]
    assert [row.update_s for row in rows()] == pytest.approx([0.44, 0.22, 0.11])
    assert [row.tgt_tokens_per_s for row in rows()] == pytest.approx([200 / 0.44, 200 / 0.22,
                                                                      200 / 0.11])  # fmt: skip
    assert {row.limit for row in rows()} == {"forward and backward"}


def test_workers_wait_for_the_slowest() -> None:
    uneven = (np.array([[100.0, 200.0, 100.0, 200.0]]), 200.0)
    two = rows(sizes=uneven)[1]
    assert (two.compute_s, two.waiting_s) == pytest.approx((0.32, 0.1))
    assert two.limit == "waiting for the slowest worker"


def test_noise_adds_waiting() -> None:
    """The maximum of two standard normal variables has mean 1/sqrt(pi)."""
    many = (np.full((20_000, 2), 100.0), 200.0)
    noisy = dataclasses.replace(PROBE, spread_s=1.0, fixed_s=9.9)
    two = rows(probe=noisy, sizes=many)[1]
    assert (two.compute_s, two.waiting_s) == pytest.approx((10.0, 0.564), abs=0.02)


def test_slow_link_limits_the_speed() -> None:
    slow = Links(between_gbit=0.1, inside_gbit=1, latency_us=0)
    one, two, _ = rows(links=slow)
    assert one.all_reduce_s == 0
    assert two.all_reduce_s == pytest.approx(0.32)  # 4 MB over 0.1 Gbit/s
    assert two.limit == "all-reduce"
    assert two.efficiency == pytest.approx(0.44 / 2 / (0.22 + 0.32))


def test_all_reduce_overlaps_with_backward_on_gpus() -> None:
    slow = Links(between_gbit=1, inside_gbit=1, latency_us=0)
    hosts = dataclasses.replace(ALONE, cores_per_node=0, has_gpus=True)
    assert rows(links=slow)[1].all_reduce_s == pytest.approx(0.032)
    assert rows(links=slow, hosts=hosts)[1].all_reduce_s == 0


def test_optimizer_step_limits_many_workers() -> None:
    slow_step = dataclasses.replace(PROBE, step_s=0.1)
    assert [row.limit for row in rows(probe=slow_step)] == ["optimizer step"] * 3
    assert rows(probe=slow_step)[2].efficiency == pytest.approx(0.54 / 4 / 0.21)


def test_workers_sharing_cores_are_slower() -> None:
    shared = Hosts(workers_per_node=4, cpus_per_worker=1, cores_per_node=2, has_gpus=False)
    [row] = rows(hosts=shared)
    assert (row.workers, row.update_s) == (4, pytest.approx(0.22))


# All-reduce.

LINKS = Links(between_gbit=8, inside_gbit=80, latency_us=0)
"""1 and 10 bytes per nanosecond."""


@pytest.mark.parametrize(
    ("nodes", "workers_per_node", "seconds"),
    [
        (1, 1, 0.0),
        (1, 2, 0.1),  # half of the bytes in each of two steps, inner link
        (2, 1, 1.0),
        (4, 1, 1.5),  # 2 * 3 / 4
        (4, 2, 1.6),
    ],
)
def test_ring_sends_twice_all_but_one_share(
    nodes: int, workers_per_node: int, seconds: float
) -> None:
    assert LINKS.all_reduce_s(1e9, nodes, workers_per_node) == pytest.approx(seconds)


def test_each_ring_step_adds_latency() -> None:
    slow = Links(between_gbit=1e9, inside_gbit=1e9, latency_us=1000)
    assert slow.all_reduce_s(1, 5, 1) == pytest.approx(2 * 4 * 0.001, rel=1e-3)


def test_gnmt_gradients_over_400_gbit() -> None:
    """643 MB: 12.9 ms on two nodes, 22.5 ms on eight, by the formula."""
    links = Links(between_gbit=400, inside_gbit=2400, latency_us=0)
    assert links.all_reduce_s(643e6, 2, 1) == pytest.approx(12.9e-3, rel=0.01)
    assert links.all_reduce_s(643e6, 8, 1) == pytest.approx(22.5e-3, rel=0.01)
