"""Curves: how time and memory grow along an axis, each with its linear fit."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from benchmarks.comparison import Results
from benchmarks.linear_fit import Line, fit_line
from benchmarks.report import MIB

TIME, PEAK, SAVED = "time", "peak memory", "saved for backward"
ROUNDING = 1e-6


@dataclass(frozen=True)
class Axis:
    """What something grows with.

    Attributes:
        name: as shown.
        unit: as shown.
        fact: of the candidates, see :attr:`benchmarks.comparison.Results.facts`.
        scale: the fact's value of one unit.
    """

    name: str
    unit: str
    fact: str
    scale: float = 1.0


AREA = Axis("input area", "Mpixel", "pixels", 1e6)
BATCH = Axis("batch", "images", "images")
COST = Axis("cost of a forward pass", "G multiply-adds", "multiply_adds", 1e9)
SIZE = Axis("model size", "M parameters", "parameters", 1e6)
# Along model size, operations take time and parameters take memory.
AXES: Mapping[str, Mapping[str, Axis]] = {
    "area": dict.fromkeys((TIME, PEAK, SAVED), AREA),
    "batch": dict.fromkeys((TIME, PEAK, SAVED), BATCH),
    "model": {TIME: COST, PEAK: SIZE, SAVED: SIZE},
}


@dataclass(frozen=True)
class Series:
    """One quantity that was measured along an axis.

    Attributes:
        quantity: its name.
        unit: of the ys.
        axis: of the xs, in its unit.
        xs: in the order of the points.
        ys: for each of them.
        fit: the line through them.
    """

    quantity: str
    unit: str
    axis: Axis
    xs: tuple[float, ...]
    ys: tuple[float, ...]
    fit: Line

    @property
    def equation(self) -> str:
        """The line in words."""
        # what is nothing beside the points is rounding
        start = self.fit.intercept if abs(self.fit.intercept) > ROUNDING * max(self.ys) else 0
        sign = "+" if self.fit.slope >= 0 else "-"
        slope = f"{abs(self.fit.slope):.3g} {self.unit} · {self.axis.unit}"
        return f"{start:.3g} {self.unit} {sign} {slope}"


@dataclass(frozen=True)
class Curve:
    """What a comparison brought whose candidates are the points of a curve.

    Attributes:
        part: what was measured, ``backbone`` or ``detector``.
        along: a key of ``AXES``.
        train: forward and backward, else inference.
        results: of the comparison; facts have the axes' values.
    """

    part: str
    along: str
    train: bool
    results: Results

    @property
    def mode(self) -> str:
        """Inference or training, as shown."""
        return "forward + backward" if self.train else "inference"

    def x(self, name: str, axis: Axis) -> float:
        """Where a point lies on an axis, in the axis's unit."""
        return self.results.facts[name][axis.fact] / axis.scale

    def axes(self) -> list[Axis]:
        """The axes, each once."""
        return list(dict.fromkeys(AXES[self.along].values()))

    @cached_property
    def series(self) -> list[Series]:
        """Time, and what is known of memory."""
        names = list(self.results.timings)
        measured = [(TIME, "s", [self.results.median_seconds(name) for name in names])]
        peaks = [self.results.peak_bytes(name) for name in names]
        if all(peaks):  # not where the system does not tell, nor where it is too little to see
            measured.append((PEAK, "MiB", [peak / MIB for peak in peaks]))
        if self.train:
            saved = [self.results.facts[name]["saved_bytes"] / MIB for name in names]
            measured.append((SAVED, "MiB", saved))
        return [self._series(quantity, unit, ys) for quantity, unit, ys in measured]

    def to_json(self) -> dict[str, Any]:
        """Collect the linear fits; what was measured is among the tables of the report."""
        return {
            "title": self.results.title,
            "linear_fits": [
                {
                    "quantity": each.quantity,
                    "unit": each.unit,
                    "axis": each.axis.name,
                    "axis_unit": each.axis.unit,
                    "intercept": each.fit.intercept,
                    "slope": each.fit.slope,
                    "r_squared": each.fit.r_squared,
                    "largest_residual": each.fit.largest_residual,
                }
                for each in self.series
            ],
        }

    def _series(self, quantity: str, unit: str, ys: list[float]) -> Series:
        axis = AXES[self.along][quantity]
        xs = [self.x(name, axis) for name in self.results.timings]
        return Series(quantity, unit, axis, tuple(xs), tuple(ys), fit_line(xs, ys))
