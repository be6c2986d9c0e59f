"""hotcoco where it counts as pycocotools does, and a refusal where it does not."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray
from pycocotools.cocoeval import COCOeval

if TYPE_CHECKING:
    import hotcoco

LARGEST_ID = 2**53  # hotcoco takes detections as a table of float64


class UnusualDataError(Exception):
    """Data that hotcoco refuses or counts in another way than pycocotools."""


def read_truth(dataset: Mapping) -> hotcoco.COCO:
    """Read ground truth.

    Args:
        dataset: the content of a COCO annotation file.

    Raises:
        UnusualDataError: the numbers would not be pycocotools', or there would be none.
    """
    import hotcoco

    images, categories, objects = (
        [each["id"] for each in dataset.get(kind, ())]
        for kind in ("images", "categories", "annotations")
    )
    if not all(isinstance(each, int) and each < LARGEST_ID for each in (*images, *categories)):
        raise UnusualDataError("ids of images or categories are no whole numbers below 2**53")
    if 0 in objects:
        raise UnusualDataError(
            "an annotation has the id 0, which pycocotools never counts as found; number from 1"
        )
    if len({*objects}) < len(objects):
        raise UnusualDataError("annotations have the same id")
    try:
        return hotcoco.COCO(dataset)
    except (TypeError, ValueError) as error:
        raise UnusualDataError(f"hotcoco cannot read the ground truth: {error}") from error


def evaluate(
    metric: str,
    truth: hotcoco.COCO,
    table: NDArray,
    masks: list[dict] | None,
    *,
    images: Sequence[int],
    categories: Sequence[int],
    max_detections: Sequence[int],
    iou_thresholds: Sequence[float],
) -> COCOeval:
    """Compare detections with ground truth.

    Args:
        metric: ``bbox`` or ``segm``.
        truth: from :func:`read_truth`.
        table: (N, 7) float64, for each detection its image, x, y, width, height, score, category.
        masks: N run-length codes, for ``segm``.
        images: ids of those to look at.
        categories: likewise.
        max_detections: numbers of detections per image and category to evaluate.
        iou_thresholds: (T,).

    Returns:
        pycocotools' object, as after its ``summarize()``, which prints: ``stats`` (12,), and in
        ``eval`` the arrays ``precision`` (T, recalls, categories, areas, numbers of detections) and
        ``recall``; categories and numbers are sorted.
    """
    import hotcoco

    detected = truth.load_res(table, segmentation=masks)
    if masks is not None:
        # the area of a mask, where that of the box would be taken
        ids = np.arange(1, len(masks) + 1)
        detected.update_anns(ids=ids, area=hotcoco.mask.area(masks))
    evaluation = hotcoco.COCOeval(truth, detected, metric)
    evaluation.params.imgIds = sorted({*images})
    evaluation.params.catIds = sorted({*categories})
    evaluation.params.maxDets = sorted(max_detections)
    evaluation.params.iouThrs = list(iou_thresholds)
    evaluation.evaluate()
    evaluation.accumulate()
    # hotcoco's own summary takes mAP at the largest number of detections, COCO's at 100
    summary = COCOeval(iouType=metric)
    summary.params.maxDets = sorted(max_detections)
    summary.params.iouThrs = iou_thresholds
    summary.eval = evaluation.eval
    summary.summarize()
    return summary
