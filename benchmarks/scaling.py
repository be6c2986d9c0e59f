"""Scaling: time and memory against input area, batch and model size, and one and two processes.

The points of a curve are the candidates of a comparison: they alternate, so that a machine that
becomes slower becomes so for all of them. Lines are fitted to their medians by least squares.
"""

from __future__ import annotations

import argparse
import math
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, NamedTuple

import torch
from matplotlib.figure import Figure
from mmengine.dataset import pseudo_collate
from scipy.stats import linregress

from benchmarks.backbone import Task, candidates, count_flops
from benchmarks.comparison import BenchmarkError, Candidate, Results, run, run_options
from benchmarks.data_parallel import share_work
from benchmarks.detector import Detector
from benchmarks.peers import OURS, ours
from benchmarks.report import MIB, Report, fact_column
from benchmarks.roofline import choose_device
from mmconvnext.analysis.flops import count_flops as count_detector
from mmconvnext.data.paths import check_data_paths
from mmconvnext.engine.config import load_config, set_data_root
from mmconvnext.errors import UserError

BACKBONE, DETECTOR, PROCESSES = PARTS = ("backbone", "detector", "processes")
MODES = {False: "inference", True: "forward + backward"}
TIME, PEAK, SAVED = "time (s)", "peak memory (MiB)", "saved for backward (MiB)"
# By what a curve goes along: the axis of time, and that of memory: its unit, fact and scale.
AREA, BATCH = ("Mpixel", "pixels", 1e6), ("images", "images", 1.0)
COST, SIZE = ("G multiply-adds", "multiply_adds", 1e9), ("M parameters", "parameters", 1e6)
AXES = {"input area": (AREA, AREA), "batch": (BATCH, BATCH), "model size": (COST, SIZE)}
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
PAGE = """# Scaling

This page answers how time and memory grow with image, batch, model and processes: points are
measured, lines are fitted to them by least squares. Written, with its pictures, by

```sh
python tools/benchmark.py scaling --data-root DIR --out docs
```

"""
SCHEDULE = "## A 3x schedule on COCO, on paper"  # the part of the page that stays as it is


class Plan(NamedTuple):
    """Where the points of the curves lie.

    Attributes:
        shapes: height and width of the backbone's images in pixels.
        batches: numbers of images.
        archs: of the backbone; the first is that of the other curves.
        side: in pixels, of the square images of the curves along batch and model.
        scales: for the detector, the long and the short side that an image is fitted into.
        detectors: by model, the configs of the curve along model size.
        scale: of those.
        step: images of a training step by one or two processes.
    """

    shapes: Sequence[tuple[int, int]]
    batches: Sequence[int]
    archs: Sequence[str]
    side: int
    scales: Sequence[tuple[int, int]]
    detectors: Mapping[str, str]
    scale: tuple[int, int]
    step: int


AREA_DETECTOR = "mask_rcnn_convnext_t_coco.py"
CASCADES = {"T": "t", "S": "s", "B": "b", "L": "l_in22k", "XL": "xl_in22k"}
FULL = Plan(
    shapes=((224, 224), (320, 320), (480, 480), (640, 640), (800, 1280)),
    batches=(1, 2, 4, 8),
    archs=("tiny", "small", "base", "large", "xlarge"),
    side=320,
    scales=((533, 320), (800, 480), (1067, 640), (1333, 800)),
    detectors={name: f"cascade_convnext_{kind}_coco.py" for name, kind in CASCADES.items()},
    scale=(800, 480),
    step=4,
)
QUICK = Plan(
    shapes=((64, 64), (96, 96), (128, 128)),
    batches=(1, 2, 3),
    archs=("atto", "femto", "pico"),
    side=64,
    scales=((160, 96), (213, 128), (320, 192)),
    detectors={name: f"mask_rcnn_convnext_{name.lower()}_coco.py" for name in "TSB"},
    scale=(160, 96),
    step=2,
)


@dataclass
class Curve:
    """A curve: its points are candidates, their results come when it was measured.

    Attributes:
        part: ``backbone`` or ``detector``.
        along: a key of ``AXES``.
        title: of its table.
        candidates: its points.
        train: forward and backward, else inference.
        facts: by candidate, what the axes need and the candidate does not say itself.
        results: of the comparison; facts have the axes' values.
    """

    part: str
    along: str
    title: str
    candidates: Sequence[Candidate]
    train: bool = False
    facts: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    results: Results | None = None

    def measure(self, **options: int) -> Curve:
        """Let the points alternate; options are those of :func:`benchmarks.comparison.run`."""
        self.results = run(self.candidates, title=self.title, **options)
        for name, facts in self.facts.items():
            self.results.facts[name].update(facts)
        return self

    def fits(self) -> list[dict[str, Any]]:
        """The points of each quantity, and the line through them.

        Without the peak where the system does not tell it, or it is too little to see.
        """
        names = list(self.results.timings)
        peaks = [self.results.peak_bytes(name) for name in names]
        values = {TIME: [self.results.median_seconds(name) for name in names]}
        if all(peaks):
            values[PEAK] = [peak / MIB for peak in peaks]
        if self.train:
            values[SAVED] = [self.results.facts[name]["saved_bytes"] / MIB for name in names]
        found = []
        for quantity, ys in values.items():
            unit, fact, scale = AXES[self.along][quantity != TIME]
            xs = [self.results.facts[name][fact] / scale for name in names]
            fit = linregress(xs, ys)
            line = {
                "curve": f"{self.part}, {MODES[self.train]}, against {self.along}",
                "quantity": quantity,
                "unit": unit,
                "xs": xs,
                "ys": ys,
                "intercept": float(fit.intercept),
                "slope": float(fit.slope),
                "r_squared": float(fit.rvalue**2),
            }
            line["line"] = [line["intercept"] + line["slope"] * x for x in xs]
            line["residual"] = max(abs(y / b - 1) for y, b in zip(line["line"], ys, strict=True))
            found.append(line)
        return found


class CountedDetector(Detector):
    """The factory of a detector that says how much work its images are."""

    def facts(self) -> dict[str, float]:
        """Return parameters, and the mean pixels (padded) and multiply-adds of an image."""
        shapes = [self.shape(index) for index in self._indices]
        costs = [count_detector(self._model, shape) for shape in shapes]
        pixels = sum(map(math.prod, shapes)) / len(shapes)
        flops = sum(cost.flops for cost in costs) / len(costs)
        found = {"images": len(shapes), "pixels": pixels, "multiply_adds": flops}
        return {**found, "parameters": costs[0].params}

    def shape(self, index: int) -> tuple[int, int]:
        """The height and width that an image has in the detector."""
        batch = pseudo_collate([self._dataset[index]])
        height, width = self._model.data_preprocessor(batch)["inputs"].shape[-2:]
        return height, width


def make_report(curves: Sequence[Curve], tables: Sequence[Results] = ()) -> Report:
    """Report on curves, with the linear fits first, and on other tables."""
    headings = ["", "quantity", "linear fit", "R²", "residual", "axis grows", "it grows"]
    fits = [line for curve in curves for line in curve.fits()]
    return Report(
        [*(curve.results for curve in curves), *tables],
        COLUMNS,
        NOTES,
        first="first",
        summary={"Linear fits": [headings, *map(_fit_row, fits)]} if fits else {},
        extra={"linear_fits": fits},
    )


def write_page(report: Report, curves: Sequence[Curve], folder: Path) -> list[Path]:
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
        for part in dict.fromkeys(curve.part for curve in curves):
            pictures.append(folder / "images" / f"scaling_{part}.png")
            _draw([curve for curve in curves if curve.part == part]).savefig(pictures[-1], dpi=90)
        shown = "".join(f"![{path.stem}](images/{path.name})\n\n" for path in pictures)
        page.write_text(f"{PAGE}{shown}{report.text(markdown=True)}\n\n{paper}", "utf-8")
    except OSError as error:
        raise UserError(f"cannot write {error.filename or folder}: {error.strerror}") from error
    return [page, *pictures]


def _draw(curves: Sequence[Curve]) -> Figure:
    """A column of panels for each axis, time above memory."""
    along = list(dict.fromkeys(curve.along for curve in curves))
    figure = Figure((3.3 * len(along), 5.4), layout="constrained")
    panels = figure.subplots(2, len(along), squeeze=False)
    for curve in curves:
        for fit in curve.fits():
            is_time = fit["quantity"] == TIME
            panel = panels[int(not is_time), along.index(curve.along)]
            label = f"{fit['quantity'].partition(' (')[0]}, {MODES[curve.train]}"
            (line,) = panel.plot(fit["xs"], fit["line"])
            panel.plot(fit["xs"], fit["ys"], "o", color=line.get_color(), label=label)
            panel.set(xlabel=f"{curve.along} ({fit['unit']})", ylabel="s" if is_time else "MiB")
            panel.set(xlim=(0, None), ylim=(0, None))
            panel.legend(fontsize=7)
    return figure


def _fit_row(line: Mapping[str, Any]) -> list[str]:
    sign = "+" if line["slope"] >= 0 else "-"
    equation = f"{line['intercept']:.3g} {sign} {abs(line['slope']):.3g} · {line['unit']}"
    quality = [f"{line['r_squared']:.4f}", f"{line['residual']:.0%}"]
    grown = [f"{max(line[key]) / min(line[key]):.1f} x" for key in ("xs", "ys")]
    return [line["curve"], line["quantity"], equation, *quality, *grown]


COLUMNS = (
    *(fact_column(*axis) for axis in (AREA, BATCH, COST, SIZE)),
    fact_column("saved MiB", "saved_bytes", MIB, ".0f"),
    fact_column("images/s", "images_per_second", form=".2f"),
    fact_column("efficiency", "efficiency", form=".0%"),
)


def backbone_curves(plan: Plan, device: str) -> Iterator[Curve]:
    """Describe the curves of the backbone, in inference and in training."""
    arch, size = plan.archs[0], f"{plan.side}x{plan.side}"
    base = Task(arch, shape=(plan.side, plan.side), device=device)
    tasks = {
        "input area": {f"{h}x{w}": replace(base, shape=(h, w)) for h, w in plan.shapes},
        "batch": {f"batch {batch}": replace(base, batch=batch) for batch in plan.batches},
        "model size": {each: replace(base, arch=each) for each in plan.archs},
    }
    what = {
        "input area": f"ConvNeXt {arch}, one image",
        "batch": f"ConvNeXt {arch}, images of {size}",
        "model size": f"ConvNeXt, one image of {size}",
    }
    facts = {a: {name: _facts(task) for name, task in p.items()} for a, p in tasks.items()}
    for train, mode in MODES.items():
        for along, points in tasks.items():
            made = [
                replace(candidates(replace(task, train=train), [OURS])[0], name=name)
                for name, task in points.items()
            ]
            title = f"{what[along]}, {mode}, against {along}, {device}"
            yield Curve(BACKBONE, along, title, made, train, facts[along])


def _facts(task: Task) -> dict[str, float]:
    """The place of a point on all axes; the cost is that of a forward pass."""
    with torch.device("meta"):
        parameters = sum(param.numel() for param in ours(task.resolve()).parameters())
    cost = count_flops(task) // 2  # a multiply-add is two operations
    place = {"pixels": math.prod(task.shape), "images": task.batch}
    return {**place, "multiply_adds": cost, "parameters": parameters}


def detector_curves(plan: Plan, data_root: str, device: str) -> Iterator[Curve]:
    """Describe the curves of the detector in the loop of a test, with one image."""

    def point(name: str, config: str, scale: Sequence[int]) -> Candidate:
        arguments = {"config": config, "reference": config, "same": True, "ours": True}
        arguments |= {"images": 1, "data_root": data_root, "device": device, "scale": scale}
        return Candidate(name, f"{__name__}:CountedDetector", arguments)

    kind = next(iter(plan.detectors.values())).partition("_t_")[0]
    by_area = [point(f"short side {scale[1]}", AREA_DETECTOR, scale) for scale in plan.scales]
    by_model = [point(name, config, plan.scale) for name, config in plan.detectors.items()]
    title = f"mask_rcnn_convnext_t, inference, one image, against input area, {device}"
    yield Curve(DETECTOR, "input area", title, by_area)
    side = f"one image with a short side of {plan.scale[1]}"
    title = f"{kind}, inference, {side}, against model size, {device}"
    yield Curve(DETECTOR, "model size", title, by_model)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add this command's options."""
    parser.set_defaults(rounds=3)  # there are many comparisons
    add = parser.add_argument
    add("--parts", nargs="+", choices=PARTS, default=PARTS, help="what to measure; default: all")
    add("--data-root", default="data/coco/", help="folder of COCO 2017")
    add("--out", metavar="DIR", help="write scaling.md and its pictures there, too")
    add("--quick", action="store_true", help="few and small: to try the command")
    add("--device", help="cpu, cuda, …; default: the GPU where there is one")


def compare(args: argparse.Namespace) -> Report:
    """Measure what the command line names, and write the page if it names a folder.

    Raises:
        UserError: an argument is wrong, a comparison failed, or the page cannot be written.
    """
    plan, device = QUICK if args.quick else FULL, choose_device(args.device)
    _check(args)
    options = run_options(args)
    curves = [*backbone_curves(plan, device)] if BACKBONE in args.parts else []
    if DETECTOR in args.parts:
        curves += detector_curves(plan, args.data_root, device)
    for curve in curves:
        print(curve.title, file=sys.stderr, flush=True)
        curve.measure(**options)
    shared = []
    if PROCESSES in args.parts:
        shared = [share_work(plan.archs[0], plan.step, plan.side, **options)]
    report = make_report(curves, shared)
    if args.out:
        for path in write_page(report, curves, Path(args.out)):
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
        cfg = load_config(AREA_DETECTOR)
        set_data_root(cfg, args.data_root)
        check_data_paths(cfg, ("test",))
    if args.out:
        try:
            Path(args.out).mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise UserError(f"--out {args.out} cannot be made: {error.strerror}") from error
