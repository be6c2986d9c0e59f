"""What is left of polygons inside of windows, with the vertices of all of them in one array."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

# In pixels: what comes no further into a window only touches it, and is outside.
TOUCH = 1e-9


def bounds_inside(
    points: NDArray, polygon_starts: NDArray, object_starts: NDArray, windows: NDArray
) -> tuple[NDArray, NDArray]:
    """The boxes around those parts of objects that are inside of their windows.

    What is inside has its extremes where an edge begins, ends or crosses the border, or in a corner
    of the window that the object covers.

    Args:
        points: vertices, of shape (points, 2): x, y in pixels.
        polygon_starts: the first vertex of each polygon, and the number of vertices.
        object_starts: the first polygon of each object, and the number of polygons.
        windows: the low and the high corner of each object's window, of shape (objects, 2, 2).

    Returns:
        The lowest and the highest coordinates of each object, of shape (objects, 2) each; zeros
        where nothing is inside.
    """
    starts = polygon_starts[object_starts]
    inner = np.repeat(windows + [[[TOUCH], [-TOUCH]]], np.diff(starts), axis=0)
    ends = _ends(points, polygon_starts)
    low, high = _clipped_edges(points, ends, inner)
    low, high = np.minimum.reduceat(low, starts[:-1]), np.maximum.reduceat(high, starts[:-1])
    for sides in np.ndindex(2, 2):
        crossings = _crossings(points, ends, inner[:, sides, (0, 1)])
        odd = np.add.reduceat(crossings, polygon_starts[:-1]) % 2 == 1
        covered = np.logical_or.reduceat(odd, object_starts[:-1])
        corners = windows[covered][:, sides, (0, 1)]
        low[covered] = np.minimum(low[covered], corners)
        high[covered] = np.maximum(high[covered], corners)
    floor, ceiling = windows[:, 0], windows[:, 1]
    low = np.where(low <= floor + 2 * TOUCH, floor, low)  # back from the inner window to the border
    high = np.where(high >= ceiling - 2 * TOUCH, ceiling, high)
    nothing = (low >= high).any(axis=1)
    low[nothing] = high[nothing] = 0
    return low, high


def cut_outside(
    points: NDArray, polygon_starts: NDArray, windows: NDArray
) -> tuple[NDArray, NDArray]:
    """Cut off what is outside: edges get a vertex at the border, vertices outside go onto it.

    Args:
        points: vertices, of shape (points, 2): x, y in pixels.
        polygon_starts: the first vertex of each polygon, and the number of vertices.
        windows: the low and the high corner of each polygon's window, of shape (polygons, 2, 2).

    Returns:
        The vertices, and where each polygon begins among them.
    """
    for axis in (0, 1):
        for side, beyond in enumerate((np.less, np.greater)):
            limits = windows[:, side, axis]
            points, polygon_starts = _cut_beyond(points, polygon_starts, axis, limits, beyond)
    return points, polygon_starts


def _cut_beyond(
    points: NDArray, polygon_starts: NDArray, axis: int, limits: NDArray, beyond: np.ufunc
) -> tuple[NDArray, NDArray]:
    """Cut off what is beyond each polygon's limit on one axis."""
    limits = np.repeat(limits, np.diff(polygon_starts))
    outside = beyond(points[:, axis], limits)
    if not outside.any():
        return points, polygon_starts
    ends = _ends(points, polygon_starts)
    crossing = np.flatnonzero(outside != beyond(ends[:, axis], limits))
    begin, steps = points[crossing], (ends - points)[crossing]
    ways = (limits[crossing] - begin[:, axis]) / steps[:, axis]
    new = begin + ways[:, None] * steps
    new[:, axis] = limits[crossing]
    onto = points.copy()
    onto[outside, axis] = limits[outside]
    cut = np.insert(onto, crossing + 1, new, axis=0)
    return cut, polygon_starts + np.searchsorted(crossing, polygon_starts)


def _ends(points: NDArray, polygon_starts: NDArray) -> NDArray:
    """Where the edge that begins at each vertex ends."""
    following = np.arange(1, len(points) + 1)
    following[polygon_starts[1:] - 1] = polygon_starts[:-1]
    return points[following]


def _clipped_edges(points: NDArray, ends: NDArray, windows: NDArray) -> tuple[NDArray, NDArray]:
    """The extremes of each edge's part inside (Liang, Barsky); inf and -inf where there is none."""
    steps, floor, ceiling = ends - points, windows[:, 0], windows[:, 1]
    with np.errstate(divide="ignore", invalid="ignore"):
        at_low, at_high = (floor - points) / steps, (ceiling - points) / steps
    enter, leave = np.minimum(at_low, at_high), np.maximum(at_low, at_high)
    along = steps == 0  # an edge along an axis crosses no border of the other one
    beside = along & ((points < floor) | (points > ceiling))
    enter[along], leave[along] = -np.inf, np.inf
    enter[beside], leave[beside] = np.inf, -np.inf
    first = np.maximum(enter.max(axis=1, keepdims=True), 0)
    last = np.minimum(leave.min(axis=1, keepdims=True), 1)
    hit = first <= last
    begin = points + np.where(hit, first, 0) * steps
    end = points + np.where(hit, last, 0) * steps
    low = np.where(hit, np.clip(np.minimum(begin, end), floor, ceiling), np.inf)
    high = np.where(hit, np.clip(np.maximum(begin, end), floor, ceiling), -np.inf)
    return low, high


def _crossings(points: NDArray, ends: NDArray, corners: NDArray) -> NDArray:
    """Which edges a ray to the right crosses, from each one's corner: 1 or 0 for each."""
    x, y = corners.T
    crosses = (points[:, 1] > y) != (ends[:, 1] > y)
    steps = np.where(crosses[:, None], ends - points, 1)
    # no further than an edge that is crossed, as a corner may be at infinity
    up = np.where(crosses, y - points[:, 1], 0)
    at = points[:, 0] + up * steps[:, 0] / steps[:, 1]
    return (crosses & (x < at)).astype(np.int64)
