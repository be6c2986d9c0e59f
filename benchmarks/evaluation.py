"""The comparison of COCO's metrics: ours with hotcoco, MMDetection's with pycocotools."""

from __future__ import annotations

import argparse
import logging
import sys
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from mmdet.evaluation import CocoMetric
from mmengine.logging import MMLogger
from pycocotools.cocoeval import COCOeval

from benchmarks.coco_data import TRUTH, generate, read_detections
from benchmarks.comparison import Arrays, Candidate, demand, run, run_options
from benchmarks.report import Report, fact_column
from mmconvnext.evaluation.coco_metric import FastCocoMetric

CLASSWISE_HEADING = "| category"
OURS, THEIRS = "ours, hotcoco", "MMDetection, pycocotools"
METRICS = ("bbox", "segm")
# val2017, with 100 detections an image
SCALE = {"images": 5_000, "objects": 36_000, "detections": 500_000}
NOTES = (
    "timed: evaluate() of the metric, from detections in memory, masks encoded, to AP and the "
    "class-wise table; bbox: the detections of a detector without masks",
    "compared: every number returned and in the table, and the precision at each IoU, recall, "
    "class and area: all equal to the last bit",
    "images, objects and crowds are real, drawn anew; detections are real outlines, moved and "
    "stretched",
)


class Evaluation:
    """The factory of the comparison of metrics, see :class:`benchmarks.comparison.Candidate`.

    What is timed is ``evaluate()``, from detections as the test loop leaves them, with masks
    encoded, to the dict of numbers and the table of classes.

    Args:
        folder: what :func:`benchmarks.coco_data.generate` wrote.
        metric: ``bbox`` or ``segm``.
        ours: whether hotcoco computes; else MMDetection's metric, with pycocotools.
    """

    def __init__(self, folder: str, metric: str, ours: bool):
        settings = {"ann_file": str(Path(folder, TRUTH)), "metric": metric, "classwise": True}
        backend = {"backend": "hotcoco"} if ours else {}
        self._metric = (FastCocoMetric if ours else CocoMetric)(**settings, **backend)
        categories = self._metric._coco_api.dataset["categories"]
        self._metric.dataset_meta = {"classes": tuple(each["name"] for each in categories)}
        for found in read_detections(folder):
            self._metric.process({}, [_sample(found, with_masks=metric == "segm")])
        self._results = [*self._metric.results]
        self._numbers: dict[str, float] = {}

    def run(self) -> None:
        """Evaluate."""
        self._metric.results = [*self._results]  # evaluate() empties its list
        self._numbers = self._metric.evaluate(len(self._results))

    def check(self) -> dict[str, np.ndarray]:
        """Return all numbers, those before rounding, and the class-wise table as text.

        ``stats`` (12,) are pycocotools' and ``precision`` is (IoUs, recalls, classes, areas,
        numbers of detections).
        """
        with _seen() as (evaluations, lines):
            self.run()
        (evaluation,) = evaluations
        (table,) = (line for line in lines if CLASSWISE_HEADING in line)
        return {
            **{name: np.array(value) for name, value in self._numbers.items()},
            "stats": evaluation.stats,
            "precision": evaluation.eval["precision"],
            "class-wise table": np.array(table),
        }

    def facts(self) -> dict[str, float]:
        """Return mAP, 0-1, and the number of detections."""
        if not self._numbers:
            self.run()
        (mean,) = (value for name, value in self._numbers.items() if name.endswith("_mAP"))
        detections = sum(len(found["labels"]) for _, found in self._results)
        return {"mAP": mean, "detections": detections}


def _sample(found: Mapping[str, Any], with_masks: bool) -> dict[str, Any]:
    """A detector's output for an image, as an evaluator hands it to its metrics."""
    instances = {key: torch.from_numpy(found[key]) for key in ("bboxes", "scores", "labels")}
    if with_masks:
        instances["masks"] = found["masks"]
    return {"img_id": found["img_id"], "ori_shape": found["size"], "pred_instances": instances}


@contextmanager
def _seen() -> Iterator[tuple[list[COCOeval], list[str]]]:
    """What pycocotools summarises meanwhile, for both metrics, and what is logged."""
    evaluations: list[COCOeval] = []
    lines: list[str] = []
    summarize = COCOeval.summarize

    def keep(self: COCOeval) -> None:
        summarize(self)
        evaluations.append(self)

    handler = logging.Handler()
    handler.emit = lambda record: lines.append(record.getMessage())
    logger = MMLogger.get_current_instance()
    logger.addHandler(handler)
    COCOeval.summarize = keep
    try:
        yield evaluations, lines
    finally:
        COCOeval.summarize = summarize
        logger.removeHandler(handler)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add this command's options."""
    add = parser.add_argument
    add("--data-root", default="data/coco/", help="folder of COCO 2017, or of a subset of it")
    for name, number in SCALE.items():
        add(f"--{name}", type=int, default=number, help="in all; default: %(default)s")
    add("--metric", nargs="+", choices=METRICS, default=[*METRICS], help="default: both")


def compare(args: argparse.Namespace) -> Report:
    """Run a comparison for each metric, of the same detections; may raise BenchmarkError."""
    scale = {name: getattr(args, name) for name in SCALE}
    title = ", ".join(f"{number:,} {name}" for name, number in scale.items())
    options = run_options(args)
    with tempfile.TemporaryDirectory(prefix="benchmark-") as folder:
        print(f"  drawing {title}", file=sys.stderr, flush=True)
        generate(args.data_root, folder, **scale)
        tables = [
            run(candidates(each, folder), check=check, title=f"{each}, {title}", **options)
            for each in args.metric
        ]
    return Report(tables, [fact_column("mAP", "mAP", form=".3f")], NOTES)


def candidates(metric: str, folder: str) -> list[Candidate]:
    """Describe candidates, see :class:`Evaluation`."""
    arguments = {"folder": folder, "metric": metric}
    return [
        Candidate(name, f"{__name__}:Evaluation", {**arguments, "ours": name == OURS})
        for name in (OURS, THEIRS)
    ]


def check(name: str, ours: Arrays, theirs: Arrays) -> dict[str, float]:
    """Demand the same numbers, to the last bit, else raise UnequalResultsError."""
    for key in sorted({*ours, *theirs}):
        alone = f"only {'ours' if key in ours else name} gives {key}"
        demand(key in ours and key in theirs, alone)
        kinds = [(each[key].dtype, each[key].shape) for each in (ours, theirs)]
        same = kinds[0] == kinds[1] and ours[key].tobytes() == theirs[key].tobytes()
        numbers = f"{_shown(theirs[key])} and {_shown(ours[key])}"
        demand(same, f"{name} and ours differ in {key}: {numbers}")
    return {"all": 0.0}


def _shown(array: np.ndarray) -> str:
    if array.ndim:
        return f"{array.dtype} {array.shape} with mean {array.mean():.17g}"
    return str(array)
