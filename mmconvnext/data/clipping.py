"""What is left of polygons inside of an image, with the vertices of all of them in one array."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


def bounds_inside(
    points: NDArray, polygon_starts: NDArray, object_starts: NDArray, size: NDArray
) -> tuple[NDArray, NDArray]:
    """The boxes around those parts of objects that are inside of an image.

    What is inside has its extremes where an edge begins, ends or crosses the border, or in a corner
    of the image that the object covers.

    Args:
        points: vertices, of shape (points, 2): x, y in pixels.
        polygon_starts: the first vertex of each polygon, and the number of vertices.
        object_starts: the first polygon of each object, and the number of polygons.
        size: width and height of the image.

    Returns:
        The lowest and the highest coordinates of each object, of shape (objects, 2) each; zeros
        where nothing is inside.
    """
    ends = _ends(points, polygon_starts)
    low, high = _clipped_edges(points, ends, size)
    starts = polygon_starts[object_starts[:-1]]
    low, high = np.minimum.reduceat(low, starts), np.maximum.reduceat(high, starts)
    for corner in ((0, 0), (size[0], 0), (0, size[1]), tuple(size)):
        odd = np.add.reduceat(_crossings(points, ends, corner), polygon_starts[:-1]) % 2 == 1
        covered = np.logical_or.reduceat(odd, object_starts[:-1])
        low[covered] = np.minimum(low[covered], corner)
        high[covered] = np.maximum(high[covered], corner)
    nothing = (low > high).any(axis=1)
    low[nothing] = high[nothing] = 0
    return low, high


def cut_above(
    points: NDArray, polygon_starts: NDArray, axis: int, limit: float
) -> tuple[NDArray, NDArray]:
    """Cut off what is above a limit: edges get a vertex there, and vertices above it go onto it.

    Args:
        points: vertices, of shape (points, 2): x, y in pixels.
        polygon_starts: the first vertex of each polygon, and the number of vertices.
        axis: 0 for x, 1 for y.
        limit: in pixels.

    Returns:
        The vertices, and where each polygon begins among them.
    """
    above = points[:, axis] > limit
    if not above.any():
        return points, polygon_starts
    ends = _ends(points, polygon_starts)
    crossing = np.flatnonzero(above != (ends[:, axis] > limit))
    begin, steps = points[crossing], (ends - points)[crossing]
    new = begin + (limit - begin[:, [axis]]) / steps[:, [axis]] * steps
    cut = np.insert(points, crossing + 1, new, axis=0)
    cut[:, axis] = np.minimum(cut[:, axis], limit)
    return cut, polygon_starts + np.searchsorted(crossing, polygon_starts)


def _ends(points: NDArray, polygon_starts: NDArray) -> NDArray:
    """Where the edge that begins at each vertex ends."""
    following = np.arange(1, len(points) + 1)
    following[polygon_starts[1:] - 1] = polygon_starts[:-1]
    return points[following]


def _clipped_edges(points: NDArray, ends: NDArray, size: NDArray) -> tuple[NDArray, NDArray]:
    """The extremes of each edge's part inside (Liang, Barsky); inf and -inf where there is none."""
    steps = ends - points
    with np.errstate(divide="ignore", invalid="ignore"):
        at_low, at_high = -points / steps, (size - points) / steps
    enter, leave = np.minimum(at_low, at_high), np.maximum(at_low, at_high)
    along = steps == 0  # an edge along an axis crosses no border of the other one
    beside = along & ((points < 0) | (points > size))
    enter[along], leave[along] = -np.inf, np.inf
    enter[beside], leave[beside] = np.inf, -np.inf
    first = np.maximum(enter.max(axis=1, keepdims=True), 0)
    last = np.minimum(leave.min(axis=1, keepdims=True), 1)
    hit = first <= last
    begin = points + np.where(hit, first, 0) * steps
    end = points + np.where(hit, last, 0) * steps
    low = np.where(hit, np.clip(np.minimum(begin, end), 0, size), np.inf)
    high = np.where(hit, np.clip(np.maximum(begin, end), 0, size), -np.inf)
    return low, high


def _crossings(points: NDArray, ends: NDArray, corner: tuple[int, int]) -> NDArray:
    """Which edges a ray from a point to the right crosses: 1 or 0 for each."""
    x, y = corner
    crosses = (points[:, 1] > y) != (ends[:, 1] > y)
    rise = np.where(crosses, ends[:, 1] - points[:, 1], 1)
    at = points[:, 0] + (y - points[:, 1]) * (ends[:, 0] - points[:, 0]) / rise
    return (crosses & (x < at)).astype(np.int64)
