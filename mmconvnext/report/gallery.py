"""The pictures of a report: which ones, and what is drawn over them."""

from __future__ import annotations

import base64
from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

import cv2
import numpy as np
from mmdet.registry import TRANSFORMS
from numpy.typing import NDArray
from pycocotools import mask as coco_mask

from mmconvnext.data.masks import encode, polygons
from mmconvnext.report.numbers import IOU
from mmconvnext.report.results import Results

SIDE = 640  # pixels of the longer side, as shown
BYTES = 3_500_000  # of all pictures
LEAST_SCORE, MOST_FOUND = 0.05, 60  # detections that a picture shows, at most
TOLERANCE = 0.7  # pixels, of outlines as shown
NEAR = 0.1  # TIDE's IoU below which a detection is of the background


def gallery_of(
    results: Results,
    kind: str,
    numbers: Mapping[str, Any],
    most: int,
    chosen: Mapping[int, str] | None = None,
) -> list[dict[str, Any]]:
    """Choose pictures and make all that the page needs to draw them.

    Args:
        results: of a test.
        kind: whose matches are shown.
        numbers: of this kind, by :func:`mmconvnext.report.numbers.numbers_of`.
        most: pictures.
        chosen: ids of pictures and why they are shown; by default of :func:`choose`.
    """
    images = {image["id"]: image for image in results.truth["images"]}
    labels = {category["id"]: i for i, category in enumerate(results.classes)}
    wanted, table = defaultdict(list), results.tables[kind]
    for entry in results.truth["annotations"]:
        if entry["category_id"] in labels:
            wanted[entry["image_id"]].append(entry)
    if chosen is None:
        chosen = choose(numbers, wanted, highest_false(table, numbers["found"]), most)
    load = TRANSFORMS.build(results.config.test_dataloader.dataset.pipeline[0])
    pictures = []
    for image, why in chosen.items():
        entry = images[image]
        loaded = load({"img_path": str(results.pictures / entry["file_name"])})["img"]
        jpeg, scale = shrink(loaded, BYTES // len(chosen))
        rows = np.flatnonzero((table[:, 0] == image) & (table[:, 5] >= LEAST_SCORE))
        rows = rows[np.argsort(-table[rows, 5], kind="stable")][:MOST_FOUND]
        best = [*results.entries(kind, rows)]
        errors = error_kinds(best, wanted[image], numbers["found"])
        size = (entry["width"], entry["height"])
        truth = [
            {**_drawn(a, labels, scale, size), "missed": numbers["wanted"].get(a["id"]) == "fn"}
            for a in wanted[image]
        ]
        detections = [
            {**_drawn(d, labels, scale, size), "score": round(d["score"], 3), "error": error}
            for d, error in zip(best, errors, strict=True)
        ]
        pictures.append(
            {"id": image, "file": entry["file_name"], "why": why, "jpeg": jpeg,
             "size": [round(side * scale) for side in size],
             "ap": round(numbers["images"][image]["ap"], 3),
             "truth": truth, "found": detections}
        )  # fmt: skip
    return pictures


def choose(
    numbers: Mapping[str, Any], wanted: Mapping, highest: Mapping[int, float], most: int
) -> dict[int, str]:
    """The best, the worst and the most surprising pictures, a third of each, by id.

    Best and worst are by the picture's own AP, more objects first; surprising are those with the
    highest score of what is no match, ``highest``.
    """
    summaries = {i: s for i, s in numbers["images"].items() if wanted.get(i)}
    best = sorted(summaries, key=lambda i: (-summaries[i]["ap"], -len(wanted[i]), i))
    worst = sorted(summaries, key=lambda i: (summaries[i]["ap"], -len(wanted[i]), i))
    surprising = sorted(highest, key=lambda i: (-highest[i], i))
    chosen: dict[int, str] = {}
    for number, (why, order) in enumerate(
        (("surprising", surprising), ("worst", worst), ("best", best)), 1
    ):
        for image in order:
            if len(chosen) >= most * number // 3:
                break
            chosen.setdefault(image, why)
    return chosen


def highest_false(table: NDArray, status: Mapping[int, str]) -> dict[int, float]:
    """The highest score of what is no match, of each image that has such.

    Args:
        table: detections, see :func:`mmconvnext.evaluation.hotcoco_eval.load_detections`.
        status: ``fp`` of those that are no match, by their number from 1.
    """
    false = table[[index - 1 for index, what in status.items() if what == "fp"]]
    false = false[false[:, 5] >= LEAST_SCORE]
    false = false[np.argsort(false[:, 5])]  # of each image, the last stays
    return dict(zip(false[:, 0].astype(int).tolist(), false[:, 5].tolist(), strict=True))


def shrink(image: NDArray, limit: int) -> tuple[str, float]:
    """A picture (height, width[, channels]) as a JPEG in base64, and the scale to show it at.

    A small picture is shown larger than its JPEG, for lines finer than its pixels. ``limit`` are
    the bytes, at most.
    """
    height, width = image.shape[:2]
    if image.dtype != np.uint8:  # 16 bits
        image = (image.astype(np.float32) * (255 / np.iinfo(image.dtype).max)).astype(np.uint8)
    scale = SIDE / max(height, width)
    size = (max(1, round(width * min(1.0, scale))), max(1, round(height * min(1.0, scale))))
    small = cv2.resize(image, size, interpolation=cv2.INTER_AREA)
    for quality in (85, 70, 55, 40, 25, 10):
        _, data = cv2.imencode(".jpg", small, [cv2.IMWRITE_JPEG_QUALITY, quality])
        if len(data) * 4 / 3 <= limit:
            break
    return base64.b64encode(data).decode(), scale


def _drawn(
    entry: Mapping[str, Any], names: Mapping[int, int], scale: float, size: tuple[int, int]
) -> dict[str, Any]:
    """What is drawn of an object: label, box (x, y, width, height) and outlines, as shown."""
    shape = {"label": names[entry["category_id"]], "box": _whole(np.array(entry["bbox"]) * scale)}
    if entry.get("iscrowd"):
        shape["crowd"] = True
    if entry.get("segmentation"):
        parts = polygons(encode(entry["segmentation"], *size), TOLERANCE, scale)
        shape["outlines"] = [_whole(part) for part in parts]
    return shape


def _whole(values: NDArray) -> list[int]:
    return np.rint(values).astype(int).ravel().tolist()


def error_kinds(
    found: Sequence[Mapping], wanted: Sequence[Mapping], status: Mapping[int, str]
) -> list[str]:
    """TIDE's kind of error of each detection of a picture, or an empty text for a match.

    Args:
        found: detections, with masks or boxes alone.
        wanted: ground truth of the same picture.
        status: ``fp`` of those that are no match, by the id of a detection.
    """
    wanted = [entry for entry in wanted if not entry.get("iscrowd")]
    if not found or not wanted:
        return ["background" if status.get(e["id"]) == "fp" else "" for e in found]
    if "segmentation" in found[0]:
        size = found[0]["segmentation"]["size"][::-1]
        codes = [[encode(e["segmentation"], *size) for e in each] for each in (found, wanted)]
    else:
        codes = [[entry["bbox"] for entry in each] for each in (found, wanted)]
    categories = np.array([entry["category_id"] for entry in wanted])
    kinds = []
    for row, entry in zip(coco_mask.iou(*codes, [0] * len(wanted)), found, strict=True):
        same = categories == entry["category_id"]
        own, other = np.max(row[same], initial=0), np.max(row[~same], initial=0)
        if status.get(entry["id"]) != "fp":
            kinds.append("")
        elif NEAR <= own < IOU:
            kinds.append("poor localisation")
        elif other >= IOU or own >= IOU:
            kinds.append("wrong class" if other >= IOU else "duplicate")
        else:
            kinds.append("both" if other >= NEAR else "background")
    return kinds
