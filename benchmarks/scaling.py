"""Scaling: time and memory against input area, batch and model size, and one and two processes.

The points of a curve are the candidates of a comparison: they alternate, so that a machine that
becomes slower becomes so for all of them. Lines are fitted to their medians by least squares.
"""

from __future__ import annotations

import argparse
import math
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
from mmengine.dataset import pseudo_collate
from scipy.stats import linregress
from torch import distributed, multiprocessing
from torch.nn.parallel import DistributedDataParallel

from benchmarks import roofline
from benchmarks.backbone import TOLERANCE, Backbone, Task, count_operations
from benchmarks.comparison import Results, close_to, run, run_options
from benchmarks.detector import Detector
from benchmarks.peers import OURS, SEED, fill, map_shapes, ours, random_weights
from benchmarks.report import MIB, Report, fact_column, rate_column
from benchmarks.worker import BenchmarkError, Candidate
from mmconvnext.analysis.flops import count_flops as count_detector
from mmconvnext.data.paths import check_data_paths
from mmconvnext.engine.config import load_config, set_data_root
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
# For detectors, the long and the short side that an image is fitted into, the config of that curve,
# and the configs by model.
SCALES = ((533, 320), (800, 480), (1067, 640), (1333, 800))
MASK_RCNN = "mask_rcnn_convnext_t_coco.py"
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
    rate_column("images/s", "step_images", form=".2f"),
    fact_column("efficiency", "efficiency", form=".0%"),
)
PAGE = """# Scaling

This page answers how time and memory grow with image, batch, model and processes: points are
measured, lines are fitted to them by least squares. Written, with its pictures, by

```sh
python -m benchmarks scaling --data-root DIR --out docs
```

"""
SCHEDULE = "## A 3x schedule on COCO, on paper"  # the part of the page that stays as it is


class Curve(NamedTuple):
    """A curve, whose points are candidates.

    Attributes:
        part: ``backbone`` or ``detector``.
        mode: what is computed: ``inference``, …
        along: a key of ``AXES``.
        what: of what.
        points: by name, the factory's arguments.
    """

    part: str
    mode: str
    along: str
    what: str
    points: Mapping[str, Mapping[str, Any]]

    def measure(self, **options: int) -> Results:
        """Let the points alternate; options are those of :func:`benchmarks.comparison.run`."""
        factory = {BACKBONE: CountedBackbone, DETECTOR: CountedDetector}[self.part]
        points = [Candidate(name, factory, arguments) for name, arguments in self.points.items()]
        title = f"{self.what}, {self.mode}, against {self.along}"
        print(title, file=sys.stderr, flush=True)
        return run(points, title=title, **options)

    def fits(self, results: Results) -> list[dict[str, Any]]:
        """The points of each quantity, and the line through them.

        Without the peak where the system does not tell it, or it is too little to see.
        """
        names = list(results.timings)
        peaks = [results.peak_bytes(name) for name in names]
        saved = [results.facts[name].get("saved_bytes") for name in names]
        values = {TIME: [results.median_seconds(name) for name in names]}
        for quantity, sizes in ((PEAK, peaks), (SAVED, saved)):
            if all(sizes):
                values[quantity] = [size / MIB for size in sizes]
        place = {"part": self.part, "mode": self.mode, "along": self.along}
        found = []
        for quantity, ys in values.items():
            unit, fact, scale = AXES[self.along][quantity != TIME]
            xs = [results.facts[name][fact] / scale for name in names]
            fit = linregress(xs, ys)
            line = [float(fit.intercept + fit.slope * x) for x in xs]
            residual = max(abs(y / b - 1) for y, b in zip(line, ys, strict=True))
            quality = {"r_squared": float(fit.rvalue**2), "residual": residual}
            fitted = {"intercept": float(fit.intercept), "slope": float(fit.slope), **quality}
            points = {"quantity": quantity, "unit": unit, "xs": xs, "ys": ys, "line": line}
            found.append({**place, **points, **fitted})
        return found


class CountedBackbone(Backbone):
    """The factory of ours, which says how much work its images are."""

    def __init__(self, task: Task):
        super().__init__(OURS, task)

    def facts(self) -> dict[str, float]:
        """Return the place on all axes, the cost that of a forward pass, and what is saved."""
        task, found = self._task, super().facts()
        found |= {"pixels": math.prod(task.shape), "images": task.batch}
        found["multiply_adds"] = count_operations(replace(task, train=False)) // 2
        found["parameters"] = sum(param.numel() for param in self._model.parameters())
        return found


class CountedDetector(Detector):
    """The factory of a detector that says how much work its images are."""

    def facts(self) -> dict[str, float]:
        """Return parameters, and the mean pixels (padded) and multiply-adds of an image."""
        shapes = [self.shape(index) for index in self._indices]
        costs = [count_detector(self._model, shape) for shape in shapes]
        pixels = sum(map(math.prod, shapes)) / len(shapes)
        work = {"pixels": pixels, "multiply_adds": sum(c.flops for c in costs) / len(costs)}
        return {"images": len(shapes), "parameters": costs[0].params, **work}

    def shape(self, index: int) -> tuple[int, int]:
        """The height and width that an image has in the detector."""
        batch = pseudo_collate([self._dataset[index]])
        return tuple(self._model.data_preprocessor(batch)["inputs"].shape[-2:])


class DataParallel:
    """The factory of training steps by processes that share a step's images.

    What is timed is forward, backward, the mean of the gradients over the processes (gloo), and
    AdamW. The first process is the candidate's own, so its peak memory is that of one process.

    Args:
        task: the variant, and the images of a step, of all processes together.
        processes: how many there are; the number of images is a multiple of it.
        threads: of each.
        rank: which of the processes this is; the first starts the others.
        store: the file by which they find each other.
    """

    def __init__(self, task: Task, processes: int, threads: int, rank: int = 0, store: str = ""):
        torch.set_num_threads(threads)
        self._layout = {"processes": processes, "threads": threads, "step_images": task.batch}
        if processes > 1:
            if rank == 0:
                self._folder = tempfile.TemporaryDirectory(prefix="benchmark-")
                store = os.path.join(self._folder.name, "store")
                context = multiprocessing.get_context("spawn")
                for other in range(1, processes):  # as daemons, they end with this process
                    arguments = (task, processes, threads, other, store)
                    context.Process(target=_follow, args=arguments, daemon=True).start()
            if sys.platform == "linux":  # the host's name need not resolve
                os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")
            where = {"init_method": f"file://{store}", "rank": rank, "world_size": processes}
            distributed.init_process_group("gloo", **where)
        arch = task.resolve()
        self._backbone = self._model = ours(arch).train()
        fill(self._backbone, random_weights(arch))
        self._optimizer = torch.optim.AdamW(self._backbone.parameters(), lr=LEARNING_RATE)
        if processes > 1:
            self._model = DistributedDataParallel(self._backbone, gradient_as_bucket_view=True)
        generator = torch.Generator().manual_seed(SEED)
        images = torch.randn(task.batch, 3, *task.shape, generator=generator)
        self._images = images.chunk(processes)[rank].clone()
        shapes = map_shapes(arch, task.shape)
        self._targets = [torch.randn(shape, generator=generator) for shape in shapes]

    def run(self) -> None:
        """Make one step in all processes."""
        if self._layout["processes"] > 1:
            distributed.barrier()  # nobody begins before the first process
        self._optimizer.zero_grad()
        pairs = zip(self._model(self._images), self._targets, strict=True)
        sum((x * target).mean() for x, target in pairs).backward()
        self._optimizer.step()

    def check(self) -> dict[str, np.ndarray]:
        """Make one step, and return the gradients of all its images."""
        self.run()
        named = self._backbone.named_parameters()
        return {name: param.grad.numpy().copy() for name, param in named}

    def facts(self) -> dict[str, float]:
        """Return processes, threads of each, and the images of a step."""
        return self._layout


def _follow(*arguments: Any) -> None:
    training = DataParallel(*arguments)
    while True:
        training.run()


def share_work(task: Task, threads: int, **options: int) -> Results:
    """Let training steps in one and two processes alternate, once their gradients are equal.

    ``threads``, at least 2, are those of one process that uses all, and of two together; options
    are those of :func:`benchmarks.comparison.run`. The fact ``efficiency`` is that of each thread
    beside one process with half of them.
    """
    half, candidates = threads // 2, []
    for processes, each in ((1, half), (1, 2 * half), (2, half)):
        name = f"{processes} process{'es' * (processes > 1)} x {each} thread{'s' * (each > 1)}"
        layout = {"task": task, "processes": processes, "threads": each}
        candidates.append(Candidate(name, DataParallel, layout))
    size = "x".join(map(str, task.shape))
    title = f"ConvNeXt {task.arch}, training steps, {task.batch} images of {size}, gloo, cpu"
    check = close_to(TOLERANCE, lambda _: "gradients")
    results = run(candidates, check=check, title=title, threads=threads, **options)
    for name, facts in results.facts.items():
        used = facts["processes"] * facts["threads"]
        facts["efficiency"] = half / used / results.median_ratio(name)
        if facts["processes"] > 1:  # to others, its own second process is another's
            timings = results.timings[name]
            timings[:] = [replace(timing, others_seconds=None) for timing in timings]
    return results


def backbone_curves(device: str) -> list[Curve]:
    """Describe the curves of the backbone, in inference and in training."""
    arch, size, on = ARCHS[0], f"{SIDE}x{SIDE}", f", {device}"
    curves = []
    for train, mode in ((False, "inference"), (True, "forward + backward")):
        base = Task(arch, shape=(SIDE, SIDE), train=train, device=device)
        areas = {f"{h}x{w}": {"task": replace(base, shape=(h, w))} for h, w in SHAPES}
        batches = {f"batch {batch}": {"task": replace(base, batch=batch)} for batch in BATCHES}
        models = {each: {"task": replace(base, arch=each)} for each in ARCHS}
        curves += [
            Curve(BACKBONE, mode, "input area", f"ConvNeXt {arch}, one image{on}", areas),
            Curve(BACKBONE, mode, "batch", f"ConvNeXt {arch}, images of {size}{on}", batches),
            Curve(BACKBONE, mode, "model size", f"ConvNeXt, one image of {size}{on}", models),
        ]
    return curves


def detector_curves(data_root: str, device: str) -> list[Curve]:
    """Describe the curves of the detector in the loop of a test, with one image."""
    one = {"images": 1, "data_root": data_root, "device": device}
    areas = {f"short side {s[1]}": {"config": MASK_RCNN, "scale": s, **one} for s in SCALES}
    models = {
        name: {"config": f"cascade_convnext_{kind}_coco.py", "scale": CASCADE_SCALE, **one}
        for name, kind in CASCADES.items()
    }
    side, on = f"one image with a short side of {CASCADE_SCALE[1]}", f", {device}"
    return [
        Curve(DETECTOR, "inference", "input area", f"mask_rcnn_convnext_t, one image{on}", areas),
        Curve(DETECTOR, "inference", "model size", f"cascade_convnext, {side}{on}", models),
    ]


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


def write_page(report: Report, fits: Sequence[Mapping[str, Any]], folder: Path) -> list[Path]:
    """Write the page and its pictures; the part on the schedule, on paper, stays as it was.

    Raises:
        UserError: a file cannot be written.
    """
    page = folder / "scaling.md"
    old = page.read_text("utf-8") if page.is_file() else ""
    paper = old[old.index(SCHEDULE) :] if SCHEDULE in old else ""
    pictures = []
    try:
        (folder / "images").mkdir(exist_ok=True)
        for part in dict.fromkeys(fit["part"] for fit in fits):
            pictures.append(folder / "images" / f"scaling_{part}.png")
            _draw([fit for fit in fits if fit["part"] == part]).savefig(pictures[-1], dpi=90)
        shown = "".join(f"![{path.stem}](images/{path.name})\n\n" for path in pictures)
        page.write_text(f"{PAGE}{shown}{report.text(markdown=True)}\n\n{paper}", "utf-8")
    except OSError as error:
        raise UserError(f"cannot write {error.filename or folder}: {error.strerror}") from error
    return [page, *pictures]


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
    add("--data-root", default="data/coco/", help="folder of COCO 2017")
    add("--out", metavar="DIR", help="write scaling.md and its pictures there, too")
    roofline.add_arguments(parser)


def compare(args: argparse.Namespace) -> Report:
    """Measure what the command line names, and write the page if it names a folder.

    Raises:
        UserError: an argument is wrong, a comparison failed, or the page cannot be written.
    """
    device, options = roofline.choose_device(args.device), run_options(args)
    _check(args)
    curves = backbone_curves(device) if BACKBONE in args.parts else []
    if DETECTOR in args.parts:
        curves += detector_curves(args.data_root, device)
    tables = [curve.measure(**options) for curve in curves]
    pairs = zip(curves, tables, strict=True)
    fits = [fit for curve, results in pairs for fit in curve.fits(results)]
    if PROCESSES in args.parts:
        step = Task(ARCHS[0], shape=(SIDE, SIDE), batch=STEP)
        tables.append(share_work(step, **options))
    report = make_report(fits, tables)
    if args.out:
        for path in write_page(report, fits, Path(args.out)):
            print(f"written to {path}", file=sys.stderr)
    return report


def _check(args: argparse.Namespace) -> None:
    """Find mistakes before minutes are spent on measuring."""
    if PROCESSES in args.parts and args.threads < 2:
        raise BenchmarkError(
            f"--threads {args.threads} must be at least 2, one for each of two processes; without "
            f"them: --parts {BACKBONE} {DETECTOR}"
        )
    if DETECTOR in args.parts:
        cfg = load_config(MASK_RCNN)
        set_data_root(cfg, args.data_root)
        check_data_paths(cfg, ("test",))
    if args.out:
        try:
            Path(args.out).mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise UserError(f"--out {args.out} cannot be made: {error.strerror}") from error
