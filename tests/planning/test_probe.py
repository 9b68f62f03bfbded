import pytest

from nmt.planning.probe import fit_line, spread_about


def test_line_has_a_constant_part_and_a_slope() -> None:
    assert fit_line([(100, 1.1), (200, 2.1), (300, 3.1)]) == pytest.approx((0.1, 0.01))
    assert fit_line([(100, 1.0), (100, 1.0)]) == pytest.approx((0.0, 0.01))
    assert fit_line([(100, 2.0), (200, 1.0)]) == pytest.approx((0.0, 0.01))


def test_spread_ignores_an_outlier() -> None:
    points = [(100, 1.1), (200, 2.2), (300, 2.9), (400, 4.1), (500, 9.0)]
    assert spread_about(points, 0.0, 0.01) == pytest.approx(0.148, abs=0.001)
