"""AP of the steps from ResNet to ConvNeXt beside what the paper published: a table and a figure."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import mean
from typing import Any, NamedTuple

import torch
from matplotlib.figure import Figure
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from mmconvnext.evaluation.tables import format_table
from mmconvnext.models.roadmap import STEPS, WALKS, ModernizedResNet

# Each step in words, and what is published of it: G multiply-adds at 224x224 and ImageNet-1K top-1
# in % ("A ConvNet for the 2020s", tables 10 and 11), of "tiny" and of "base".
PUBLISHED = {
    "resnet": ("torchvision's, stride in the 3x3", (4.09, 78.82), (15.01, 81.14)),
    "stage_ratio": ("blocks 3, 3, 9 (27), 3", (4.53, 79.36), (14.52, 81.33)),
    "patchify": ("stem of 4x4 with stride 4", (4.42, 79.51), (14.38, 81.59)),
    "depthwise": ("a group for each channel", (2.35, 78.28), (7.23, 80.54)),
    "width": ("96 (128) channels, not 64 (84)", (5.27, 80.50), (16.76, 81.85)),
    "inverted_bottleneck": ("4 times as many within a block", (4.64, 80.64), (15.68, 82.64)),
    "move_up": ("spatial convolution first", (4.07, 79.92), (14.63, 82.04)),
    "kernel_7": ("7x7, not 3x3", (4.15, 80.57), (14.81, 82.30)),
    "gelu": ("for ReLU", (4.15, 80.62), (14.81, 82.19)),
    "fewer_activations": ("one in a block", (4.15, 81.27), (14.81, 82.71)),
    "fewer_norms": ("one in a block", (4.15, 81.41), (14.81, 83.17)),
    "layer_norm": ("for BatchNorm", (4.46, 81.47), (14.81, 83.35)),
    "separate_downsampling": ("LN and 2x2 with stride 2", (4.49, 81.97), (15.35, 83.60)),
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
        return published(self.step, regime)[1]


def published(step: str, regime: str) -> tuple[float, float]:
    """G multiply-adds at 224x224 and top-1 in % that are published of a step."""
    return PUBLISHED[step][1 + [*WALKS].index(regime)]


def cost(**arguments: Any) -> tuple[float, float]:
    """Count parameters in M and G multiply-adds of a classifier of 1,000 classes at 224x224.

    The arguments are those of ``ModernizedResNet``.
    """
    with torch.device("meta"):
        model = ModernizedResNet(out_indices=(3,), **arguments)
        classifier = nn.Linear(model.out_channels[-1], 1000)
        with FlopCounterMode(display=False) as counter:
            classifier(model(torch.empty(1, 3, 224, 224))[0].mean((2, 3)))
    parameters = sum(p.numel() for p in (*model.parameters(), *classifier.parameters()))
    return parameters / 1e6, counter.get_total_flops() / 2e9


def costs(regime: str) -> str:
    """A row for each step: what changes, what it costs, counted and published."""
    rows = [["step", "what changes", "M", "G", "G, published", "difference", "top-1, published"]]
    for step in STEPS:
        (parameters, counted), (flops, top_1) = (
            cost(step=step, regime=regime),
            published(step, regime),
        )
        numbers = (f"{parameters:.2f}", f"{counted:.3f}", f"{flops:.2f}", f"{counted - flops:+.3f}")
        rows.append([step, PUBLISHED[step][0], *numbers, f"{top_1:.2f}"])
    return format_table(rows)


def table(outcomes: Sequence[Outcome], regime: str) -> str:
    """A row for each step: FLOPs, mean AP and its range over seeds, published top-1."""
    rows = [["step", "GFLOPs", "box AP", "mask AP", "seeds", "top-1, published"]]
    for outcome in outcomes:
        ap = [f"{mean(v):.1f} ({min(v):.1f} to {max(v):.1f})" for v in (outcome.box, outcome.mask)]
        row = [outcome.step, f"{outcome.flops / 1e9:.1f}", *ap]
        rows.append([*row, str(len(outcome.box)), f"{outcome.top_1(regime):.2f}"])
    return format_table(rows)


def figure(outcomes: Sequence[Outcome], regime: str) -> Figure:
    """Draw AP, FLOPs and published top-1, step by step from top to bottom."""
    chart = Figure(figsize=(10, 1.5 + 0.35 * len(outcomes)), layout="constrained")
    left, middle, right = chart.subplots(1, 3, sharey=True, width_ratios=(4, 2, 2))
    places = range(len(outcomes))
    for name, colour in (("box", "tab:blue"), ("mask", "tab:orange")):
        values = [getattr(outcome, name) for outcome in outcomes]
        ends = [[mean(v) - min(v) for v in values], [max(v) - mean(v) for v in values]]
        style = {"fmt": "o-", "color": colour, "markersize": 4, "capsize": 3}
        label = f"{name} AP, mean and range of seeds"
        left.errorbar([*map(mean, values)], places, xerr=ends, label=label, **style)
    left.set_yticks(places, [outcome.step for outcome in outcomes], fontsize=8)
    left.invert_yaxis()
    left.set_xlabel("AP, 0-100")
    left.legend(fontsize=8)
    bars = middle.barh(places, [outcome.flops / 1e9 for outcome in outcomes], color="lightgrey")
    middle.bar_label(bars, fmt="%.1f", fontsize=8, padding=-28)
    middle.set_xlabel("GFLOPs at 800x1280")
    right.plot([outcome.top_1(regime) for outcome in outcomes], places, "s-", color="tab:green")
    right.set_xlabel("top-1 in %, published")
    for axes in (left, middle, right):
        axes.grid(alpha=0.3)
        axes.spines[["top", "right"]].set_visible(False)
    return chart
