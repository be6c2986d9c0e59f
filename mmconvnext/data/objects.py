"""Faults of single objects of a COCO file: boxes, polygons, run-length codes, areas, flags.

:func:`check_object` decides; :func:`surely_sound` lets most objects of a large file skip it.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from itertools import chain
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pycocotools import mask as coco_mask

# Kind of fault -> its severity and what is done about it. An object that is left out is counted.
FAULTS = {
    "no box": ("repair", "bbox is absent or not four finite numbers; taken from the mask"),
    "no box, no mask": ("repair", "neither bbox nor mask says where the object is; left out"),
    "numbers as text": ("fill", "coordinates stand as strings; read as numbers"),
    "box of negative size": ("repair", "width or height below 0; corners swapped"),
    "box under one pixel": ("repair", "nothing can be learned or found there; object left out"),
    "box outside": ("repair", "the box does not touch the picture; object left out"),
    "box over the border": ("repair", "cut at the border of the picture"),
    "no mask": ("repair", "segmentation is absent or empty; object left out"),
    "flat polygon": ("fill", "the coordinates of one polygon without its own list; wrapped"),
    "polygon of points": ("fill", "[x, y] points in place of a flat list; flattened"),
    "broken polygon": (
        "repair",
        "an odd number of coordinates, fewer than three points, or no finite numbers; removed, and "
        "so is an object without another",
    ),
    "polygon outside": ("repair", "coordinates beyond the picture; moved to its border"),
    "run lengths of another size": ("repair", "not of the picture's height and width; left out"),
    "broken run lengths": ("repair", "they do not add up to the picture's pixels; left out"),
    "mask without a pixel": ("repair", "thinner than a pixel; object left out"),
    "no area": ("fill", "absent, not above 0 or no number; computed"),
    "area unlike the mask's": ("note", "AP by size goes by area; it was kept"),
    "no iscrowd": ("fill", "absent or no number; read as 0 or 1"),
    "ignore": ("fill", "ignore=1 is unknown to the metric; made iscrowd=1"),
    "mask unlike the box": ("note", "box and mask overlap by less than half; both were kept"),
}
# A box cut at the border that overlaps the given one by this much passes every IoU threshold.
SAME_BOX = 0.96
BORDER = 2.0  # pixels that a polygon may reach beyond the picture, as some of COCO's do
THIN = 2.0  # pixels; thicker polygons have a pixel for sure
AREA_RATIO = 2.0


class UnsoundError(Exception):
    """An object that has to be left out; the message is the kind of fault."""


def check_object(
    annotation: Mapping[str, Any], width: int, height: int, masks: bool
) -> tuple[dict[str, Any] | None, list[str]]:
    """Find an object's faults and repair what can be repaired.

    Args:
        annotation: as in the file; not changed.
        width: of the picture, in pixels.
        height: of the picture, in pixels.
        masks: whether an object needs a mask.

    Returns:
        The object, repaired where needed, or None where it must be left out; and the kinds of its
        faults, keys of :data:`FAULTS`.
    """
    kinds: list[str] = []
    repaired = dict(annotation)
    if annotation.get("ignore"):
        del repaired["ignore"]
    try:
        mask = _mask(annotation.get("segmentation"), width, height, kinds) if masks else None
        if masks and mask is None:
            raise UnsoundError("broken polygon" if "broken polygon" in kinds else "no mask")
        repaired["bbox"] = _box(annotation.get("bbox"), mask, width, height, kinds)
    except UnsoundError as fault:
        return None, list(dict.fromkeys([*kinds, str(fault)]))
    if masks:
        repaired["segmentation"] = mask
    repaired["iscrowd"] = _crowd(annotation, kinds)
    repaired["area"] = _area(repaired, mask, width, height, kinds)
    return repaired, list(dict.fromkeys(kinds))


def _box(
    given: Any, mask: Any, width: int, height: int, kinds: list[str]
) -> list[float] | list[int]:
    box = _numbers(given, kinds) if isinstance(given, Sequence) else None
    if box is None or len(box) != 4:
        if mask is None:
            raise UnsoundError("no box, no mask")
        kinds.append("no box")
        box = _extent(mask, width, height)
    if box[2] < 0 or box[3] < 0:
        kinds.append("box of negative size")
        x1, x2 = sorted((box[0], box[0] + box[2]))
        y1, y2 = sorted((box[1], box[1] + box[3]))
        box = [x1, y1, x2 - x1, y2 - y1]
    if box[2] < 1 or box[3] < 1:
        raise UnsoundError("box under one pixel")
    x1, y1 = max(box[0], 0), max(box[1], 0)
    cut = [x1, y1, min(box[0] + box[2], width) - x1, min(box[1] + box[3], height) - y1]
    if cut[2] <= 0 or cut[3] <= 0:
        raise UnsoundError("box outside")
    if cut[2] * cut[3] < SAME_BOX * box[2] * box[3]:
        kinds.append("box over the border")
        if cut[2] < 1 or cut[3] < 1:
            raise UnsoundError("box under one pixel")
        box = cut
    if mask is not None and _overlap(box, _extent(mask, width, height)) < 0.5:
        kinds.append("mask unlike the box")
    return box


def _mask(given: Any, width: int, height: int, kinds: list[str]) -> list | dict | None:
    """The mask in COCO's form, with what is broken removed; None without one."""
    if isinstance(given, Mapping):
        mask = _run_lengths(given, width, height)
    elif isinstance(given, Sequence) and not isinstance(given, str) and given:
        mask = _polygons(given, width, height, kinds)
    else:
        return None
    if mask and not int(coco_mask.area(_encoded(mask, width, height))):
        raise UnsoundError("mask without a pixel")
    return mask or None


def _polygons(given: Sequence, width: int, height: int, kinds: list[str]) -> list[list[float]]:
    if all(not isinstance(each, Sequence) or isinstance(each, str) for each in given):
        kinds.append("flat polygon")
        given = [given]
    elif len(given) > 2 and all(_is_point(each) for each in given):
        given = [given]
    polygons = []
    for each in given:
        if isinstance(each, Sequence) and each and all(map(_is_point, each)):
            kinds.append("polygon of points")
            each = list(chain.from_iterable(each))
        polygon = _numbers(each, kinds) if isinstance(each, Sequence) else None
        if polygon is None or len(polygon) < 6 or len(polygon) % 2:
            kinds.append("broken polygon")
            continue
        inside = [
            min(max(value, 0), limit)
            for value, limit in zip(polygon, (width, height) * (len(polygon) // 2), strict=True)
        ]
        if max(abs(a - b) for a, b in zip(polygon, inside, strict=True)) > BORDER:
            kinds.append("polygon outside")
            polygon = inside
        polygons.append(polygon)
    return polygons


def _is_point(value: Any) -> bool:
    return (
        isinstance(value, Sequence)
        and not isinstance(value, str)
        and len(value) == 2
        and not any(isinstance(each, Sequence) and not isinstance(each, str) for each in value)
    )


def _numbers(values: Sequence, kinds: list[str]) -> list[float] | None:
    """Finite numbers, also those that stand as strings; None where one is none."""
    numbers = []
    for value in values:
        if isinstance(value, str):
            try:
                value = float(value)
            except ValueError:
                return None
            if "numbers as text" not in kinds:
                kinds.append("numbers as text")
        if not is_finite(value):
            return None
        numbers.append(value)
    return numbers


def is_finite(value: Any) -> bool:
    """Whether a value of a JSON file is a finite number (``true`` is not one)."""
    # numbers of JSON have any size: those that float64 cannot hold are of no use
    return type(value) in (int, float) and abs(value) < 1e15 and math.isfinite(value)


def _run_lengths(given: Mapping, width: int, height: int) -> dict[str, Any]:
    counts, size = given.get("counts"), given.get("size")
    if size != [height, width]:
        raise UnsoundError("run lengths of another size")
    lengths = read_counts(counts) if isinstance(counts, str) else counts
    sound = isinstance(lengths, Sequence) and all(type(n) is int and n >= 0 for n in lengths)
    if not sound or sum(lengths) != width * height:
        raise UnsoundError("broken run lengths")
    return {"size": [height, width], "counts": counts}


def read_counts(text: str) -> list[int] | None:
    """Read COCO's compressed run lengths: each a difference to the one before the last.

    pycocotools reads beyond the end of a string that is cut, and takes any memory that a count
    asks for; this returns None where the string is none of its writing.
    """
    counts: list[int] = []
    value = shift = 0
    for character in text:
        code = ord(character) - 48
        if not 0 <= code < 64 or shift > 60:
            return None
        value |= (code & 31) << shift
        shift += 5
        if code & 32:
            continue
        if code & 16:
            value -= 1 << shift
        if len(counts) > 2:
            value += counts[-2]
        counts.append(value)
        value = shift = 0
    return None if shift else counts


def _encoded(mask: list | dict, width: int, height: int) -> dict:
    if isinstance(mask, list):
        return coco_mask.merge(coco_mask.frPyObjects(mask, height, width))
    if isinstance(mask["counts"], list):
        return coco_mask.frPyObjects(mask, height, width)
    return mask


def _extent(mask: list | dict, width: int, height: int) -> list[float]:
    """The box around a mask: x, y, width, height in pixels."""
    if isinstance(mask, dict):
        return coco_mask.toBbox(_encoded(mask, width, height)).tolist()
    xs = list(chain.from_iterable(polygon[0::2] for polygon in mask))
    ys = list(chain.from_iterable(polygon[1::2] for polygon in mask))
    return [min(xs), min(ys), max(xs) - min(xs), max(ys) - min(ys)]


def _overlap(a: Sequence[float], b: Sequence[float]) -> float:
    """Intersection over union of two boxes (x, y, width, height)."""
    w = min(a[0] + a[2], b[0] + b[2]) - max(a[0], b[0])
    h = min(a[1] + a[3], b[1] + b[3]) - max(a[1], b[1])
    both = max(w, 0) * max(h, 0)
    return both / (a[2] * a[3] + b[2] * b[3] - both or 1)


def _crowd(annotation: Mapping[str, Any], kinds: list[str]) -> int:
    crowd = annotation.get("iscrowd")
    if type(crowd) is not int or crowd not in (0, 1):
        kinds.append("no iscrowd")
        crowd = crowd in (True, "1")
    if annotation.get("ignore"):
        kinds.append("ignore")
        crowd = 1
    return int(crowd)


def _area(
    repaired: Mapping[str, Any], mask: list | dict | None, width: int, height: int, kinds: list[str]
) -> float:
    area, box = repaired.get("area"), repaired["bbox"]
    known = is_finite(area) and area > 0
    if known and mask is None:
        return area
    actual = box[2] * box[3]
    if mask is not None:
        actual = float(coco_mask.area(_encoded(mask, width, height)))
    if not known:
        kinds.append("no area")
        return actual
    if not 1 / AREA_RATIO <= area / actual <= AREA_RATIO:
        kinds.append("area unlike the mask's")
    return area


def surely_sound(
    annotations: Sequence[Mapping[str, Any]], sizes: NDArray, masks: bool
) -> NDArray[np.bool_]:
    """Which objects :func:`check_object` would return as they are, by a quick look at all.

    Args:
        annotations: N objects.
        sizes: width and height of their pictures, (N, 2).
        masks: as for :func:`check_object`.

    Returns:
        (N,): False where it has to look itself.
    """
    plain = np.fromiter((_is_plain(a, masks) for a in annotations), bool, len(annotations))
    index = np.flatnonzero(plain)
    if not len(index):
        return plain
    chosen = [annotations[i] for i in index]
    boxes = np.array([a["bbox"] for a in chosen], np.float64)
    areas = np.array([a["area"] for a in chosen], np.float64)
    limits = sizes[index].astype(np.float64)
    with np.errstate(all="ignore"):
        sound = (boxes[:, 2:] >= 1).all(1) & (areas > 0)
        ends = boxes[:, :2] + boxes[:, 2:]
        cut = np.minimum(ends, limits) - np.maximum(boxes[:, :2], 0)
        sound &= (cut > 0).all(1) & (cut.prod(1) >= SAME_BOX * boxes[:, 2:].prod(1))
        if masks:
            sound &= _sound_polygons([a["segmentation"] for a in chosen], boxes, areas, limits)
    plain[index] = sound
    return plain


def _is_plain(annotation: Mapping[str, Any], masks: bool) -> bool:
    """Whether all values have the usual types, and the mask is of polygons or not looked at."""
    box, mask = annotation.get("bbox"), annotation.get("segmentation")
    if type(annotation.get("iscrowd")) is not int or annotation["iscrowd"] not in (0, 1):
        return False
    if annotation.get("ignore") or type(annotation.get("area")) not in (int, float):
        return False
    if type(box) is not list or len(box) != 4 or not {*map(type, box)} <= {int, float}:
        return False
    return not masks or (type(mask) is list and bool(mask) and all(map(_is_plain_polygon, mask)))


def _is_plain_polygon(polygon: Any) -> bool:
    return (
        type(polygon) is list
        and len(polygon) >= 6
        and not len(polygon) % 2
        and {*map(type, polygon)} <= {int, float}
    )


def _sound_polygons(
    masks: Sequence[list], boxes: NDArray, areas: NDArray, limits: NDArray
) -> NDArray[np.bool_]:
    """Which masks lie within their pictures, have pixels, and the area and box that are given."""
    polygons = [polygon for mask in masks for polygon in mask]
    lengths = np.fromiter(map(len, polygons), np.int64, len(polygons)) // 2
    owners = np.repeat(np.arange(len(masks)), [len(mask) for mask in masks])
    points = np.array(list(chain.from_iterable(polygons)), np.float64).reshape(-1, 2)
    starts = np.concatenate([[0], np.cumsum(lengths)[:-1]])
    low = np.minimum.reduceat(points, starts)
    high = np.maximum.reduceat(points, starts)
    following = np.arange(1, len(points) + 1)
    following[starts + lengths - 1] = starts
    steps = points[following] - points
    doubled = points[:, 0] * steps[:, 1] - points[:, 1] * steps[:, 0]
    area = np.abs(np.add.reduceat(doubled, starts)) / 2
    border = np.add.reduceat(np.hypot(*steps.T), starts)

    def by_object(function: np.ufunc, values: NDArray) -> NDArray:
        first = np.searchsorted(owners, np.arange(len(masks)))
        return function.reduceat(values, first)

    low, high = by_object(np.minimum, low), by_object(np.maximum, high)
    inside = (low >= -BORDER).all(1) & (high <= limits + BORDER).all(1)
    total = by_object(np.add, area)
    thick = total * 2 > THIN * by_object(np.add, border)
    ratio = areas / total
    overlap = np.minimum(high, boxes[:, :2] + boxes[:, 2:]) - np.maximum(low, boxes[:, :2])
    both = np.maximum(overlap, 0).prod(1)
    union = (high - low).prod(1) + boxes[:, 2:].prod(1) - both
    # well within the limits: check_object takes the rasterised area, which is another one
    usual = (ratio > 1.5 / AREA_RATIO) & (ratio < AREA_RATIO / 1.5)
    return inside & thick & usual & (both >= 0.5 * union)
