"""Masks of objects as they lie in a picture: NumPy alone, for training and for the runtime."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray


class Crop(NamedTuple):
    """A mask without what is empty around it.

    Attributes:
        left: its first column in the picture.
        top: its first row.
        bitmap: of shape (height, width), bool.
    """

    left: int
    top: int
    bitmap: NDArray


def cropped(mask: NDArray, left: int = 0, top: int = 0) -> Crop:
    """Cut a mask (height, width), which lies there in a picture, to its pixels."""
    rows, columns = (np.flatnonzero(mask.any(axis)) for axis in (1, 0))
    if not len(rows):
        return Crop(left, top, np.zeros((0, 0), dtype=bool))
    part = mask[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
    return Crop(left + int(columns[0]), top + int(rows[0]), part.astype(bool))


def paste(mask: NDArray, box: Sequence[float], size: tuple[int, int], threshold: float) -> Crop:
    """Resize a mask bilinearly to its box in a picture, and binarise it.

    What is sampled at the pixels' centres, with zeros around the mask, is separable: a matrix of
    weights along y times the mask times one along x.

    Args:
        mask: probabilities (h, w), float32.
        box: xyxy in pixels of the picture.
        size: height and width of the picture.
        threshold: from which probability on a pixel belongs to the mask.

    Returns:
        The pixels that the box may touch, those that are not of the mask among them.
    """
    left, top, right, bottom = box
    rows, columns = _touched(top, bottom, size[0]), _touched(left, right, size[1])
    if not (rows and columns):
        return Crop(0, 0, np.zeros((0, 0), dtype=bool))
    weights_y = _weights(rows, top, bottom, mask.shape[0])
    weights_x = _weights(columns, left, right, mask.shape[1])
    return Crop(columns.start, rows.start, weights_y @ mask @ weights_x.T >= threshold)


def _touched(low: float, high: float, limit: int) -> range:
    """The pixels that a box may touch, along one axis."""
    if not (math.isfinite(low) and math.isfinite(high)):
        return range(0)
    return range(max(math.floor(low) - 1, 0), min(math.ceil(high) + 1, limit))


def _weights(pixels: range, low: float, high: float, cells: int) -> NDArray:
    """The bilinear weights (pixels, cells) of a mask stretched from ``low`` to ``high``."""
    centres = np.arange(pixels.start, pixels.stop, dtype=np.float32) + 0.5
    if high > low:
        positions = (centres - low) / (high - low) * cells - 0.5
    else:  # as MMDetection: of a box without extent, the middle of the mask
        positions = np.full_like(centres, (cells - 1) / 2)
    distances = np.abs(positions[:, None] - np.arange(cells, dtype=np.float32))
    return (1 - distances).clip(min=0)
