"""AP of the steps from ResNet to ConvNeXt beside what the paper published: a table and a figure."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import mean
from typing import NamedTuple

from matplotlib.figure import Figure

from mmconvnext.evaluation.tables import format_table
from mmconvnext.models.roadmap import STEPS

# Published ImageNet-1K top-1 of each step ("A ConvNet for the 2020s", tables 10 and 11).
TOP_1 = {
    "tiny": (
        *(78.82, 79.36, 79.51, 78.28, 80.50, 80.64, 79.92),
        *(80.57, 80.62, 81.27, 81.41, 81.47, 81.97),
    ),
    "base": (
        *(81.14, 81.33, 81.59, 80.54, 81.85, 82.64, 82.04),
        *(82.30, 82.19, 82.71, 83.17, 83.35, 83.60),
    ),
}
KINDS = ("bbox", "segm")


class Outcome(NamedTuple):
    """What the trainings of one step gave.

    Attributes:
        step: one of ``STEPS``.
        flops: multiply-adds of the detector, as ``mmconvnext flops`` counts them.
        box: box AP of each seed, 0-100.
        mask: mask AP of each seed, 0-100.
    """

    step: str
    flops: float
    box: Sequence[float]
    mask: Sequence[float]

    def top_1(self, regime: str) -> float:
        """Published top-1 of the step in %."""
        return TOP_1[regime][STEPS.index(self.step)]


def table(outcomes: Sequence[Outcome], regime: str) -> str:
    """A row for each step: FLOPs, mean AP and its range over seeds, published top-1."""
    rows = [["step", "GFLOPs", "box AP", "mask AP", "seeds", "top-1, published"]]
    for outcome in outcomes:
        ap = [f"{mean(v):.1f} ({min(v):.1f} to {max(v):.1f})" for v in (outcome.box, outcome.mask)]
        row = [outcome.step, f"{outcome.flops / 1e9:.1f}", *ap]
        rows.append([*row, str(len(outcome.box)), f"{outcome.top_1(regime):.2f}"])
    return format_table(rows)


def figure(outcomes: Sequence[Outcome], regime: str) -> Figure:
    """Draw AP and published top-1, step by step from top to bottom, with the FLOPs of each."""
    chart = Figure(figsize=(10, 1.5 + 0.4 * len(outcomes)), layout="constrained")
    left, right = chart.subplots(1, 2, sharey=True, width_ratios=(3, 2))
    places = range(len(outcomes))
    for name, colour in (("box", "tab:blue"), ("mask", "tab:orange")):
        values = [getattr(outcome, name) for outcome in outcomes]
        left.plot([*map(mean, values)], places, color=colour, label=f"{name} AP, mean of seeds")
        for place, seeds in zip(places, values, strict=True):
            left.plot(seeds, [place] * len(seeds), "o", color=colour, markersize=4, alpha=0.6)
    labels = [f"{outcome.step}\n{outcome.flops / 1e9:.1f} GFLOPs" for outcome in outcomes]
    left.set_yticks(places, labels, fontsize=8)
    left.invert_yaxis()
    left.set_xlabel("AP, 0-100")
    left.legend(fontsize=8)
    right.plot([outcome.top_1(regime) for outcome in outcomes], places, "s-", color="tab:green")
    right.set_xlabel("ImageNet-1K top-1 in %, published")
    for axes in (left, right):
        axes.grid(alpha=0.3)
        axes.spines[["top", "right"]].set_visible(False)
    return chart
