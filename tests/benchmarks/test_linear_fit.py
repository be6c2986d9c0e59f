"""Lines through points with known answers."""

from __future__ import annotations

import pytest

from benchmarks.linear_fit import fit_line


def test_points_on_a_line():
    line = fit_line([1, 2, 4], [5, 7, 11])
    assert (line.intercept, line.slope) == pytest.approx((3, 2))
    assert line.r_squared == pytest.approx(1)
    assert line.largest_residual == pytest.approx(0, abs=1e-12)
    assert line.at(10) == pytest.approx(23)


def test_points_beside_a_line():
    # By hand: means 1 and 2; slope 1 / 2; residuals 0.5, -1, 0.5 of ys 2, 1, 3.
    line = fit_line([0, 1, 2], [2, 1, 3])
    assert (line.intercept, line.slope) == pytest.approx((1.5, 0.5))
    assert line.r_squared == pytest.approx(1 - 1.5 / 2)
    assert line.largest_residual == pytest.approx(1.0)


def test_a_constant_is_explained():
    line = fit_line([1, 2, 3], [4, 4, 4])
    assert line.slope == pytest.approx(0, abs=1e-12)
    assert line.r_squared == 1


@pytest.mark.parametrize(
    ("xs", "ys"), [([1, 1], [2, 3]), ([1], [2]), ([1, 2], [0, 3]), ([1, 2], [1, 2, 3])]
)
def test_points_without_a_line(xs, ys):
    with pytest.raises(ValueError, match="two different xs at least"):
        fit_line(xs, ys)
