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

import numpy as np
from mmengine.dataset import pseudo_collate
from scipy.stats import linregress

from benchmarks.backbone import TOLERANCE, Task, candidates, count_flops
from benchmarks.comparison import BenchmarkError, Candidate, Results, close_to, run
from benchmarks.detector import Detector
from benchmarks.peers import OURS, ours
from benchmarks.report import MIB, UNKNOWN, Report, conditions, listed, peak_mib, titled
from benchmarks.roofline import choose_device
from mmconvnext.analysis.flops import count_flops as count_detector
from mmconvnext.errors import UserError

BACKBONE, DETECTOR, PROCESSES = PARTS = ("backbone", "detector", "processes")
MODES = {False: "inference", True: "forward + backward"}
TIME, PEAK, SAVED = "time (s)", "peak memory (MiB)", "saved for backward (MiB)"
# By what a curve goes along: the axis of time, and that of memory: its unit, fact and scale.
AREA, BATCH = ("Mpixel", "pixels", 1e6), ("images", "images", 1.0)
COST, SIZE = ("G multiply-adds", "multiply_adds", 1e9), ("M parameters", "parameters", 1e6)
AXES = {"input area": (AREA, AREA), "batch": (BATCH, BATCH), "model size": (COST, SIZE)}
NOTES = (
    "seconds: the median over the rounds; peak: the most memory that a process took beyond what it "
    "has at rest; saved: what autograd keeps for backward, each storage once",
    "linear fits: by least squares, to the medians; residual: the largest distance of a point from "
    "its line, relative to the point",
    "multiply-adds: of one forward pass, in training too; of a detector as in the papers, with "
    "1,000 proposals and 100 masks",
    "detectors have random weights; what is timed is the loop of a test, from reading the image to "
    "encoding its masks; input area: after resizing and padding",
    "processes: forward, backward, the mean of the gradients over the processes, AdamW; speed-up "
    "and efficiency beside the first row, the latter for each thread in use; peak of one process",
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

    def series(self) -> dict[str, tuple[str, list[float], list[float]]]:
        """By what was measured: the unit of the axis, the points' places on it, and their values.

        Without the peak where the system does not tell it, or it is too little to see.
        """
        names = list(self.results.timings)
        peaks = [self.results.peak_bytes(name) for name in names]
        values = {TIME: [self.results.median_seconds(name) for name in names]}
        if all(peaks):
            values[PEAK] = [peak / MIB for peak in peaks]
        if self.train:
            values[SAVED] = [self.results.facts[name]["saved_bytes"] / MIB for name in names]
        found = {}
        for quantity, ys in values.items():
            unit, fact, scale = AXES[self.along][quantity != TIME]
            found[quantity] = (unit, [self.results.facts[n][fact] / scale for n in names], ys)
        return found

    def fits(self) -> list[dict[str, Any]]:
        """The lines through what was measured."""
        found = []
        for quantity, (unit, xs, ys) in self.series().items():
            fit = linregress(xs, ys)
            residuals = np.array(ys) - (fit.intercept + fit.slope * np.array(xs))
            what = f"{self.part}, {MODES[self.train]}, against {self.along}"
            line = {"curve": what, "quantity": quantity, "unit": unit}
            line |= {"intercept": float(fit.intercept), "slope": float(fit.slope)}
            line["r_squared"] = float(fit.rvalue**2)
            line["residual"] = float(np.abs(residuals / ys).max())
            found.append({**line, "axis_grows": max(xs) / min(xs), "grows": max(ys) / min(ys)})
        return found

    def rows(self) -> list[list[str]]:
        """The table of its points."""
        axes = dict.fromkeys(AXES[self.along])
        saved = ["saved MiB"] * self.train
        rows = [["", *(unit for unit, _, _ in axes), "seconds", "spread", "peak MiB", *saved]]
        for name, facts in self.results.facts.items():
            place = [f"{facts[fact] / scale:.3g}" for _, fact, scale in axes]
            kept = [f"{facts['saved_bytes'] / MIB:.0f}"] if self.train else []
            rows.append([name, *place, *_measured(self.results, name), *kept])
        return rows


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


@dataclass(frozen=True)
class ScalingReport:
    """The curves of one call of the tool, and training in one and two processes if measured."""

    curves: Sequence[Curve]
    processes: Results | None

    def text(self, markdown: bool = False) -> str:
        """Format tables, notes and conditions, monospaced or as GitHub's markdown."""
        headings = ["", "quantity", "linear fit", "R²", "residual", "axis grows", "it grows"]
        rows = [_fit_row(line) for curve in self.curves for line in curve.fits()]
        blocks = [titled("Linear fits", [headings, *rows], markdown)] if rows else []
        blocks += [titled(each.title, each.rows(), markdown) for each in self.curves]
        if self.processes:
            blocks.append(titled(self.processes.title, _process_rows(self.processes), markdown))
        busy = [_busy_cores(table) for table in self._tables]
        disturbed = f"other processes kept {max(busy):.2f} cores busy in the worst comparison"
        return "\n\n".join(
            [*blocks, listed([*NOTES, *conditions(self._tables), disturbed], markdown)]
        )

    def to_json(self) -> dict[str, Any]:
        """Collect everything that was measured; times in seconds, memory in bytes."""
        fits = [line for curve in self.curves for line in curve.fits()]
        return {**Report(self._tables, notes=NOTES).to_json(), "linear_fits": fits}

    @property
    def _tables(self) -> list[Results]:
        tables = [curve.results for curve in self.curves]
        return [*tables, self.processes] if self.processes else tables

    def write_page(self, folder: Path) -> list[Path]:
        """Write the page and its pictures; the part on the schedule, on paper, stays as it was.

        Raises:
            UserError: a file cannot be written.
        """
        page, images = folder / "scaling.md", folder / "images"
        old = page.read_text("utf-8") if page.is_file() else ""
        paper = old[old.index(SCHEDULE) :] if SCHEDULE in old else ""
        try:
            images.mkdir(exist_ok=True)
            shown = "".join(f"![{p.stem}](images/{p.name})\n\n" for p in self._draw(images))
            page.write_text(f"{PAGE}{shown}{self.text(markdown=True)}\n\n{paper}", "utf-8")
        except OSError as error:
            raise UserError(f"cannot write {error.filename or folder}: {error.strerror}") from error
        return [page, *sorted(images.glob("scaling_*.png"))]

    def _draw(self, folder: Path) -> list[Path]:
        from matplotlib.figure import Figure

        paths = []
        for part in dict.fromkeys(curve.part for curve in self.curves):
            own = [curve for curve in self.curves if curve.part == part]
            along = list(dict.fromkeys(curve.along for curve in own))
            figure = Figure((3.3 * len(along), 5.4), layout="constrained")
            panels = figure.subplots(2, len(along), squeeze=False)
            for curve in own:
                for quantity, (unit, xs, ys) in curve.series().items():
                    panel = panels[int(quantity != TIME), along.index(curve.along)]
                    label = f"{quantity.partition(' (')[0]}, {MODES[curve.train]}"
                    fit = linregress(xs, ys)
                    (line,) = panel.plot(xs, [fit.intercept + fit.slope * x for x in xs])
                    panel.plot(xs, ys, "o", color=line.get_color(), label=label)
                    panel.set(
                        xlabel=f"{curve.along} ({unit})", ylabel="s" if quantity == TIME else "MiB"
                    )
                    panel.set(xlim=(0, None), ylim=(0, None))
                    panel.legend(fontsize=7)
            paths.append(folder / f"scaling_{part}.png")
            figure.savefig(paths[-1], dpi=90)
        return paths


def _fit_row(line: Mapping[str, Any]) -> list[str]:
    sign = "+" if line["slope"] >= 0 else "-"
    equation = f"{line['intercept']:.3g} {sign} {abs(line['slope']):.3g} · {line['unit']}"
    quality = [f"{line['r_squared']:.4f}", f"{line['residual']:.0%}"]
    grown = [f"{line[key]:.1f} x" for key in ("axis_grows", "grows")]
    return [line["curve"], line["quantity"], equation, *quality, *grown]


def _process_rows(results: Results) -> list[list[str]]:
    headings = ["", "seconds", "spread", "peak MiB", "images/s", "speed-up", "efficiency"]
    rows = [[*headings, "distance of gradients"]]
    threads = {name: f["processes"] * f["threads"] for name, f in results.facts.items()}
    for name, facts in results.facts.items():
        speed_up = 1 / results.median_ratio(name)
        speed = f"{facts['images'] / results.median_seconds(name):.2f}"
        efficiency = f"{speed_up * threads[results.ours] / threads[name]:.0%}"
        distance = results.distances.get(name, {}).get("gradients")
        shown = UNKNOWN if distance is None else f"{distance:.1e}"
        rows.append([name, *_measured(results, name), speed, f"{speed_up:.2f}", efficiency, shown])
    return rows


def _measured(results: Results, name: str) -> list[str]:
    """The cells of seconds, spread and peak memory."""
    seconds = [timing.seconds for timing in results.timings[name]]
    spread = f"{min(seconds):.4g} to {max(seconds):.4g}"
    return [f"{results.median_seconds(name):.4g}", spread, peak_mib(results, name)]


def _busy_cores(results: Results) -> float:
    """Of the candidates that are one process: to others, their own second one is another's."""
    alone = {n: t for n, t in results.timings.items() if results.facts[n].get("processes", 1) == 1}
    return Results(results.title, alone).busy_cores() or 0.0


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
    for train, mode in MODES.items():
        for along, points in tasks.items():
            facts = {name: _facts(task) for name, task in points.items()}
            made = [
                replace(candidates(replace(task, train=train), [OURS])[0], name=name)
                for name, task in points.items()
            ]
            title = f"{what[along]}, {mode}, against {along}, {device}"
            yield Curve(BACKBONE, along, title, made, train, facts)


def _facts(task: Task) -> dict[str, float]:
    """The place of a point on all axes; the cost is that of a forward pass."""
    import torch

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


def process_candidates(plan: Plan, threads: int) -> list[Candidate]:
    """Describe training steps with the same images in one and in two processes.

    Args:
        plan: has model, image size and batch.
        threads: at least 2: of the single process that uses all, and of two together.
    """
    half = threads // 2
    work = {"arch": plan.archs[0], "batch": plan.step, "side": plan.side}
    return [
        Candidate(
            f"{number} process{'es' * (number > 1)} x {each} thread{'s' * (each > 1)}",
            "benchmarks.data_parallel:DataParallel",
            {"processes": number, "threads": each, **work},
        )
        for number, each in ((1, half), (1, 2 * half), (2, half))
    ]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add this command's options."""
    parser.set_defaults(rounds=3)  # there are many comparisons
    add = parser.add_argument
    add("--parts", nargs="+", choices=PARTS, default=PARTS, help="what to measure; default: all")
    add("--data-root", default="data/coco/", help="folder of COCO 2017")
    add("--out", metavar="DIR", help="write scaling.md and its pictures there, too")
    add("--quick", action="store_true", help="few and small: to try the command")
    add("--device", help="cpu, cuda, …; default: the GPU where there is one")


def compare(args: argparse.Namespace) -> ScalingReport:
    """Measure what the command line names, and write the page if it names a folder.

    Raises:
        UserError: an argument is wrong, a comparison failed, or the page cannot be written.
    """
    plan, device = QUICK if args.quick else FULL, choose_device(args.device)
    _check(args)
    options = {"rounds": args.rounds, "warmup": args.warmup, "threads": args.threads}
    curves = [*backbone_curves(plan, device)] if BACKBONE in args.parts else []
    if DETECTOR in args.parts:
        curves += detector_curves(plan, args.data_root, device)
    for curve in curves:
        print(curve.title, file=sys.stderr, flush=True)
        curve.measure(**options)
    processes = share_work(plan, **options) if PROCESSES in args.parts else None
    report = ScalingReport(curves, processes)
    if args.out:
        for path in report.write_page(Path(args.out)):
            print(f"written to {path}", file=sys.stderr)
    return report


def share_work(plan: Plan, **options: int) -> Results:
    """Let training steps in one and two processes alternate, once their gradients are equal."""
    size = f"{plan.side}x{plan.side}"
    return run(
        process_candidates(plan, options["threads"]),
        check=close_to(TOLERANCE, lambda _: "gradients"),
        title=f"ConvNeXt {plan.archs[0]}, training steps, {plan.step} images of {size}, gloo, cpu",
        **options,
    )


def _check(args: argparse.Namespace) -> None:
    """Find mistakes before minutes are spent on measuring."""
    if PROCESSES in args.parts and args.threads < 2:
        raise BenchmarkError(
            f"--threads {args.threads} must be at least 2, one for each of two processes; without "
            f"them: --parts {BACKBONE} {DETECTOR}"
        )
    if DETECTOR in args.parts:
        from mmconvnext.data.checks import check_data_paths
        from mmconvnext.engine.config import load_config, set_data_root

        cfg = load_config(AREA_DETECTOR)
        set_data_root(cfg, args.data_root)
        check_data_paths(cfg, ("test",))
    if args.out:
        try:
            Path(args.out).mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise UserError(f"--out {args.out} cannot be made: {error.strerror}") from error
