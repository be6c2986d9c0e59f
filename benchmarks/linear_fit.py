"""Straight lines through what was measured."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Line:
    """A line fitted by least squares, ``y = intercept + slope * x``.

    Attributes:
        intercept: where it starts, in y's unit.
        slope: y's unit for each unit of x.
        r_squared: the share of y's variance that the line explains; 1 where y is constant.
        largest_residual: the largest distance from the line, relative to the y that was measured.
    """

    intercept: float
    slope: float
    r_squared: float
    largest_residual: float

    def at(self, x: float) -> float:
        """The line's y."""
        return self.intercept + self.slope * x


def fit_line(xs: Sequence[float], ys: Sequence[float]) -> Line:
    """Fit a line by least squares, every point with the same weight.

    Args:
        xs: at least two different ones; a line through just two has no residual.
        ys: as many, none of them 0.

    Raises:
        ValueError: a line through these points is not determined, or has no relative residual.
    """
    x, y = np.asarray(xs, dtype=float), np.asarray(ys, dtype=float)
    if x.shape != y.shape or len(set(x.tolist())) < 2 or not y.all():
        raise ValueError(
            f"xs={list(xs)} and ys={list(ys)} must be equally many, with two different xs at least "
            "and no y of 0"
        )
    slope, intercept = np.polyfit(x, y, 1)
    residuals = y - (intercept + slope * x)
    total = ((y - y.mean()) ** 2).sum()
    return Line(
        intercept=float(intercept),
        slope=float(slope),
        r_squared=float(1 - (residuals**2).sum() / total) if total else 1.0,
        largest_residual=float(np.abs(residuals / y).max()),
    )
