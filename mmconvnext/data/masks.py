"""Masks as bitmaps, polygons and COCO's run-length codes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import chain
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from mmconvnext.crops import cropped


def outlines(mask: NDArray) -> list[NDArray]:
    """The outlines of a mask's connected parts, without holes, to half a pixel.

    ``mask`` (height, width) is bool or uint8; each part is x1, y1, x2, y2, ... in pixels.
    """
    # Contours run through the middle of the border's pixels, and pycocotools fills between pixel
    # edges: at twice the size, a contour is the edge to half a pixel.
    part = cropped(mask)
    doubled = part.bitmap.astype(np.uint8).repeat(2, axis=0).repeat(2, axis=1)
    offset = (2 * part.left, 2 * part.top)
    contours, _ = cv2.findContours(
        doubled, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_SIMPLE, offset=offset
    )
    return [(contour.ravel() + 0.5) / 2 for contour in contours if len(contour) > 2]


def polygons(code: Mapping[str, Any], tolerance: float, scale: float = 1.0) -> list[NDArray]:
    """Outlines to draw of a mask as compressed run lengths: (n, 1, 2) each, in pixels.

    Args:
        code: as :func:`encode` gives it.
        tolerance: how far points that are left out lie from the line, in pixels as drawn.
        scale: pixels as drawn to one of the mask.
    """
    from pycocotools import mask as coco_mask

    left, top, width, height = coco_mask.toBbox(code).astype(int)
    mask = coco_mask.decode(code)[top : top + height, left : left + width]
    parts = [np.array(part, np.float32).reshape(-1, 1, 2) for part in outlines(mask)]
    offset = np.float32([left, top])
    parts = [cv2.approxPolyDP((part + offset) * scale, tolerance, closed=True) for part in parts]
    return [part for part in parts if len(part) > 2]


def encode(mask: Sequence | Mapping[str, Any], width: int, height: int) -> dict[str, Any]:
    """A mask of a COCO file, polygons or run lengths, as compressed run-length codes."""
    from pycocotools import mask as coco_mask

    if not isinstance(mask, Mapping):
        return coco_mask.merge(coco_mask.frPyObjects([list(p) for p in mask], height, width))
    if isinstance(mask["counts"], list):
        return coco_mask.frPyObjects(mask, height, width)
    return dict(mask)


def run_lengths(mask: NDArray) -> dict[str, Any]:
    """A bitmap (height, width) as a COCO file has it."""
    from pycocotools import mask as coco_mask

    encoded = coco_mask.encode(np.asfortranarray(mask, dtype=np.uint8))
    return {"size": list(mask.shape), "counts": encoded["counts"].decode()}


def extent(
    mask: Sequence | Mapping[str, Any], encoded: Mapping[str, Any] | None = None
) -> list[float]:
    """The box around a mask of a COCO file: x, y, width, height in pixels.

    ``encoded`` is the same by :func:`encode`; polygons do without.
    """
    from pycocotools import mask as coco_mask

    if isinstance(mask, Mapping):
        return coco_mask.toBbox(encoded).tolist()
    xs = list(chain.from_iterable(polygon[0::2] for polygon in mask))
    ys = list(chain.from_iterable(polygon[1::2] for polygon in mask))
    return [min(xs), min(ys), max(xs) - min(xs), max(ys) - min(ys)]
