"""Faults of single objects of a COCO file: boxes, polygons, run-length codes, areas, flags."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import chain
from typing import Any, TypeGuard

from pycocotools import mask as coco_mask

from mmconvnext.data.masks import encode, extent

# A box cut at the border that overlaps the given one by this much passes every IoU threshold.
SAME_BOX = 0.96
BORDER = 2.0  # pixels that a polygon may reach beyond the picture, as some of COCO's do
AREA_RATIO = 2.0
TOO_LARGE = 1e15  # numbers of JSON have any size: those that float64 cannot hold are of no use


class UnsoundError(Exception):
    """An object that has to be left out; the message is the kind of fault."""


def check_object(
    annotation: Mapping[str, Any], width: int, height: int, masks: bool
) -> tuple[dict[str, Any] | None, list[str]]:
    """Find the faults of an object, which is not changed, in a picture of this size.

    Returns:
        The object, repaired where needed, or None where it must be left out; and the kinds of its
        faults, keys of :data:`mmconvnext.data.findings.FAULTS`.
    """
    kinds: list[str] = []
    mask = mask_box = None
    try:
        if masks:
            mask = _mask(annotation.get("segmentation"), width, height, kinds)
            encoded = encode(mask, width, height)
            area = int(coco_mask.area(encoded))
            if not area:
                raise UnsoundError("mask without a pixel")
            mask_box = extent(mask, encoded)
        box = _box(annotation.get("bbox"), mask_box, width, height, kinds)
    except UnsoundError as fault:
        return None, list(dict.fromkeys([*kinds, str(fault)]))
    crowd = annotation.get("iscrowd")
    if type(crowd) is not int or crowd not in (0, 1):
        kinds.append("no iscrowd")
    repaired = {**annotation, "bbox": box, "iscrowd": int(crowd in (True, "1"))}
    if mask is not None:
        repaired["segmentation"] = mask
    if str(annotation.get("ignore") or 0).lower() not in ("0", "false"):
        kinds.append("ignore")
        repaired["iscrowd"] = 1
        del repaired["ignore"]
    given = annotation.get("area")
    if not is_finite(given) or given <= 0:
        kinds.append("no area")
        repaired["area"] = float(area) if masks else box[2] * box[3]
    elif masks and not 1 / AREA_RATIO <= given / area <= AREA_RATIO:
        kinds.append("area unlike the mask's")
    return repaired, list(dict.fromkeys(kinds))


def is_finite(value: Any) -> TypeGuard[float]:
    """Whether a value of a JSON file is a finite number (``true`` is not one)."""
    return type(value) in (int, float) and abs(value) < TOO_LARGE


def is_box(value: Any) -> TypeGuard[list[float]]:
    """Whether a value of a JSON file is a list of four finite numbers."""
    return isinstance(value, list) and len(value) == 4 and all(map(is_finite, value))


def _numbers(values: Any, kinds: list[str]) -> list[float]:
    """The finite numbers of a list, also those that stand as strings; none where one is none."""
    if not isinstance(values, list):
        return []
    if all(map(is_finite, values)):
        return values
    try:
        numbers = [float(value) if isinstance(value, str) else value for value in values]
    except ValueError:
        return []
    if not all(map(is_finite, numbers)):
        return []
    kinds.append("numbers as text")
    return numbers


def _box(
    given: Any, mask_box: list[float] | None, width: int, height: int, kinds: list[str]
) -> list[float]:
    box = _numbers(given, kinds)
    if len(box) != 4:
        if mask_box is None:
            raise UnsoundError("no box, no mask")
        kinds.append("no box")
        box = mask_box
    x, y, w, h = box
    if w < 0 or h < 0:
        kinds.append("box of negative size")
        x, y, w, h = box = [min(x, x + w), min(y, y + h), abs(w), abs(h)]
    if w < 1 or h < 1:
        raise UnsoundError("box under one pixel")
    left, top, right, bottom = max(x, 0), max(y, 0), min(x + w, width), min(y + h, height)
    if right <= left or bottom <= top:
        raise UnsoundError("box outside")
    if (right - left) * (bottom - top) < SAME_BOX * w * h:
        kinds.append("box over the border")
        box = [left, top, right - left, bottom - top]
        if box[2] < 1 or box[3] < 1:
            raise UnsoundError("box under one pixel")
    if mask_box is not None and _overlap(box, mask_box) < 0.5:
        kinds.append("mask unlike the box")
    return box


def _overlap(a: Sequence[float], b: Sequence[float]) -> float:
    """Intersection over union of two boxes (x, y, width, height)."""
    w = min(a[0] + a[2], b[0] + b[2]) - max(a[0], b[0])
    h = min(a[1] + a[3], b[1] + b[3]) - max(a[1], b[1])
    both = max(w, 0) * max(h, 0)
    return both / (a[2] * a[3] + b[2] * b[3] - both or 1)


def _mask(given: Any, width: int, height: int, kinds: list[str]) -> list | dict:
    """The mask in COCO's form, with what is broken removed."""
    if isinstance(given, dict):
        return _run_lengths(given, width, height)
    if not isinstance(given, list) or not given:
        raise UnsoundError("no mask")
    if not any(isinstance(each, list) for each in given):
        kinds.append("flat polygon")
        given = [given]
    elif len(given) > 2 and all(map(_is_point, given)):
        given = [given]
    polygons = [each for polygon in given if (each := _polygon(polygon, width, height, kinds))]
    if not polygons:
        raise UnsoundError("broken polygon")
    return polygons


def _is_point(value: Any) -> bool:
    two = isinstance(value, list) and len(value) == 2
    return two and not any(isinstance(each, list) for each in value)


def _polygon(given: Any, width: int, height: int, kinds: list[str]) -> list[float]:
    """Coordinates within the picture, or nothing where it is no polygon."""
    if isinstance(given, list) and given and all(map(_is_point, given)):
        kinds.append("polygon of points")
        given = list(chain.from_iterable(given))
    polygon = _numbers(given, kinds)
    if len(polygon) < 6 or len(polygon) % 2:
        kinds.append("broken polygon")
        return []
    xs, ys = polygon[0::2], polygon[1::2]
    if min(*xs, *ys) >= -BORDER and max(xs) <= width + BORDER and max(ys) <= height + BORDER:
        return polygon
    kinds.append("polygon outside")
    points = zip(xs, ys, strict=True)
    return [v for x, y in points for v in (min(max(x, 0), width), min(max(y, 0), height))]


def _run_lengths(given: Mapping, width: int, height: int) -> dict[str, Any]:
    counts = given.get("counts")
    if given.get("size") != [height, width]:
        raise UnsoundError("run lengths of another size")
    lengths = read_counts(counts) if isinstance(counts, str) else counts
    sound = isinstance(lengths, list) and all(type(n) is int and n >= 0 for n in lengths)
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
