"""From bitmaps to polygons."""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray


def outlines(mask: NDArray) -> list[NDArray]:
    """The outlines of a mask's connected parts, without holes, to half a pixel.

    Args:
        mask: of shape (height, width), bool or uint8; 0 outside.

    Returns:
        For each part x1, y1, x2, y2, ... in pixels.
    """
    # Contours run through the middle of the border's pixels, and pycocotools fills between pixel
    # edges: at twice the size, a contour is the edge to half a pixel.
    doubled = cv2.resize(mask.astype(np.uint8), None, fx=2, fy=2, interpolation=cv2.INTER_NEAREST)
    contours, _ = cv2.findContours(doubled, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_SIMPLE)
    return [(contour.ravel() + 0.5) / 2 for contour in contours if len(contour) > 2]
