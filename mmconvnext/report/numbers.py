"""The numbers of a report: AP, classes, curves, errors, confusion, calibration, slices."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from mmconvnext.evaluation import hotcoco_eval
from mmconvnext.evaluation.coco_metric import NAMES
from mmconvnext.report.results import Results

if TYPE_CHECKING:
    import hotcoco

MAX_LABEL_ERRORS = 50
IOU = 0.5  # of a match, for curves, errors and pictures
# TIDE's kinds of errors (arXiv 2008.08115), in words.
ERRORS = {
    "Cls": "wrong class",
    "Loc": "poor localisation",
    "Both": "both",
    "Dupe": "duplicate",
    "Bkg": "background",
    "Miss": "missed",
}
# Width / height of a box, and objects of a picture.
ASPECTS = {"tall (below 1:2)": (0, 0.5), "1:2 to 2:1": (0.5, 2), "wide (over 2:1)": (2, 1e10)}
CROWDING = {"1 to 3 objects": (1, 3), "4 to 9 objects": (4, 9), "10 objects and more": (10, 10**9)}


def numbers_of(results: Results, kind: str, score: float) -> dict[str, Any]:
    """All numbers of one kind, ``segm`` or ``bbox``.

    Args:
        results: of a test.
        kind: of them.
        score: from which on a detection counts in the confusion matrix and as a label error.
    """
    evaluation = results.evaluations[kind]
    stats = hotcoco_eval.summarize(evaluation).stats
    errors = evaluation.tide_errors(pos_thr=IOU)
    calibration = evaluation.calibration(iou_threshold=IOU)
    diagnosis = evaluation.image_diagnostics(iou_thr=IOU, score_thr=score)
    return {
        "ap": {name: _rounded(value) for name, value in zip(NAMES, stats, strict=True)},
        "classes": list(_class_rows(results, evaluation)),
        "curves": list(_curves(results, evaluation)),
        "errors": [
            {"name": text, "count": errors["counts"][key], "ap": _rounded(errors["delta_ap"][key])}
            for key, text in ERRORS.items()
        ],
        "confusion": _confusion(evaluation, score),
        "calibration": {"ece": _rounded(calibration["ece"]), "bins": calibration["bins"]},
        "slices": _slices(results, evaluation, kind),
        "label_errors": diagnosis["label_errors"][:MAX_LABEL_ERRORS],
        "images": diagnosis["img_summary"],
        "found": diagnosis["dt_status"],
        "wanted": diagnosis["gt_status"],
    }


def _rounded(value: float) -> float:
    """To three digits, as the metric rounds."""
    return float(round(value, 3))


def _mean(values: NDArray) -> float:
    """The mean of what there is: -1 is where there is no object, as in pycocotools."""
    there = values[values > -1]
    return _rounded(there.mean()) if there.size else -1.0


def _class_rows(results: Results, evaluation: hotcoco.COCOeval) -> Iterator[dict[str, Any]]:
    """A row for each class: objects, AP in 0-1 by IoU and size, AR, the best F1 and its score."""
    precision, recall = evaluation.eval["precision"], evaluation.eval["recall"]
    objects = Counter(a["category_id"] for a in results.truth["annotations"] if not a["iscrowd"])
    ious = np.asarray(evaluation.params.iouThrs)
    for index, category in enumerate(results.classes):
        of_class = precision[:, :, index, :, -1]
        points = _f1(evaluation, index)
        best = max(points, key=lambda point: point[1], default=(0.0, 0.0))
        yield {
            "name": category["name"],
            "objects": objects[category["id"]],
            "AP": _mean(of_class[:, :, 0]),
            "AP50": _mean(of_class[np.isclose(ious, 0.5), :, 0]),
            "AP75": _mean(of_class[np.isclose(ious, 0.75), :, 0]),
            **{f"AP {size}": _mean(of_class[:, :, i]) for i, size in enumerate("sml", 1)},
            "AR": _mean(recall[:, index, 0, -1]),
            "F1": _rounded(best[1]),
            "threshold": _rounded(best[0]),
        }


def _f1(evaluation: hotcoco.COCOeval, index: int) -> list[tuple[float, float]]:
    """Scores and the F1 of what has at least this score, at an IoU of 0.5."""
    precision, scores = (evaluation.eval[k][0, :, index, 0, -1] for k in ("precision", "scores"))
    recall = np.asarray(evaluation.params.recThrs)
    there = (precision > 0) & (recall > 0)
    f1 = 2 * precision * recall / np.maximum(precision + recall, 1e-9)
    return list(zip(scores[there].tolist(), f1[there].tolist(), strict=True))


def _curves(results: Results, evaluation: hotcoco.COCOeval) -> Iterator[dict[str, Any]]:
    """Precision by recall, and F1 by score, of each class with objects."""
    for index, category in enumerate(results.classes):
        precision = evaluation.eval["precision"][0, :, index, 0, -1]
        if (precision > -1).any():
            yield {
                "name": category["name"],
                "precision": precision.round(3).tolist(),
                "f1": [[round(s, 3), round(f, 3)] for s, f in _f1(evaluation, index)],
            }


def _confusion(evaluation: hotcoco.COCOeval, score: float) -> dict[str, Any]:
    """Counts of classes that are there (rows) and that were found, without empty ones."""
    found = evaluation.confusion_matrix(iou_thr=IOU, min_score=score)
    matrix = found["matrix"].astype(int)
    used = [i for i in range(len(matrix) - 1) if matrix[i].any() or matrix[:, i].any()]
    used.append(len(matrix) - 1)
    names = [*found["cat_names"], "nothing"]
    return {"names": [names[i] for i in used], "matrix": matrix[np.ix_(used, used)].tolist()}


def _slices(results: Results, evaluation: hotcoco.COCOeval, kind: str) -> list[dict[str, Any]]:
    """AP of parts of the data: objects by the form of their box, pictures by how many they have."""
    truth = results.truth
    counts = Counter(a["image_id"] for a in truth["annotations"])
    images = {
        name: [image for image, number in counts.items() if low <= number <= high]
        for name, (low, high) in CROWDING.items()
    }
    by_crowding = evaluation.slice_by({name: ids for name, ids in images.items() if ids})
    rows = [
        {"name": name, "of": f"{len(ids)} pictures", "AP": _rounded(by_crowding[name]["AP"])}
        for name, ids in images.items()
        if ids
    ]
    return [*_by_aspect(results, evaluation, kind), *rows]


def _by_aspect(results: Results, evaluation: hotcoco.COCOeval, kind: str) -> list[dict[str, Any]]:
    """AP by the form of boxes: COCO's AP by area, with width / height in place of the area."""
    annotations = results.truth["annotations"]
    aspects = _aspects(np.array([a["bbox"] for a in annotations], np.float64).reshape(-1, 4))
    counted = np.array([not a["iscrowd"] for a in annotations], bool)
    truth, detected = evaluation.coco_gt, evaluation.coco_dt  # copies
    truth.update_anns(ids=[a["id"] for a in annotations], area=aspects)
    table = results.tables[kind]
    detected.update_anns(ids=np.arange(1, len(table) + 1), area=_aspects(table[:, 1:5]))
    by_aspect = type(evaluation)(truth, detected, kind)
    for name in ("imgIds", "catIds", "maxDets", "iouThrs"):
        setattr(by_aspect.params, name, getattr(evaluation.params, name))
    by_aspect.params.areaRng = [[0, 1e10], *map(list, ASPECTS.values())]
    by_aspect.params.areaRngLbl = ["all", *ASPECTS]
    by_aspect.evaluate()
    by_aspect.accumulate()
    precision = by_aspect.eval["precision"]
    return [
        {
            "name": name,
            "of": f"{(counted & (aspects >= low) & (aspects < high)).sum()} objects",
            "AP": _mean(precision[:, :, :, i, -1]),
        }
        for i, (name, (low, high)) in enumerate(ASPECTS.items(), 1)
    ]


def _aspects(boxes: NDArray) -> NDArray:
    """Width / height of boxes (n, 4), xywh."""
    return boxes[:, 2] / np.maximum(boxes[:, 3], 1e-9)
