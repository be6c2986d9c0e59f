"""Scaling: time and memory against input area, batch and model size, and one and two processes.

The points of a curve are the candidates of a comparison: they alternate, so that a machine that
becomes slower becomes so for all of them. Lines are fitted to their medians by least squares.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from matplotlib.figure import Figure
from scipy.stats import linregress
from torch import distributed, multiprocessing
from torch.nn.parallel import DistributedDataParallel

from benchmarks import roofline
from benchmarks.backbone import TOLERANCE, Backbone, Task
from benchmarks.comparison import (
    OURS,
    VAL,
    Results,
    add_data_arguments,
    check_coco,
    close_to,
    run,
    say,
)
from benchmarks.detector import Detector
from benchmarks.report import MIB, Report, fact_column
from benchmarks.worker import BenchmarkError, Candidate
from mmconvnext.errors import UserError

BACKBONE, DETECTOR, PROCESSES = PARTS = ("backbone", "detector", "processes")
TIME, PEAK, SAVED = "time (s)", "peak memory (MiB)", "saved for backward (MiB)"
# By what a curve goes along: the axis of time, and that of memory: its unit, fact and scale.
AREA, BATCH = ("Mpixel", "pixels", 1e6), ("images", "images", 1.0)
COST, SIZE = ("G multiply-adds", "multiply_adds", 1e9), ("M parameters", "parameters", 1e6)
AXES = {"input area": (AREA, AREA), "batch": (BATCH, BATCH), "model size": (COST, SIZE)}
# Height and width of images in pixels, numbers of images, and variants; SIDE is that of the images
# of the curves along the latter two.
SHAPES = ((224, 224), (320, 320), (480, 480), (640, 640), (800, 1280))
BATCHES, ARCHS, SIDE = (1, 2, 4, 8), ("tiny", "small", "base", "large", "xlarge"), 320
# For detectors, the long and the short side that an image is fitted into, and the configs by model.
SCALES = ((533, 320), (800, 480), (1067, 640), (1333, 800))
CASCADES = {"T": "t", "S": "s", "B": "b", "L": "l_in22k", "XL": "xl_in22k"}
CASCADE_SCALE = (800, 480)
STEP = 4  # images of a training step by one or two processes
LEARNING_RATE = 1e-4
NOTES = (
    "first: the first row; peak: the most memory that a process took beyond what it has at rest; "
    "saved: what autograd keeps for backward, each storage once",
    "linear fits: by least squares, to the medians; residual: the largest distance of a point from "
    "its line, relative to the point",
    "multiply-adds: of one forward pass, in training too; of a detector as in the papers, with "
    "1,000 proposals and 100 masks",
    "detectors have random weights; what is timed is the loop of a test, from reading the image to "
    "encoding its masks; input area: after resizing and padding",
    "processes: forward, backward, the mean of the gradients over the processes, AdamW; efficiency "
    "beside the first row, for each thread in use; peak of one process",
)
COLUMNS = (
    *(fact_column(*axis) for axis in (AREA, BATCH, COST, SIZE)),
    fact_column("saved MiB", "saved_bytes", MIB, ".0f"),
    fact_column("images/s", "step_images", form=".2f", per_second=True),
    fact_column("efficiency", "efficiency", form=".0%"),
)
PAGE = Path(__file__).resolve().parents[1] / "docs" / "scaling.md"
SCHEDULE = "## A 3x schedule on COCO, on paper"  # the last part of the page


class Curve(NamedTuple):
    """A curve along a key of ``AXES``; its points are arguments of a candidate each, by name."""

    part: str
    mode: str
    along: str
    what: str
    points: Mapping[str, Mapping[str, Any]]

    def measure(self, args: argparse.Namespace) -> Results:
        """Let the points alternate."""
        factory = {BACKBONE: Backbone, DETECTOR: Detector}[self.part]
        points = [Candidate(name, factory, arguments) for name, arguments in self.points.items()]
        title = f"{self.what}, {self.mode}, against {self.along}"
        say(title)
        return run(points, args, title=title)

    def fits(self, results: Results) -> list[dict[str, Any]]:
        """The points of each quantity, and the line through them.

        Without the peak where the system does not tell it, or it is too little to see.
        """
        values: dict[str, list] = {TIME: [], PEAK: [], SAVED: []}
        for name in results.timings:
            values[TIME].append(results.median_seconds(name))
            values[PEAK].append((results.peak_bytes(name) or 0) / MIB)
            values[SAVED].append(results.facts[name].get("saved_bytes", 0) / MIB)
        found = []
        for quantity, ys in values.items():
            if not all(ys):
                continue
            unit, fact, scale = AXES[self.along][quantity != TIME]
            xs = np.array([results.facts[name][fact] / scale for name in results.timings])
            fit = linregress(xs, ys)
            line = fit.intercept + fit.slope * xs
            place = {"part": self.part, "mode": self.mode, "along": self.along}
            points = {"quantity": quantity, "unit": unit, "xs": xs.tolist(), "ys": ys}
            fitted = {"intercept": float(fit.intercept), "slope": float(fit.slope)}
            quality = {"r_squared": fit.rvalue**2, "residual": float(max(abs(line / ys - 1)))}
            found.append({**place, **points, **fitted, **quality, "line": line.tolist()})
        return found


def backbone_curves(device: str) -> list[Curve]:
    """Describe the curves of the backbone, in inference and in training."""
    arch, size, on = ARCHS[0], f"{SIDE}x{SIDE}", f", {device}"
    curves = []
    for train, mode in ((False, "inference"), (True, "forward + backward")):
        base = Task(arch, shape=(SIDE, SIDE), train=train, device=device)
        for along, what, tasks in (
            ("input area", "one image", {f"{h}x{w}": {"shape": (h, w)} for h, w in SHAPES}),
            ("batch", f"images of {size}", {f"batch {n}": {"batch": n} for n in BATCHES}),
            ("model size", f"one image of {size}", {each: {"arch": each} for each in ARCHS}),
        ):
            points = {n: {"peer": OURS, "task": replace(base, **t)} for n, t in tasks.items()}
            model = "ConvNeXt" if along == "model size" else f"ConvNeXt {arch}"
            curves.append(Curve(BACKBONE, mode, along, f"{model}, {what}{on}", points))
    return curves


def detector_curves(data_root: str, device: str) -> list[Curve]:
    """Describe the curves of the detector in the loop of a test, with one image."""
    one = {"images": 1, "data_root": data_root, "device": device}
    mask_rcnn = {"config": "mask_rcnn_convnext_t_coco.py", **one}
    areas = {f"short side {scale[1]}": {"scale": scale, **mask_rcnn} for scale in SCALES}
    models = {
        name: {"config": f"cascade_convnext_{kind}_coco.py", "scale": CASCADE_SCALE, **one}
        for name, kind in CASCADES.items()
    }
    side, on = f"one image with a short side of {CASCADE_SCALE[1]}", f", {device}"
    return [
        Curve(DETECTOR, "inference", "input area", f"mask_rcnn_convnext_t, one image{on}", areas),
        Curve(DETECTOR, "inference", "model size", f"cascade_convnext, {side}{on}", models),
    ]


class DataParallel(Backbone):
    """The factory of training steps by processes that share the images of a task.

    What is timed is forward, backward, the mean of the gradients over the processes (gloo), and
    AdamW. The first process (rank 0) is the candidate's own, so its peak memory is that of one
    process; it starts the others, which find it by the file ``store``.
    """

    def __init__(self, task: Task, processes: int, threads: int, store: str = "", rank: int = 0):
        torch.set_num_threads(threads)
        super().__init__(OURS, replace(task, train=True))
        self._layout = {"processes": processes, "threads": threads, "step_images": task.batch}
        self._parameters = dict(self._model.named_parameters())
        self._optimizer = torch.optim.AdamW(self._parameters.values(), lr=LEARNING_RATE)
        if processes == 1:
            return
        if rank == 0:
            self._folder = tempfile.TemporaryDirectory(prefix="benchmark-")
            store = f"file://{self._folder.name}/store"
            arguments = (task, processes, threads, store)
            # as daemons, they end with this process
            multiprocessing.spawn(_follow, arguments, processes - 1, join=False, daemon=True)
        if sys.platform == "linux":  # the host's name need not resolve
            os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")
        distributed.init_process_group("gloo", store, rank=rank, world_size=processes)
        self._model = DistributedDataParallel(self._model, gradient_as_bucket_view=True)
        self._image = self._image.chunk(processes)[rank].clone()
        # times their number, for the mean is taken
        self._gradients = [each.chunk(processes)[rank] * processes for each in self._gradients]

    def run(self) -> None:
        """Make one step in all processes."""
        if self._layout["processes"] > 1:
            distributed.barrier()  # nobody begins before the first process
        super().run()
        self._optimizer.step()

    def check(self) -> dict[str, np.ndarray]:
        """Make one step, and return the gradients of all its images."""
        self.run()
        named = self._parameters.items()
        return {f"gradients of {name}": param.grad.numpy().copy() for name, param in named}

    def facts(self) -> dict[str, float]:
        """Return processes, threads of each, and the images of a step."""
        return self._layout


def _follow(index: int, *arguments: Any) -> None:
    training = DataParallel(*arguments, rank=index + 1)
    while True:
        training.run()


def share_work(task: Task, args: argparse.Namespace) -> Results:
    """Let training steps in one and two processes alternate, once their gradients are equal.

    Two processes have as many threads together, at least 2, as one process that uses all. The fact
    ``efficiency`` is that of each thread beside one process with half of them.
    """
    half, candidates = args.threads // 2, []
    for processes, each in ((1, half), (1, 2 * half), (2, half)):
        name = f"{processes} process{'es' * (processes > 1)} x {each} thread{'s' * (each > 1)}"
        layout = {"task": task, "processes": processes, "threads": each}
        candidates.append(Candidate(name, DataParallel, layout))
    size = "x".join(map(str, task.shape))
    title = f"ConvNeXt {task.arch}, training steps, {task.batch} images of {size}, gloo, cpu"
    results = run(candidates, args, close_to(TOLERANCE), title)
    for name, facts in results.facts.items():
        used = facts["processes"] * facts["threads"]
        facts["efficiency"] = half / used / results.median_ratio(name)
        if facts["processes"] > 1:  # to others, its own second process is another's
            timings = results.timings[name]
            timings[:] = [timing._replace(others_seconds=None) for timing in timings]
    return results


def make_report(fits: Sequence[Mapping[str, Any]], tables: Sequence[Results]) -> Report:
    """Report with the linear fits first."""
    rows = [["", "quantity", "linear fit", "R²", "residual", "axis grows", "it grows"]]
    for fit in fits:
        sign = "+" if fit["slope"] >= 0 else "-"
        equation = f"{fit['intercept']:.3g} {sign} {abs(fit['slope']):.3g} · {fit['unit']}"
        grown = [f"{max(fit[key]) / min(fit[key]):.1f} x" for key in ("xs", "ys")]
        curve = f"{fit['part']}, {fit['mode']}, against {fit['along']}"
        quality = [f"{fit['r_squared']:.4f}", f"{fit['residual']:.0%}"]
        rows.append([curve, fit["quantity"], equation, *quality, *grown])
    summary = {"Linear fits": rows} if fits else {}
    return Report(tables, COLUMNS, NOTES, "first", summary, {"linear_fits": [*fits]})


def write_page(report: Report, fits: Sequence[Mapping[str, Any]], folder: Path) -> None:
    """Write the page and its pictures; how it begins, and its end on paper, stay as they are."""
    old, shown = PAGE.read_text("utf-8"), ""
    for part in dict.fromkeys(fit["part"] for fit in fits):
        picture = f"images/scaling_{part}.png"
        _draw([fit for fit in fits if fit["part"] == part]).savefig(folder / picture, dpi=90)
        shown += f"![scaling_{part}]({picture})\n\n"
        say(f"written to {folder / picture}")
    head, paper = old[: old.index("![")], old[old.index(SCHEDULE) :]
    page = f"{head}{shown}{report.text(markdown=True)}\n\n{paper}"
    (folder / PAGE.name).write_text(page, "utf-8")
    say(f"written to {folder / PAGE.name}")


def _draw(fits: Sequence[Mapping[str, Any]]) -> Figure:
    """A column of panels for each axis, time above memory."""
    along = list(dict.fromkeys(fit["along"] for fit in fits))
    figure = Figure((3.3 * len(along), 5.4), layout="constrained")
    panels = figure.subplots(2, len(along), squeeze=False)
    for fit in fits:
        is_time = fit["quantity"] == TIME
        panel = panels[int(not is_time), along.index(fit["along"])]
        label = f"{fit['quantity'].partition(' (')[0]}, {fit['mode']}"
        (line,) = panel.plot(fit["xs"], fit["line"])
        panel.plot(fit["xs"], fit["ys"], "o", color=line.get_color(), label=label)
        panel.set(xlabel=f"{fit['along']} ({fit['unit']})", ylabel="s" if is_time else "MiB")
        panel.set(xlim=(0, None), ylim=(0, None))
        panel.legend(fontsize=7)
    return figure


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add this command's options."""
    parser.set_defaults(rounds=3)  # there are many comparisons
    add = parser.add_argument
    add("--parts", nargs="+", choices=PARTS, default=PARTS, help="what to measure; default: all")
    add("--out", metavar="DIR", help="write scaling.md and its pictures there, too")
    add_data_arguments(parser)
    roofline.add_arguments(parser)


def compare(args: argparse.Namespace) -> Report:
    """Measure what the command line names, and write the page if it names a folder."""
    device, curves = roofline.choose_device(args.device), []
    # mistakes are found before minutes are spent on measuring
    if PROCESSES in args.parts and args.threads < 2:
        raise BenchmarkError(
            f"--threads {args.threads} must be at least 2, one for each of two processes; without "
            f"them: --parts {BACKBONE} {DETECTOR}"
        )
    if BACKBONE in args.parts:
        curves += backbone_curves(device)
    if DETECTOR in args.parts:
        check_coco(args.data_root, *VAL)
        curves += detector_curves(args.data_root, device)
    if args.out:
        try:
            Path(args.out, "images").mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise UserError(f"--out {args.out} cannot be made: {error.strerror}") from error
    tables = [curve.measure(args) for curve in curves]
    fits = [fit for curve, table in zip(curves, tables, strict=True) for fit in curve.fits(table)]
    if PROCESSES in args.parts:
        tables.append(share_work(Task(ARCHS[0], shape=(SIDE, SIDE), batch=STEP), args))
    report = make_report(fits, tables)
    if args.out:
        write_page(report, fits, Path(args.out))
    return report
