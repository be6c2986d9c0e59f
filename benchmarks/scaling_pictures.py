"""Pictures of scaling: what was measured as points, what was fitted as lines."""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib import rc_context
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from PIL import Image

from benchmarks.comparison import Results
from benchmarks.scaling_curves import SAVED, TIME, Curve, Series
from benchmarks.scaling_report import ScalingReport
from benchmarks.schedule import GPUS, Cost

# Okabe and Ito's palette can be told apart by colour-blind people; markers differ, too.
BLUE, ORANGE, GREEN = "#0072B2", "#D55E00", "#009E73"
INFERENCE, TRAINING, KEPT = (BLUE, "o"), (ORANGE, "s"), (GREEN, "^")
PANEL = (3.3, 2.7)  # inches
DOTS_PER_INCH = 90
BAR = 0.4
ROOM = 1.05  # above the highest point
COLOURS = 64
SETTINGS = {
    "axes.axisbelow": True,
    "axes.grid": True,
    "axes.spines.right": False,
    "axes.spines.top": False,
    "font.size": 9,
    "grid.alpha": 0.3,
    "legend.frameon": False,
}


def draw(report: ScalingReport, folder: Path) -> dict[Path, str]:
    """Draw a report.

    Args:
        report: what was measured.
        folder: for the PNG files, is there.

    Returns:
        The files, each with a line on what it shows.
    """
    figures: dict[str, tuple[str, Figure]] = {}
    with rc_context(SETTINGS):
        for part in dict.fromkeys(curve.part for curve in report.curves):
            own = [curve for curve in report.curves if curve.part == part]
            caption = f"Time and peak memory of the {part}: points are measured, lines fitted"
            figures[f"scaling_{part}.png"] = (caption, _curves(own))
        caption = "Training in one and two processes, and a 3x schedule on COCO on paper"
        figures["scaling_training.png"] = (caption, _training(report.processes, report.costs))
        for name, (_, figure) in figures.items():
            _write(figure, folder / name)
    return {folder / name: caption for name, (caption, _) in figures.items()}


def _curves(curves: Sequence[Curve]) -> Figure:
    """A column of panels for each axis, time above memory."""
    columns = list(dict.fromkeys(curve.along for curve in curves))
    figure, panels = _panels(2, len(columns))
    for curve in curves:
        times, memories = panels[:, columns.index(curve.along)]
        for series in curve.series:
            _plot(times if series.quantity == TIME else memories, curve, series)
    for panel in panels.flat:
        panel.set_xlim(0, panel.get_xlim()[1])
        panel.set_ylim(0, panel.get_ylim()[1] * ROOM)
    entries: dict[str, Artist] = {}
    for panel in panels[:, 0]:  # those of other columns are the same
        handles, labels = panel.get_legend_handles_labels()
        entries |= zip(labels, handles, strict=True)
    figure.legend(entries.values(), entries, loc="outside upper center", ncols=len(entries))
    return figure


def _plot(panel: Axes, curve: Curve, series: Series) -> None:
    if series.quantity == SAVED:
        (colour, marker), label = KEPT, series.quantity
    else:
        (colour, marker), label = TRAINING if curve.train else INFERENCE, curve.mode
    panel.plot(series.xs, [series.fit.at(x) for x in series.xs], color=colour, linewidth=1)
    panel.plot(series.xs, series.ys, marker, color=colour, markersize=5, label=label)
    panel.set_xlabel(f"{series.axis.name} ({series.axis.unit})")
    panel.set_ylabel("time (s)" if series.quantity == TIME else "memory (MiB)")


def _training(processes: Results | None, costs: Sequence[Cost]) -> Figure:
    figure, panels = _panels(1, 2 if processes else 1)
    *measured, paper = panels.flat
    for panel in measured:
        names = list(processes.timings)
        speeds = [processes.facts[n]["images"] / processes.median_seconds(n) for n in names]
        bars = panel.bar([n.replace(" x ", "\nx ") for n in names], speeds, BAR, color=BLUE)
        panel.bar_label(bars, fmt="%.2f")
        panel.set_ylabel("training (images/s)")
    for index, (gpus, colour) in enumerate(zip(GPUS, (BLUE, ORANGE), strict=True)):
        own = [cost for cost in costs if cost.gpus == gpus]
        places = np.arange(len(own)) + index * BAR
        bars = paper.barh(places, [cost.hours for cost in own], BAR, color=colour)
        paper.bar_label(bars, fmt="%.1f", padding=2, fontsize=8)
        bars.set_label(f"{gpus} GPUs")
        paper.set_yticks(places - BAR / 2, [cost.name for cost in own])
    paper.invert_yaxis()
    paper.set_xlabel("3x schedule on A100s, estimated (hours)")
    paper.legend(loc="upper right")
    return figure


def _panels(rows: int, columns: int) -> tuple[Figure, np.ndarray]:
    width, height = PANEL
    figure = Figure((width * columns, height * rows), layout="constrained")
    return figure, figure.subplots(rows, columns, squeeze=False)


def _write(figure: Figure, path: Path) -> None:
    """Write a small file: few colours are used."""
    drawn = io.BytesIO()
    figure.savefig(drawn, format="png", dpi=DOTS_PER_INCH)  # by Agg: no screen is needed
    Image.open(drawn).convert("RGB").quantize(COLOURS).save(path, optimize=True)
