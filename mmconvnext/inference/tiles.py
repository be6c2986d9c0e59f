"""Large pictures in overlapping tiles: where they lie, and one object from its parts in several.

Two tiles have both seen their overlap. So two detections of a class are parts of one object where
they agree there, whatever the object is outside of it, and others are not: neither one beside it
nor a small one before it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import combinations
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import linear_sum_assignment
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from mmconvnext.crops import Crop
from mmconvnext.inference.prediction import Prediction

OVERLAP = 0.25  # of a tile's side, at least
AGREE = 0.5  # IoU within the overlap


class Window(NamedTuple):
    """A rectangle of a picture, in pixels."""

    left: int
    top: int
    right: int
    bottom: int

    def __and__(self, other: Window) -> Window:
        return Window(*map(max, self[:2], other[:2]), *map(min, self[2:], other[2:]))

    def __bool__(self) -> bool:
        return self.left < self.right and self.top < self.bottom


def windows_of(size: tuple[int, int], tile: int | None) -> Iterator[Window]:
    """The tiles of a picture, row by row; one window without a tile's side.

    Args:
        size: width and height of the picture.
        tile: side of a tile, in pixels; tiles are no larger than the picture.
    """
    xs, ys = (_places(length, tile or length) for length in size)
    for top, bottom in ys:
        yield from (Window(left, top, right, bottom) for left, right in xs)


def _places(length: int, side: int) -> list[tuple[int, int]]:
    side = min(side, length)
    count = 1 + -(-(length - side) // max(round(side * (1 - OVERLAP)), 1))
    starts = np.linspace(0, length - side, count).round().astype(int).tolist()
    return [(start, start + side) for start in starts]


def merge(parts: Sequence[tuple[Window, Prediction]]) -> Prediction:
    """One prediction from those of a picture's tiles, all in the picture's coordinates."""
    (_, whole), *rest = parts
    if not rest or not any(len(found) for _, found in parts):
        return whole
    masked = whole.crops is not None
    crops = [mask for _, p in parts for mask in p.crops] if masked else None
    keys = ("boxes", "scores", "labels")
    arrays = {key: np.concatenate([getattr(p, key) for _, p in parts]) for key in keys}
    whole = replace(whole, crops=crops, **arrays)
    groups = _groups(whole, np.repeat(np.arange(len(parts)), [len(p) for _, p in parts]), parts)
    cut = np.concatenate([is_cut(found, window) for window, found in parts])
    # the best of each group stands for it
    best = whole[[group[whole.scores[group].argmax()] for group in groups]]
    for index, group in enumerate(groups):
        first = group[whole.scores[group].argmax()]
        if not cut[first]:  # its tile has the whole object
            continue
        boxes = whole.boxes[group]
        best.boxes[index] = [*boxes[:, :2].min(0), *boxes[:, 2:].max(0)]
        if masked:
            best.crops[index] = union([crops[i] for i in group])
    return best[np.argsort(-best.scores, kind="stable")]


def is_cut(found: Prediction, window: Window) -> NDArray:
    """Which objects of a tile end at a border of it that is none of the picture's."""
    inner = np.array(window) != (0, 0, *found.size)
    return (inner & (np.abs(found.boxes - np.array(window)) < 1)).any(1)


def _groups(
    whole: Prediction, tile_of: NDArray, parts: Sequence[tuple[Window, Prediction]]
) -> list[NDArray]:
    """Indices of the detections of each object."""
    shapes = [_shape(whole, index) for index in range(len(whole))]
    extents = np.array([_extent(shape) for shape in shapes]).reshape(-1, 4)
    pairs = []
    for (one, (window, _)), (other, (second, _)) in combinations(enumerate(parts), 2):
        if not (both := window & second):
            continue
        touching = (extents[:, :2] < both[2:]).all(1) & (extents[:, 2:] > both[:2]).all(1)
        rows, columns = (np.flatnonzero(touching & (tile_of == tile)) for tile in (one, other))
        agreement = np.zeros((len(rows), len(columns)))
        for i, j in np.argwhere(whole.labels[rows][:, None] == whole.labels[columns]):
            agreement[i, j] = _agreement(shapes[rows[i]], shapes[columns[j]], both)
        agreement[agreement < AGREE] = 0
        # of two in one tile, only one can be that of the other tile: the best is with the best
        worth = agreement * np.outer(whole.scores[rows], whole.scores[columns])
        for i, j in zip(*linear_sum_assignment(-worth), strict=True):
            if agreement[i, j]:
                pairs.append((rows[i], columns[j]))
    links = np.array(pairs, dtype=int).reshape(-1, 2).T
    count = len(whole)
    graph = coo_array((np.ones(links.shape[1]), tuple(links)), shape=(count, count))
    _, group_of = connected_components(graph, directed=False)
    return np.split(np.argsort(group_of, kind="stable"), np.cumsum(np.bincount(group_of))[:-1])


def _shape(found: Prediction, index: int) -> Crop:
    """The mask of an object, or of its box where there is none."""
    if found.crops is not None and found.crops[index].bitmap.size:
        return found.crops[index]
    left, top = np.floor(found.boxes[index, :2]).astype(int).tolist()
    right, bottom = np.ceil(found.boxes[index, 2:]).astype(int).tolist()
    return Crop(left, top, np.broadcast_to(np.True_, (max(bottom - top, 0), max(right - left, 0))))


def _extent(shape: Crop) -> Window:
    height, width = shape.bitmap.shape
    return Window(shape.left, shape.top, shape.left + width, shape.top + height)


def _within(shape: Crop, window: Window) -> NDArray:
    """The pixels of a mask in a window."""
    left, top, right, bottom = window & _extent(shape)
    rows = slice(top - shape.top, max(bottom, top) - shape.top)
    return shape.bitmap[rows, left - shape.left : max(right, left) - shape.left]


def _agreement(one: Crop, other: Crop, window: Window) -> float:
    """IoU of two masks within a window."""
    both = window & _extent(one) & _extent(other)
    common = (_within(one, both) & _within(other, both)).sum() if both else 0
    return common / max(_within(one, window).sum() + _within(other, window).sum() - common, 1)


def union(masks: Sequence[Crop]) -> Crop:
    """One mask that has the pixels of all."""
    if len(masks) == 1:
        return masks[0]
    extents = np.array([_extent(mask) for mask in masks if mask.bitmap.size] or [[0, 0, 0, 0]])
    left, top, right, bottom = *extents[:, :2].min(0), *extents[:, 2:].max(0)
    whole = Crop(int(left), int(top), np.zeros((bottom - top, right - left), dtype=bool))
    for mask in masks:
        _within(whole, _extent(mask))[:] |= mask.bitmap
    return whole
