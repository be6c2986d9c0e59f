"""The comparison of COCO's metrics: ours with hotcoco, MMDetection's with pycocotools."""

from __future__ import annotations

import argparse
import sys
import tempfile

import numpy as np

from benchmarks.comparison import Arrays, Candidate, Results, UnequalResultsError, run
from benchmarks.report import Column, Report
from benchmarks.synthetic_coco import generate

FACTORY = "benchmarks.evaluation_candidate:Evaluation"
OURS, THEIRS = "ours, hotcoco", "MMDetection, pycocotools"
METRICS = ("bbox", "segm")
IMAGES, OBJECTS, DETECTIONS = 5_000, 36_000, 500_000  # val2017, with 100 detections an image
NOTES = (
    "timed: evaluate() of the metric, from detections in memory, masks encoded, to AP and the "
    "class-wise table; bbox: the detections of a detector without masks",
    "compared: every number returned and in the table, and the precision at each IoU, recall, "
    "class and area: all equal to the last bit",
    "images, objects and crowds are real, drawn anew; detections are real outlines, moved and "
    "stretched",
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add this command's options."""
    parser.add_argument(
        "--data-root", default="data/coco/", help="folder of COCO 2017, or of a subset of it"
    )
    numbers = {"images": IMAGES, "objects": OBJECTS, "detections": DETECTIONS}
    for name, number in numbers.items():
        parser.add_argument(
            f"--{name}", type=int, default=number, help="in all; default: %(default)s"
        )
    parser.add_argument(
        "--metric", nargs="+", choices=METRICS, default=[*METRICS], help="default: both"
    )


def compare(args: argparse.Namespace) -> Report:
    """Run a comparison for each metric that the command line names, about the same detections.

    Raises:
        BenchmarkError: an argument is wrong, or a comparison failed.
    """
    scale = {name: getattr(args, name) for name in ("images", "objects", "detections")}
    title = ", ".join(f"{number:,} {name}" for name, number in scale.items())
    with tempfile.TemporaryDirectory(prefix="benchmark-") as folder:
        print(f"  drawing {title}", file=sys.stderr, flush=True)
        generate(args.data_root, folder, **scale)
        tables = [
            compare_one(
                metric,
                folder,
                title=f"{metric}, {title}",
                rounds=args.rounds,
                warmup=args.warmup,
                threads=args.threads,
            )
            for metric in args.metric
        ]
    return Report(tables, [Column("mAP", _mean_precision)], NOTES)


def compare_one(metric: str, folder: str, title: str, **options: int) -> Results:
    """Compare, then time.

    Args:
        metric: of ``METRICS``.
        folder: what :func:`benchmarks.synthetic_coco.generate` wrote.
        title: of the table.
        options: ``rounds``, ``warmup`` and ``threads`` of :func:`benchmarks.comparison.run`.
    """
    return run(candidates(metric, folder), check=check, title=title, **options)


def candidates(metric: str, folder: str) -> list[Candidate]:
    """Describe candidates, see :class:`benchmarks.evaluation_candidate.Evaluation`."""
    return [
        Candidate(name, FACTORY, {"folder": folder, "metric": metric, "ours": name == OURS})
        for name in (OURS, THEIRS)
    ]


def check(name: str, ours: Arrays, theirs: Arrays) -> dict[str, float]:
    """Demand the same numbers, to the last bit.

    Raises:
        UnequalResultsError: one of them differs, or only one candidate has it.
    """
    for key in sorted({*ours, *theirs}):
        if key not in ours or key not in theirs:
            who = "ours" if key in ours else name
            raise UnequalResultsError(f"only {who} gives {key}; nothing was timed")
        if not _same_bits(ours[key], theirs[key]):
            raise UnequalResultsError(
                f"{name} and ours differ in {key}: {_shown(theirs[key])} and "
                f"{_shown(ours[key])}; nothing was timed"
            )
    return {"all": 0.0}


def _same_bits(ours: np.ndarray, theirs: np.ndarray) -> bool:
    same_kind = (ours.dtype, ours.shape) == (theirs.dtype, theirs.shape)
    return same_kind and ours.tobytes() == theirs.tobytes()


def _shown(array: np.ndarray) -> str:
    if array.ndim:
        return f"{array.dtype} {array.shape} with mean {array.mean():.17g}"
    return str(array)


def _mean_precision(results: Results, name: str) -> str:
    return f"{results.facts[name]['mAP']:.3f}"
