import pytest

from nmt.planning.scaling import Links

LINKS = Links(between_gbit=8, inside_gbit=80, latency_us=0)
"""1 and 10 bytes a nanosecond."""


@pytest.mark.parametrize(
    ("nodes", "workers_per_node", "seconds"),
    [
        (1, 1, 0.0),
        (1, 2, 0.1),  # half of the bytes out and half in, twice over, on the inner link
        (2, 1, 1.0),
        (4, 1, 1.5),  # 2 * 3 / 4
        (4, 2, 1.6),
    ],
)
def test_a_ring_sends_twice_all_but_one_share(
    nodes: int, workers_per_node: int, seconds: float
) -> None:
    assert LINKS.all_reduce_s(1e9, nodes, workers_per_node) == pytest.approx(seconds)


def test_each_step_of_a_ring_has_its_latency() -> None:
    slow = Links(between_gbit=1e9, inside_gbit=1e9, latency_us=1000)
    assert slow.all_reduce_s(1, 5, 1) == pytest.approx(2 * 4 * 0.001, rel=1e-3)


def test_the_gradients_of_gnmt_over_400_gbit() -> None:
    """643 MB: on paper 12.9 ms for two nodes, 22.5 ms for eight."""
    links = Links(between_gbit=400, inside_gbit=2400, latency_us=0)
    assert links.all_reduce_s(643e6, 2, 1) == pytest.approx(12.9e-3, rel=0.01)
    assert links.all_reduce_s(643e6, 8, 1) == pytest.approx(22.5e-3, rel=0.01)
