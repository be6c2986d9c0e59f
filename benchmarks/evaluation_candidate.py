"""One metric at work on detections of a folder."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from mmdet.evaluation import CocoMetric
from mmengine.logging import MMLogger
from pycocotools.cocoeval import COCOeval

from benchmarks.synthetic_coco import TRUTH, read_detections
from mmconvnext.evaluation.coco_metric import FastCocoMetric

CLASSWISE_HEADING = "| category"


class Evaluation:
    """The factory of the comparison of metrics, see :class:`benchmarks.Candidate`.

    What is timed is ``evaluate()``, from detections as the test loop leaves them, with masks
    encoded, to the dict of numbers and the table of classes.

    Args:
        folder: what :func:`benchmarks.synthetic_coco.generate` wrote.
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
