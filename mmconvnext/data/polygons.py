"""Masks as polygons, those of a whole image in one array."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import mmcv
import numpy as np
import pycocotools.mask as mask_utils
import torch
from mmdet.structures.bbox import BaseBoxes, HorizontalBoxes, get_box_type
from mmdet.structures.mask import PolygonMasks
from numpy.typing import ArrayLike, NDArray

from mmconvnext.data.clipping import bounds_inside, cut_above

NOTHING = np.zeros((3, 2))  # the polygon of an object that has none


class Outlines(list):
    """For each object its polygons: a copy, which nobody may take for bitmaps or assign to."""

    def _refuse(self, *_args: Any, **_kwargs: Any) -> None:
        raise TypeError(
            "these masks are polygons, no array: a transform that computes with bitmaps, such as "
            "CopyPaste or RandomErasing, needs LoadAnnotations in place of FastLoadAnnotations"
        )

    __array__ = __setitem__ = _refuse


class FlatPolygons(PolygonMasks):
    """MMDetection's ``PolygonMasks``, with the vertices of all objects of an image in one array.

    A flip, a resize or a crop is one operation on that array. A crop only shifts it: what is
    outside of the image is cut off when the shapes themselves are asked for. There the outline
    follows the border, from where it leaves the image to where it comes back, which adds no area;
    shapely, which ``PolygonMasks`` asks, would take it apart. Coordinates are kept as float64, also
    those given as integers, which ``PolygonMasks`` truncates at every step.

    Args:
        masks: for each object its polygons, each of shape (2 * vertices,): x1, y1, x2, y2, ... in
            pixels. Those of less than three vertices have no area and are left out.
        height: of the image, in pixels.
        width: of the image, in pixels.
    """

    def __init__(self, masks: Sequence[Sequence[ArrayLike]], height: int, width: int):
        objects = [_with_area(mask) or [NOTHING] for mask in masks]
        polygons = [polygon for polygons in objects for polygon in polygons]
        self.height, self.width = height, width
        self._points = np.concatenate(polygons) if polygons else np.empty((0, 2))
        self._polygon_starts = _starts([len(polygon) for polygon in polygons])
        self._object_starts = _starts([len(polygons) for polygons in objects])
        self._cropped = False

    @property
    def masks(self) -> Outlines:
        """For each object its polygons, as ``PolygonMasks`` has them: cut off after a crop."""
        cut = self._cut()
        polygons = cut._polygons()
        objects = pairwise(cut._object_starts.tolist())
        return Outlines(polygons[first:last] for first, last in objects)

    def __getitem__(self, index: Any) -> FlatPolygons:
        """The objects at an index, a slice, or a list or array of indices or truth values."""
        return self._select(np.atleast_1d(np.arange(len(self))[index]))

    def __len__(self) -> int:
        return len(self._object_starts) - 1

    def __repr__(self) -> str:
        size = f"height={self.height}, width={self.width}"
        return f"{type(self).__name__}(num_masks={len(self)}, {size})"

    def rescale(self, scale: float | tuple[int, int], interpolation: Any = None) -> FlatPolygons:
        """See ``BaseInstanceMasks.rescale``."""
        width, height = mmcv.rescale_size((self.width, self.height), scale)
        return self.resize((height, width))

    def resize(self, out_shape: tuple[int, int], interpolation: Any = None) -> FlatPolygons:
        """See ``BaseInstanceMasks.resize``."""
        height, width = out_shape
        factors = np.array([width / self.width, height / self.height])
        return self._moved(self._points * factors, height, width)

    def flip(self, flip_direction: str = "horizontal") -> FlatPolygons:
        """See ``BaseInstanceMasks.flip``.

        Raises:
            ValueError: the direction is unknown.
        """
        if flip_direction not in ("horizontal", "vertical", "diagonal"):
            raise ValueError(
                f"flip_direction={flip_direction!r} must be horizontal, vertical or diagonal"
            )
        points = self._points.copy()
        if flip_direction != "vertical":
            points[:, 0] = self.width - points[:, 0]
        if flip_direction != "horizontal":
            points[:, 1] = self.height - points[:, 1]
        return self._moved(points, self.height, self.width)

    def crop(self, bbox: NDArray) -> FlatPolygons:
        """See ``BaseInstanceMasks.crop``."""
        x1, x2 = np.clip(bbox[0::2], 0, self.width)
        y1, y2 = np.clip(bbox[1::2], 0, self.height)
        moved = self._moved(self._points - (x1, y1), max(y2 - y1, 1), max(x2 - x1, 1))
        moved._cropped = True
        return moved

    def crop_and_resize(
        self,
        bboxes: NDArray,
        out_shape: tuple[int, int],
        inds: NDArray,
        device: str | torch.device = "cpu",
        interpolation: str = "bilinear",
        binarize: bool = True,
    ) -> FlatPolygons:
        """See ``BaseInstanceMasks.crop_and_resize``: the mask targets of the proposals.

        Raises:
            ValueError: ``binarize`` is False; polygons have no fractional values.
        """
        if not binarize:
            raise ValueError("binarize=False (soft_mask_target) needs bitmaps; these are polygons")
        height, width = out_shape
        if not len(self):
            return self._moved(self._points, height, width)
        chosen = self._cut()._select(np.asarray(inds))
        sizes = np.maximum(bboxes[:, 2:] - bboxes[:, :2], 1)
        factors = np.array([width, height], dtype=sizes.dtype) / sizes
        # how many vertices each box has
        counts = np.diff(chosen._polygon_starts[chosen._object_starts])
        points = chosen._points - np.repeat(bboxes[:, :2], counts, axis=0)
        return chosen._moved(points * np.repeat(factors, counts, axis=0), height, width)

    def pad(self, out_shape: tuple[int, int], pad_val: int = 0) -> FlatPolygons:
        """See ``BaseInstanceMasks.pad``: what was cut off does not come back."""
        cut = self._cut()
        return cut._moved(cut._points, *out_shape)

    def expand(self, expanded_h: int, expanded_w: int, top: int, left: int) -> FlatPolygons:
        """See ``BaseInstanceMasks.expand``; ``PolygonMasks`` has none."""
        cut = self._cut()
        return cut._moved(cut._points + (left, top), expanded_h, expanded_w)

    def to_ndarray(self) -> NDArray:
        """The bitmaps: bool, of shape (objects, height, width)."""
        bitmaps = np.zeros((len(self), self.height, self.width), dtype=bool)
        for bitmap, polygons in zip(bitmaps, self.masks, strict=True):
            runs = mask_utils.frPyObjects(polygons, self.height, self.width)
            bitmap[:] = mask_utils.decode(runs[0] if len(runs) == 1 else mask_utils.merge(runs))
        return bitmaps

    def get_bboxes(self, dst_type: str | type[BaseBoxes] = "hbox") -> BaseBoxes:
        """See ``BaseInstanceMasks.get_bboxes``: the boxes around what is inside of the image."""
        kind = get_box_type(dst_type)[1]
        if not issubclass(kind, HorizontalBoxes) or not len(self):
            return kind.from_instance_masks(self)
        if self._cropped:
            size = np.array([self.width, self.height])
            low, high = bounds_inside(self._points, self._polygon_starts, self._object_starts, size)
        else:
            starts = self._polygon_starts[self._object_starts[:-1]]
            low = np.minimum.reduceat(self._points, starts)
            high = np.maximum.reduceat(self._points, starts)
        return HorizontalBoxes(np.concatenate([low, high], axis=1).astype(np.float32))

    def _cut(self) -> FlatPolygons:
        """The same without what is outside of the image, where a crop may have left some."""
        if not self._cropped or not len(self):
            return self
        points, starts = self._points, self._polygon_starts
        for axis, limit in enumerate((self.width, self.height)):
            points, starts = cut_above(points, starts, axis, limit)
            points, starts = cut_above(-points, starts, axis, 0)
            points = -points
        cut = self._moved(points, self.height, self.width)
        cut._polygon_starts, cut._cropped = starts, False
        return cut

    def _polygons(self) -> list[NDArray]:
        """All polygons, each of shape (2 * vertices,), as they were moved."""
        flat = self._points.reshape(-1)
        return [
            flat[2 * first : 2 * last] for first, last in pairwise(self._polygon_starts.tolist())
        ]

    def _moved(self, points: NDArray, height: int, width: int) -> FlatPolygons:
        """The same objects with their vertices elsewhere."""
        moved = type(self).__new__(type(self))
        moved.height, moved.width = height, width
        moved._points, moved._cropped = points, self._cropped
        moved._polygon_starts, moved._object_starts = self._polygon_starts, self._object_starts
        return moved

    def _select(self, objects: NDArray) -> FlatPolygons:
        """Some objects, in this order; one may come several times."""
        polygons, object_starts = _gather(self._object_starts, objects)
        points, polygon_starts = _gather(self._polygon_starts, polygons)
        selected = self._moved(self._points[points], self.height, self.width)
        selected._polygon_starts, selected._object_starts = polygon_starts, object_starts
        return selected


def _with_area(mask: Sequence[ArrayLike]) -> list[NDArray]:
    """The polygons of an object that have three vertices or more, each of shape (vertices, 2)."""
    polygons = [np.asarray(polygon, dtype=np.float64).reshape(-1, 2) for polygon in mask]
    return [polygon for polygon in polygons if len(polygon) >= 3]


def _starts(counts: Sequence[int] | NDArray) -> NDArray:
    """Where each group begins in an array of them all, and where the last one ends."""
    return np.concatenate([[0], np.cumsum(counts)]).astype(np.int64)


def _gather(starts: NDArray, groups: NDArray) -> tuple[NDArray, NDArray]:
    """The indices of some groups' members, and where each of these groups begins among them."""
    counts = np.diff(starts)[groups]
    new_starts = _starts(counts)
    shifts = np.repeat(starts[groups] - new_starts[:-1], counts)
    return np.arange(new_starts[-1]) + shifts, new_starts
